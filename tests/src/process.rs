//! Processes: started, waited for with an end, and named so that a reused process id is never taken for one of ours.
//!
//! Every wait of the lab goes through this file, so that each has a time limit and heeds Ctrl-C.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::interrupt;

/// A process of this boot: its id, and when it started, since ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this id now.
    pub fn of(pid: u32) -> Result<Self> {
        let started = start_time(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started })
    }

    /// True while this very process exists and is no zombie.
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal to this very process; nothing happens when it is gone.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to process {pid}"))
    }
}

/// Start time of a process that is not a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // While other threads of a killed process still end, its files are open and its locks held.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    start_time_in(&stat, threads > 1)
}

fn start_time_in(stat: &str, has_other_threads: bool) -> Option<u64> {
    // The second field is the command in brackets and may hold anything, brackets too.
    let after_command = stat.rsplit_once(')')?.1;
    let mut fields = after_command.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") && !has_other_threads {
        return None;
    }
    // `state` is field 3, the start time is field 22.
    fields.nth(18)?.parse().ok()
}

/// What a program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// The output of a program that succeeded; otherwise an error with what it said.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.status.success(),
            "ended with {}: {}{}",
            self.status,
            self.stderr.trim(),
            self.stdout.trim()
        );
        Ok(self)
    }

    /// True when it ended with status 0.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }
}

/// Runs a command to its end; it is killed after `limit` or on Ctrl-C.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let began = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, limit).with_context(|| format!("wait for {command:?}"))?;
    Ok(Output {
        status,
        stdout: collected(stdout)?,
        stderr: collected(stderr)?,
        took: began.elapsed(),
    })
}

/// Waits for a child; it is killed after `limit` or on Ctrl-C, and that is an error.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let ended = wait_until(limit, || child.try_wait().context("wait for a child"));
    match ended {
        Ok(Some(status)) => Ok(status),
        Ok(None) => {
            reap(child)?;
            bail!("no end within {limit:?}")
        }
        Err(error) => {
            reap(child)?;
            Err(error)
        }
    }
}

/// Kills and reaps a child.
pub fn reap(child: &mut Child) -> Result<()> {
    child.kill().context("kill a child")?;
    child.wait().context("reap a child")?;
    Ok(())
}

/// Asks again and again until there is an answer, `None` after `limit`; ends with an error on Ctrl-C.
pub fn wait_until<T>(limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        interrupt::check()?;
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

type Reader = Option<thread::JoinHandle<std::io::Result<Vec<u8>>>>;

fn reader(pipe: Option<impl Read + Send + 'static>) -> Reader {
    pipe.map(|mut pipe| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        })
    })
}

fn collected(reader: Reader) -> Result<String> {
    let Some(reader) = reader else {
        return Ok(String::new());
    };
    let Ok(bytes) = reader.join() else {
        bail!("the reader of a pipe panicked")
    };
    Ok(String::from_utf8_lossy(&bytes.context("read a pipe")?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_start_time_past_a_command_with_brackets() {
        let stat = "42 (a) (b c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(start_time_in(stat, false), Some(987_654));
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let stat = "42 (a) Z 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(start_time_in(stat, false), None);
        assert_eq!(
            start_time_in(stat, true),
            Some(987_654),
            "other threads still run"
        );
    }

    #[test]
    fn another_process_with_the_same_id_is_not_ours() {
        let ours = ProcessId::of(std::process::id()).unwrap();
        let earlier = ProcessId {
            started: ours.started - 1,
            ..ours
        };
        assert!(ours.is_alive());
        assert!(!earlier.is_alive());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let error = run(Command::new("sleep").arg("600"), Duration::from_millis(20)).unwrap_err();
        assert!(format!("{error:#}").contains("no end within"), "{error:#}");
    }
}
