//! Reads from the first bytes of a connection whose TLS handshake they begin: a mesh peer's, or an application's own and
//! the name that it asks for.

use std::io::Cursor;

use rustls::server::{Acceptor, ClientHello};

use crate::identity::Alpn;
use crate::mesh::route::Opening;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello that offers one of our protocols.
    Mesh(Alpn),
    /// Something else, the application's own TLS included.
    Other,
    /// A TLS record that is not complete yet.
    Partial,
}

/// Judges the bytes that a connection began with.
pub fn hello(first: &[u8]) -> Hello {
    let offered = read(first, |hello| hello.alpn()?.find_map(Alpn::from_bytes));
    match offered {
        ClientsHello::Whole(Some(alpn)) => Hello::Mesh(alpn),
        ClientsHello::Whole(None) | ClientsHello::None => Hello::Other,
        ClientsHello::Partial => Hello::Partial,
    }
}

/// What the bytes that an application began with open; `None` while they are too few to say. Of an encrypted ClientHello
/// it is the name outside that counts.
pub fn opening(first: &[u8]) -> Option<Opening> {
    let named = |hello: &ClientHello<'_>| Some(hello.server_name()?.to_ascii_lowercase().into());
    match read(first, named) {
        ClientsHello::Whole(Some(name)) => Some(Opening::Named(name)),
        ClientsHello::Whole(None) => Some(Opening::Unnamed),
        ClientsHello::Partial => None,
        ClientsHello::None => Some(Opening::Other),
    }
}

/// How much of a ClientHello there is.
enum ClientsHello<T> {
    /// All of it, and what it was asked for.
    Whole(T),
    /// Too little.
    Partial,
    /// It is none, or none that TLS 1.2 and 1.3 allow.
    None,
}

fn read<T>(first: &[u8], ask: impl FnOnce(&ClientHello<'_>) -> T) -> ClientsHello<T> {
    match first {
        [] => return ClientsHello::Partial,
        [TLS_HANDSHAKE] | [TLS_HANDSHAKE, TLS_MAJOR, ..] => {}
        _ => return ClientsHello::None,
    }
    let mut acceptor = Acceptor::default();
    let mut rest = Cursor::new(first);
    while acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return ClientsHello::Whole(ask(&accepted.client_hello())),
            Err(_not_tls) => return ClientsHello::None,
        }
    }
    ClientsHello::Partial
}

/// Content type `handshake` of a TLS record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Major version in a TLS record's legacy version field.
const TLS_MAJOR: u8 = 3;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection};

    use super::super::testing::{TestCa, first_flight_to, id};
    use super::*;

    /// The first flight of a client that offers `protocols`, ours unless they are given.
    fn first_flight(alpn: Alpn, protocols: Option<&[&[u8]]>) -> Vec<u8> {
        let config = TestCa::new().tls(&id("web")).client(&id("cart"), alpn).unwrap();
        let mut config = ClientConfig::clone(&config);
        if let Some(protocols) = protocols {
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        }
        let name = ServerName::from(std::net::IpAddr::from([10, 0, 0, 2]));
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn each_of_our_protocols_is_recognised() {
        for alpn in [Alpn::H2, Alpn::H1, Alpn::Tcp] {
            assert_eq!(hello(&first_flight(alpn, None)), Hello::Mesh(alpn));
        }
    }

    #[test]
    fn an_applications_own_tls_is_left_alone() {
        for protocols in [&[][..], &[b"h2".as_slice(), b"http/1.1"], &[b"mesh"]] {
            assert_eq!(
                hello(&first_flight(Alpn::H2, Some(protocols))),
                Hello::Other,
                "{protocols:?}"
            );
        }
    }

    #[test]
    fn every_beginning_of_a_hello_is_partial_and_what_follows_it_changes_nothing() {
        let mut flight = first_flight(Alpn::Tcp, None);
        for length in 0..flight.len() {
            assert_eq!(hello(&flight[..length]), Hello::Partial, "{length} bytes");
        }
        flight.extend(b"more");
        assert_eq!(hello(&flight), Hello::Mesh(Alpn::Tcp));
    }

    #[test]
    fn plaintext_is_not_waited_for() {
        for first in [
            &b"G"[..],
            b"GET / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0",
            b"\x16\x01",
            b"*1\r\n",
            b"\0",
        ] {
            assert_eq!(hello(first), Hello::Other, "{first:?}");
        }
    }

    #[test]
    fn the_name_that_a_handshake_asks_for_is_read_in_lower_case() {
        for (name, expected) in [
            ("a.example", Opening::Named("a.example".into())),
            ("A.Example", Opening::Named("a.example".into())),
            ("10.0.0.2", Opening::Unnamed),
        ] {
            assert_eq!(opening(&first_flight_to(name)), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_name_is_read_from_pieces_and_from_several_records() {
        let flight = first_flight_to("a.example");
        for length in 0..flight.len() {
            assert_eq!(opening(&flight[..length]), None, "{length} bytes");
        }
        // The same message in records of 50 bytes each.
        let (header, message) = flight.split_at(5);
        let mut records = Vec::new();
        for part in message.chunks(50) {
            records.extend_from_slice(&header[..3]);
            records.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            records.extend_from_slice(part);
        }
        assert_eq!(opening(&records), Some(Opening::Named("a.example".into())));
    }

    #[test]
    fn what_is_no_tls_opens_no_handshake() {
        for first in [&b"GET / HTTP/1.1\r\n"[..], b"*1\r\n", b"\x16\x01", b"\0"] {
            assert_eq!(opening(first), Some(Opening::Other), "{first:?}");
        }
        assert_eq!(opening(b""), None);
        let mut broken = first_flight_to("a.example");
        broken[5] = 0xff;
        assert_eq!(
            opening(&broken),
            Some(Opening::Other),
            "another message than a ClientHello"
        );
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_a_connection_opens_with(flip in 0_usize..300, to in any::<u8>(), cut in 0_usize..2000) {
            let mut flight = first_flight_to("a.example");
            flight[flip.min(200)] = to;
            let early = opening(&flight[..cut.min(flight.len())]);
            if early.is_some() {
                prop_assert_eq!(opening(&flight), early);
            }
        }

        #[test]
        fn no_bytes_are_mistaken_for_a_peer(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(!matches!(hello(&bytes), Hello::Mesh(_)));
            let record: Vec<u8> = [TLS_HANDSHAKE, TLS_MAJOR].into_iter().chain(bytes).collect();
            prop_assert!(!matches!(hello(&record), Hello::Mesh(_)));
        }
    }
}
