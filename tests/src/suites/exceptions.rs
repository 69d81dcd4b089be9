//! Exceptions: what the mesh lets past on purpose, and not an inch more.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ask::{addresses, curl_on_node, equal, get, until, url};
use super::{Claim, claims};
use crate::addresses::node_ipv4;
use crate::process;
use crate::running::{EXEC_LIMIT, Running};
use crate::sandbox;

pub(super) const CLAIMS: &[Claim] = claims![
    a_probe_of_the_own_node_reaches_the_port_that_it_names_under_strict,
    the_own_node_reaches_no_other_port_under_strict,
    another_node_and_neighbours_do_not_pass_for_the_kubelet,
    a_probe_reaches_the_application_itself_and_the_agent_sees_nothing_of_it,
    a_probe_of_a_port_that_nobody_listens_on_is_refused,
    a_pod_of_the_host_network_is_known_and_not_captured,
    an_excluded_outbound_port_goes_direct_within_a_second,
    an_excluded_block_goes_direct_within_a_second,
    an_excluded_inbound_port_is_the_applications_own_under_strict,
    a_connection_goes_on_while_its_pods_exclusions_change,
    loopback_is_never_captured,
    link_local_is_never_captured,
];

const PROBED: &str = "strict/probed";
const PROBE_PORT: u16 = 8080;
const OTHER_PORT: u16 = 9100;
/// A probe names it, and nobody listens there.
const DEAF_PORT: u16 = 9999;
const EXEMPT: &str = "shop/exempt";
const SERVER: &str = "outside/plain";
const SECOND: Duration = Duration::from_secs(1);
const FILE: &str = "exceptions.yaml";

fn a_probe_of_the_own_node_reaches_the_port_that_it_names_under_strict(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let reply = curl_on_node(lab, "node-b", &url(address, PROBE_PORT, "/"))?;
        equal(&address.to_string(), reply.says("pod")?, "probed")?;
    }
    Ok(())
}

fn the_own_node_reaches_no_other_port_under_strict(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let reply = curl_on_node(lab, "node-b", &url(address, OTHER_PORT, "/"))?;
        equal("status", reply.status, 0)?;
        ensure!(
            reply.complaint.contains("reset by peer"),
            "not reset: {}",
            reply.complaint
        );
    }
    Ok(())
}

fn another_node_and_neighbours_do_not_pass_for_the_kubelet(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let probe = url(address, PROBE_PORT, "/");
        equal(
            "answer to the other node",
            curl_on_node(lab, "node-a", &probe)?.status,
            0,
        )?;
        for stranger in ["outside/stranger", "outside/stranger-b"] {
            equal(stranger, get(lab, stranger, &probe)?.status, 0)?;
        }
    }
    Ok(())
}

fn a_probe_reaches_the_application_itself_and_the_agent_sees_nothing_of_it(lab: &Running) -> Result<()> {
    let seen = || -> Result<f64> {
        let labels = [("destination_workload", "probed")];
        Ok(lab.metrics("node-b")?.sum("istio_requests_total", &labels))
    };
    let before = (seen()?, probes(lab)?);
    for address in addresses(lab, PROBED)? {
        let reply = curl_on_node(lab, "node-b", &url(address, PROBE_PORT, "/"))?;
        ensure!(reply.is_direct()?, "the agent is in between");
    }
    equal("probes that the kernel counted", probes(lab)? - before.1, 2)?;
    equal("requests that the agent counted", seen()?, before.0)
}

/// Probes that the hooks of node-b let past.
fn probes(lab: &Running) -> Result<u64> {
    let status = lab.status("node-b")?;
    let counters = status
        .pointer("/enrolment/counters")
        .and_then(Value::as_array)
        .context("no counters")?;
    let probe = counters
        .iter()
        .find(|counter| counter.get(0) == Some(&json!("probe")));
    probe
        .and_then(|probe| probe.get(1)?.as_u64())
        .context("no counter of probes")
}

/// As `tcpSocket` asks: a connection is all that it wants, so the agent must not give it.
fn a_probe_of_a_port_that_nobody_listens_on_is_refused(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let reply = curl_on_node(lab, "node-b", &url(address, DEAF_PORT, "/"))?;
        ensure!(
            reply.status == 0 && reply.complaint.contains("Failed to connect"),
            "it was connected: {}",
            reply.complaint
        );
    }
    Ok(())
}

