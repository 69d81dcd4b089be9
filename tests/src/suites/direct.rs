//! Direct flows: what needs no HTTP goes from pod to pod of one node past the agent, is seen, counted and taken back.
//!
//! `client-b`, `greeter` and `redis` are pods of `node-b`. Each claim ends its own connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{addresses, equal, text, until};
use super::direct_counts::{
    CLIENT, NODE, both, captured, counter, direct_count, direct_pod, is_grown, is_more_by, looked_again,
};
use super::talker::Talker;
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    redis_of_the_same_node_is_reached_past_the_agent,
    both_ends_see_true_addresses_in_both_families,
    an_mptcp_connection_goes_direct_too,
    bytes_are_counted_exactly_once_at_both_reporters,
    bytes_of_a_living_connection_are_counted_within_ten_seconds,
    a_refused_connection_is_refused_by_the_pod_itself_and_counted_as_failed,
    nobody_else_passes_even_from_the_same_port,
    a_port_that_becomes_http_ends_its_connections_within_a_second,
    a_route_ends_the_connections_to_its_service_within_a_second,
    an_mptcp_connection_is_ended_too,
    a_dead_agent_leaves_direct_connections_alone_and_the_next_one_counts_them_once,
    a_pod_that_leaves_the_mesh_keeps_its_connections,
    status_tells_what_each_pod_may_dial_and_does,
];

const SECOND: Duration = Duration::from_secs(1);
const FAMILIES: [&str; 2] = ["10.96.", "fd00:96:"];

fn redis_of_the_same_node_is_reached_past_the_agent(lab: &Running) -> Result<()> {
    let (direct, captured) = (direct_count(lab)?, captured(lab, "outbound")?);
    for round in 0..5 {
        let set = lab.exec(
            CLIENT,
            &["redis-cli", "-h", "redis", "set", "round", &round.to_string()],
        )?;
        equal("set", set.success()?.stdout.trim(), "OK")?;
    }
    until(Duration::from_secs(3), "five direct connections", || {
        Ok(is_more_by(direct_count(lab)?, direct, 5.0))
    })?;
    equal(
        "captured meanwhile",
        captured.to_string(),
        self::captured(lab, "outbound")?.to_string(),
    )
}

fn both_ends_see_true_addresses_in_both_families(lab: &Running) -> Result<()> {
    let own = addresses(lab, CLIENT)?;
    for (family, (service, (client, server))) in FAMILIES.into_iter().zip(
        service_addresses(lab, "redis")?
            .into_iter()
            .zip(own.into_iter().zip(addresses(lab, "shop/redis")?)),
    ) {
        ensure!(service.starts_with(family), "{service} is no Service address");
        for dialled in [service, server.to_string()] {
            let mut talker = Talker::start(lab, CLIENT, &[&dialled, "6379"])?;
            equal("getpeername", text(&talker.hello, "peer")?, dialled.as_str())?;
            equal(
                "getsockname",
                text(&talker.hello, "local")?,
                client.to_string().as_str(),
            )?;
            let local_port = talker.local_port()?;
            let bulk = talker.say("CLIENT INFO")?;
            ensure!(bulk.starts_with('$'), "redis said {bulk}");
            // The very socket that dialled: its port, too, is what the server sees.
            let seen = redis_peers(lab)?;
            let wanted = format!("addr={}", std::net::SocketAddr::new(client, local_port));
            ensure!(seen.contains(&wanted), "{wanted} is not among {seen}");
            talker.drop_now()?;
        }
    }
    Ok(())
}

fn an_mptcp_connection_goes_direct_too(lab: &Running) -> Result<()> {
    let (direct, [before, _]) = (counter(lab, "direct")?, both(lab)?);
    let mut talker = Talker::start(lab, CLIENT, &["--mptcp", "greeter", "7000"])?;
    greet(&mut talker, "over mptcp")?;
    equal("gone direct", counter(lab, "direct")? - direct, 1)?;
    let [sent, received] = talker.end()?;
    let wanted = [1.0, 1.0, received, sent];
    until(Duration::from_secs(5), "it is counted whole", || {
        let [now, _] = both(lab)?;
        Ok(is_grown(now, before, wanted))
    })
    .map(|_| ())
}

fn bytes_are_counted_exactly_once_at_both_reporters(lab: &Running) -> Result<()> {
    let before = both(lab)?;
    let mut moved = [0.0, 0.0];
    for words in ["a", "some more words", "and a few more of them"] {
        let mut talker = Talker::start(lab, CLIENT, &["greeter", "7000"])?;
        greet(&mut talker, words)?;
        let [sent, received] = talker.end()?;
        moved = [moved[0] + sent, moved[1] + received];
    }
    // To the callee is what Istio calls received.
    let wanted = [3.0, 3.0, moved[1], moved[0]];
    until(Duration::from_secs(5), &format!("both count {wanted:?}"), || {
        let now = both(lab)?;
        let mut reporters = now.into_iter().zip(before);
        Ok(reporters.all(|(now, before)| is_grown(now, before, wanted)))
    })?;
    // Nothing is added afterwards.
    let settled = both(lab)?;
    looked_again(lab)?;
    equal("later", both(lab)?, settled)
}

