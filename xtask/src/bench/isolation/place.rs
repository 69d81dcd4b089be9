//! Whose pods, on which cores, in which scheduling class.
//!
//! It must not know what runs there.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mesh_tests::process::{self, ProcessId};
use mesh_tests::running::Running;
use mesh_tests::{agent, input::PodName};
use serde::Serialize;

/// The node of all pods.
pub(crate) const NODE: &str = "node-a";

/// In the mesh or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pods {
    /// Requests pass the agent.
    Mesh,
    /// They do not.
    Plain,
}

/// Who gets which core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sharing {
    /// The agent has one core, all else the other, where the quiet pair is of the real-time class and the storm's programs run
    /// when nobody else wants to: what the pair waits for longer than without a storm, it waits for in the agent (or in the
    /// kernel's network).
    Apart,
    /// As the kernel likes.
    Together,
    /// As apart, but the agent is of the real-time class too and the storm is not idle-class: on a machine that
    /// does other things too these do not count. Only when it is asked for, and after the others: it takes the agent's threads
    /// their time slices.
    Ahead,
}

impl Pods {
    pub(crate) const ALL: [Self; 2] = [Self::Mesh, Self::Plain];

    /// One of these pods.
    pub(crate) fn named(self, pod: &str) -> Result<PodName> {
        format!("{self}/{pod}").parse()
    }

    /// How a client of these pods calls a server.
    pub(crate) fn host(self, lab: &Running, server: &str) -> Result<String> {
        match self {
            Self::Mesh => Ok(server.to_owned()),
            Self::Plain => Ok(lab.pod(&self.named(server)?)?.ipv4.to_string()),
        }
    }

    /// Resident KiB of the agent, if these pods have one; what is highest begins anew.
    pub(crate) fn memory(self, lab: &Running) -> Result<Option<u64>> {
        if self == Self::Plain {
            return Ok(None);
        }
        let agent = lab.agent(NODE)?;
        let path = format!("/proc/{}/clear_refs", agent.pid);
        // proc(5): 5 resets the peak resident set size.
        fs::write(&path, "5").with_context(|| format!("write {path}"))?;
        Ok(Some(agent::usage(agent)?.rss_kib))
    }

    /// The highest that it was since.
    pub(crate) fn highest_memory(self, lab: &Running) -> Result<Option<u64>> {
        if self == Self::Plain {
            return Ok(None);
        }
        let path = format!("/proc/{}/status", lab.agent(NODE)?.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(Some(number.context("no VmHWM")?.parse()?))
    }
}

impl Sharing {
    pub(crate) const ORDINARY: [Self; 2] = [Self::Apart, Self::Together];

    /// The words before a client's program.
    pub(crate) fn prefix(self, is_storm: bool) -> &'static [&'static str] {
        match (self, is_storm) {
            (Self::Apart, true) => &["taskset", "-c", APPS, "chrt", "--idle", "0"],
            (Self::Ahead, true) => &["taskset", "-c", APPS],
            (Self::Apart | Self::Ahead, false) => &["taskset", "-c", APPS, "chrt", "--fifo", "2"],
            (Self::Together, _) => &[],
        }
    }
}

/// Puts the agent and the servers of `pods` where they belong.
pub(crate) fn arrange(lab: &Running, pods: Pods, sharing: Sharing) -> Result<()> {
    let cores = std::thread::available_parallelism().context("count cores")?.get();
    let all = format!("0-{}", cores.saturating_sub(1));
    let (agent, apps) = match sharing {
        Sharing::Apart | Sharing::Ahead => (AGENT, APPS),
        Sharing::Together => (all.as_str(), all.as_str()),
    };
    // The classes of the agent, the quiet server and the storming one.
    let classes = match sharing {
        Sharing::Apart => [ORDINARY, ["--fifo", "2"], ["--idle", "0"]],
        Sharing::Together => [ORDINARY; 3],
        Sharing::Ahead => [["--fifo", "1"], ["--fifo", "2"], ORDINARY],
    };
    let program = |pod| -> Result<ProcessId> {
        let pod = lab.pod(&pods.named(pod)?)?;
        pod.program.context("the server's pod has no program")
    };
    let processes = [lab.agent(NODE)?, program("quiet")?, program("storm")?];
    for (process, cores) in processes.into_iter().zip([agent, apps, apps]) {
        keep_to(process, cores)?;
    }
    for (process, class) in processes.into_iter().zip(classes) {
        for thread in threads(process)? {
            thread.be(class)?;
        }
    }
    if pods == Pods::Mesh && sharing == Sharing::Ahead {
        prefer_data_threads(lab.agent(NODE)?)?;
    }
    Ok(())
}

