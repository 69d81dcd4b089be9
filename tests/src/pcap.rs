//! Reads a packet capture file: TCP over IPv4 or IPv6 over Ethernet.
//!
//! It must not judge what the packets hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

/// One TCP packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its sequence number.
    pub sequence: u32,
    /// True when it has the SYN flag.
    pub is_syn: bool,
    /// True when it has the ACK flag.
    pub is_ack: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

const ETHERNET: u32 = 1;

/// All TCP packets of a capture file.
pub fn packets(file: &[u8]) -> Result<Vec<Packet>> {
    let magic = word(file, 0).context("the capture is empty")?;
    // Written by this machine: in its byte order, with micro- or nanoseconds.
    ensure!(
        matches!(magic, 0xa1b2_c3d4 | 0xa1b2_3c4d),
        "no capture file: it begins with {magic:#x}"
    );
    let kind = word(file, 20).context("the capture's head is cut")?;
    ensure!(
        kind == ETHERNET,
        "the capture is of link type {kind}, not Ethernet"
    );
    let mut packets = Vec::new();
    let mut at = 24;
    while let (Some(captured), Some(original)) = (word(file, at + 8), word(file, at + 12)) {
        let length = usize::try_from(captured).context("packet length")?;
        let Some(frame) = file.get(at + 16..at + 16 + length) else {
            bail!("the capture is cut at byte {at}")
        };
        ensure!(
            captured == original,
            "a packet of {original} bytes was captured with {captured} only"
        );
        packets.extend(tcp(frame));
        at += 16 + length;
    }
    Ok(packets)
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    let bytes = file.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn tcp(frame: &[u8]) -> Option<Packet> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (from, to, segment) = match kind {
        [0x08, 0x00] => ipv4(packet)?,
        [0x86, 0xdd] => ipv6(packet)?,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let flags = segment.get(13)?;
    Some(Packet {
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        sequence,
        is_syn: flags & 0x02 != 0,
        is_ack: flags & 0x10 != 0,
        payload: segment.get(header..)?.to_vec(),
    })
}

const TCP: u8 = 6;

fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let address = |at: usize| {
        Some(IpAddr::from(Ipv4Addr::from(
            <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
        )))
    };
    // Frames are padded to their least length; a packet of several segments in one may say 0.
    let end = if total == 0 { packet.len() } else { total };
    (*packet.get(9)? == TCP).then_some(())?;
    Some((address(12)?, address(16)?, packet.get(header..end)?))
}

fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let address = |at: usize| {
        Some(IpAddr::from(Ipv6Addr::from(
            <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
        )))
    };
    let end = if length == 0 { packet.len() } else { 40 + length };
    (*packet.get(6)? == TCP).then_some(())?;
    Some((address(8)?, address(24)?, packet.get(40..end)?))
}
