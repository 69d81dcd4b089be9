//! `cargo xtask bench scale`: what an agent holds of a large cluster, how soon it follows a change, and what the agents of
//! many nodes cost the API server.
//!
//! A real API server on loopback, filled; one agent of no pod. It must not judge a time or a size: it fails where the agent
//! is never ready, or a change never arrives.

mod agent;
mod counted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::{ControlPlane, PROGRAMS};
use mesh_tests::process;
use serde::Serialize;
use serde_json::{Value, json};

use self::agent::{Agent, Memory};
use self::counted::Counted;
use crate::report::ReportTo;
use crate::shell::{line, read, step};
use crate::{agent as builds, kube, workspace};

/// How large.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Services, each with one `EndpointSlice`
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    services: u32,
    /// Endpoints, shared evenly among the Services
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    endpoints: u32,
    /// Pods, behind the first of the endpoints
    #[arg(long, value_name = "N", default_value_t = 0)]
    pods: u32,
    /// Watch as the agents of so many nodes do, and measure what changes cost the API server then
    #[arg(long, value_name = "N", default_value_t = 0)]
    watchers: u32,
    /// Changes of a slice each second while they watch
    #[arg(long, value_name = "N", default_value_t = 2)]
    rate: u32,
    /// Measure this agent instead of building one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    report: ReportTo,
}

/// What one agent showed.
#[derive(Debug, Serialize)]
struct Found {
    ready_s: f64,
    /// From the API server's answer to a change until it was in force.
    change_s: Vec<f64>,
    at_rest: Memory,
    after_changes: Memory,
    bytes_at_start: u64,
    bytes_a_change: u64,
    watches: usize,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.services > 0 && arguments.endpoints >= arguments.services,
        "at least one Service, and an endpoint for each"
    );
    let programs = kube::programs(&PROGRAMS)?;
    let binary = builds::given_or_optimised(arguments.agent.as_ref())?;
    let dir = workspace::target().join("scale-plane");
    if let Some(left) = ControlPlane::attach(&dir, None)? {
        left.down()?;
    }
    let plane = step("an API server", || ControlPlane::up(&dir, None, &[programs]))?;
    let measured = measure(&plane, &binary, arguments);
    plane.down()?;
    let (found, fan_out) = measured?;
    let size =
        json!({ "services": arguments.services, "endpoints": arguments.endpoints, "pods": arguments.pods });
    arguments
        .report
        .write(&json!({ "scale": found, "size": size, "fan_out": fan_out }))
}

fn measure(plane: &ControlPlane, binary: &Path, arguments: &Arguments) -> Result<(Found, Value)> {
    step("Services and endpoints", || fill(plane, arguments))?;
    let way = Counted::to(plane.addr())?;
    let dir = plane.dir().join("agent");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let kubeconfig = dir.join("kubeconfig");
    plane.write_kubeconfig_at(&kubeconfig, &plane.admin_token(), way.addr())?;
    let began = Instant::now();
    let mut agent = Agent::start(binary, &dir, &kubeconfig)?;
    let seen = agent
        .wait_ready()
        .and_then(|()| follow(plane, &agent, &way, began, arguments));
    let paths = agent.watched_paths();
    agent.end()?;
    let (found, paths) = (seen?, paths?);
    line(&format!("  {}", json!(found)))?;
    let fan_out = match arguments.watchers {
        0 => Value::Null,
        _ => step("the watches of many agents", || watch(plane, &paths, arguments))?,
    };
    if !fan_out.is_null() {
        line(&format!("  {fan_out}"))?;
    }
    Ok((found, fan_out))
}

