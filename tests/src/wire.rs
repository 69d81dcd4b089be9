//! The wire between nodes: what tcpdump saw there, put together again and judged, packet by packet.
//!
//! A packet is TLS when the whole of its payload lies in well-formed TLS records, counted from the first byte of its
//! connection. It must not know who speaks to whom, and trusts no port number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::addresses::fabric_ipv4;
use crate::pcap::{self, Packet};
use crate::process::{self, ProcessId};
use crate::running::Running;
use crate::site::Site;
use crate::{agent, netns, sandbox};

const LIMIT: Duration = Duration::from_secs(10);

/// A capture that is going on.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    log: PathBuf,
    /// The namespace of a node, from which the end of the capture is announced on the wire itself.
    node: PathBuf,
    /// To all who are on the wire.
    broadcast: Ipv4Addr,
}

impl Capture {
    /// Starts to capture all TCP between nodes; returns once packets are being seen.
    pub fn start(lab: &Running, name: &str) -> Result<Self> {
        Self::begin(lab, name, "tcp")
    }

    /// As [`Capture::start`], only of connections from and to one address.
    pub fn of(lab: &Running, name: &str, address: Ipv4Addr) -> Result<Self> {
        Self::begin(lab, name, &format!("tcp and host {address}"))
    }

    fn begin(lab: &Running, name: &str, what: &str) -> Result<Self> {
        let node = lab.state.nodes.keys().next().context("the lab has no node")?;
        Self::among(&lab.site, node, fabric_ipv4(255), name, what)
    }

    /// Starts to capture `what`, in the words of tcpdump, on the wire of a site; `node` is on it, and so is everybody
    /// whom the address `broadcast` reaches.
    pub(crate) fn among(
        site: &Site,
        node: &str,
        broadcast: Ipv4Addr,
        name: &str,
        what: &str,
    ) -> Result<Self> {
        let file = site.run_dir().join(format!("{name}.pcap"));
        let log = site.logs().join(format!("tcpdump-{name}.log"));
        if log.exists() {
            // Or "listening" would be what an earlier capture of this name has said.
            fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))?;
        }
        let node = Site::netns_path(&site.node_netns(node));
        let place = sandbox::observer(site, &site.fabric_netns());
        let filter = format!("({what}) or udp dst port {END_PORT}");
        // A buffer of 64 MiB: at full load nothing may be missed.
        let program = format!("tcpdump -i br0 -n -Z root -B 65536 -U -w {}", file.display());
        let mut program: Vec<_> = program.split(' ').map(str::to_owned).collect();
        program.push(filter);
        let mut child = sandbox::start(place.command(&program)?, &log, &log)?;
        let listening = process::wait_until(LIMIT, || {
            let said = agent::tail(&log, 5);
            ensure!(child.try_wait()?.is_none(), "tcpdump ended:\n{said}");
            Ok(said.contains("listening on").then_some(()))
        })?;
        ensure!(
            listening.is_some(),
            "tcpdump does not begin:\n{}",
            agent::tail(&log, 5)
        );
        Ok(Self {
            child,
            file,
            log,
            node,
            broadcast,
        })
    }

    /// Ends the capture and judges it.
    pub fn stop(mut self) -> Result<Wire> {
        self.announce_end()?;
        ProcessId::of(self.child.id())?.signal(Signal::SIGINT)?;
        process::wait(&mut self.child, LIMIT).context("wait for tcpdump")?;
        let bytes = fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        let packets = pcap::packets(&bytes).with_context(|| self.file.display().to_string())?;
        Ok(judge(packets))
    }

    /// The kernel hands packets over in blocks: what was sent before a datagram that has arrived has arrived too.
    fn announce_end(&self) -> Result<()> {
        netns::inside(&self.node, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
            socket.set_broadcast(true).context("allow broadcast")?;
            socket
                .send_to(END, (self.broadcast, END_PORT))
                .context("announce the end of the capture")?;
            Ok(())
        })?;
        let arrived = process::wait_until(LIMIT, || {
            let bytes = fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
            Ok(bytes.windows(END.len()).rev().any(|at| at == END).then_some(()))
        })?;
        arrived.with_context(|| format!("tcpdump did not see the end:\n{}", agent::tail(&self.log, 5)))
    }
}

/// The port of "discard": nobody listens there.
const END_PORT: u16 = 9;
const END: &[u8] = b"the capture ends here";