fn bytes_of_a_living_connection_are_counted_within_ten_seconds(lab: &Running) -> Result<()> {
    let before = both(lab)?;
    let mut talker = Talker::start(lab, CLIENT, &["greeter", "7000"])?;
    greet(&mut talker, "still here")?;
    until(Duration::from_secs(10), "its bytes", || {
        let now = both(lab)?;
        Ok(now[0][3] > before[0][3] && now[1][2] > before[1][2])
    })?;
    equal("closed", both(lab)?[0][1].to_string(), before[0][1].to_string())?;
    talker.end().map(|_| ())
}

fn a_refused_connection_is_refused_by_the_pod_itself_and_counted_as_failed(lab: &Running) -> Result<()> {
    let failed = || -> Result<f64> {
        let labels = [("destination_workload", "broken"), ("response_flags", "UF")];
        Ok(lab
            .metrics(NODE)?
            .sum("istio_tcp_connections_closed_total", &labels))
    };
    let before = failed()?;
    let talker = Talker::start(lab, CLIENT, &["broken", "92"])?;
    equal("error", text(&talker.hello, "error")?, "ECONNREFUSED")?;
    until(Duration::from_secs(3), "it is counted at both reporters", || {
        Ok(is_more_by(failed()?, before, 2.0))
    })
    .map(|_| ())
}

fn nobody_else_passes_even_from_the_same_port(lab: &Running) -> Result<()> {
    let [_, address] = addresses(lab, "shop/greeter")?.map(|address| address.to_string());
    let direct = counter(lab, "direct")?;
    let mut talker = Talker::start(lab, CLIENT, &["-6", "greeter", "7000"])?;
    greet(&mut talker, "first")?;
    equal("gone direct", counter(lab, "direct")? - direct, 1)?;
    let port = talker.local_port()?.to_string();
    let (passed, inbound) = (counter(lab, "passed_direct")?, captured(lab, "inbound")?);
    for arguments in [vec!["--from-port", port.as_str()], vec![]] {
        let arguments = [arguments.as_slice(), &[&address, "7000"]].concat();
        let mut stranger = Talker::start(lab, "outside/stranger-b", &arguments)?;
        greet(&mut stranger, "let me in")?;
        stranger.end()?;
    }
    equal(
        "passed to the application",
        counter(lab, "passed_direct")?,
        passed,
    )?;
    let steered = captured(lab, "inbound")?;
    ensure!(
        is_more_by(steered, inbound, 2.0),
        "{} were steered",
        steered - inbound
    );
    talker.end().map(|_| ())
}

fn a_port_that_becomes_http_ends_its_connections_within_a_second(lab: &Running) -> Result<()> {
    let file = "protocols.yaml";
    let before = lab.manifest(file)?;
    let http = before.replace("tcp-greeter", "http-greeter");
    ensure!(http != before, "{file} has no such port");
    ends_within_a_second(
        lab,
        &[],
        || lab.put_manifest(file, &http),
        || lab.put_manifest(file, &before),
    )
}

fn a_route_ends_the_connections_to_its_service_within_a_second(lab: &Running) -> Result<()> {
    let file = "greeter-route.yaml";
    ends_within_a_second(
        lab,
        &[],
        || lab.put_manifest(file, ROUTE),
        || lab.remove_manifest(file),
    )
}

fn an_mptcp_connection_is_ended_too(lab: &Running) -> Result<()> {
    let file = "greeter-route.yaml";
    ends_within_a_second(
        lab,
        &["--mptcp"],
        || lab.put_manifest(file, ROUTE),
        || lab.remove_manifest(file),
    )
}

/// Forbids what a connection does and sees it end; then allows it again.
fn ends_within_a_second(
    lab: &Running,
    how: &[&str],
    forbid: impl FnOnce() -> Result<()>,
    allow: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let revoked = || -> Result<f64> { Ok(lab.metrics(NODE)?.sum("mesh_direct_revoked_total", &[])) };
    let verdicts = || -> Result<f64> { Ok(lab.metrics(NODE)?.sum("mesh_direct_verdicts", &[])) };
    let (direct, before, may) = (counter(lab, "direct")?, revoked()?, verdicts()?);
    let mut talker = Talker::start(lab, CLIENT, &[how, &["greeter", "7000"]].concat())?;
    greet(&mut talker, "to be ended")?;
    ensure!(counter(lab, "direct")? > direct, "it does not go direct");
    let began = Instant::now();
    talker.ask("wait")?;
    forbid()?;
    let ended = talker.hear();
    let took = began.elapsed();
    let allowed = allow().and_then(|()| {
        until(Duration::from_secs(3), "it may go direct again", || {
            Ok(is_more_by(verdicts()?, may, 0.0))
        })
    });
    equal("how it ended", text(&ended?, "error")?, "ECONNABORTED")?;
    allowed?;
    ensure!(took < SECOND, "it took {took:?}");
    ensure!(revoked()? > before, "it is not counted");
    Ok(())
}

