//! What is asked, as it travels from the command `mesh-agent explain` to the agent.
//!
//! Place in the walk: none. Must not know: the mesh.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

/// What would become of a request of a pod of this node?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) to: Uri,
    pub(super) port: u16,
    pub(super) is_http: bool,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
}

/// Why a question cannot be put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// No pod is named.
    #[error("--from {0:?} names no pod: write NAMESPACE/POD")]
    From(String),
    /// It is no URL.
    #[error(
        "--to {0:?} is no URL: write http://HOST[:PORT]/PATH, or tcp://HOST:PORT for bytes that are no HTTP"
    )]
    To(String),
    /// A scheme that says nothing of what is sent.
    #[error("--to {to:?}: {scheme} is no scheme that can be explained: write http, https or tcp")]
    Scheme {
        /// As it was given.
        to: String,
        /// Its scheme.
        scheme: String,
    },
    /// A URL from which nobody knows the port.
    #[error("--to {0:?} names no port: write tcp://HOST:PORT")]
    Port(String),
    /// Name and password.
    #[error("--to: leave out what stands before the @, it is never sent")]
    UserInformation,
    /// It is no method.
    #[error("--method {0:?} is no method: write GET, POST, ...")]
    Method(String),
    /// It is no header.
    #[error("-H {0:?} is no header: write 'NAME: VALUE'")]
    Header(String),
    /// It has no place in a question, or is missing.
    #[error("the question has no part {0:?}, or too many: from, to, and if you like method and header")]
    Part(String),
}

impl Question {
    /// Reads the parts of a question: `NAMESPACE/POD`, a URL, a method (GET where there is none), and lines of headers.
    pub fn new(
        from: &str,
        to: &str,
        method: Option<&str>,
        headers: &[impl AsRef<str>],
    ) -> Result<Self, BadQuestion> {
        let (namespace, pod) = from
            .split_once('/')
            .filter(|(namespace, pod)| !namespace.is_empty() && !pod.is_empty() && !pod.contains('/'))
            .ok_or_else(|| BadQuestion::From(from.to_owned()))?;
        let url: Uri = to.parse().map_err(|_invalid| BadQuestion::To(to.to_owned()))?;
        let (is_http, port) = port_of(&url, to)?;
        let method = match method {
            Some(method) => Method::from_bytes(method.as_bytes())
                .map_err(|_invalid| BadQuestion::Method(method.to_owned()))?,
            None => Method::GET,
        };
        let mut map = HeaderMap::new();
        for line in headers.iter().map(AsRef::as_ref) {
            let (name, value) = header(line).ok_or_else(|| BadQuestion::Header(line.to_owned()))?;
            map.append(name, value);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            to: url,
            port,
            is_http,
            method,
            headers: map,
        })
    }

    /// Reads the query of the page.
    pub fn of_query(query: &str) -> Result<Self, BadQuestion> {
        let (mut from, mut to, mut method, mut headers) = (None, None, None, Vec::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let part = match &*name {
                "from" => &mut from,
                "to" => &mut to,
                "method" => &mut method,
                "header" => {
                    headers.push(value);
                    continue;
                }
                _ => return Err(BadQuestion::Part(name.into_owned())),
            };
            if part.replace(value).is_some() {
                return Err(BadQuestion::Part(name.into_owned()));
            }
        }
        let missing = |name: &str| BadQuestion::Part(name.to_owned());
        let from = from.ok_or_else(|| missing("from"))?;
        let to = to.ok_or_else(|| missing("to"))?;
        Self::new(&from, &to, method.as_deref(), &headers)
    }

    /// The path of the page that answers it, with its query.
    pub fn page(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(format!("{PAGE}?"));
        query
            .append_pair("from", &format!("{}/{}", self.namespace, self.pod))
            .append_pair("to", &self.to.to_string())
            .append_pair("method", self.method.as_str());
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            query.append_pair("header", &format!("{name}: {value}"));
        }
        query.finish()
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.to)
    }
}

