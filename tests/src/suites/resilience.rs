//! Resilience: requests that are tried again until a back end answers, and copies that nobody waits for.
//!
//! The back ends of these claims are started by them, beside those that the lab itself runs in the same pods.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::ask::{curl, equal, get, h2load_succeeded, python, text, until};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    retries_ask_again_what_nginx_answered_with_503,
    a_rule_without_retries_has_one_attempt,
    retries_of_a_virtual_service_are_made_and_its_mirror_has_one_copy,
    a_grpc_status_in_trailers_is_tried_again,
    retries_stay_within_the_budget_of_their_service,
    traffic_mirroring_gives_both_nodes_equal_bodies_and_keeps_nobody_waiting,
    failover_with_one_back_end_killed_and_all_restarted_in_turn_fails_no_request,
];

const CLIENT: &str = "shop/client";
const NODE: &str = "node-a";
const NEAR: &str = "shop/replica-1";
const FAR: &str = "shop/replica-4";
pub(super) const REPLICAS: [&str; 5] = [NEAR, "shop/replica-2", "shop/replica-3", FAR, "shop/replica-5"];
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that a claim started in a pod, ended with it.
pub(super) struct Program<'l> {
    lab: &'l Running,
    pod: &'static str,
    pid: String,
}

impl<'l> Program<'l> {
    /// Starts `script` in `pod`, and waits until it listens on `port`.
    pub(super) fn start(lab: &'l Running, pod: &'static str, script: &str, port: u16) -> Result<Self> {
        let script = format!("{script} >\"$SCRATCH/said\" 2>&1 & echo $!");
        let pid = lab.exec(pod, &["sh", "-c", &script])?.success()?.stdout;
        let program = Self {
            lab,
            pod,
            pid: pid.trim().to_owned(),
        };
        let look = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        until(PATIENCE, &format!("{script} listens in {pod}"), || {
            Ok(lab.exec(pod, &["bash", "-c", &look])?.status.success())
        })?;
        Ok(program)
    }

    pub(super) fn nginx(lab: &'l Running, pod: &'static str) -> Result<Self> {
        let nginx = "exec nginx -p \"$SCRATCH\" -c \"$PWD/../programs/flaky.conf\"";
        Self::start(lab, pod, nginx, 8085)
    }

    fn recorder(lab: &'l Running, pod: &'static str) -> Result<Self> {
        let recorder =
            "rm -f \"$SCRATCH/copies\"; exec python3 ../programs/recorder.py 8086 \"$SCRATCH/copies\"";
        Self::start(lab, pod, recorder, 8086)
    }

    /// What a shell in the same pod says.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let said = self.lab.exec(self.pod, &["sh", "-c", script])?.success()?;
        Ok(said.stdout)
    }

    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        self.lab
            .exec(self.pod, &["kill", signal, &self.pid])?
            .success()
            .map(drop)
    }

    /// What a recorder noted so far.
    fn copies(&self) -> Result<Vec<Value>> {
        let notes = self
            .lab
            .exec(self.pod, &["sh", "-c", "cat \"$SCRATCH/copies\" || true"])?;
        let lines = notes.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect()
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // It may have ended by itself, or by the claim; the lab ends what is left.
        let _ended = self.lab.exec(self.pod, &["kill", "-9", &self.pid]);
    }
}

fn retries_ask_again_what_nginx_answered_with_503(lab: &Running) -> Result<()> {
    let _servers = [Program::nginx(lab, NEAR)?, Program::nginx(lab, FAR)?];
    for service in ["flaky-near", "flaky-far"] {
        let url = format!("http://{service}/at-the-third");
        let reply = get(lab, CLIENT, &url)?;
        equal(&url, (reply.status, reply.body.trim()), (200, "attempt 3"))?;
        // What the client says of its attempts is not believed.
        let lied = curl(lab, CLIENT, &["-H", "x-envoy-attempt-count: 3", &url])?;
        equal("with a lie", (lied.status, lied.body.trim()), (200, "attempt 3"))?;
    }
    Ok(())
}

fn a_rule_without_retries_has_one_attempt(lab: &Running) -> Result<()> {
    for (pod, service) in [(NEAR, "flaky-near"), (FAR, "flaky-far")] {
        let server = Program::nginx(lab, pod)?;
        for (path, attempts) in [("/once", 1), ("/never", 3)] {
            let before = refused(&server)?;
            let url = format!("http://{service}{path}");
            equal(&url, get(lab, CLIENT, &url)?.status, 503)?;
            equal(
                &format!("attempts of {url}"),
                refused(&server)? - before,
                attempts,
            )?;
        }
    }
    Ok(())
}

/// How often a back end has said 503.
fn refused(server: &Program<'_>) -> Result<usize> {
    let count = ["sh", "-c", "wc -l < \"$SCRATCH/flaky.log\""];
    let said = server.lab.exec(server.pod, &count)?.success()?.stdout;
    said.trim().parse().with_context(|| format!("no number: {said}"))
}

fn retries_of_a_virtual_service_are_made_and_its_mirror_has_one_copy(lab: &Running) -> Result<()> {
    let _server = Program::nginx(lab, FAR)?;
    let mirror = Program::recorder(lab, "shop/far")?;
    let reply = get(lab, CLIENT, "http://flaky-virtual/at-the-third")?;
    equal("answer", (reply.status, reply.body.trim()), (200, "attempt 3"))?;
    until(PATIENCE, "the mirror has its copy", || {
        Ok(!mirror.copies()?.is_empty())
    })?;
    let copies = mirror.copies()?;
    let [only] = copies.as_slice() else {
        bail!("not one copy: {copies:?}");
    };
    equal("host", text(only, "host")?, "flaky-virtual-shadow")
}

