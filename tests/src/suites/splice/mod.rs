//! The splice: messages of direct flows, and of applications with their agents, go past TCP, and nobody notices but the
//! counters.
//!
//! `client-b` and `redis` are pods of `node-b`.

mod legs;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::legs::{
    a_reset_passes_spliced_legs, a_short_reader_that_falls_far_behind_gets_100_megabytes_each_way,
    a_spliced_leg_ends_with_its_agent, a_spliced_leg_half_closes, http_between_nodes_is_not_spliced,
    opaque_bytes_between_nodes_are_spliced_at_both_ends,
};
use super::ask::until;
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    every_check_of_the_trial_holds_and_status_says_so,
    redis_answers_without_a_packet,
    values_of_all_sizes_come_back_as_they_were,
    a_spliced_connection_outlives_its_agent,
    opaque_bytes_between_nodes_are_spliced_at_both_ends,
    http_between_nodes_is_not_spliced,
    a_short_reader_that_falls_far_behind_gets_100_megabytes_each_way,
    a_spliced_leg_half_closes,
    a_reset_passes_spliced_legs,
    a_spliced_leg_ends_with_its_agent,
    told_to_be_off_nothing_is_spliced_and_direct_connections_work,
];

const NODE: &str = "node-b";
const CLIENT: &str = "shop/client-b";

fn every_check_of_the_trial_holds_and_status_says_so(lab: &Running) -> Result<()> {
    wait_for_splice(lab, NODE)?;
    let status = lab.status(NODE)?;
    let checks = status.pointer("/splice/checks").and_then(Value::as_array);
    let checks = checks.context("no checks in the status")?;
    let why_not_legs = status.pointer("/splice/legs").and_then(Value::as_str);
    ensure!(why_not_legs == Some(""), "legs are not spliced: {why_not_legs:?}");
    ensure!(checks.len() >= 10, "only {} checks", checks.len());
    for check in checks {
        ensure!(check.get("failure") == Some(&Value::Null), "{check}");
    }
    let enabled = lab.metrics(NODE)?.sum("mesh_splice_enabled", &[]);
    ensure!((enabled - 1.0).abs() < 0.5, "mesh_splice_enabled is {enabled}");
    Ok(())
}

fn redis_answers_without_a_packet(lab: &Running) -> Result<()> {
    wait_for_splice(lab, NODE)?;
    let pings = format!("{REDIS}{PING}");
    let run = || -> Result<()> {
        let said = lab.exec(CLIENT, &["python3", "-c", &pings])?.success()?.stdout;
        ensure!(said.trim().ends_with("whole"), "the client says {said}");
        Ok(())
    };
    // The first connection shows how this application reads.
    run()?;
    let before = packets(lab)?;
    run()?;
    let packets = packets(lab)? - before;
    ensure!(packets < 500, "{packets} packets for 1200 round trips");
    Ok(())
}

/// Small values are spliced and large ones are not, on one connection.
fn values_of_all_sizes_come_back_as_they_were(lab: &Running) -> Result<()> {
    wait_for_splice(lab, NODE)?;
    for _ in 0..2 {
        let output = lab.exec(CLIENT, &["python3", "-c", &format!("{REDIS}{COMPARE}")])?;
        let said = output.success()?.stdout;
        ensure!(said.trim() == "whole", "{said}");
    }
    Ok(())
}

fn a_spliced_connection_outlives_its_agent(lab: &Running) -> Result<()> {
    wait_for_splice(lab, NODE)?;
    let program = ["python3", "-c", &format!("{REDIS}{PING}")].map(str::to_owned);
    let mut command = lab.command(&CLIENT.parse()?, &program, &lab.state.input)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a client")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut says = |word: &str| -> Result<()> {
        let line = lines.next().context("the client ended")??;
        ensure!(line == word, "the client says {line}");
        Ok(())
    };
    says("spliced")?;
    lab.end_agent(NODE, Signal::SIGKILL)?;
    // Its input ends: it pings a thousand times more.
    drop(child.stdin.take());
    let went_on = says("whole");
    lab.start_agent(NODE)?;
    went_on?;
    ensure!(child.wait()?.success(), "the client failed");
    wait_for_splice(lab, NODE)
}

