//! A condition in words, by the names that Istio gives its fields.
//!
//! Place in the walk: none; for people. Must not know: whether it holds.

use std::fmt::{self, Display};

use crate::mesh::policy::authorization::{
    AddressAttribute, Condition, Segment, TextAttribute, TextMatch, Values,
};

/// A condition as it is shown: `principals is one of a, b`.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'c>(pub &'c Condition);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Condition::Text { of, values } => values_of(f, &attribute(of), values, text),
            Condition::Address { of, values } => values_of(f, address(*of), values, ToString::to_string),
            Condition::Port(values) => values_of(f, "ports", values, ToString::to_string),
            Condition::Unknowable => f.write_str("something that cannot be known here, or be read"),
        }
    }
}

fn values_of<T>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    values: &Values<T>,
    one: impl Fn(&T) -> String,
) -> fmt::Result {
    let list = |values: &[T]| values.iter().map(&one).collect::<Vec<_>>().join(", ");
    match (values.any.as_slice(), values.none.as_slice()) {
        (any, []) => write!(f, "{name} is one of {}", list(any)),
        ([], none) => write!(f, "{name} is none of {}", list(none)),
        (any, none) => write!(f, "{name} is one of {} and none of {}", list(any), list(none)),
    }
}

fn attribute(of: &TextAttribute) -> String {
    let name = match of {
        TextAttribute::Principal => "principals",
        TextAttribute::Namespace => "namespaces",
        TextAttribute::ServiceAccount => "serviceAccounts",
        TextAttribute::TrustDomain => "trustDomains",
        TextAttribute::Host => "hosts",
        TextAttribute::Method => "methods",
        TextAttribute::Path => "paths",
        TextAttribute::RequestPrincipal => "requestPrincipals",
        TextAttribute::Audience => "request.auth.audiences",
        TextAttribute::Presenter => "request.auth.presenter",
        TextAttribute::Header(name) => return format!("request.headers[{name}]"),
        TextAttribute::Claim(path) => {
            return format!("request.auth.claims[{}]", path.join("]["));
        }
    };
    name.to_owned()
}

fn address(of: AddressAttribute) -> &'static str {
    match of {
        AddressAttribute::Source => "ipBlocks",
        AddressAttribute::Remote => "remoteIpBlocks",
        AddressAttribute::Destination => "destination.ip",
    }
}

fn text(wanted: &TextMatch) -> String {
    match wanted {
        TextMatch::Exact(whole) => whole.to_string(),
        TextMatch::Prefix(prefix) => format!("{prefix}*"),
        TextMatch::Suffix(suffix) => format!("*{suffix}"),
        TextMatch::Present => "*".to_owned(),
        TextMatch::Template(segments) => segments.iter().map(segment).collect::<Vec<_>>().join("/"),
    }
}

fn segment(segment: &Segment) -> &str {
    match segment {
        Segment::Literal(text) => text,
        Segment::One => "{*}",
        Segment::Rest => "{**}",
    }
}
