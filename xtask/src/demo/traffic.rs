//! The demo's traffic, part by part: each runs unmodified programs in pods, notes facts and says them in a line.
//!
//! It must not decide whether a fact is as it should be.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_tests::input::PodName;
use mesh_tests::running::Running;
use serde_json::Value;

use crate::demo::facts::{Facts, SeenAddress};

/// A word in a header of requests between the nodes, which must not be seen on the wire.
pub(super) const SECRET: &str = "correct-horse-battery-staple";

const CLIENT: &str = "shop/client";
const VISITOR: &str = "outside/visitor";
const ROUNDS: u32 = 10;

/// A pod of the mesh asks one on its own node.
pub(super) fn same_node(lab: &Running, facts: &mut Facts) -> Result<String> {
    on_path(lab, facts, "same_node", CLIENT, "http://catalog/")
}

/// A pod of the mesh asks one on the other node.
pub(super) fn other_node(lab: &Running, facts: &mut Facts) -> Result<String> {
    on_path(lab, facts, "other_node", CLIENT, "http://orders/")
}

/// A pod outside of the mesh asks one inside, by its address, since Service addresses are the mesh's work here.
pub(super) fn plain(lab: &Running, facts: &mut Facts) -> Result<String> {
    let target = SocketAddr::new(lab.pod(&"shop/orders".parse()?)?.ipv4.into(), 8080);
    on_path(lab, facts, "plain", VISITOR, &format!("http://{target}/"))
}

/// Asks ten times in each family.
fn on_path(
    lab: &Running,
    facts: &mut Facts,
    wanted: &'static str,
    client: &str,
    url: &str,
) -> Result<String> {
    let mut last = String::from("nobody answered");
    // An address in the URL is of one family.
    let families: &[&str] = if wanted == "plain" { &["-4"] } else { &["-4", "-6"] };
    for family in families {
        for _ in 0..ROUNDS {
            if let Some(seen) = ask_once(lab, facts, client, family, url)? {
                last = format!(
                    "{} saw {}, the client's own address is {}",
                    seen.server, seen.seen, seen.own
                );
                *facts.paths.entry(seen.path).or_default() += 1;
                facts.saw(seen);
            }
        }
    }
    let taken = facts.paths.get(wanted).copied().unwrap_or(0);
    let name = wanted.replace('_', " ");
    Ok(format!("  {name:<24} {client}: {taken} requests; {last}"))
}

