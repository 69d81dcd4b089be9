//! What a client carries of its session: where its requests go, in a form that says nothing to it.
//!
//! Place in the walk: read from a request, written into a response. Must not know: rules, what exists.
//!
//! A token is a reminder, not a right: it is no secret and not signed. Whoever writes one by hand gets no further than
//! to an endpoint that the rule may choose for him anyway, since whatever it names is looked up among those.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// One session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Token {
    /// What the rule calls the backend.
    pub(in crate::proxy) backend: u64,
    /// Which pod it was that had the endpoint's address.
    pub(in crate::proxy) incarnation: u64,
    /// Where it is.
    pub(in crate::proxy) endpoint: SocketAddr,
    /// When the session is over, in seconds since the epoch.
    pub(in crate::proxy) expires: Option<u64>,
}

impl Token {
    /// As it stands in a header: letters, digits, `-` and `_`.
    pub(super) fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(LONGEST);
        bytes.push(VERSION);
        for number in [self.backend, self.incarnation, self.expires.unwrap_or(NEVER)] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(self.endpoint.port().to_be_bytes());
        match self.endpoint.ip() {
            IpAddr::V4(addr) => bytes.extend(addr.octets()),
            IpAddr::V6(addr) => bytes.extend(addr.octets()),
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for what is no token.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        if text.len() > LONGEST_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (backend, rest) = rest.split_first_chunk()?;
        let (incarnation, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (port, addr) = rest.split_first_chunk()?;
        let addr = <[u8; 4]>::try_from(addr)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(addr).map(IpAddr::from));
        (*version == VERSION).then_some(Self {
            backend: u64::from_be_bytes(*backend),
            incarnation: u64::from_be_bytes(*incarnation),
            endpoint: SocketAddr::new(addr.ok()?, u16::from_be_bytes(*port)),
            expires: Some(u64::from_be_bytes(*expires)).filter(|expires| *expires != NEVER),
        })
    }
}

/// Of this form of a token.
const VERSION: u8 = 1;
const NEVER: u64 = u64::MAX;
/// With an IPv6 address.
const LONGEST: usize = 1 + 3 * 8 + 2 + 16;
const LONGEST_TEXT: usize = LONGEST.div_ceil(3) * 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(endpoint: &str, expires: Option<u64>) -> Token {
        Token {
            backend: 0x0102_0304_0506_0708,
            incarnation: u64::MAX,
            endpoint: endpoint.parse().unwrap(),
            expires,
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for written in [
            token("10.0.0.1:80", None),
            token("[fd00::1]:65535", Some(0)),
            token("[::ffff:10.0.0.1]:0", Some(1_700_000_000)),
        ] {
            let text = written.encode();
            assert!(text.len() <= LONGEST_TEXT);
            assert!(!text.contains("10.0.0.1"), "{text}");
            assert_eq!(Token::decode(text.as_bytes()), Some(written), "{text}");
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        let good = token("10.0.0.1:80", None).encode();
        let of_another_version = URL_SAFE_NO_PAD.encode([&[2][..], &[0; 30]].concat());
        for text in [
            "",
            "A",
            "AQ",
            "ann",
            "10.0.0.1:80",
            &good[1..],
            &good[..good.len() - 4],
            &format!("{good}AAAA"),
            &format!("{good}=="),
            &format!(" {good}"),
            &of_another_version,
            &"A".repeat(1 << 20),
        ] {
            assert_eq!(Token::decode(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        /// Whatever a client sends, there is one way at most to write what is read from it.
        #[test]
        fn hostile_bytes_are_no_token_or_the_one_that_they_spell(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(token) = Token::decode(&bytes) {
                prop_assert_eq!(token.encode().into_bytes(), bytes.clone());
            }
            let mut spelled = vec![VERSION];
            spelled.extend(&bytes);
            let text = URL_SAFE_NO_PAD.encode(&spelled);
            if let Some(token) = Token::decode(text.as_bytes()) {
                prop_assert!(matches!(spelled.len(), 31 | 43));
                prop_assert_eq!(token.encode(), text);
            }
        }
    }
}
