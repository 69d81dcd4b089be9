//! What a rule asks of a request.

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

/// All parts must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMatch {
    /// The path, query excluded.
    pub path: PathMatch,
    /// All of them must hold; the first of two entries for one name counts.
    pub headers: Vec<FieldMatch>,
    /// All of them must hold; the first of two entries for one name counts.
    pub query: Vec<FieldMatch>,
    /// The exact method, upper case.
    pub method: Option<Arc<str>>,
    /// What Gateway API cannot ask, if anything of it is asked.
    pub further: Option<Arc<FurtherMatch>>,
}

/// What only Istio asks of a request; all parts must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FurtherMatch {
    /// The method, where it is not asked for exactly.
    pub method: Option<ValueMatch>,
    /// The authority as the client wrote it, its port included.
    pub authority: Option<ValueMatch>,
    /// None of these may hold.
    pub without_headers: Vec<FieldMatch>,
    /// The port that the client dialled.
    pub port: Option<u16>,
    /// The client's namespace.
    pub source_namespace: Option<Arc<str>>,
    /// Labels that the client's pod has.
    pub source_labels: Vec<(String, String)>,
    /// What the VirtualService that delegates asks.
    pub root: Option<HttpMatch>,
}

impl Default for HttpMatch {
    /// Everything.
    fn default() -> Self {
        Self {
            path: PathMatch::Prefix("/".into()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
            further: None,
        }
    }
}

/// `path` of a match; Gateway API's default is the prefix `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path, byte for byte.
    Exact(Arc<str>),
    /// Whole path elements: `/abc` matches `/abc`, `/abc/` and `/abc/d`, not `/abcd`.
    Prefix(Arc<str>),
    /// The whole path by an expression.
    Regex(Pattern),
    /// The whole path, whatever its case (Istio's `ignoreUriCase`).
    AnyCase(Arc<str>),
    /// How the path begins, elements or not (Istio's `prefix`): `/abc` matches `/abcd`.
    Beginning {
        /// The beginning.
        text: Arc<str>,
        /// Whether `A` is `a`.
        ignores_case: bool,
    },
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "exactly {path}"),
            Self::Prefix(prefix) if prefix.as_ref() == "/" => f.write_str("/ or anything below"),
            Self::Prefix(prefix) => write!(f, "{prefix} or below"),
            Self::Regex(pattern) => write!(f, "like {pattern:?}"),
            Self::AnyCase(path) => write!(f, "{path} in any case"),
            Self::Beginning { text, ignores_case } => {
                let case = if *ignores_case { " in any case" } else { "" };
                write!(f, "{text}...{case}")
            }
        }
    }
}

/// What a header or a query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMatch {
    /// The name: of a header in lower case, of a parameter as it is written.
    pub name: Arc<str>,
    /// The value.
    pub value: ValueMatch,
}

/// How a value is compared; a name that is absent has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// The whole value, case-sensitive.
    Exact(Arc<str>),
    /// The whole value by an expression.
    Regex(Pattern),
    /// How the value begins.
    Prefix(Arc<str>),
    /// Any value.
    Present,
}

impl ValueMatch {
    /// Whether `value` is such a value.
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => value == wanted.as_bytes(),
            Self::Regex(pattern) => pattern.matches(value),
            Self::Prefix(wanted) => value.starts_with(wanted.as_bytes()),
            Self::Present => true,
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(f, "{value:?}"),
            Self::Regex(pattern) => write!(f, "like {pattern:?}"),
            Self::Prefix(value) => write!(f, "{value:?}..."),
            Self::Present => f.write_str("present"),
        }
    }
}

/// A regular expression that must match a whole value, as Envoy's RE2 expressions do: bytes, classes of ASCII, no look
/// around, no back references, time linear in the value.
#[derive(Clone)]
pub struct Pattern {
    written: Arc<str>,
    compiled: Regex,
    anywhere: Regex,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// Errors: it is no expression, or so large that it would cost more than 128 KiB when compiled.
    pub fn new(written: &str) -> Result<Self, InvalidPattern> {
        // Alone first: an unbalanced parenthesis would end the group that makes it match the whole.
        let anywhere = compile(written)?;
        let compiled = compile(&format!("^(?:{written})$"))?;
        Ok(Self {
            written: written.into(),
            compiled,
            anywhere,
        })
    }

    /// Whether the whole of `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }

    /// Replaces all parts of `value` that match by `substitution`, in which `$1` is the first group.
    pub fn replace(&self, value: &[u8], substitution: &[u8]) -> Vec<u8> {
        self.anywhere.replace_all(value, substitution).into_owned()
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.written)
    }
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It cannot be read.
    #[error("not a regular expression: {0}")]
    Syntax(String),
    /// It would take too much memory.
    #[error("the regular expression is too large: {MAX_PROGRAM} bytes at most when compiled")]
    TooLarge,
}

fn compile(expression: &str) -> Result<Regex, InvalidPattern> {
    RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .nest_limit(MAX_DEPTH)
        .build()
        .map_err(|error| match &error {
            regex::Error::CompiledTooBig(_) => InvalidPattern::TooLarge,
            regex::Error::Syntax(_) | _ => InvalidPattern::Syntax(last_line(&error.to_string())),
        })
}

/// The explanation below the picture that the parser draws.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// A compiled expression takes at most as many bytes, and its cache at most as many again.
const MAX_PROGRAM: usize = 128 * 1024;
/// Groups within groups.
const MAX_DEPTH: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_the_whole_value() {
        for (written, value, holds) in [
            ("a|bc", "a", true),
            ("a|bc", "bc", true),
            ("a|bc", "abc", false),
            ("/v[0-9]+/.*", "/v12/x", true),
            ("/v[0-9]+/.*", "/v/x", false),
            (r"\d+", "12", true),
            (r"\d+", "١٢", false),
            ("(?i)abc", "ABC", true),
            (".*", "any\u{e9}thing", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let pattern = Pattern::new(written).unwrap();
            assert_eq!(pattern.matches(value.as_bytes()), holds, "{written} on {value}");
        }
    }

    #[test]
    fn what_is_no_expression_or_explodes_is_refused() {
        for written in ["(", "a)(b", "[", "(?<=a)b", r"(a)\1", "a**b{", &"(".repeat(100)] {
            assert!(
                matches!(Pattern::new(written), Err(InvalidPattern::Syntax(_))),
                "{written}"
            );
        }
        for written in ["((a{1000}){1000}){1000}", r"\w{100000}"] {
            assert_eq!(Pattern::new(written).unwrap_err(), InvalidPattern::TooLarge);
        }
    }

    #[test]
    fn groups_are_put_into_a_substitution() {
        let pattern = Pattern::new("/service/([^/]+)(/.*)").unwrap();
        let replaced = pattern.replace(b"/service/web/a/b", b"${2}/instance/${1}");
        assert_eq!(replaced, b"/a/b/instance/web");
    }
}
