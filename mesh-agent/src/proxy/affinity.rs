//! What keeps requests at one endpoint: a hash of a header, a cookie, a parameter or the client's address.
//!
//! Place in the walk: after routing has named the upstream, before an endpoint is picked. Must not know: endpoints.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{COOKIE, HeaderValue};
use http::{HeaderMap, Request};
use rand::Rng;

use crate::balance::hash;
use crate::mesh::traffic::{HashCookie, HashKey};

/// The hash of a request, and what its response must say so that the next one has the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    /// `None` for a request without what is hashed: any endpoint will do.
    pub(super) hash: Option<u64>,
    /// A `Set-Cookie`.
    pub(super) cookie: Option<HeaderValue>,
}

impl Affinity {
    pub(super) fn of_request(key: &HashKey, request: &Request<impl Sized>, client: IpAddr) -> Self {
        let hash = match key {
            HashKey::Header(name) => header(request.headers(), name),
            HashKey::SourceIp => Some(of_addr(client)),
            HashKey::QueryParameter(name) => request
                .uri()
                .query()
                .and_then(|query| parameter(query, name))
                .map(|value| hash(value.as_bytes())),
            HashKey::Cookie(cookie) => match cookie_values(request.headers(), &cookie.name).next() {
                Some(value) => Some(hash(value.as_bytes())),
                None if cookie.ttl.is_some() => return Self::new_client(cookie),
                None => None,
            },
        };
        Self { hash, cookie: None }
    }

    /// A client is given a cookie, and goes at once where it will lead.
    fn new_client(cookie: &HashCookie) -> Self {
        let value = format!("{:016x}", rand::rng().random::<u64>());
        Self {
            hash: Some(hash(value.as_bytes())),
            cookie: HeaderValue::from_str(&set_cookie(cookie, &value)).ok(),
        }
    }
}

/// The hash of an opaque connection: there is nothing but its client.
pub(super) fn of_connection(key: &HashKey, client: IpAddr) -> Option<u64> {
    match key {
        HashKey::SourceIp => Some(of_addr(client)),
        HashKey::Header(_) | HashKey::Cookie(_) | HashKey::QueryParameter(_) => None,
    }
}

fn of_addr(client: IpAddr) -> u64 {
    hash(client.to_canonical().to_string().as_bytes())
}

/// Of a header that stands there several times all values count.
fn header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    Some(values.fold(hash(first), |so_far, value| so_far.rotate_left(1) ^ hash(value)))
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// The values of a cookie; it may have several, of several paths, the longest first (RFC 6265 section 5.4).
pub(super) fn cookie_values<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    pairs.filter_map(move |pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

fn set_cookie(cookie: &HashCookie, value: &str) -> String {
    let mut text = format!("{}={value}", cookie.name);
    // Writing to a String cannot fail.
    if let Some(ttl) = cookie.ttl.filter(|ttl| ttl.as_secs() > 0) {
        let _written = write!(text, "; Max-Age={}", ttl.as_secs());
    }
    if let Some(path) = &cookie.path {
        let _written = write!(text, "; Path={path}");
    }
    for (name, value) in &cookie.attributes {
        let _written = match value {
            Some(value) => write!(text, "; {name}={value}"),
            None => write!(text, "; {name}"),
        };
    }
    text.push_str("; HttpOnly");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = headers
            .iter()
            .fold(Request::builder().uri(uri), |request, (name, value)| {
                request.header(*name, *value)
            });
        request.body(()).unwrap()
    }

    fn cookie(ttl: Option<u64>) -> HashCookie {
        HashCookie {
            name: "user".into(),
            path: Some("/shop".into()),
            ttl: ttl.map(Duration::from_secs),
            attributes: vec![
                ("SameSite".into(), Some("Strict".into())),
                ("Secure".into(), None),
            ],
        }
    }

    #[test]
    fn a_request_is_hashed_by_what_the_policy_names() {
        let by_cookie = HashKey::Cookie(cookie(None));
        let header = HashKey::Header("x-user".into());
        let parameter = HashKey::QueryParameter("user".into());
        for (key, uri, headers, value) in [
            (&header, "/", &[("x-user", "ann")][..], Some("ann")),
            (&header, "/", &[("x-other", "ann")], None),
            (&HashKey::SourceIp, "/", &[], Some("10.0.0.7")),
            (&parameter, "/a?x=1&user=ann", &[], Some("ann")),
            (&parameter, "/a?user", &[], Some("")),
            (&parameter, "/a?users=ann", &[], None),
            (&parameter, "/a", &[], None),
            (&by_cookie, "/", &[("cookie", "a=b; user=ann; c=d")], Some("ann")),
            (
                &by_cookie,
                "/",
                &[("cookie", "a=b"), ("cookie", "user=\"ann\"")],
                Some("ann"),
            ),
            (&by_cookie, "/", &[("cookie", "xuser=ann")], None),
        ] {
            let affinity = Affinity::of_request(key, &request(uri, headers), CLIENT);
            let expected = value.map(|value| hash(value.as_bytes()));
            assert_eq!(
                (affinity.hash, affinity.cookie),
                (expected, None),
                "{key:?} {uri} {headers:?}"
            );
        }
    }

    #[test]
    fn several_values_of_a_header_all_count() {
        let key = HashKey::Header("x-user".into());
        let of = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("x-user", *value)).collect();
            Affinity::of_request(&key, &request("/", &headers), CLIENT).hash
        };
        assert_ne!(of(&["a", "b"]), of(&["a", "c"]));
        assert_ne!(of(&["a", "b"]), of(&["a"]));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
    }

    #[test]
    fn a_new_client_gets_a_cookie_that_leads_where_its_first_request_went() {
        let key = HashKey::Cookie(cookie(Some(60)));
        let first = Affinity::of_request(&key, &request("/", &[]), CLIENT);
        let set = first.cookie.unwrap();
        let set = set.to_str().unwrap();
        let (pair, rest) = set.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/shop; SameSite=Strict; Secure; HttpOnly");
        let next = Affinity::of_request(&key, &request("/", &[("cookie", pair)]), CLIENT);
        assert_eq!((next.hash, next.cookie), (first.hash, None));
        let of_session = Affinity::of_request(&HashKey::Cookie(cookie(Some(0))), &request("/", &[]), CLIENT);
        assert!(!of_session.cookie.unwrap().to_str().unwrap().contains("Max-Age"));
    }

    #[test]
    fn an_opaque_connection_has_only_its_client_to_be_hashed_by() {
        let mapped: IpAddr = "::ffff:10.0.0.7".parse().unwrap();
        assert_eq!(of_connection(&HashKey::SourceIp, CLIENT), Some(hash(b"10.0.0.7")));
        assert_eq!(of_connection(&HashKey::SourceIp, mapped), Some(hash(b"10.0.0.7")));
        assert_eq!(of_connection(&HashKey::Header("a".into()), CLIENT), None);
    }
}
