//! Reads from the first bytes of a connection whether a mesh peer begins a TLS handshake.

use std::io::Cursor;

use rustls::server::Acceptor;

use crate::identity::Alpn;

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
    match first {
        [] => return Hello::Partial,
        [TLS_HANDSHAKE] | [TLS_HANDSHAKE, TLS_MAJOR, ..] => {}
        _ => return Hello::Other,
    }
    let mut acceptor = Acceptor::default();
    let mut rest = Cursor::new(first);
    while acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let Some(mut offered) = accepted.client_hello().alpn() else {
                    return Hello::Other;
                };
                return match offered.find_map(Alpn::from_bytes) {
                    Some(alpn) => Hello::Mesh(alpn),
                    None => Hello::Other,
                };
            }
            Err(_not_tls) => return Hello::Other,
        }
    }
    Hello::Partial
}

/// Content type `handshake` of a TLS record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Major version in a TLS record's legacy version field.
const TLS_MAJOR: u8 = 3;
