//! Requests whose form leaves a doubt who is asked for what, refused before anything is decided by them.
//!
//! Place in the walk: first of all. Must not know: where requests go. Framing is `framing.rs`'s; bytes that no head may
//! hold are refused by hyper.

use http::header::{HOST, HeaderMap};
use http::uri::Authority;
use http::{Method, Request, Version};
use hyper::ext::Protocol;

use crate::proxy::refusal::Refusal;

/// Whether the target has a form that its method allows, a bearable length, and names whom `Host` names.
pub(super) fn check(request: &Request<impl Sized>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(match request.extensions().get::<Protocol>() {
            Some(_) => Refusal::ConnectProtocol,
            None => Refusal::ConnectMethod,
        });
    }
    let uri = request.uri();
    if uri
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > MAX_TARGET)
    {
        return Err(Refusal::TargetTooLong);
    }
    // RFC 9112 section 3.2: the authority form is CONNECT's, the asterisk that of OPTIONS.
    let is_authority_form =
        uri.authority().is_some() && uri.scheme().is_none() && uri.path_and_query().is_none();
    let is_asterisk = uri.path() == "*" && request.method() == Method::OPTIONS;
    if is_authority_form || !(uri.path().starts_with('/') || is_asterisk) {
        return Err(Refusal::Malformed);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        let needs_host = request.version() == Version::HTTP_11;
        return if needs_host {
            Err(Refusal::Malformed)
        } else {
            Ok(())
        };
    };
    if hosts.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let host = host.as_bytes();
    let Some(target) = uri.authority() else {
        return if host.is_empty() {
            Ok(())
        } else {
            authority(host).map(drop)
        };
    };
    // RFC 9112 section 3.2, RFC 9113 section 8.3.1.
    is_same(&authority(host)?, target)
        .then_some(())
        .ok_or(Refusal::Malformed)
}

/// An authority whose port, if it has one, is a port.
fn authority(host: &[u8]) -> Result<Authority, Refusal> {
    let authority = Authority::try_from(host).map_err(|_invalid| Refusal::Malformed)?;
    let named = authority.as_str().len() > authority.host().len() + 1;
    if named && authority.port_u16().is_none() {
        return Err(Refusal::Malformed);
    }
    Ok(authority)
}

fn is_same(one: &Authority, other: &Authority) -> bool {
    let port = |authority: &Authority| authority.port_u16().unwrap_or(HTTP_PORT);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// Takes away what trailers must not say (RFC 9110 section 6.5.1): whoever merges them into the head would read the
/// message anew, and HTTP/2 refuses the fields of a connection.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    for name in FORBIDDEN_TRAILERS {
        trailers.remove(name);
    }
}

const FORBIDDEN_TRAILERS: [&str; 12] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Longest path and query in bytes; half of what a head may have.
const MAX_TARGET: usize = 32 * 1024;
const HTTP_PORT: u16 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: &str, target: &str, hosts: &[&str], version: Version) -> Result<(), Refusal> {
        let mut builder = Request::builder().method(method).uri(target).version(version);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        check(&builder.body(()).unwrap())
    }

    #[test]
    fn the_target_and_host_say_one_thing() {
        for (target, hosts) in [
            ("/", &["a"][..]),
            ("/", &["a:8080"]),
            ("/", &["[::1]:80"]),
            ("/", &["[::1]"]),
            ("/", &[""]),
            ("http://a/", &["a"]),
            ("http://a/", &["A:80"]),
            ("http://a:81/", &["a:81"]),
        ] {
            let judged = judged("GET", target, hosts, Version::HTTP_11);
            assert!(judged.is_ok(), "{target} {hosts:?}: {judged:?}");
        }
        for (target, hosts) in [
            ("/", &[][..]),
            ("/", &["a", "a"]),
            ("/", &["a:b"]),
            ("/", &["a:99999"]),
            ("/", &["a/b"]),
            ("a", &["a"]),
            ("a:80", &["a:80"]),
            ("*", &["a"]),
            ("http://a/", &["b"]),
            ("http://a/", &["a:81"]),
            ("http://a/", &[]),
        ] {
            let judged = judged("GET", target, hosts, Version::HTTP_11);
            assert!(
                matches!(judged, Err(Refusal::Malformed)),
                "{target} {hosts:?}: {judged:?}"
            );
        }
    }

    #[test]
    fn options_may_ask_the_server_itself() {
        assert!(judged("OPTIONS", "*", &["a"], Version::HTTP_11).is_ok());
    }

    #[test]
    fn http_2_and_http_1_0_need_no_host_and_http_2_may_not_contradict_its_authority() {
        assert!(judged("GET", "http://a/", &[], Version::HTTP_2).is_ok());
        assert!(judged("GET", "/", &[], Version::HTTP_10).is_ok());
        assert!(judged("GET", "http://a/", &["b"], Version::HTTP_2).is_err());
    }

    #[test]
    fn a_target_has_a_bearable_length() {
        let long = format!("/{}", "a".repeat(MAX_TARGET));
        let refused = judged("GET", &long, &["a"], Version::HTTP_11);
        assert!(matches!(refused, Err(Refusal::TargetTooLong)));
        assert!(judged("GET", &long[..MAX_TARGET], &["a"], Version::HTTP_11).is_ok());
    }

    #[test]
    fn trailers_lose_what_frames_a_message_and_keep_the_rest() {
        let mut trailers = HeaderMap::new();
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "grpc-status",
            "x-checksum",
        ] {
            trailers.insert(name, "1".parse().unwrap());
        }
        clean_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-checksum"]);
    }
}
