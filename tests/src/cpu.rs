//! Processor time: of a process, of the whole machine, and the core that a process keeps to.
//!
//! A process's clock is the sum of the first fields of `/proc/PID/task/*/schedstat`, with two differences: threads that
//! have ended are in it, and what runs now is counted up to now and not up to the last tick. It must not know what the
//! processes do.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::process::ProcessId;

/// Processor time that a process has used since it began; also that of one which has ended and was not waited for yet.
pub fn used_by(process: ProcessId) -> Result<Duration> {
    let used = clock_getcpuclockid(pid(process)?).and_then(nix::time::ClockId::now);
    Ok(used
        .with_context(|| format!("processor time of process {}", process.pid))?
        .into())
}

/// Keeps all threads of a process to one core; those that it starts later stay there too.
pub fn keep_to(process: ProcessId, core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core).with_context(|| format!("core {core}"))?;
    let dir = format!("/proc/{}/task", process.pid);
    for task in fs::read_dir(&dir).with_context(|| format!("list {dir}"))? {
        let name = task.with_context(|| format!("list {dir}"))?.file_name();
        let id = name.to_str().context("the id of a thread")?.parse()?;
        match sched_setaffinity(Pid::from_raw(id), &cores) {
            // The thread has ended meanwhile.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("keep thread {id} to core {core}")),
        }
    }
    Ok(())
}

/// The kernel's threads that do what interrupts leave over: one each core.
pub fn interrupt_threads() -> Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let name = entry.context("list /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(comm) if comm.starts_with("ksoftirqd/") => found.push(ProcessId::of(pid)?),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => {}
            // Gone between opening and reading (ESRCH), which has no kind of its own.
            Err(error) if error.raw_os_error() == Some(3) => {}
            Err(error) => return Err(error).with_context(|| format!("read the name of process {pid}")),
        }
    }
    ensure!(
        !found.is_empty(),
        "no ksoftirqd: this process sees a part of the machine only"
    );
    Ok(found)
}

/// What all cores together have done since boot, in ticks of some milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Programs, the kernel and interrupts.
    pub busy: Duration,
    /// What the machine below took away.
    pub stolen: Duration,
}

/// Reads `/proc/stat`.
pub fn machine() -> Result<Machine> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = sysconf(SysconfVar::CLK_TCK).context("ticks a second")?;
    let ticks = ticks.context("ticks a second")?;
    machine_in(&text, u64::try_from(ticks).context("ticks a second")?)
}

/// `cpu user nice system idle iowait irq softirq steal ...` of `proc_stat(5)`. What guests use is in `user` already.
fn machine_in(stat: &str, ticks_a_second: u64) -> Result<Machine> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = line.context("/proc/stat has no line of all cores")?;
    let fields: Vec<u64> = fields
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("/proc/stat")?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = *fields.as_slice() else {
        anyhow::bail!("/proc/stat has {} fields only", fields.len());
    };
    let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / ticks_a_second.max(1));
    Ok(Machine {
        busy: time(user + nice + system + irq + softirq),
        stolen: time(steal),
    })
}

fn pid(process: ProcessId) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(process.pid).context("process id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_what_guests_do_are_not_counted_as_busy_again() {
        let stat = "cpu  100 20 30 9000 800 1 2 50 100 20\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let machine = machine_in(stat, 100).unwrap();
        assert_eq!(machine.busy, Duration::from_millis(1530));
        assert_eq!(machine.stolen, Duration::from_millis(500));
    }

    #[test]
    fn the_time_of_a_process_that_ended_is_still_to_be_read() {
        // It begins when its input ends, lest it has ended before anybody knows it.
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read -r _; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        drop(child.stdin.take());
        crate::process::wait_until(Duration::from_secs(30), || Ok((!id.is_alive()).then_some(()))).unwrap();
        let used = used_by(id).unwrap();
        child.wait().unwrap();
        assert!(used > Duration::ZERO);
        assert!(used_by(id).is_err(), "nothing is known of it any more");
    }

    #[test]
    fn every_machine_has_interrupt_threads() {
        assert!(!interrupt_threads().unwrap().is_empty());
    }
}
