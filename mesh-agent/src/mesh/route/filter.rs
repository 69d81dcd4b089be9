//! What a rule does to a request and its response besides sending it on.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};

use super::{BackendTarget, Pattern};
use crate::mesh::policy::external::Authorizer;

/// What is changed on the way; the same for all requests of a rule, or for those of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters {
    /// Changes of the request's fields.
    pub request: HeaderEdits,
    /// Changes of the response's fields.
    pub response: HeaderEdits,
    /// Changes of what is asked for.
    pub rewrite: Rewrite,
    /// Who gets copies of requests.
    pub mirrors: Vec<Mirror>,
    /// Who must let a request in before anything else is done with it.
    pub gate: Option<Gate>,
}

/// Gateway API's `ExternalAuth`: a service that must let a request in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Path of its backend within its object, for reports.
    pub field: Arc<str>,
    /// The service, and how it is asked.
    pub authorizer: Arc<Authorizer>,
}

/// Changes of fields, applied in this order: what is set replaces, what is added is appended, what is removed goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// Each replaces all lines of its name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Each is one more line.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// All lines of these names.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn are_none(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Changes of what a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The authority that the application is shown.
    pub authority: Option<Authority>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// How a path is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path, the query stays.
    Full(Arc<str>),
    /// The part that the rule's prefix matched (Gateway API's `ReplacePrefixMatch`).
    Prefix(Arc<str>),
    /// The text with which Istio's `prefix` or Gateway API's matched, to the letter: `/a` by `/b` makes `/bc` of `/ac`.
    Beginning(Arc<str>),
    /// What an expression finds; `$1` is the first group.
    Regex(Pattern, Arc<str>),
}

/// The agent answers and sends the client elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `None` keeps the request's.
    pub scheme: Option<Scheme>,
    /// `None` keeps the request's.
    pub host: Option<Arc<str>>,
    /// `None` means the well-known port of a scheme that is given, else that of the request.
    pub port: Option<u16>,
    /// `None` keeps the request's.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// Who gets copies of requests; its answers are thrown away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Path of the backend within its object, for reports.
    pub field: Arc<str>,
    /// Where copies go.
    pub target: BackendTarget,
    /// Of how many requests.
    pub share: Share,
}

/// A share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many,
    pub numerator: u32,
    /// of so many; never zero.
    pub denominator: u32,
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Whether every request is of it.
    pub fn is_all(self) -> bool {
        self.numerator >= self.denominator
    }

    /// Draws whether one request is of this share.
    pub fn includes_one(self, rng: &mut dyn rand::RngCore) -> bool {
        use rand::Rng as _;
        rng.random_range(0..self.denominator) < self.numerator
    }
}

/// Cross-origin requests (the Fetch standard, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cors {
    /// Origins that may ask.
    pub origins: Vec<OriginMatch>,
    /// Whether credentials may be sent along.
    pub credentials: bool,
    /// Methods that a preflight is told; `*` alone means the one that it asks for.
    pub methods: Vec<Arc<str>>,
    /// Request fields that a preflight is told; `*` alone means those that it asks for.
    pub request_headers: Vec<Arc<str>>,
    /// Response fields that scripts may read.
    pub exposed_headers: Vec<Arc<str>>,
    /// How long a preflight's answer may be kept.
    pub max_age: Option<Duration>,
    /// Whether a preflight of another origin is answered, without leave, instead of going to the application.
    pub keeps_others_away: bool,
}

/// An origin, `SCHEME://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginMatch {
    /// Any.
    Any,
    /// The whole of it.
    Exact(Arc<str>),
    /// What comes before and after one `*`.
    Wildcard(Arc<str>, Arc<str>),
    /// An expression for the whole of it.
    Regex(Pattern),
    /// How it begins.
    Prefix(Arc<str>),
}

impl OriginMatch {
    /// Whether `origin` is such an origin; schemes and hosts have no case.
    pub fn holds(&self, origin: &str) -> bool {
        let starts = |text: &str, with: &str| {
            text.get(..with.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        match self {
            Self::Any => true,
            Self::Exact(wanted) => wanted.eq_ignore_ascii_case(origin),
            Self::Prefix(wanted) => starts(origin, wanted),
            Self::Regex(pattern) => pattern.matches(origin.as_bytes()),
            Self::Wildcard(before, after) => {
                let rest = origin.get(before.len()..).unwrap_or_default();
                starts(origin, before)
                    && rest.len() > after.len()
                    && rest
                        .get(rest.len() - after.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(after))
            }
        }
    }
}

/// An answer that the agent gives itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Arc<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_then_added_then_removed() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edits = HeaderEdits {
            set: vec![(name("a"), value("new"))],
            add: vec![(name("a"), value("more")), (name("b"), value("one"))],
            remove: vec![name("c")],
        };
        let mut headers = http::HeaderMap::new();
        headers.append("a", value("old"));
        headers.append("a", value("older"));
        headers.append("c", value("gone"));
        edits.apply(&mut headers);
        let of = |name| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(of("a"), ["new", "more"]);
        assert_eq!(of("b"), ["one"]);
        assert_eq!(of("c"), Vec::<&str>::new());
    }

    #[test]
    fn an_origin_is_matched_by_all_its_forms() {
        let wildcard = |before: &str, after: &str| OriginMatch::Wildcard(before.into(), after.into());
        for (origin, matcher, holds) in [
            ("https://a.example", OriginMatch::Any, true),
            (
                "https://A.example",
                OriginMatch::Exact("https://a.example".into()),
                true,
            ),
            (
                "https://a.example:8443",
                OriginMatch::Exact("https://a.example".into()),
                false,
            ),
            ("https://a.example", wildcard("https://", ".example"), true),
            ("https://.example", wildcard("https://", ".example"), false),
            ("https://a.example.evil", wildcard("https://", ".example"), false),
            ("http://a.example", wildcard("https://", ".example"), false),
            (
                "https://a.example.evil",
                OriginMatch::Prefix("https://a.".into()),
                true,
            ),
            (
                "https://ab",
                OriginMatch::Regex(Pattern::new("https://a.").unwrap()),
                true,
            ),
        ] {
            assert_eq!(matcher.holds(origin), holds, "{origin} {matcher:?}");
        }
    }

    #[test]
    fn a_share_of_none_and_of_all_leaves_nothing_to_chance() {
        let mut rng = rand::rng();
        let none = Share {
            numerator: 0,
            denominator: 100,
        };
        for _ in 0..100 {
            assert!(Share::ALL.includes_one(&mut rng));
            assert!(!none.includes_one(&mut rng));
        }
    }
}
