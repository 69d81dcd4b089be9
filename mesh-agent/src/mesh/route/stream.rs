//! Routes of connections rather than requests, in declared form.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Audience, RouteBackend, RouteKind, RouteParent};
use crate::mesh::exclusions::Cidr;
use crate::mesh::facts::ObjectMeta;

/// A route of connections that attaches to Services: a `TCPRoute` or a `TLSRoute`, or the `tls` and `tcp` parts of a
/// VirtualService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRoute {
    /// Its kind: of several on one port one wins.
    pub kind: RouteKind,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared; the older route wins a tie.
    pub meta: Arc<ObjectMeta>,
    /// Whose connections it acts on.
    pub audience: Audience,
    /// The Services it attaches to; never empty.
    pub parents: Vec<RouteParent>,
    /// In order.
    pub rules: Vec<StreamRule>,
}

/// One rule of a route of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRule {
    /// Any of these must hold; a rule without any acts on nothing.
    pub matches: Vec<StreamMatch>,
    /// Where connections go, by weight; none means that they are refused. Their filters are none.
    pub backends: Vec<RouteBackend>,
}

/// What a rule asks of a connection; all parts must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamMatch {
    /// What its first bytes must be.
    pub opening: OpeningMatch,
    /// The address that the client dialled is in one of these; none means any.
    pub subnets: Vec<Cidr>,
    /// The port of the Service.
    pub port: Option<u16>,
    /// The client's namespace.
    pub source_namespace: Option<Arc<str>>,
    /// Labels that the client's pod has.
    pub source_labels: Vec<(String, String)>,
}

/// What the first bytes of a connection must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OpeningMatch {
    /// Anything, nothing at all too.
    #[default]
    Anything,
    /// A TLS handshake, whatever name it asks for.
    Tls,
    /// A TLS handshake that asks for a name of this kind.
    Named(NamePattern),
}

/// A server's name in a TLS handshake, in lower case; the more specific pattern sorts last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    /// `*`: any name.
    Any,
    /// `*.example.com`: what ends in this, the dot included, and is longer.
    Below(Arc<str>),
    /// The whole name.
    Exact(Arc<str>),
}

/// What is known of a connection before a byte of it is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Opening {
    /// No TLS handshake begins it, or nobody looked.
    #[default]
    Other,
    /// A TLS handshake that asks for no name.
    Unnamed,
    /// A TLS handshake that asks for this name, in lower case.
    Named(Arc<str>),
}

impl NamePattern {
    /// A name, `*.NAME` or `*`; `None` for what no server is called.
    pub fn read(written: &str) -> Option<Self> {
        let written = written.to_ascii_lowercase();
        if written == "*" {
            return Some(Self::Any);
        }
        let (name, is_wildcard) = match written.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (&*written, false),
        };
        let is_label = |label: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(is_allowed)
        };
        // RFC 6066 section 3: an address is no name.
        let is_name = name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err();
        is_name.then(|| {
            if is_wildcard {
                Self::Below(format!(".{name}").into())
            } else {
                Self::Exact(name.into())
            }
        })
    }

    /// Whether `name`, in lower case, is of this kind.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(end) => name.len() > end.len() && name.ends_with(&**end),
            Self::Exact(wanted) => **wanted == *name,
        }
    }

    /// Sorts the one that decides first: a whole name before a longer wildcard before a shorter one (Gateway API).
    pub fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Below(end) => (1, end.len()),
            Self::Exact(name) => (2, name.len()),
        }
    }
}

impl OpeningMatch {
    /// Whether `opening` is what it asks for.
    pub fn holds(&self, opening: &Opening) -> bool {
        match (self, opening) {
            (Self::Anything, _) | (Self::Tls, Opening::Unnamed | Opening::Named(_)) => true,
            (Self::Named(pattern), Opening::Named(name)) => pattern.holds(name),
            // `*` asks for no name in particular.
            (Self::Named(pattern), Opening::Unnamed) => *pattern == NamePattern::Any,
            (Self::Tls | Self::Named(_), Opening::Other) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_servers_are_called() {
        for (written, expected) in [
            ("a.example", Some(NamePattern::Exact("a.example".into()))),
            ("A.Example", Some(NamePattern::Exact("a.example".into()))),
            ("localhost", Some(NamePattern::Exact("localhost".into()))),
            ("*.example", Some(NamePattern::Below(".example".into()))),
            ("*", Some(NamePattern::Any)),
            ("", None),
            ("*.", None),
            ("a.*.example", None),
            ("*a.example", None),
            ("a..example", None),
            ("a.example.", None),
            ("10.0.0.1", None),
            ("a b", None),
        ] {
            assert_eq!(NamePattern::read(written), expected, "{written:?}");
        }
        assert_eq!(NamePattern::read(&format!("{}.example", "a".repeat(64))), None);
    }

    #[test]
    fn a_wildcard_holds_for_any_depth_and_not_for_the_apex() {
        let below = NamePattern::read("*.example.com").unwrap();
        for (name, expected) in [
            ("a.example.com", true),
            ("b.a.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("aexample.com", false),
        ] {
            assert_eq!(below.holds(name), expected, "{name}");
        }
    }

    #[test]
    fn a_handshake_without_a_name_is_only_what_asks_for_none() {
        let named = |name: &str| OpeningMatch::Named(NamePattern::read(name).unwrap());
        let hello = |name: &str| Opening::Named(name.into());
        for (asked, found, expected) in [
            (OpeningMatch::Anything, Opening::Other, true),
            (OpeningMatch::Anything, hello("a"), true),
            (OpeningMatch::Tls, Opening::Other, false),
            (OpeningMatch::Tls, Opening::Unnamed, true),
            (OpeningMatch::Tls, hello("a"), true),
            (named("a"), Opening::Other, false),
            (named("a"), Opening::Unnamed, false),
            (named("a"), hello("a"), true),
            (named("a"), hello("b"), false),
            (named("*"), Opening::Unnamed, true),
            (named("*"), Opening::Other, false),
        ] {
            assert_eq!(asked.holds(&found), expected, "{asked:?} {found:?}");
        }
    }
}