/// What becomes of the agent, which is ready, with a few changes.
fn follow(
    plane: &ControlPlane,
    agent: &Agent,
    way: &Counted,
    began: Instant,
    arguments: &Arguments,
) -> Result<Found> {
    let ready_s = began.elapsed().as_secs_f64();
    settle(agent)?;
    let (at_rest, bytes_at_start) = (agent.memory()?, way.bytes());
    let mut change_s = Vec::new();
    let last = arguments.services - 1;
    for service in [0, last / 2, last] {
        let before = agent.version()?;
        // Nobody else changes anything.
        let path = format!("{SLICES}/s{service}-a");
        let not_ready = json!({ "endpoints": endpoints_without_one(plane, &path)? });
        plane.api().patch(&path, &not_ready)?;
        let sent = Instant::now();
        let arrived = process::wait_until(Duration::from_mins(1), || {
            Ok((agent.version()? > before).then_some(()))
        })?;
        arrived.context("a changed endpoint is never in force")?;
        change_s.push(sent.elapsed().as_secs_f64());
    }
    settle(agent)?;
    let changes = u64::try_from(change_s.len()).context("count changes")?;
    Ok(Found {
        ready_s,
        change_s,
        at_rest,
        after_changes: agent.memory()?,
        bytes_at_start,
        bytes_a_change: (way.bytes() - bytes_at_start) / changes,
        watches: agent.watched_paths()?.len(),
    })
}

/// The endpoints of a slice, the first one not ready.
fn endpoints_without_one(plane: &ControlPlane, path: &str) -> Result<Value> {
    let slice = plane.api().get(path)?.success()?;
    let mut endpoints = slice
        .get("endpoints")
        .cloned()
        .context("a slice without endpoints")?;
    let first = endpoints.pointer_mut("/0/conditions");
    *first.context("an endpoint without conditions")? = json!({ "ready": false });
    Ok(endpoints)
}

/// Waits until nothing new came into force for as long as the copy on disk takes.
fn settle(agent: &Agent) -> Result<()> {
    let (mut seen, mut since) = (agent.version()?, Instant::now());
    let settled = process::wait_until(Duration::from_mins(2), || {
        let now = agent.version()?;
        if now > seen {
            (seen, since) = (now, Instant::now());
        }
        Ok((since.elapsed() >= QUIET).then_some(()))
    })?;
    settled.context("the agent's configuration does not come to rest")
}

fn fill(plane: &ControlPlane, arguments: &Arguments) -> Result<()> {
    let mut load = load(plane, "fill");
    load.args(["--etcd", &plane.etcd_addr().to_string()]);
    for (flag, count) in [
        ("--services", arguments.services),
        ("--endpoints", arguments.endpoints),
        ("--pods", arguments.pods),
    ] {
        load.args([flag, &count.to_string()]);
    }
    read(&mut load, Duration::from_hours(1)).map(drop)
}

/// As many watches of each of an agent's paths as there would be agents, and changes beside them.
fn watch(plane: &ControlPlane, paths: &[String], arguments: &Arguments) -> Result<Value> {
    let server = plane.process("kube-apiserver")?.context("no API server runs")?;
    let mut load = load(plane, "watch");
    for (flag, count) in [
        ("--agents", arguments.watchers),
        ("--services", arguments.services),
        ("--rate", arguments.rate),
        ("--seconds", 20),
        ("--server-pid", server.pid),
    ] {
        load.args([flag, &count.to_string()]);
    }
    for path in paths {
        load.args(["--path", path]);
    }
    let said = read(&mut load, Duration::from_mins(10))?;
    serde_json::from_str(&said).context("read what the watches saw")
}

/// Run with as many open files as there may be.
fn load(plane: &ControlPlane, what: &str) -> Command {
    let mut load = Command::new("/bin/sh");
    load.args(["-c", r#"ulimit -n $(ulimit -H -n) && exec "$0" "$@""#, "python3"]);
    load.arg(workspace::root().join("tests/lab/programs/api_load.py"));
    load.args([what, &plane.addr().to_string()]);
    load.arg(plane.root()).arg(plane.admin_token());
    load
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/scale/endpointslices";
const QUIET: Duration = Duration::from_secs(6);