/// Among the agent's threads, too: the real-time class knows no time slices, by which the agent has its data threads
/// interrupt the others otherwise.
fn prefer_data_threads(agent: ProcessId) -> Result<()> {
    let mut preferred = 0;
    for thread in threads(agent)? {
        if thread.name == DATA_THREAD {
            thread.be(["--fifo", "2"])?;
            preferred += 1;
        }
    }
    ensure!(preferred > 0, "no thread of the agent is called {DATA_THREAD}");
    Ok(())
}

/// A thread of a process, as it was when it was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    id: String,
    name: String,
    /// As `chrt` is told it.
    class: [String; 2],
}

impl Thread {
    /// Puts it into a class. Left alone where it is there already, for that would take its time slice away.
    fn be(&self, class: [&str; 2]) -> Result<()> {
        if self.class == class {
            return Ok(());
        }
        let [class, priority] = class;
        told(&["chrt", class, "--pid", priority, &self.id])
    }

    /// From a line of `/proc/PID/task/ID/stat`, proc(5): fields 2, 40 and 41.
    fn in_stat(stat: &str) -> Option<Self> {
        let (head, fields) = stat.rsplit_once(')')?;
        let (id, name) = head.split_once(" (")?;
        let mut fields = fields.split_whitespace().skip(37);
        let priority = fields.next()?;
        let class = match fields.next()? {
            "0" => "--other",
            "1" => "--fifo",
            "5" => "--idle",
            _ => return None,
        };
        Some(Self {
            id: id.to_owned(),
            name: name.to_owned(),
            class: [class, priority].map(str::to_owned),
        })
    }
}

fn threads(process: ProcessId) -> Result<Vec<Thread>> {
    let tasks = format!("/proc/{}/task", process.pid);
    let mut threads = Vec::new();
    for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let path = task.with_context(|| format!("list {tasks}"))?.path().join("stat");
        match fs::read_to_string(&path) {
            Ok(stat) => {
                threads.push(Thread::in_stat(&stat).with_context(|| format!("{}: {stat}", path.display()))?);
            }
            // It has ended since.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(threads)
}

fn keep_to(process: ProcessId, cores: &str) -> Result<()> {
    let pid = process.pid.to_string();
    told(&["taskset", "--all-tasks", "--cpu-list", "--pid", cores, &pid])
}

fn told(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("no words")?;
    process::run(Command::new(program).args(arguments), LIMIT)?.success()?;
    Ok(())
}

impl std::fmt::Display for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Mesh => "mesh",
            Self::Plain => "plain",
        })
    }
}

impl std::fmt::Display for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Apart => "apart",
            Self::Together => "together",
            Self::Ahead => "ahead",
        })
    }
}

/// The agent's core.
const AGENT: &str = "0";
/// Everybody else's.
const APPS: &str = "1";
/// What the agent calls the threads that carry the traffic of pods which want little.
const DATA_THREAD: &str = "data";
const ORDINARY: [&str; 2] = ["--other", "0"];
/// What reading a file of a thread says that ended meanwhile (errno 3).
const ESRCH: i32 = 3;
const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_known_by_its_line_of_proc() {
        let stat = |last: &str| {
            format!(
                "42 (a) (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 {last} 0 0 0"
            )
        };
        let thread = |class: [&str; 2]| Thread {
            id: "42".to_owned(),
            name: "a) (b".to_owned(),
            class: class.map(str::to_owned),
        };
        let cases = [
            ("0 0", ["--other", "0"]),
            ("2 1", ["--fifo", "2"]),
            ("0 5", ["--idle", "0"]),
        ];
        for (last, class) in cases {
            assert_eq!(Thread::in_stat(&stat(last)), Some(thread(class)), "{last}");
        }
        assert_eq!(Thread::in_stat("42 (a) S 1"), None);
    }
}
