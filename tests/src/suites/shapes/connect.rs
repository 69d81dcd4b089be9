//! Every way to connect; each on one node and between two, in both families.

use std::net::IpAddr;
use std::thread;

use anyhow::{Result, bail};

use super::{CLIENT, PORT, SERVERS, Talk, address_of, at, end};
use crate::running::Running;
use crate::suites::ask::{addresses, equal};

const FAMILIES: [&str; 2] = ["4", "6"];

pub(super) fn a_blocking_connect_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    shows_the_truth(lab, "blocking")
}

/// `EINPROGRESS`, epoll, `SO_ERROR`.
pub(super) fn a_nonblocking_connect_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    shows_the_truth(lab, "nonblocking")
}

pub(super) fn an_io_uring_connect_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    shows_the_truth(lab, "uring")
}

pub(super) fn a_connect_with_fast_open_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    shows_the_truth(lab, "fastopen")?;
    without_cookies(lab, || shows_the_truth(lab, "fastopen"))
}

pub(super) fn a_connect_put_off_until_the_first_write_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    shows_the_truth(lab, "fastopen-connect")?;
    without_cookies(lab, || shows_the_truth(lab, "fastopen-connect"))
}

pub(super) fn an_mptcp_connect_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    shows_the_truth(lab, "mptcp")
}

pub(super) fn an_ipv4_mapped_connect_shows_both_ends_the_truth(lab: &Running) -> Result<()> {
    SERVERS
        .into_iter()
        .try_for_each(|server| shows_the_truth_of(lab, "mapped", "4", server, PORT))
}

pub(super) fn an_mptcp_server_takes_tcp_and_mptcp(lab: &Running) -> Result<()> {
    for server in SERVERS {
        for how in ["blocking", "mptcp"] {
            shows_the_truth_of(lab, how, "4", server, 7200)?;
            shows_the_truth_of(lab, how, "6", server, 7200)?;
        }
    }
    Ok(())
}

pub(super) fn a_fixed_source_port_is_kept_on_the_whole_way(lab: &Running) -> Result<()> {
    let mut port = 21_000;
    for server in SERVERS {
        for (family, own) in FAMILIES.into_iter().zip(addresses(lab, CLIENT)?) {
            port += 1;
            let words = [
                "--from",
                &port.to_string(),
                "--family",
                family,
                server,
                "7100",
                "who",
            ];
            let talk = Talk::of(lab, CLIENT, &words)?;
            talk.shows_client(server, own)?;
            equal("the port", end(at(&talk.said, "local"))?.1, port)?;
        }
    }
    Ok(())
}

pub(super) fn many_pods_use_one_source_port_at_once(lab: &Running) -> Result<()> {
    const PODS: [&str; 6] = [
        "shop/client",
        "shop/client-b",
        "shop/exempt",
        "shop/shape-near",
        "shop/shape-far",
        "outside/stranger",
    ];
    // One port a server: towards the agent, a pod has each port once, and after a close for a minute not at all.
    for (server, port) in SERVERS.into_iter().zip(["21500", "21501"]) {
        // The server answers nobody before all are there. By the pod's address, which those outside reach as well.
        let address = addresses(lab, &format!("shop/{server}"))?[0].to_string();
        let count = PODS.len().to_string();
        let words = ["--from", port, &address, "7100", "meet", &count];
        thread::scope(|scope| {
            let talks = PODS.map(|pod| (pod, scope.spawn(move || Talk::of(lab, pod, &words))));
            for (pod, talk) in talks {
                let Ok(talk) = talk.join() else {
                    bail!("the talk of {pod} panicked")
                };
                talk?.shows_client(server, addresses(lab, pod)?[0])?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn shows_the_truth(lab: &Running, how: &str) -> Result<()> {
    for server in SERVERS {
        for family in FAMILIES {
            shows_the_truth_of(lab, how, family, server, PORT)?;
        }
    }
    Ok(())
}

/// The client sees whom it dialled, the server who dials, each with its port.
fn shows_the_truth_of(lab: &Running, how: &str, family: &str, server: &str, port: u16) -> Result<()> {
    let words = ["--how", how, "--family", family, server, &port.to_string(), "who"];
    let talk = Talk::of(lab, CLIENT, &words)?;
    talk.shows_client(server, own_address(lab, CLIENT, family)?)?;
    let dialled = address_of(lab, CLIENT, server, family)?;
    equal(
        "getpeername",
        end(at(&talk.said, "peer"))?,
        (dialled, port.into()),
    )?;
    let own = own_address(lab, &format!("shop/{server}"), family)?;
    equal(
        "getsockname of the server",
        end(at(&talk.seen()?, "getsockname"))?,
        (own, port.into()),
    )
}

fn own_address(lab: &Running, pod: &str, family: &str) -> Result<IpAddr> {
    let [ipv4, ipv6] = addresses(lab, pod)?;
    Ok(if family == "4" { ipv4 } else { ipv6 })
}

/// While `work` runs, the client's kernel puts data into the SYN without asking for a cookie first
/// (`net.ipv4.tcp_fastopen`: 0x1 and 0x4), and puts off the SYN of a connect that may be.
fn without_cookies(lab: &Running, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let set = |value: &str| {
        let script = format!("echo {value} > /proc/sys/net/ipv4/tcp_fastopen");
        lab.exec(CLIENT, &["sh", "-ec", &script])?.success()
    };
    set("5")?;
    let worked = work();
    set("1")?;
    worked
}
