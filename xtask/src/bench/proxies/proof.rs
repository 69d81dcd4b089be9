//! That requests go where they are said to go: a known number of them before anything is measured.
//!
//! On one node: packets of the client's interface. Between nodes: what is on the wire, read as TLS, and the suite that was
//! chosen. Of our agents: what they counted. The same requests fill the pools of connections. It must not measure time.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::process;
use mesh_tests::running::Running;
use mesh_tests::wire::{Capture, Wire};
use serde::Serialize;

use crate::bench::blocks::Side;
use crate::bench::proxies::LIMIT;
use crate::bench::proxies::load::{Amount, FEW, Load};
use crate::bench::proxies::way::{NEAR, Way};

/// What was seen on one side.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Proof {
    /// Packets of the client's interface for each request.
    pub(crate) packets: f64,
    /// The wire between nodes, where it was looked at.
    pub(crate) wire: Option<Seen>,
}

/// What was seen between nodes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Seen {
    /// Packets that are TLS from end to end; there were no others with a payload.
    pub(crate) tls_packets: u64,
    /// Cipher suites that were chosen.
    pub(crate) suites: Vec<String>,
}

/// Sends requests one side's way. With `captured`, the address of a server on the other node whose connections are all new,
/// what is on the wire is judged.
pub(crate) fn take(lab: &Running, way: &Way, load: Load, captured: Option<Ipv4Addr>) -> Result<Proof> {
    let capture = captured
        .map(|server| Capture::of(lab, "bench", server))
        .transpose()?;
    let (packets, proxies, counted) = (packets(lab, way)?, way.proxy_time()?, counted(lab)?);
    let done = load.run(lab, &way.client, &way.url(load), Amount::Requests(FEW))?;
    let wire = capture.map(Capture::stop).transpose()?;
    let wanted = f64::from(FEW);
    ensure!(
        done.errors == 0 && done.requests == FEW,
        "{} of {FEW} requests were answered, {} errors, at {}",
        done.requests,
        done.errors,
        way.url(load)
    );
    ensure!(
        way.proxy_time()? > proxies,
        "the proxies had nothing to do with {}",
        way.url(load)
    );
    if way.side() == Side::Ours {
        let all = process::wait_until(LIMIT, || {
            Ok((self::counted(lab)? - counted >= wanted).then_some(()))
        })?;
        all.with_context(|| format!("the agent did not count the {FEW} requests"))?;
    }
    Ok(Proof {
        packets: (self::packets(lab, way)? - packets) / wanted,
        wire: wire.map(|wire| judged(&wire)).transpose()?,
    })
}

fn judged(wire: &Wire) -> Result<Seen> {
    let Wire {
        tls_packets,
        plaintext_packets,
        unjudged_packets,
        plaintext_samples,
        ..
    } = wire;
    ensure!(*tls_packets > 0, "nothing went from node to node");
    ensure!(
        *plaintext_packets == 0 && *unjudged_packets == 0,
        "{plaintext_packets} packets between nodes are no TLS, {unjudged_packets} could not be judged: {plaintext_samples:?}"
    );
    let suites: Vec<_> = wire.suites.iter().map(|suite| name(*suite)).collect();
    ensure!(!suites.is_empty(), "no handshake was seen");
    Ok(Seen {
        tls_packets: *tls_packets,
        suites,
    })
}

/// Bytes have to be enciphered alike on both sides, or the ratio is one of ciphers.
pub(crate) fn equal_suites(ours: &Proof, theirs: &Proof) -> Result<()> {
    let suites = |proof: &Proof| proof.wire.as_ref().map(|wire| wire.suites.clone());
    let (ours, theirs) = (suites(ours), suites(theirs));
    ensure!(ours == theirs, "the agents chose {ours:?}, the peer {theirs:?}");
    Ok(())
}

/// RFC 8446, B.4.
fn name(suite: u16) -> String {
    match suite {
        0x1301 => "TLS_AES_128_GCM_SHA256".to_owned(),
        0x1302 => "TLS_AES_256_GCM_SHA384".to_owned(),
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256".to_owned(),
        other => format!("{other:#06x}"),
    }
}

/// Requests that the client's agent has carried.
fn counted(lab: &Running) -> Result<f64> {
    Ok(lab
        .metrics(NEAR)?
        .sum("istio_requests_total", &[("reporter", "source")]))
}

/// Packets that the interface of the client's pod has sent and received.
fn packets(lab: &Running, way: &Way) -> Result<f64> {
    let holder = lab.pod(&way.client.parse()?)?.holder.pid;
    let path = format!("/proc/{holder}/net/dev");
    let table = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    packets_in(&table, "eth0").with_context(|| path)
}

fn packets_in(table: &str, interface: &str) -> Result<f64> {
    let row = table
        .lines()
        .find_map(|row| row.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let fields: Vec<&str> = row.context("no such interface")?.split_whitespace().collect();
    let [_, received, _, _, _, _, _, _, _, sent, ..] = *fields.as_slice() else {
        bail!("a short row: {fields:?}");
    };
    Ok(received.parse::<f64>()? + sent.parse::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_one_interface_in_both_directions() {
        let table =
            "head\n  lo: 9 99 0 0 0 0 0 0 9 99 0 0 0 0 0 0\n eth0: 700 7 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n";
        assert!((packets_in(table, "eth0").unwrap() - 12.0).abs() < 1e-9);
        assert!(packets_in(table, "eth1").is_err());
    }

    #[test]
    fn another_suite_than_ours_is_no_comparison() {
        let proof = |suite: &str| Proof {
            packets: 0.0,
            wire: Some(Seen {
                tls_packets: 1,
                suites: vec![suite.to_owned()],
            }),
        };
        assert!(equal_suites(&proof("a"), &proof("a")).is_ok());
        assert!(equal_suites(&proof("a"), &proof("b")).is_err());
        assert!(equal_suites(&proof("a"), &Proof::default()).is_err());
        assert!(
            equal_suites(&Proof::default(), &Proof::default()).is_ok(),
            "one node"
        );
    }

    #[test]
    fn plaintext_between_nodes_is_no_proof() {
        let wire = |tls, plaintext| {
            let mut wire = Wire::default();
            wire.tls_packets = tls;
            wire.plaintext_packets = plaintext;
            wire.suites = [0x1302].into();
            wire
        };
        assert_eq!(judged(&wire(5, 0)).unwrap().suites, ["TLS_AES_256_GCM_SHA384"]);
        assert!(judged(&wire(5, 1)).is_err());
        assert!(judged(&wire(0, 0)).is_err());
    }
}