/// Asks once; the path is told by where the pod that answered is.
fn ask_once(
    lab: &Running,
    facts: &mut Facts,
    client: &str,
    family: &str,
    url: &str,
) -> Result<Option<SeenAddress>> {
    let header = format!("X-Secret: {SECRET}");
    let output = lab.exec(
        client,
        &["curl", "-sS", "-m", "10", "--fail", family, "-H", &header, url],
    )?;
    let answer = serde_json::from_str::<Value>(&output.stdout).ok();
    let Some(answer) = answer.filter(|_| output.is_success()) else {
        facts.request(Some(format!("{client} {family} {url}: {}", output.stderr.trim())));
        return Ok(None);
    };
    facts.request(None);
    let text = |key: &str| {
        answer
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let server: PodName = format!("shop/{}", text("pod")).parse()?;
    let own = lab.pod(&client.parse()?)?;
    let path = match (client == VISITOR, lab.pod(&server)?.node == own.node) {
        (true, _) => "plain",
        (false, true) => "same_node",
        (false, false) => "other_node",
    };
    let own = if family == "-6" {
        own.ipv6.to_string()
    } else {
        own.ipv4.to_string()
    };
    Ok(Some(SeenAddress {
        server: server.to_string(),
        path,
        seen: text("peer"),
        own,
    }))
}

/// A thousand requests for a route with weights.
pub(super) fn split(lab: &Running, facts: &mut Facts) -> Result<String> {
    let said = python(lab, "load.py", &["http://web/", "1000"])?;
    let counts = |key: &str| said.get(key).and_then(Value::as_object).into_iter().flatten();
    for (version, count) in counts("versions") {
        facts.split.insert(version.clone(), count.as_u64().unwrap_or(0));
    }
    for (status, count) in counts("statuses") {
        let failure = (status != "200").then(|| format!("http://web/ answered {status}"));
        (0..count.as_u64().unwrap_or(0)).for_each(|_| facts.request(failure.clone()));
    }
    for (failure, count) in counts("failures") {
        (0..count.as_u64().unwrap_or(0)).for_each(|_| facts.request(Some(failure.clone())));
    }
    Ok(format!(
        "  split 90/10              of 1000 requests {:?}: nginx on node-b is v1, Python on node-a is v2",
        facts.split
    ))
}

/// Unary calls and a stream.
pub(super) fn grpc(lab: &Running, facts: &mut Facts) -> Result<String> {
    let unary = python(lab, "grpc_client.py", &["recommend:50051", "unary", "you", "20"])?;
    let stream = python(lab, "grpc_client.py", &["recommend:50051", "stream", "10"])?;
    let code = |said: &Value| {
        said.get("code")
            .and_then(Value::as_str)
            .unwrap_or("none")
            .to_owned()
    };
    let messages = |said: &Value| said.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
    for (said, wanted) in [(&unary, 20), (&stream, 10)] {
        let is_whole = code(said) == "OK" && messages(said) == wanted;
        facts.request((!is_whole).then(|| format!("gRPC: {said}")));
    }
    let line = format!(
        "{} unary calls {}, a stream of {} messages {}",
        messages(&unary),
        code(&unary),
        messages(&stream),
        code(&stream)
    );
    facts.protocols.insert("grpc", line.clone());
    Ok(format!("  gRPC                     {line}"))
}

/// Redis, of which the mesh knows nothing but bytes.
pub(super) fn redis(lab: &Running, facts: &mut Facts) -> Result<String> {
    let set = lab.exec(CLIENT, &["redis-cli", "-h", "cart", "set", "fruit", SECRET])?;
    facts.request((set.stdout.trim() != "OK").then(|| format!("redis set: {}{}", set.stdout, set.stderr)));
    let got = lab.exec(CLIENT, &["redis-cli", "-h", "cart", "get", "fruit"])?;
    facts.request((got.stdout.trim() != SECRET).then(|| format!("redis get: {}{}", got.stdout, got.stderr)));
    let load = [
        "redis-benchmark",
        "-h",
        "cart",
        "-q",
        "--csv",
        "-n",
        "5000",
        "-c",
        "20",
        "-t",
        "get",
    ];
    let load = lab.exec(CLIENT, &load)?;
    let rate = load
        .stdout
        .lines()
        .last()
        .and_then(|line| line.split('"').nth(3))
        .unwrap_or("?")
        .to_owned();
    facts.request((!load.is_success()).then(|| format!("redis-benchmark: {}", load.stderr)));
    facts
        .protocols
        .insert("redis", format!("{rate} requests a second"));
    Ok(format!(
        "  Redis, opaque TCP        set and get work; redis-benchmark: {rate} requests a second"
    ))
}

/// A WebSocket chat.
pub(super) fn websocket(lab: &Running, facts: &mut Facts) -> Result<String> {
    let said = python(lab, "ws_client.py", &["ws://chat/room", "10"])?;
    let echoed = said.get("received").and_then(Value::as_array).map_or(0, Vec::len);
    let is_intact = said.get("binary_intact").and_then(Value::as_bool) == Some(true);
    facts.request((echoed != 10 || !is_intact).then(|| format!("WebSocket: {said}")));
    let line = format!(
        "{echoed} messages echoed, 128 KiB of binary {}",
        if is_intact { "intact" } else { "DAMAGED" }
    );
    facts.protocols.insert("websocket", line.clone());
    Ok(format!("  WebSocket                {line}"))
}

/// Load between the nodes.
pub(super) fn wrk(lab: &Running, facts: &mut Facts) -> Result<String> {
    let output = lab
        .exec(CLIENT, &["wrk", "-t2", "-c32", "-d3s", "http://web/"])?
        .success()?;
    let outcome = wrk_outcome(&output.stdout).with_context(|| format!("wrk said: {}", output.stdout))?;
    facts.requests += outcome.requests;
    facts.requests_failed += outcome.failed;
    if outcome.failed > 0 {
        facts
            .failures
            .push(format!("wrk: {}", output.stdout.replace('\n', " ")));
    }
    facts.wrk_requests_per_second = outcome.per_second;
    Ok(format!(
        "  wrk                      {} requests on 32 connections, {:.0} a second, {} failed",
        outcome.requests, outcome.per_second, outcome.failed
    ))
}

#[derive(Debug, PartialEq)]
struct WrkOutcome {
    requests: u64,
    failed: u64,
    per_second: f64,
}

fn wrk_outcome(said: &str) -> Option<WrkOutcome> {
    let requests = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())?;
    let per_second = said
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())?;
    let refused = said.lines().find_map(|line| {
        line.trim()
            .strip_prefix("Non-2xx or 3xx responses:")?
            .trim()
            .parse()
            .ok()
    });
    let broken = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Socket errors:"))
        .map_or(0, |errors| {
            errors
                .split([' ', ','])
                .filter_map(|word| word.parse::<u64>().ok())
                .sum()
        });
    Some(WrkOutcome {
        requests,
        failed: refused.unwrap_or(0) + broken,
        per_second,
    })
}

