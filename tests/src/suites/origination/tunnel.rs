//! `tunnel` of a DestinationRule through forward proxies that know nothing of any mesh: squid, in plaintext and inside of TLS, and
//! tinyproxy. What they are asked for is `tcp_server.py` outside of the mesh, which says who has connected.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::ask::{addresses, equal, python, text, until};
use super::super::authz::{IN_FORCE, replaced, with};
use super::super::resilience::Program;
use super::{CLIENTS, FAR, NEAR, OUTSIDE, Server, rule};
use crate::agent;
use crate::manifest;
use crate::metrics::Metrics;
use crate::running::Running;

/// Who is asked for, and serves [`SERVED`].
const TARGET: &str = "outside/shape-outside";
const SERVED: u16 = 7100;
/// Where forward proxies may connect to, and nobody listens.
const CLOSED: u16 = 7101;
/// Where no forward proxy may connect to.
const FORBIDDEN: u16 = 7200;
const SQUID: u16 = 3128;
const SQUID_IN_TLS: u16 = 3129;
const TINYPROXY: u16 = 8888;
/// More than all buffers on the way hold.
const BULK: &str = "20000000";

/// A pod with both forward proxies.
struct Forward {
    server: &'static Server,
    /// As rules name it.
    host: &'static str,
    dialled: &'static [&'static str],
    ports: &'static [u16],
}

const FORWARDS: [Forward; 3] = [
    Forward {
        server: &NEAR,
        host: "forward-near",
        dialled: &["forward-near"],
        ports: &[SQUID, TINYPROXY],
    },
    Forward {
        server: &FAR,
        host: "forward-far",
        dialled: &["forward-far"],
        ports: &[SQUID, TINYPROXY],
    },
    Forward {
        server: &OUTSIDE,
        host: "forward.example.com",
        dialled: &["192.0.2.80", "2001:db8::80"],
        ports: &[SQUID, SQUID_IN_TLS, TINYPROXY],
    },
];

impl Forward {
    /// Starts both, beside the server whose certificate squid shows.
    fn start<'l>(&self, lab: &'l Running) -> Result<[Program<'l>; 3]> {
        let squid = "configuration=\"$PWD/../programs/squid.conf\"; cd \"$SCRATCH/guarded\" && exec squid -N -d 1 -f \"$configuration\"";
        let tinyproxy = "exec tinyproxy -d -c ../programs/tinyproxy.conf";
        Ok([
            self.server.start(lab, "alpha")?,
            Program::start(lab, self.server.pod, squid, SQUID)?,
            Program::start(lab, self.server.pod, tinyproxy, TINYPROXY)?,
        ])
    }

    /// Each way to it.
    fn each(&self) -> impl Iterator<Item = (&'static str, u16)> {
        let ports = self.ports;
        let to = move |host: &&'static str| {
            let host = *host;
            ports.iter().map(move |port| (host, *port))
        };
        self.dialled.iter().flat_map(to)
    }

    /// It is asked for `target` from now on.
    fn asked_for(&self, target: SocketAddr) -> Value {
        let policy = json!({
            "tunnel": { "targetHost": target.ip(), "targetPort": target.port() },
            "portLevelSettings": [{ "port": { "number": SQUID_IN_TLS }, "tls": self.server.simple() }],
        });
        let mut rule = rule(self.server, &policy);
        if let Some(host) = rule.pointer_mut("/spec/host") {
            *host = json!(self.host);
        }
        rule
    }
}

/// The one outside of the mesh, at addresses that no pod has.
fn entry(lab: &Running) -> Result<Value> {
    let endpoints = addresses(lab, OUTSIDE.pod)?.map(|address| json!({ "address": address }));
    Ok(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": "forward", "namespace": "shop" },
        "spec": {
            "hosts": ["forward.example.com"], "addresses": ["192.0.2.80", "2001:db8::80"], "resolution": "STATIC",
            "location": "MESH_EXTERNAL", "endpoints": endpoints,
            "ports": [
                { "number": SQUID, "name": "tcp-squid" },
                { "number": SQUID_IN_TLS, "name": "tcp-squid-tls" },
                { "number": TINYPROXY, "name": "tcp-tinyproxy" },
            ],
        },
    }))
}

/// The rules that ask each forward proxy for what `target` says.
fn rules(lab: &Running, target: impl Fn(&Forward) -> SocketAddr) -> Result<String> {
    let rules = FORWARDS.iter().map(|forward| forward.asked_for(target(forward)));
    manifest::to_yaml(&[entry(lab)?].into_iter().chain(rules).collect::<Vec<_>>())
}

/// What a client says that came of asking for who it is. It does not say when it is done: both forward proxies end a connection
/// of which either side does.
fn asked(lab: &Running, client: &str, host: &str, port: u16) -> Result<Value> {
    python(
        lab,
        client,
        "tcp_client.py",
        &["--open", "--send", "who\n", host, &port.to_string()],
    )
}

