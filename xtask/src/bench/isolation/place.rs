//! Whose pods, on which cores, in which scheduling class.
//!
//! It must not know what runs there.

use std::fs;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sharing {
    /// The agent has one core, all else the other, where the storm's programs run when nobody else wants to: what the quiet pair
    /// waits for longer than without a storm, it waits for in the agent (or in the kernel's network).
    Apart,
    /// As the kernel likes.
    Together,
    /// As apart, but the agent and the quiet pair are of the real-time class and the storm is not idle-class: on a machine that
    /// does other things too these do not count. Only when it is asked for.
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
            (Self::Apart, false) | (Self::Ahead, true) => &["taskset", "-c", APPS],
            (Self::Ahead, false) => &["taskset", "-c", APPS, "chrt", "--fifo", "2"],
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
        Sharing::Apart => [ORDINARY, ORDINARY, ["--idle", "0"]],
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
    for (process, [class, priority]) in processes.into_iter().zip(classes) {
        let pid = process.pid.to_string();
        told(&["chrt", "--all-tasks", class, "--pid", priority, &pid])?;
    }
    if pods == Pods::Mesh && sharing == Sharing::Ahead {
        prefer_data_threads(lab.agent(NODE)?)?;
    }
    Ok(())
}

/// Among the agent's threads, too: the real-time class knows no time slices, by which the agent has its data threads
/// interrupt the others otherwise.
fn prefer_data_threads(agent: ProcessId) -> Result<()> {
    let tasks = format!("/proc/{}/task", agent.pid);
    let mut preferred = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let task = task.with_context(|| format!("list {tasks}"))?;
        // A thread may have ended since.
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == DATA_THREAD {
            told(&[
                "chrt",
                "--fifo",
                "--pid",
                "2",
                &task.file_name().to_string_lossy(),
            ])?;
            preferred += 1;
        }
    }
    ensure!(preferred > 0, "no thread of the agent is called {DATA_THREAD}");
    Ok(())
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
const LIMIT: Duration = Duration::from_secs(5);