/// It speaks from the node's own address: to others as any plaintext, to pods of its node as their kubelet.
fn a_pod_of_the_host_network_is_known_and_not_captured(lab: &Running) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "on-host", "namespace": "shop", "uid": "0000-on-host" },
        "spec": { "nodeName": "node-b", "hostNetwork": true, "containers": [] },
        "status": { "phase": "Running", "podIP": node_ipv4(2, 1), "podIPs": [{ "ip": node_ipv4(2, 1) }] },
    });
    lab.put_manifest("on-host.yaml", &pod.to_string())?;
    let claimed = (|| {
        let listed = || -> Result<(bool, bool)> {
            let status = lab.status("node-b")?.to_string();
            Ok((status.contains("0000-on-host"), status.contains("on-host.yaml")))
        };
        lab.settled(SECOND)?;
        equal("enrolled, rejected", listed()?, (false, false))?;
        let address = addresses(lab, PROBED)?[0];
        let dial = |port| curl_on_node(lab, "node-b", &url(address, port, "/"));
        equal("a probe port", dial(PROBE_PORT)?.status, 200)?;
        equal("another port", dial(OTHER_PORT)?.status, 0)?;
        let far = url(addresses(lab, "shop/far")?[0], 8080, "/");
        equal(
            "a pod that is PERMISSIVE",
            curl_on_node(lab, "node-b", &far)?.status,
            200,
        )?;
        let vault = url(addresses(lab, "strict/vault")?[0], 8080, "/");
        equal(
            "a pod that is STRICT",
            curl_on_node(lab, "node-b", &vault)?.status,
            0,
        )
    })();
    lab.remove_manifest("on-host.yaml")?;
    claimed
}

fn an_excluded_outbound_port_goes_direct_within_a_second(lab: &Running) -> Result<()> {
    goes_direct_with(lab, "mesh-agent.dev/exclude-outbound-ports: '25,8080'")
}

fn an_excluded_block_goes_direct_within_a_second(lab: &Running) -> Result<()> {
    let [v4, v6] = addresses(lab, SERVER)?;
    let annotation = format!("mesh-agent.dev/exclude-outbound-cidrs: '{v4}/32,{v6}/128'");
    goes_direct_with(lab, &annotation)?;
    // Another address stays captured all the while.
    with_annotation(lab, "exempt", &annotation, || {
        let far = url(addresses(lab, "shop/far")?[0], 8080, "/");
        until(SECOND, "the block is excluded", || {
            is_direct(lab, EXEMPT, &server_at(v4))
        })?;
        equal("another address is direct", is_direct(lab, EXEMPT, &far)?, false)
    })
}

/// Captured before, direct and uncounted while the annotation is there, captured after.
fn goes_direct_with(lab: &Running, annotation: &str) -> Result<()> {
    let servers = addresses(lab, SERVER)?.map(server_at);
    let are_direct = |wanted: bool| -> Result<bool> {
        let mut directs = servers.iter().map(|url| is_direct(lab, EXEMPT, url));
        directs.try_fold(true, |all, direct| Ok(all && direct? == wanted))
    };
    ensure!(are_direct(false)?, "not captured without the annotation");
    with_annotation(lab, "exempt", annotation, || {
        until(SECOND, "connections go direct", || are_direct(true))?;
        let before = counted(lab)?;
        ensure!(
            before.iter().sum::<f64>() > 0.0,
            "what was captured is not counted either"
        );
        for _ in 0..5 {
            ensure!(are_direct(true)?, "a connection was captured");
        }
        equal(
            "counted by the agent",
            format!("{:?}", counted(lab)?),
            format!("{before:?}"),
        )
    })?;
    until(SECOND, "connections are captured again", || are_direct(false)).map(|_| ())
}

/// What the agent counted of the exempt pod: requests and TCP connections.
fn counted(lab: &Running) -> Result<[f64; 2]> {
    let metrics = lab.metrics("node-a")?;
    let labels = [("source_workload", "exempt")];
    Ok(["istio_requests_total", "istio_tcp_connections_opened_total"].map(|name| metrics.sum(name, &labels)))
}