fn a_grpc_status_in_trailers_is_tried_again(lab: &Running) -> Result<()> {
    let _server = Program::start(
        lab,
        "shop/grpc",
        "exec python3 ../programs/grpc_flaky.py 50052",
        50052,
    )?;
    let said = python(
        lab,
        CLIENT,
        "grpc_client.py",
        &["flaky-grpc:50052", "unary", "hello", "20"],
    )?;
    equal("code", text(&said, "code")?, "OK")?;
    let messages = said
        .get("messages")
        .and_then(Value::as_array)
        .context("no messages")?;
    equal("messages", messages.len(), 20)?;
    ensure!(messages.iter().all(|message| message == "attempt 2"), "{said}");
    Ok(())
}

fn retries_stay_within_the_budget_of_their_service(lab: &Running) -> Result<()> {
    let server = Program::nginx(lab, FAR)?;
    let before = refused(&server)?;
    let script = "for n in $(seq 100); do curl -s -o /dev/null -w '%{http_code}\\n' http://bounded/never; done | sort | uniq -c";
    let said = lab.exec(CLIENT, &["sh", "-c", script])?.success()?.stdout;
    equal("answers", said.trim(), "100 503")?;
    // A fifth of a hundred, and the one of the floor.
    let attempts = refused(&server)? - before;
    ensure!(
        (110..=121).contains(&attempts),
        "{attempts} attempts of 100 requests"
    );
    Ok(())
}

fn traffic_mirroring_gives_both_nodes_equal_bodies_and_keeps_nobody_waiting(lab: &Running) -> Result<()> {
    let mirrors = [
        Program::recorder(lab, "shop/near")?,
        Program::recorder(lab, "shop/far")?,
    ];
    let script = "head -c 60000 /dev/urandom > \"$SCRATCH/sent\"; \
         for n in 1 2 3; do curl -sS -m 10 --data-binary @\"$SCRATCH/sent\" http://copied/echo | cmp - \"$SCRATCH/sent\" || exit 1; done; \
         sha256sum < \"$SCRATCH/sent\"";
    let said = lab.exec(CLIENT, &["sh", "-c", script])?.success()?.stdout;
    let digest = said.split(' ').next().unwrap_or_default();
    for mirror in &mirrors {
        until(PATIENCE, "all copies are there", || {
            Ok(mirror.copies()?.len() >= 3)
        })?;
        let copies = mirror.copies()?;
        equal(mirror.pod, copies.len(), 3)?;
        for copy in copies {
            equal("digest", text(&copy, "sha256")?, digest)?;
            equal("host", text(&copy, "host")?, "copied-shadow")?;
            equal("path", text(&copy, "path")?, "/echo")?;
        }
    }
    // Stopped in the middle of everything, they keep nobody waiting.
    for mirror in &mirrors {
        mirror.signal("-STOP")?;
    }
    let reply = curl(lab, CLIENT, &["-d", "x", "http://copied/echo"])?;
    equal(
        "beside mirrors that stand still",
        (reply.status, reply.body.trim()),
        (200, "x"),
    )?;
    ensure!(reply.took < Duration::from_secs(5), "it took {:?}", reply.took);
    drop(mirrors);
    let reply = curl(lab, CLIENT, &["-d", "x", "http://copied/echo"])?;
    equal(
        "beside mirrors that are gone",
        (reply.status, reply.body.trim()),
        (200, "x"),
    )
}

fn failover_with_one_back_end_killed_and_all_restarted_in_turn_fails_no_request(lab: &Running) -> Result<()> {
    let mut servers = Vec::new();
    for pod in REPLICAS {
        servers.push(Program::nginx(lab, pod)?);
    }
    let said = thread::scope(|scope| -> Result<String> {
        let load = scope.spawn(|| {
            let load = [
                "h2load",
                "--h1",
                "--rps",
                "100",
                "--clients",
                "20",
                "--duration",
                "40",
                "http://again/",
            ];
            lab.exec_within(Duration::from_secs(90), CLIENT, &load)
        });
        let restarted = restart_all(lab, &mut servers);
        let is_under_load = !load.is_finished();
        let said = load.join().map_err(|_panic| anyhow!("the load panicked"))??;
        restarted?;
        ensure!(is_under_load, "the load was over before all were restarted");
        Ok(said.success()?.stdout)
    })?;
    let succeeded = h2load_succeeded(&said)?;
    ensure!(succeeded >= 2_000, "no load worth the name: {succeeded} requests");
    Ok(())
}

/// Kills one back end under load until its absence is felt, then restarts all in turn.
fn restart_all<'l>(lab: &'l Running, servers: &mut [Program<'l>]) -> Result<()> {
    for (turn, server) in servers.iter_mut().enumerate() {
        let before = retries(lab)?;
        server.signal(if turn == 0 { "-KILL" } else { "-TERM" })?;
        until(PATIENCE, "the back end has ended", || {
            let look = lab.exec(server.pod, &["kill", "-0", &server.pid])?;
            Ok(!look.status.success())
        })?;
        if turn == 0 {
            until(
                PATIENCE,
                "requests are tried again",
                || Ok(retries(lab)? > before),
            )?;
        }
        *server = Program::nginx(lab, server.pod)?;
    }
    Ok(())
}

fn retries(lab: &Running) -> Result<u64> {
    let page = lab.page(NODE, "/metrics")?.body;
    let line = page
        .lines()
        .find(|line| line.starts_with("mesh_retries_total{outcome=\"begun\"}"));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .context("no mesh_retries_total")?
        .parse()
        .context("no number in mesh_retries_total")
}
