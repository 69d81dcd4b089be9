//! Privileges: what a running agent may still do and gets, seen from the kernel's side of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{equal, get};
use super::{Claim, claims};
use crate::authority::Authority;
use crate::process::ProcessId;
use crate::running::Running;
use crate::{process, sandbox};

pub(super) const CLAIMS: &[Claim] = claims![
    every_thread_of_the_agent_has_the_capabilities_of_its_status_page_and_no_other,
    every_thread_of_the_agent_is_refused_the_system_calls_it_never_makes,
    the_agent_leaves_no_core_dump,
    the_kernel_gives_the_agent_no_huge_pages,
    an_agent_that_lacks_a_capability_names_it_in_one_line,
    the_ca_service_keeps_no_capability,
    admin_pages_beyond_the_machine_need_a_token,
];

const NODES: [&str; 2] = ["node-a", "node-b"];

fn every_thread_of_the_agent_has_the_capabilities_of_its_status_page_and_no_other(
    lab: &Running,
) -> Result<()> {
    // What these three are for is proved by the other suites, which run with no more.
    let kept = [
        "CAP_DAC_READ_SEARCH",
        "CAP_NET_ADMIN",
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
    ];
    let bits: u64 = [2, 12, 19, 21].map(|bit| 1 << bit).iter().sum();
    for node in NODES {
        let status = lab.status(node)?;
        let named = status.pointer("/privileges/capabilities");
        equal("status", named, Some(&Value::from(kept.to_vec())))?;
        for thread in threads(lab.agent(node)?)? {
            for (set, expected) in [
                ("CapInh", 0),
                ("CapPrm", bits),
                ("CapEff", bits),
                ("CapBnd", bits),
                ("CapAmb", 0),
            ] {
                let found = u64::from_str_radix(field(&thread, set)?, 16).context("a set is no number")?;
                equal(&format!("{set} of a thread of {node}"), found, expected)?;
            }
        }
    }
    equal("traffic", get(lab, "shop/client", "http://far/")?.status, 200)
}

fn every_thread_of_the_agent_is_refused_the_system_calls_it_never_makes(lab: &Running) -> Result<()> {
    for node in NODES {
        let status = lab.status(node)?;
        let refused = status.pointer("/privileges/calls_refused");
        equal("status", refused, Some(&Value::Bool(true)))?;
        let threads = threads(lab.agent(node)?)?;
        for thread in &threads {
            equal("Seccomp", field(thread, "Seccomp")?, "2")?;
            // More where the lab itself runs below one.
            let filters: u32 = field(thread, "Seccomp_filters")?.parse()?;
            ensure!(filters >= 2, "{filters} filters");
            equal("NoNewPrivs", field(thread, "NoNewPrivs")?, "1")?;
        }
    }
    Ok(())
}

fn the_agent_leaves_no_core_dump(lab: &Running) -> Result<()> {
    for node in NODES {
        let limits =
            fs::read_to_string(format!("/proc/{}/limits", lab.agent(node)?.pid)).context("limits")?;
        let core = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"))
            .context("no limit of core dumps")?;
        let limits: Vec<_> = core.split_whitespace().take(2).collect();
        equal("soft and hard limit of core dumps", limits, vec!["0", "0"])?;
    }
    Ok(())
}

fn the_kernel_gives_the_agent_no_huge_pages(lab: &Running) -> Result<()> {
    for node in NODES {
        let path = format!("/proc/{}/status", lab.agent(node)?.pid);
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        equal("THP_enabled", field(&status, "THP_enabled")?, "0")?;
    }
    Ok(())
}

fn an_agent_that_lacks_a_capability_names_it_in_one_line(lab: &Running) -> Result<()> {
    let said = refused_start(
        lab,
        &[
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
            "--",
        ],
        "127.0.0.1:0",
    )?;
    ensure!(
        said.contains("CAP_NET_ADMIN is missing") && !said.contains("CAP_SYS_ADMIN"),
        "{said}"
    );
    Ok(())
}

fn the_ca_service_keeps_no_capability(lab: &Running) -> Result<()> {
    let ca = Authority::of(lab)?;
    ca.start()?;
    let threads = threads(ca.process()?);
    ca.kill()?;
    for thread in threads? {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            equal(set, field(&thread, set)?, "0000000000000000")?;
        }
        equal("Seccomp", field(&thread, "Seccomp")?, "2")?;
        equal("NoNewPrivs", field(&thread, "NoNewPrivs")?, "1")?;
    }
    Ok(())
}

fn admin_pages_beyond_the_machine_need_a_token(lab: &Running) -> Result<()> {
    let said = refused_start(lab, &[], "0.0.0.0:0")?;
    ensure!(said.contains("admin_token_file"), "{said}");
    Ok(())
}

/// The one line with which an agent refuses to start under `wrapper`.
fn refused_start(lab: &Running, wrapper: &[&str], admin_addr: &str) -> Result<String> {
    let dir = lab.site.staging().join("refused-agent");
    fs::create_dir_all(&dir).context("make a directory")?;
    let path = |path: &Path| path.display().to_string();
    let mut program: Vec<_> = wrapper.iter().map(|&word| word.to_owned()).collect();
    program.extend([path(&lab.site.run_dir().join("mesh-agent")), "run".to_owned()]);
    for (flag, value) in [
        ("--node-name", "node-a".to_owned()),
        ("--manifests", path(&lab.site.manifests())),
        ("--state-dir", path(&dir)),
        ("--ca-dir", path(&dir.join("ca"))),
        ("--admin-addr", admin_addr.to_owned()),
    ] {
        program.extend([flag.to_owned(), value]);
    }
    let mut command = sandbox::observer(&lab.site, &lab.site.node_netns("node-a")).command(&program)?;
    let output = process::run(&mut command, Duration::from_secs(10))?;
    equal("exit code", output.status.code(), Some(1))?;
    let said = output.stderr.trim().to_owned();
    equal("lines", said.lines().count(), 1)?;
    Ok(said)
}

/// `/proc/PID/task/TID/status` of each thread of a process.
fn threads(process: ProcessId) -> Result<Vec<String>> {
    let dir = format!("/proc/{}/task", process.pid);
    let mut threads = Vec::new();
    for thread in fs::read_dir(&dir).with_context(|| format!("list {dir}"))? {
        // A thread that has just ended has no status; each that lives has one.
        if let Ok(status) = fs::read_to_string(thread?.path().join("status")) {
            threads.push(status);
        }
    }
    ensure!(threads.len() >= 3, "only {} threads in {dir}", threads.len());
    Ok(threads)
}

fn field<'s>(status: &'s str, name: &str) -> Result<&'s str> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).with_context(|| format!("no {name}"))
}