fn an_excluded_inbound_port_is_the_applications_own_under_strict(lab: &Running) -> Result<()> {
    const CALLERS: [&str; 3] = ["outside/stranger", "outside/stranger-b", "shop/client"];
    let [v4, _] = addresses(lab, PROBED)?;
    let (excluded, other) = (url(v4, OTHER_PORT, "/"), url(v4, PROBE_PORT, "/"));
    let stranger = CALLERS[0];
    equal("before", get(lab, stranger, &excluded)?.status, 0)?;
    let annotation = format!("mesh-agent.dev/exclude-inbound-ports: '{OTHER_PORT}'");
    with_annotation(lab, "probed", &annotation, || {
        until(SECOND, "the excluded port is open", || {
            Ok(get(lab, stranger, &excluded)?.status == 200)
        })?;
        for caller in CALLERS {
            for address in addresses(lab, PROBED)? {
                let reply = get(lab, caller, &url(address, OTHER_PORT, "/"))?;
                equal(caller, reply.says("pod")?, "probed")?;
            }
        }
        equal("another port", get(lab, stranger, &other)?.status, 0)
    })?;
    until(SECOND, "the port is the mesh's again", || {
        Ok(get(lab, stranger, &excluded)?.status == 0)
    })
    .map(|_| ())
}

fn a_connection_goes_on_while_its_pods_exclusions_change(lab: &Running) -> Result<()> {
    let [v4, _] = addresses(lab, SERVER)?;
    let slow = url(v4, 8080, "/slow/2500");
    std::thread::scope(|scope| {
        let under_way = scope.spawn(|| get(lab, EXEMPT, &slow));
        until(SECOND, "the request is under way through the agent", || {
            let captured = ["ss", "-Htn", "state", "established", "dport", "=", ":15001"];
            Ok(!lab.exec(EXEMPT, &captured)?.success()?.stdout.is_empty())
        })?;
        with_annotation(
            lab,
            "exempt",
            "mesh-agent.dev/exclude-outbound-ports: '8080'",
            || {
                until(SECOND, "new connections go direct", || {
                    is_direct(lab, EXEMPT, &server_at(v4))
                })?;
                ensure!(!under_way.is_finished(), "the request ended before the change");
                Ok(())
            },
        )?;
        let Ok(reply) = under_way.join() else {
            anyhow::bail!("the request under way panicked");
        };
        equal("status of the request under way", reply?.status, 200)
    })
}

fn loopback_is_never_captured(lab: &Running) -> Result<()> {
    for address in ["127.0.0.1", "::1"] {
        let url = url(address.parse()?, OTHER_PORT, "/");
        ensure!(is_direct(lab, PROBED, &url)?, "{address} was captured");
    }
    Ok(())
}

/// The node plays a cloud's metadata service.
fn link_local_is_never_captured(lab: &Running) -> Result<()> {
    on_node(
        lab,
        "ip addr add 169.254.169.254/32 dev br0; ip addr add fe80::1/64 dev br0 nodad",
    )?;
    let log = lab.site.logs().join("metadata.log");
    let place = sandbox::observer(&lab.site, &lab.site.node_netns("node-a"));
    let program = lab
        .state
        .input
        .join("../programs/http_server.py")
        .display()
        .to_string();
    let program = ["python3", &program, "8080", "metadata"].map(str::to_owned);
    let mut server = sandbox::start(place.command(&program)?, &log, &log)?;
    let claimed = (|| {
        for address in ["169.254.169.254", "[fe80::1%25eth0]"] {
            let url = format!("http://{address}:8080/");
            until(Duration::from_secs(10), "the metadata service answers", || {
                Ok(get(lab, "shop/client", &url)?.status == 200)
            })?;
            ensure!(is_direct(lab, "shop/client", &url)?, "{address} was captured");
        }
        Ok(())
    })();
    process::reap(&mut server)?;
    on_node(
        lab,
        "ip addr del 169.254.169.254/32 dev br0; ip addr del fe80::1/64 dev br0",
    )?;
    claimed
}

fn on_node(lab: &Running, script: &str) -> Result<()> {
    let place = sandbox::observer(&lab.site, &lab.site.node_netns("node-a"));
    let program = ["sh", "-ec", script].map(str::to_owned);
    let mut command: Command = place.command(&program)?;
    process::run(&mut command, EXEC_LIMIT)?.success().map(|_| ())
}

fn server_at(address: IpAddr) -> String {
    url(address, 8080, "/")
}

fn is_direct(lab: &Running, pod: &str, url: &str) -> Result<bool> {
    get(lab, pod, url)?.is_direct()
}

/// Does `work` while the pod `name` has an annotation in the place of its note.
fn with_annotation(
    lab: &Running,
    name: &str,
    annotation: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = lab.manifest(FILE)?;
    let note = format!("lab.test/note: {name}-excludes-nothing");
    ensure!(before.contains(&note), "{FILE} has no note of {name}");
    lab.put_manifest(FILE, &before.replace(&note, annotation))?;
    let worked = work();
    lab.put_manifest(FILE, &before)?;
    worked
}