fn told_to_be_off_nothing_is_spliced_and_direct_connections_work(lab: &Running) -> Result<()> {
    lab.end_agent(NODE, Signal::SIGTERM)?;
    lab.start_agent_with(NODE, &["--splice".to_owned(), "off".to_owned()])?;
    lab.wait_ready(NODE)?;
    let went = goes_over_tcp(lab);
    lab.end_agent(NODE, Signal::SIGTERM)?;
    lab.start_agent(NODE)?;
    went?;
    wait_for_splice(lab, NODE)
}

/// Pods of a node without the splice, whose programs it would serve.
fn goes_over_tcp(lab: &Running) -> Result<()> {
    let status = lab.status(NODE)?;
    let splice = status.pointer("/splice").context("no splice in the status")?;
    let said = |key: &str| splice.get(key).and_then(Value::as_str);
    ensure!(
        said("state") == Some("off") && said("why") == Some("the settings say so"),
        "it says {splice}"
    );
    ensure!(
        splice
            .get("checks")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty),
        "it was tried: {splice}"
    );
    let enabled = lab.metrics(NODE)?.sum("mesh_splice_enabled", &[]);
    ensure!(enabled.abs() < 0.5, "mesh_splice_enabled is {enabled}");
    let pings = format!("{REDIS}{PING}");
    let mut sent = 0;
    for _ in 0..2 {
        let direct = lab
            .metrics(NODE)?
            .sum("mesh_connections_path_total", &[("path", "direct")]);
        let before = packets(lab)?;
        let said = lab.exec(CLIENT, &["python3", "-c", &pings])?.success()?.stdout;
        ensure!(said.trim().ends_with("whole"), "the client says {said}");
        sent = packets(lab)? - before;
        until(Duration::from_secs(10), "it went direct", || {
            let now = lab
                .metrics(NODE)?
                .sum("mesh_connections_path_total", &[("path", "direct")]);
            Ok(now - direct > 0.5)
        })?;
    }
    // The second connection would be spliced: each ping is a packet there and one back.
    ensure!(sent >= 2400, "only {sent} packets for 1200 round trips");
    Ok(())
}

fn wait_for_splice(lab: &Running, node: &str) -> Result<()> {
    until(Duration::from_mins(1), "the splice is on", || {
        let status = lab.status(node)?;
        Ok(status.pointer("/splice/state").and_then(Value::as_str) == Some("on"))
    })
    .map(drop)
}

/// Packets that the client's interface has sent and received.
fn packets(lab: &Running) -> Result<u64> {
    let table = lab.exec(CLIENT, &["cat", "/proc/net/dev"])?.success()?.stdout;
    let row = table
        .lines()
        .find_map(|row| row.trim_start().strip_prefix("eth0:"));
    let fields: Vec<&str> = row.context("no eth0")?.split_whitespace().collect();
    let field = |index: usize| -> Result<u64> { Ok(fields.get(index).context("a short row")?.parse()?) };
    Ok(field(1)? + field(9)?)
}

/// As little of a Redis client as it takes to compare bytes; its reads do not block, since it has a time limit.
const REDIS: &str = r"
import hashlib, socket, sys
s = socket.create_connection(('redis', 6379), 10)
f = s.makefile('rb')
def ask(*words):
    s.sendall(b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(w), w) for w in words))
def line(): return f.readline()[:-2]
";

/// Sets and gets values on one connection.
const COMPARE: &str = r"
for i in range(2000):
    size = (i * 7919) % (300000 if i % 50 == 0 else 3000) + 1
    value = (hashlib.sha256(str(i).encode()).digest() * (size // 32 + 1))[:size]
    ask(b'SET', b'k%d' % (i % 7), value)
    assert line() == b'+OK', i
    ask(b'GET', b'k%d' % (i % 7))
    assert int(line()[1:]) == size, i
    assert f.read(size) == value, i
    assert line() == b'', i
print('whole')
";

/// Pings, and goes on when its input ends.
const PING: &str = r"
def ping():
    ask(b'PING')
    assert line() == b'+PONG'
for i in range(200): ping()
print('spliced', flush=True)
sys.stdin.read()
for i in range(1000): ping()
print('whole', flush=True)
";
