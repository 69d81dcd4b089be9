//! One agent that learns from an API server, and what can be seen of it: readiness, versions, memory.
//!
//! It must not know what the API server holds.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::metrics::Metrics;
use mesh_tests::process::{self, ProcessId};
use mesh_tests::{agent::tail, http, sandbox};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;

/// An agent of no pod, in a mount namespace with a BPF file system of its own.
#[derive(Debug)]
pub(super) struct Agent {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit, which the report's keys say too"
)]
pub(super) struct Memory {
    /// `VmRSS`: resident, with what is mapped of the program.
    pub(super) resident_kib: u64,
    /// `RssAnon`: its own.
    pub(super) own_kib: u64,
    /// `VmHWM`: resident at most, since it began.
    pub(super) peak_kib: u64,
}

impl Agent {
    /// Starts `binary` with all that it keeps below `dir`.
    pub(super) fn start(binary: &Path, dir: &Path, kubeconfig: &Path) -> Result<Self> {
        let bpf = dir.join("bpf");
        fs::create_dir_all(&bpf).with_context(|| format!("make {}", bpf.display()))?;
        let admin = free_addr()?;
        let mut command = Command::new("unshare");
        // As the chart has it.
        command.env("MIMALLOC_PURGE_DELAY", "1");
        // What is mounted ends with the process, pins and all.
        let script = r#"mount -t bpf bpf "$0" && exec "$@""#;
        command.args(["--mount", "--", "/bin/sh", "-c", script]);
        command
            .arg(&bpf)
            .arg(binary)
            .args(["run", "--node-name", "scale"]);
        command.arg("--kubernetes").arg(kubeconfig);
        command.arg("--state-dir").arg(dir.join("state"));
        command.arg("--bpf-dir").arg(&bpf);
        command.arg("--ca-dir").arg(dir.join("ca"));
        command.args(["--admin-addr", &admin.to_string()]);
        let log = dir.join("agent.log");
        let child = sandbox::start(command, &dir.join("access.log"), &log)?;
        Ok(Self { child, admin, log })
    }

    /// Waits until it is ready.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let ready = process::wait_until(Duration::from_mins(3), || {
            let ended = self.child.try_wait().context("look after the agent")?;
            ensure!(ended.is_none(), "the agent has ended:\n{}", tail(&self.log, 10));
            // Nobody listens yet, or it says what it waits for.
            let answer = self.page("/readyz");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        ready.with_context(|| format!("the agent is not ready:\n{}", tail(&self.log, 10)))
    }

    /// The version of the configuration in force.
    pub(super) fn version(&self) -> Result<f64> {
        let metrics = Metrics::parse(&self.page("/metrics")?.body)?;
        Ok(metrics.sum("mesh_config_version", &[]))
    }

    /// The paths of the watches that it holds.
    pub(super) fn watched_paths(&self) -> Result<Vec<String>> {
        let status: Value = serde_json::from_str(&self.page("/status")?.body).context("read the status")?;
        let watches = status.pointer("/api_server/watches").and_then(Value::as_array);
        let paths = watches.into_iter().flatten().filter_map(|watch| {
            let path = watch.get("path")?.as_str()?;
            (!path.is_empty()).then(|| path.to_owned())
        });
        Ok(paths.collect())
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        memory_in(&text).with_context(|| path)
    }

    /// Ends it in order.
    pub(super) fn end(mut self) -> Result<()> {
        if self.child.try_wait().context("look after the agent")?.is_none() {
            ProcessId::of(self.child.id())?.signal(Signal::SIGTERM)?;
        }
        process::wait(&mut self.child, Duration::from_mins(1)).map(drop)
    }

    fn page(&self, page: &str) -> Result<http::Answer> {
        http::get(Path::new("/proc/self/ns/net"), self.admin, page)
    }
}

fn memory_in(status: &str) -> Option<Memory> {
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    Some(Memory {
        resident_kib: of("VmRSS")?,
        own_kib: of("RssAnon")?,
        peak_kib: of("VmHWM")?,
    })
}

fn free_addr() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_memory_as_the_kernel_writes_it() {
        let status = "Name:\tmesh-agent\nVmHWM:\t  281600 kB\nVmRSS:\t  172032 kB\nRssAnon:\t  138240 kB\n";
        let expected = Memory {
            resident_kib: 172_032,
            own_kib: 138_240,
            peak_kib: 281_600,
        };
        assert_eq!(memory_in(status), Some(expected));
        assert_eq!(memory_in("VmRSS:\t1 kB\n"), None);
    }
}