/// What was on the wire.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Wire {
    /// Packets with a payload that is TLS from end to end.
    pub tls_packets: u64,
    /// Packets with a payload that is not.
    pub plaintext_packets: u64,
    /// Packets that come after one that the capture missed.
    pub unjudged_packets: u64,
    /// Connections begun.
    pub connections: u64,
    /// Ports that connections were begun to.
    pub ports: BTreeSet<u16>,
    /// Addresses that connections were begun from.
    pub sources: BTreeSet<IpAddr>,
    /// Cipher suites that servers chose, by their number (RFC 8446, B.4).
    pub suites: BTreeSet<u16>,
    /// The first bytes of packets that are not TLS, a few of them, to be looked at.
    pub plaintext_samples: Vec<String>,
    /// Payload of all packets, for [`Wire::contains`].
    #[serde(skip)]
    payloads: Payloads,
}

/// Payloads of packets, of which people are shown only how many there are.
#[derive(Clone, Default)]
struct Payloads(Vec<Vec<u8>>);

impl fmt::Debug for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} packets", self.0.len())
    }
}

impl Wire {
    /// True when these bytes are in some packet as they are.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty()
            && self
                .payloads
                .0
                .iter()
                .any(|payload| payload.windows(bytes.len()).any(|at| at == bytes))
    }
}

/// One direction of one connection.
#[derive(Debug, Default)]
struct Stream {
    /// Sequence number of its first byte.
    first: u32,
    /// Payloads by their distance from the first byte.
    segments: BTreeMap<u32, Vec<Vec<u8>>>,
}

fn judge(packets: Vec<Packet>) -> Wire {
    let mut wire = Wire::default();
    let mut streams: Vec<Stream> = Vec::new();
    let mut current: BTreeMap<(SocketAddr, SocketAddr), usize> = BTreeMap::new();
    for packet in packets {
        let key = (packet.from, packet.to);
        if packet.is_syn {
            let first = packet.sequence.wrapping_add(1);
            let is_resent = current
                .get(&key)
                .and_then(|&at| streams.get(at))
                .is_some_and(|known| known.first == first);
            if !is_resent {
                current.insert(key, streams.len());
                streams.push(Stream {
                    first,
                    ..Stream::default()
                });
                if !packet.is_ack {
                    wire.connections += 1;
                    wire.ports.insert(packet.to.port());
                    wire.sources.insert(packet.from.ip());
                }
            }
        }
        if packet.payload.is_empty() {
            continue;
        }
        let at = *current.entry(key).or_insert_with(|| {
            streams.push(Stream {
                first: packet.sequence,
                ..Stream::default()
            });
            streams.len() - 1
        });
        if let Some(stream) = streams.get_mut(at) {
            let sequence = packet.sequence.wrapping_add(u32::from(packet.is_syn));
            let distance = sequence.wrapping_sub(stream.first);
            // A keep-alive probe repeats the byte before the next one; just after the handshake that is no byte at all.
            if distance < u32::MAX / 2 {
                wire.payloads.0.push(packet.payload.clone());
                stream.segments.entry(distance).or_default().push(packet.payload);
            }
        }
    }
    for stream in &streams {
        judge_stream(stream, &mut wire);
    }
    wire
}

fn judge_stream(stream: &Stream, wire: &mut Wire) {
    let mut bytes: Vec<u8> = Vec::new();
    for (&distance, copies) in &stream.segments {
        for copy in copies {
            let Ok(start) = usize::try_from(distance) else {
                continue;
            };
            if start <= bytes.len()
                && let Some(fresh) = copy.get(bytes.len() - start..)
            {
                bytes.extend_from_slice(fresh);
            }
        }
    }
    let tls = tls_length(&bytes);
    wire.suites.extend(suite(&bytes));
    for (&distance, copies) in &stream.segments {
        let start = usize::try_from(distance).unwrap_or(usize::MAX);
        for copy in copies {
            let end = start.saturating_add(copy.len());
            if end <= tls {
                wire.tls_packets += 1;
            } else if start > bytes.len() {
                wire.unjudged_packets += 1;
            } else {
                wire.plaintext_packets += 1;
                if wire.plaintext_samples.len() < 5 {
                    let head = copy.get(..copy.len().min(64)).unwrap_or_default();
                    wire.plaintext_samples.push(head.escape_ascii().to_string());
                }
            }
        }
    }
}

