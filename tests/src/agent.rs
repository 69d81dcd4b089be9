//! One agent a node: started with the documented command line, watched by its documented pages.
//!
//! It must not know more of the agent than a user does.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{self, Answer};
use crate::metrics::Metrics;
use crate::process::{self, ProcessId};
use crate::sandbox::{self, Place};
use crate::site::Site;

/// Where an agent serves its pages, inside its node.
pub const ADMIN_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

const READY_LIMIT: Duration = Duration::from_secs(30);

/// Starts the agent of a node, with `more` arguments than the lab's own.
pub fn start_with(site: &Site, node: &str, binary: &Path, more: &[String]) -> Result<Child> {
    let state = site.agent_state(node);
    for dir in [&state, &site.ca_dir()] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let place = Place {
        cgroup: site.agent_cgroup(node),
        netns: Site::netns_path(&site.node_netns(node)),
        mounts_of: None,
        cwd: state.clone(),
    };
    // Each node has its own BPF file system, as each machine has; mounted outside, so that it outlives the agent.
    let script = r#"mount --bind "$0" /sys/fs/bpf && exec "$@""#;
    let program = [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "--",
        "/bin/sh",
        "-c",
        script,
    ]
    .map(str::to_owned);
    let bpf = site.bpf_mount(node).display().to_string();
    let mut program = [program.as_slice(), &[bpf, binary.display().to_string()]].concat();
    program.extend(arguments(site, node, &state));
    // Facts come from one place.
    if !more.iter().any(|word| word == "--kubernetes") {
        program.extend(["--manifests".to_owned(), site.manifests().display().to_string()]);
    }
    program.extend_from_slice(more);
    let mut command = place.command(&program)?;
    command.env("RUST_BACKTRACE", "1");
    sandbox::start(command, &log(site, node, "stdout"), &log(site, node, "stderr"))
}

fn arguments(site: &Site, node: &str, state: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut arguments = vec!["run".to_owned()];
    for (flag, value) in [
        ("--node-name", node.to_owned()),
        ("--state-dir", path(state)),
        ("--ca-dir", path(&site.ca_dir())),
        ("--tls-files-dir", path(&site.tls_files())),
        ("--admin-addr", ADMIN_ADDR.to_string()),
    ] {
        arguments.extend([flag.to_owned(), value]);
    }
    arguments
}

/// Where an agent's output goes: its access log is on `stdout`, its own log on `stderr`.
pub fn log(site: &Site, node: &str, stream: &str) -> PathBuf {
    site.logs().join(format!("agent-{node}.{stream}"))
}

/// Waits until an agent says that it is ready.
pub fn wait_ready(site: &Site, node: &str, agent: ProcessId) -> Result<()> {
    let mut last = String::from("no answer");
    let ready = process::wait_until(READY_LIMIT, || {
        if !agent.is_alive() {
            bail!(
                "the agent of {node} ended while starting:\n{}",
                tail(&log(site, node, "stderr"), 12)
            );
        }
        match page(site, node, "/readyz") {
            Ok(answer) if answer.status == 200 => return Ok(Some(())),
            Ok(answer) => last = format!("{} {}", answer.status, answer.body.trim()),
            Err(error) => last = format!("{error:#}"),
        }
        Ok(None)
    })?;
    ensure!(
        ready.is_some(),
        "the agent of {node} is not ready after {READY_LIMIT:?}: {last}\n{}",
        tail(&log(site, node, "stderr"), 12)
    );
    Ok(())
}

/// A page of an agent.
pub fn page(site: &Site, node: &str, page: &str) -> Result<Answer> {
    http::get(&Site::netns_path(&site.node_netns(node)), ADMIN_ADDR, page)
}

/// What an agent says of itself.
pub fn status(site: &Site, node: &str) -> Result<Value> {
    let answer = page(site, node, "/status")?;
    ensure!(
        answer.status == 200,
        "/status of {node} answers {}",
        answer.status
    );
    serde_json::from_str(&answer.body).with_context(|| format!("/status of {node} is no JSON"))
}

/// The metrics of an agent.
pub fn metrics(site: &Site, node: &str) -> Result<Metrics> {
    let answer = page(site, node, "/metrics")?;
    ensure!(
        answer.status == 200,
        "/metrics of {node} answers {}",
        answer.status
    );
    Metrics::parse(&answer.body).with_context(|| format!("/metrics of {node}"))
}

/// The access-log lines of an agent so far.
pub fn access_log(site: &Site, node: &str) -> Result<Vec<Value>> {
    let path = log(site, node, "stdout");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("access log of {node}: no JSON: {line}"))
        })
        .collect()
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Open file descriptors.
    pub open_files: u64,
    /// Resident memory.
    pub rss_kib: u64,
    /// Threads.
    pub threads: u64,
}

/// What an agent holds now.
pub fn usage(agent: ProcessId) -> Result<Usage> {
    let dir = format!("/proc/{}", agent.pid);
    let open_files = fs::read_dir(format!("{dir}/fd"))
        .with_context(|| format!("list {dir}/fd"))?
        .count();
    let status = fs::read_to_string(format!("{dir}/status")).with_context(|| format!("read {dir}/status"))?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("no {name}"))?;
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .parse::<u64>()
            .with_context(|| format!("{name} {line}"))
    };
    Ok(Usage {
        open_files: u64::try_from(open_files).context("open files")?,
        rss_kib: field("VmRSS:")?,
        threads: field("Threads:")?,
    })
}

/// The last lines of a file; a sentence instead when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read_to_string(path) {
        Ok(text) => {
            let all: Vec<_> = text.lines().collect();
            let last: Vec<_> = all
                .iter()
                .skip(all.len().saturating_sub(lines))
                .map(|line| format!("  {line}"))
                .collect();
            last.join("\n")
        }
        Err(error) => format!("  ({}: {error})", path.display()),
    }
}