/// A plaintext caller is refused by a STRICT pod, which takes one of the mesh.
pub(super) fn strict(lab: &Running, facts: &mut Facts) -> Result<String> {
    let vault = lab.pod(&"shop/vault".parse()?)?;
    let mut refusals = Vec::new();
    for address in [vault.ipv4.into(), vault.ipv6.into()] {
        let url = format!("http://{}/", SocketAddr::new(address, 8080));
        refusals.push(lab.exec(VISITOR, &["curl", "-sS", "-m", "5", &url])?);
    }
    facts.strict_refused_plaintext = refusals
        .iter()
        .all(|one| !one.is_success() && one.stdout.is_empty());
    let meshed = lab.exec(CLIENT, &["curl", "-sS", "-m", "5", "--fail", "http://vault/"])?;
    facts.strict_let_the_mesh_in = meshed.is_success();
    facts.request((!meshed.is_success()).then(|| format!("http://vault/: {}", meshed.stderr.trim())));
    let complaint = refusals
        .first()
        .map_or_else(String::new, |one| one.stderr.trim().to_owned());
    Ok(format!(
        "  STRICT                   {VISITOR} in plaintext: {complaint}; {CLIENT} over mutual TLS: answered"
    ))
}

/// The certificate that a pod shows to whoever speaks the mesh's protocol to its own port.
pub(super) fn certificate(lab: &Running, facts: &mut Facts) -> Result<String> {
    let target = SocketAddr::new(lab.pod(&"shop/vault".parse()?)?.ipv4.into(), 8080);
    let script = format!(
        "openssl s_client -connect {target} -alpn mesh-h2 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
    );
    let said = lab.exec(VISITOR, &["sh", "-c", &script])?;
    let names = said.stdout.lines().skip(1).flat_map(|line| line.split(','));
    facts.certificate_names = names.map(|name| name.trim().to_owned()).collect();
    Ok(format!(
        "  certificate of the vault {}",
        facts.certificate_names.join(", ")
    ))
}

fn python(lab: &Running, program: &str, arguments: &[&str]) -> Result<Value> {
    let path = format!("../programs/{program}");
    let output = lab.exec(CLIENT, &[&["python3", &path], arguments].concat())?;
    ensure!(
        output.is_success(),
        "{program} {}: {}",
        arguments.join(" "),
        output.stderr.trim()
    );
    serde_json::from_str(&output.stdout).with_context(|| format!("{program} said {}", output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_that_wrk_tells_is_counted() {
        let said = "Running 3s test\n  2 threads and 32 connections\n  1200 requests in 3.00s, 1.2MB read\n  \
                    Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 4\n\
                    Requests/sec:    400.50\nTransfer/sec:   1.0KB\n";
        assert_eq!(
            wrk_outcome(said),
            Some(WrkOutcome {
                requests: 1200,
                failed: 10,
                per_second: 400.5
            })
        );
    }

    #[test]
    fn a_run_without_failures_has_none() {
        let said = "  9 requests in 1.00s, 1KB read\nRequests/sec: 9.0\n";
        assert_eq!(
            wrk_outcome(said),
            Some(WrkOutcome {
                requests: 9,
                failed: 0,
                per_second: 9.0
            })
        );
    }
}
