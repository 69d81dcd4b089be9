//! The header of the PROXY protocol: who is behind a connection, told to a server before the first byte, TLS included.
//!
//! Place in the walk: the first thing that is written to an endpoint outside of the mesh. Must not know: which policy asked
//! for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::transport::{ByteStream, DialError};

/// A header, ready to be written. Connections with equal ones tell the same.
pub type ProxyHeader = Arc<[u8]>;

/// Says that `client` dialled `dialled`.
pub fn introduce(version: ProxyProtocol, client: SocketAddr, dialled: SocketAddr) -> ProxyHeader {
    let (client, dialled) = of_one_family(client, dialled);
    match version {
        ProxyProtocol::V1 => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let ends = format!(
                "{} {} {} {}",
                client.ip(),
                dialled.ip(),
                client.port(),
                dialled.port()
            );
            format!("PROXY {family} {ends}\r\n").into_bytes().into()
        }
        ProxyProtocol::V2 => {
            let (family, addrs) = match (client.ip(), dialled.ip()) {
                (IpAddr::V4(client), IpAddr::V4(dialled)) => {
                    (TCP4, [client.octets(), dialled.octets()].concat())
                }
                (client, dialled) => (TCP6, [in_v6(client).octets(), in_v6(dialled).octets()].concat()),
            };
            let ports = [client.port().to_be_bytes(), dialled.port().to_be_bytes()].concat();
            v2(PROXY, family, &[addrs, ports].concat())
        }
    }
}

/// Says that nobody is behind the connection: the agent itself asks.
pub fn own(version: ProxyProtocol) -> ProxyHeader {
    match version {
        ProxyProtocol::V1 => Arc::from(*b"PROXY UNKNOWN\r\n"),
        ProxyProtocol::V2 => v2(LOCAL, UNSPECIFIED, &[]),
    }
}

/// Writes `header` to a fresh connection, within `limit`. Cancel-safe: the connection is closed.
pub async fn begin(
    mut stream: Box<dyn ByteStream>,
    header: &ProxyHeader,
    limit: Duration,
) -> Result<Box<dyn ByteStream>, DialError> {
    let written = timeout(limit, stream.write_all(header)).await;
    written
        .map_err(|_elapsed| DialError::TimedOut)?
        .map_err(DialError::Connect)?;
    Ok(stream)
}

fn v2(command: u8, family: u8, ends: &[u8]) -> ProxyHeader {
    // 36 at most.
    let length = u16::try_from(ends.len()).unwrap_or_default().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, ends]
        .concat()
        .into()
}

/// IPv4 as IPv4, unless the other end is none.
fn of_one_family(client: SocketAddr, dialled: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let (client, dialled) = (plain(client), plain(dialled));
    if client.is_ipv4() == dialled.is_ipv4() {
        return (client, dialled);
    }
    let mapped = |addr: SocketAddr| SocketAddr::new(in_v6(addr.ip()).into(), addr.port());
    (mapped(client), mapped(dialled))
}

fn in_v6(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// What version 2 begins with (section 2.2 of the specification), and its command, family and transport.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_the_specification() {
        let introduced = |version, client: &str, dialled: &str| {
            introduce(version, client.parse().unwrap(), dialled.parse().unwrap()).to_vec()
        };
        for (client, dialled, line) in [
            (
                "10.0.0.1:4000",
                "192.0.2.7:443",
                "PROXY TCP4 10.0.0.1 192.0.2.7 4000 443\r\n",
            ),
            (
                "[fd00::1]:4000",
                "[fd00::2]:443",
                "PROXY TCP6 fd00::1 fd00::2 4000 443\r\n",
            ),
            (
                "[::ffff:10.0.0.1]:1",
                "192.0.2.7:2",
                "PROXY TCP4 10.0.0.1 192.0.2.7 1 2\r\n",
            ),
            (
                "10.0.0.1:1",
                "[fd00::2]:2",
                "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 2\r\n",
            ),
        ] {
            assert_eq!(introduced(ProxyProtocol::V1, client, dialled), line.as_bytes());
        }
        let v4 = [
            &SIGNATURE[..],
            &[0x21, 0x11, 0, 12],
            &[10, 0, 0, 1, 192, 0, 2, 7, 0x0f, 0xa0, 1, 0xbb],
        ];
        assert_eq!(
            introduced(ProxyProtocol::V2, "10.0.0.1:4000", "192.0.2.7:443"),
            v4.concat()
        );
        let v6 = introduced(ProxyProtocol::V2, "[fd00::1]:1", "[fd00::2]:2");
        assert_eq!(
            (v6.len(), &v6[12..16], v6[31], &v6[48..]),
            (52, &[0x21, 0x21, 0, 36][..], 1, &[0, 1, 0, 2][..])
        );
        assert_eq!(*own(ProxyProtocol::V1), *b"PROXY UNKNOWN\r\n");
        assert_eq!(
            *own(ProxyProtocol::V2),
            [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
        );
    }
}