fn a_dead_agent_leaves_direct_connections_alone_and_the_next_one_counts_them_once(
    lab: &Running,
) -> Result<()> {
    let before = both(lab)?;
    let mut talker = Talker::start(lab, CLIENT, &["greeter", "7000"])?;
    greet(&mut talker, "before")?;
    until(Duration::from_secs(10), "it is counted", || {
        Ok(both(lab)? != before)
    })?;
    looked_again(lab)?;
    lab.end_agent(NODE, Signal::SIGKILL)?;
    let lived_on = talker.say("without an agent");
    // The hooks take the agent for dead when it has not been heard of for three seconds.
    let refused = until(Duration::from_secs(5), "a new connection is refused", || {
        let other = Talker::start(lab, CLIENT, &["redis", "6379"])?;
        Ok(other.hello.get("error").and_then(Value::as_str) == Some("ECONNREFUSED"))
    });
    let lives_on = talker.say("for long");
    lab.start_agent(NODE)?;
    equal("at once", lived_on?.as_str(), "without an agent")?;
    equal("after that", lives_on?.as_str(), "for long")?;
    refused?;
    equal("with the next agent", talker.say("again")?.as_str(), "again")?;
    let [sent, received] = talker.end()?;
    until(Duration::from_secs(5), "its end is counted", || {
        Ok(both(lab)?[0][1] > 0.0)
    })?;
    let counted = both(lab)?;
    equal("both reporters", counted[0], counted[1])?;
    // Whatever the first agent had counted, the second does not count again, nor the opening.
    let [opened, closed, to_client, to_server] = counted[0];
    equal("opened and closed", [opened, closed], [0.0, 1.0])?;
    ensure!(
        to_client > 0.0 && to_client < received && to_server > 0.0 && to_server < sent,
        "{to_client} of {received} and {to_server} of {sent} bytes"
    );
    Ok(())
}

fn a_pod_that_leaves_the_mesh_keeps_its_connections(lab: &Running) -> Result<()> {
    let mut talker = Talker::start(lab, CLIENT, &["greeter", "7000"])?;
    greet(&mut talker, "inside")?;
    let file = "clients.yaml";
    let before = lab.manifest(file)?;
    let enrolled = "app: client-b";
    ensure!(before.contains(enrolled), "{file} has no such label");
    let without = before.replace(enrolled, "app: client-b\n    mesh-agent.dev/dataplane: disabled");
    lab.put_manifest(file, &without)?;
    let left = until(Duration::from_secs(3), "the pod leaves", || {
        Ok(direct_pod(lab, "client-b")?.is_none())
    });
    let lives_on = talker.say("outside");
    lab.put_manifest(file, &before)?;
    left?;
    equal("outside", lives_on?.as_str(), "outside")?;
    until(Duration::from_secs(5), "the pod is back", || {
        Ok(direct_pod(lab, "client-b")?.is_some())
    })?;
    talker.end().map(|_| ())
}

fn status_tells_what_each_pod_may_dial_and_does(lab: &Running) -> Result<()> {
    let mut talker = Talker::start(lab, CLIENT, &["greeter", "7000"])?;
    greet(&mut talker, "look at me")?;
    let of_client = |key: &str| -> Result<u64> {
        let pod = direct_pod(lab, "client-b")?.context("the pod is not there")?;
        pod.get(key).and_then(Value::as_u64).context("no number")
    };
    until(Duration::from_secs(5), "one connection is shown", || {
        Ok(of_client("flows")? == 1)
    })?;
    ensure!(of_client("verdicts")? >= 4, "too few verdicts");
    talker.end()?;
    until(Duration::from_secs(5), "none is shown", || {
        Ok(of_client("flows")? == 0)
    })
    .map(|_| ())
}

/// Reads the server's greeting, then has a line echoed.
fn greet(talker: &mut Talker, words: &str) -> Result<()> {
    if let Some(error) = talker.hello.get("error") {
        bail!("no connection: {error}");
    }
    talker.ask("read")?;
    let greeting = talker.hear()?;
    ensure!(
        text(&greeting, "line")?.starts_with("220 greeter greets"),
        "it said {greeting}"
    );
    equal("echo", talker.say(words)?.as_str(), words)
}

fn service_addresses(lab: &Running, name: &str) -> Result<[String; 2]> {
    let one = |database: &str| -> Result<String> {
        let found = lab.exec(CLIENT, &["getent", database, name])?.success()?;
        let mut words = found.stdout.split_whitespace();
        words.next().map(str::to_owned).context("no address")
    };
    Ok([one("ahostsv4")?, one("ahostsv6")?])
}

fn redis_peers(lab: &Running) -> Result<String> {
    let listed = lab
        .exec("shop/redis", &["redis-cli", "client", "list"])?
        .success()?;
    Ok(listed.stdout)
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: greeter, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: greeter, port: 7000 }]
  rules: [{ backendRefs: [{ name: greeter, port: 7000 }] }]
";