/// How many bytes from the start are TLS records, of which the last may not be whole yet (RFC 8446, 5.1).
fn tls_length(bytes: &[u8]) -> usize {
    const HANDSHAKE: u8 = 22;
    if bytes.first() != Some(&HANDSHAKE) {
        return 0;
    }
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match *rest {
            [20..=23, 3, 0..=4, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                // 2^14 bytes and what encryption may add.
                if length > (1 << 14) + 256 {
                    return at;
                }
                at += 5 + length;
                if at >= bytes.len() {
                    return bytes.len();
                }
            }
            [20..=23] | [20..=23, 3] | [20..=23, 3, 0..=4] | [20..=23, 3, 0..=4, _] => return bytes.len(),
            _ => return at,
        }
    }
}

/// The cipher suite that the `ServerHello` at the start of a stream names (RFC 8446, 4.1.3).
fn suite(bytes: &[u8]) -> Option<u16> {
    const SERVER_HELLO: u8 = 2;
    // Behind the heads of record and message, a version, and 32 random bytes: the session's id, then the suite.
    const SESSION: usize = 5 + 4 + 2 + 32;
    let [22, 3, _, _, _, SERVER_HELLO, ..] = *bytes else {
        return None;
    };
    let at = SESSION + 1 + usize::from(*bytes.get(SESSION)?);
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u32, payload: &[u8]) -> Packet {
        Packet {
            from: "10.0.0.1:4000".parse().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
            sequence,
            is_syn: false,
            is_ack: true,
            payload: payload.to_vec(),
        }
    }

    fn connection(payloads: &[&[u8]]) -> Wire {
        let mut packets = vec![Packet {
            is_syn: true,
            is_ack: false,
            ..packet(u32::MAX - 2, b"")
        }];
        let mut sequence = u32::MAX - 1;
        for payload in payloads {
            packets.push(packet(sequence, payload));
            sequence = sequence.wrapping_add(u32::try_from(payload.len()).unwrap());
        }
        judge(packets)
    }

    #[test]
    fn records_over_several_packets_are_tls() {
        let wire = connection(&[b"\x16\x03\x01\x00\x04ab", b"cd\x17\x03", b"\x03\x00\x02xy\x17"]);
        assert_eq!((wire.tls_packets, wire.plaintext_packets), (3, 0));
        assert_eq!(wire.ports, BTreeSet::from([80]));
    }

    #[test]
    fn the_suite_is_the_one_that_the_server_chose() {
        let hello = |kind: u8| {
            let body = [
                &[kind, 0, 0, 0, 3, 3],
                [7; 32].as_slice(),
                &[2, 9, 9, 0x13, 0x02, 0],
            ]
            .concat();
            let length = u8::try_from(body.len()).unwrap();
            [&[22, 3, 3, 0, length], body.as_slice()].concat()
        };
        assert_eq!(connection(&[&hello(2)]).suites, BTreeSet::from([0x1302]));
        assert!(connection(&[&hello(1)]).suites.is_empty(), "what a client offers");
        assert!(
            connection(&[&hello(2)[..40]]).suites.is_empty(),
            "a head that was cut"
        );
    }

    #[test]
    fn plaintext_is_found() {
        let wire = connection(&[b"GET / HTTP/1.1\r\n\r\n"]);
        assert_eq!((wire.tls_packets, wire.plaintext_packets), (0, 1));
        assert!(wire.contains(b"HTTP/1.1"));
    }

    #[test]
    fn plaintext_after_a_handshake_is_found() {
        let wire = connection(&[b"\x16\x03\x01\x00\x02ab", b"GET / HTTP/1.1\r\n"]);
        assert_eq!((wire.tls_packets, wire.plaintext_packets), (1, 1));
    }

    #[test]
    fn plaintext_that_follows_a_record_in_one_packet_is_found() {
        let wire = connection(&[b"\x16\x03\x01\x00\x02abhello"]);
        assert_eq!((wire.tls_packets, wire.plaintext_packets), (0, 1));
    }

    #[test]
    fn a_packet_sent_twice_is_judged_as_the_first() {
        let packets = [b"\x16\x03\x01\x00\x02ab".as_slice(); 2];
        let wire = judge(packets.map(|payload| packet(7, payload)).to_vec());
        assert_eq!((wire.tls_packets, wire.plaintext_packets), (2, 0));
    }

    #[test]
    fn what_follows_a_missed_packet_is_not_vouched_for() {
        let wire = judge(vec![
            packet(0, b"\x16\x03\x01\x00\x02ab"),
            packet(900, b"\x17\x03\x03\x00\x02ab"),
        ]);
        assert_eq!((wire.tls_packets, wire.unjudged_packets), (1, 1));
    }
}
