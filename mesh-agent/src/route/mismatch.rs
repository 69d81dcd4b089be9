//! Why one match does not hold for a request, for whoever asks why its rule was not taken.
//!
//! Place in the walk: what [`super::matcher::Matcher`] finds; the walk itself only cares that there is something. Must not
//! know: rules, backends, services.

use std::fmt;

use http::header::HeaderName;

use crate::mesh::route::{FieldMatch, PathMatch, ValueMatch};

/// The first part of a match that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch<'m> {
    /// The path is another.
    Path(&'m PathMatch),
    /// It asks for a header of a name that no request can carry.
    Impossible,
    /// The method is another.
    Method(&'m str),
    /// The method is another than an expression or a prefix asks for.
    MethodLike(&'m ValueMatch),
    /// A header is absent or has another value.
    Header(&'m HeaderName, &'m ValueMatch),
    /// A header is there that must not be.
    Unwanted(&'m HeaderName, &'m ValueMatch),
    /// A query parameter is absent or has another value.
    Query(&'m FieldMatch),
    /// The authority is another.
    Authority(&'m ValueMatch),
    /// The client dialled another port.
    Port(u16),
    /// The client is of another namespace.
    Namespace(&'m str),
    /// The client's pod has no such label.
    Label(&'m str, &'m str),
}

impl Mismatch<'_> {
    /// What of a request it is about: one word of a closed set.
    pub fn part(&self) -> &'static str {
        match self {
            Self::Path(_) => "path",
            Self::Method(_) | Self::MethodLike(_) => "method",
            Self::Impossible | Self::Header(..) | Self::Unwanted(..) => "header",
            Self::Query(_) => "query",
            Self::Authority(_) => "authority",
            Self::Port(_) => "port",
            Self::Namespace(_) => "source_namespace",
            Self::Label(..) => "source_labels",
        }
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "the path is not {path}"),
            Self::Impossible => f.write_str("it asks for a header of a name that no request can carry"),
            Self::Method(method) => write!(f, "the method is not {method}"),
            Self::MethodLike(method) => write!(f, "the method is not {method}"),
            Self::Header(name, value) => write!(f, "header {name} is not {value}"),
            Self::Unwanted(name, value) => write!(f, "header {name} is {value}, and must not be"),
            Self::Query(FieldMatch { name, value }) => write!(f, "query parameter {name} is not {value}"),
            Self::Authority(authority) => write!(f, "the authority is not {authority}"),
            Self::Port(port) => write!(f, "the port is not {port}"),
            Self::Namespace(namespace) => write!(f, "the client's namespace is not {namespace}"),
            Self::Label(name, value) => write!(f, "the client's pod has no label {name}={value}"),
        }
    }
}