/// Whether HTTP is sent, and to which port.
fn port_of(url: &Uri, to: &str) -> Result<(bool, u16), BadQuestion> {
    let named = || to.to_owned();
    let authority = url.authority().ok_or_else(|| BadQuestion::To(named()))?;
    let scheme = url.scheme_str().ok_or_else(|| BadQuestion::To(named()))?;
    let (is_http, usual) = match scheme {
        "http" => (true, Some(80)),
        "https" => (false, Some(443)),
        "tcp" => (false, None),
        other => {
            let scheme = other.to_owned();
            return Err(BadQuestion::Scheme { to: named(), scheme });
        }
    };
    if authority.as_str().contains('@') {
        return Err(BadQuestion::UserInformation);
    }
    let has_port = authority.as_str().len() > authority.host().len();
    let port = if has_port {
        let port = authority.port_u16().filter(|port| *port > 0);
        port.ok_or_else(|| BadQuestion::To(named()))?
    } else {
        usual.ok_or_else(|| BadQuestion::Port(named()))?
    };
    Ok((is_http, port))
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::try_from(name.trim()).ok()?;
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).ok()?;
    Some((name, value))
}

/// Where the agent answers questions.
pub const PAGE: &str = "/explain";

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(from: &str, to: &str, method: Option<&str>, headers: &[&str]) -> Result<Question, BadQuestion> {
        Question::new(from, to, method, headers)
    }

    #[test]
    fn a_question_arrives_as_it_was_put() {
        for (to, method, headers, port, is_http) in [
            ("http://cart/a%20b?c=d&e=%26", None, &[][..], 80, true),
            (
                "http://cart.shop:8080",
                Some("POST"),
                &["x-a: b & c", "X-A:d=e", "authorization: Bearer a.b.c"],
                8080,
                true,
            ),
            ("http://[fd00::1]:81/", Some("M-SEARCH"), &["x-empty:"], 81, true),
            ("https://pay.shop", None, &[], 443, false),
            ("tcp://10.0.0.1:6379", None, &["x: \u{e4}"], 6379, false),
        ] {
            let question = asked("shop/web", to, method, headers).unwrap();
            assert_eq!((question.port, question.is_http), (port, is_http), "{to}");
            let page = question.page();
            let query = page.strip_prefix("/explain?").unwrap();
            assert_eq!(Question::of_query(query), Ok(question), "{page}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_named_with_the_way_out() {
        for (from, to, method, headers, says) in [
            ("web", "http://a/", None, "a: b", "NAMESPACE/POD"),
            ("shop/", "http://a/", None, "a: b", "NAMESPACE/POD"),
            ("/web", "http://a/", None, "a: b", "NAMESPACE/POD"),
            ("a/b/c", "http://a/", None, "a: b", "NAMESPACE/POD"),
            ("shop/web", "", None, "a: b", "http://HOST[:PORT]/PATH"),
            ("shop/web", "cart", None, "a: b", "http://HOST[:PORT]/PATH"),
            ("shop/web", "/path", None, "a: b", "http://HOST[:PORT]/PATH"),
            ("shop/web", "http://a b/", None, "a: b", "http://HOST[:PORT]/PATH"),
            ("shop/web", "http://a:0/", None, "a: b", "http://HOST[:PORT]/PATH"),
            (
                "shop/web",
                "http://a:99999/",
                None,
                "a: b",
                "http://HOST[:PORT]/PATH",
            ),
            ("shop/web", "ftp://a/", None, "a: b", "http, https or tcp"),
            ("shop/web", "tcp://a", None, "a: b", "tcp://HOST:PORT"),
            ("shop/web", "http://me:secret@a/", None, "a: b", "before the @"),
            ("shop/web", "http://a/", Some("G T"), "a: b", "GET, POST"),
            ("shop/web", "http://a/", None, "a", "'NAME: VALUE'"),
            ("shop/web", "http://a/", None, "a b: c", "'NAME: VALUE'"),
            ("shop/web", "http://a/", None, "a: b\r\nc: d", "'NAME: VALUE'"),
        ] {
            let error = asked(from, to, method, &[headers]).unwrap_err().to_string();
            assert!(error.contains(says), "{from} {to}: {error}");
        }
    }

    #[test]
    fn a_query_with_parts_too_few_or_too_many_is_refused() {
        for (query, part) in [
            ("", "from"),
            ("from=a/b", "to"),
            ("from=a/b&to=http://a/&from=c/d", "from"),
            ("from=a/b&to=http://a/&tom=x", "tom"),
        ] {
            let expected = Err(BadQuestion::Part(part.to_owned()));
            assert_eq!(Question::of_query(query), expected, "{query}");
        }
    }
}