/// Fails unless the target was connected to by the pod of the forward proxy.
fn is_tunnelled(lab: &Running, forward: &Forward, target: IpAddr) -> Result<()> {
    let proxys = addresses(lab, forward.server.pod)?;
    let proxys = proxys.iter().find(|own| own.is_ipv4() == target.is_ipv4());
    for (client, _) in CLIENTS {
        for (host, port) in forward.each() {
            let what = format!("{client} by {host} {port} to {target}");
            let said = asked(lab, client, host, port)?;
            let seen: Value = serde_json::from_str(text(&said, "received")?)
                .with_context(|| format!("{what}: no JSON in {said}"))?;
            equal(&what, seen.get("pod"), Some(&json!("shape-outside")))?;
            equal(&what, seen.pointer("/accept/0"), Some(&json!(proxys)))?;
            equal(&what, seen.pointer("/getsockname/0"), Some(&json!(target)))?;
        }
    }
    Ok(())
}

pub(super) fn bytes_go_through_a_forward_proxy_to_where_a_rule_says(lab: &Running) -> Result<()> {
    let mut programs = Vec::new();
    for forward in &FORWARDS {
        programs.extend(forward.start(lab)?);
    }
    let [first, second] = addresses(lab, TARGET)?;
    let to = |target: IpAddr| rules(lab, |_| SocketAddr::new(target, SERVED));
    let through = |target: IpAddr| FORWARDS.iter().try_for_each(|one| is_tunnelled(lab, one, target));
    with(lab, &to(first)?, || {
        through(first)?;
        replaced(lab, &to(second)?)?;
        through(second)?;
        for (host, port) in FORWARDS.iter().flat_map(Forward::each) {
            let arguments = ["--echo", BULK, host, &port.to_string()];
            let said = python(lab, "shop/client", "tcp_client.py", &arguments)?;
            equal(
                &format!("{said} by {host} {port}"),
                said.get("echoed"),
                Some(&json!(true)),
            )?;
        }
        Ok(())
    })
}

pub(super) fn a_forward_proxy_that_refuses_ends_the_connection_and_is_counted(lab: &Running) -> Result<()> {
    let mut programs = Vec::new();
    for forward in &FORWARDS {
        programs.extend(forward.start(lab)?);
    }
    for refusing in &FORWARDS {
        let refused = one_refuses(lab, refusing, FORBIDDEN, "tunnel_refused{403}");
        refused.with_context(|| format!("403 by {}", refusing.host))?;
    }
    // squid says 503, tinyproxy 500. In the mesh they would hear of it only after their own connect: see docs/life-of-a-connection.md.
    let [.., outside] = &FORWARDS;
    one_refuses(lab, outside, CLOSED, "tunnel_refused{50").context("nobody listens")
}

/// One is asked for `port`, which it must refuse, while all others are asked for what they give.
fn one_refuses(lab: &Running, refusing: &Forward, port: u16, details: &str) -> Result<()> {
    let [target, _] = addresses(lab, TARGET)?;
    let is_refusing = |forward: &Forward| forward.host == refusing.host;
    let port = |forward: &Forward| if is_refusing(forward) { port } else { SERVED };
    let rules = rules(lab, |forward| SocketAddr::new(target, port(forward)))?;
    with(lab, &rules, || {
        FORWARDS.iter().try_for_each(|forward| {
            if is_refusing(forward) {
                refuses(lab, forward, details)
            } else {
                is_tunnelled(lab, forward, target)
            }
        })
    })
}

/// Fails unless connections of both clients are reset before a byte came, and each is counted and logged with what the forward
/// proxy said.
fn refuses(lab: &Running, forward: &Forward, details: &str) -> Result<()> {
    let logged = |node| logged(lab, node, details);
    let counted = |node| anyhow::Ok(counted(&lab.metrics(node)?, forward.host));
    for (client, node) in CLIENTS {
        for (host, port) in forward.each() {
            let what = format!("{client} by {host} {port}");
            let before = (logged(node)?, counted(node)?);
            let said = asked(lab, client, host, port)?;
            equal(&what, text(&said, "received")?, "")?;
            ensure!(said.get("error").is_some_and(Value::is_string), "{what}: {said}");
            until(IN_FORCE, &format!("{what} is logged and counted"), || {
                Ok(logged(node)? > before.0 && counted(node)? > before.1)
            })?;
        }
    }
    Ok(())
}

/// How many connections a node has logged whose details begin so.
fn logged(lab: &Running, node: &str, details: &str) -> Result<usize> {
    let lines = agent::access_log(&lab.site, node)?;
    let refused = lines.iter().filter(|line| {
        let said = line["connection_termination_details"].as_str();
        line["response_flags"] == "UF" && said.is_some_and(|said| said.starts_with(details))
    });
    Ok(refused.count())
}

/// How many connections of clients to a Service could not be made.
fn counted(metrics: &Metrics, service: &str) -> f64 {
    let labels = [
        ("reporter", "source"),
        ("destination_service_name", service),
        ("response_flags", "UF"),
    ];
    metrics.sum("istio_tcp_connections_closed_total", &labels)
}
