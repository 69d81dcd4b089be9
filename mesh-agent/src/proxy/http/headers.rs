//! What a request and a response must look like on the next connection (RFC 9110 section 7.6, RFC 9113 section 8.2).

use std::borrow::Cow;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::mesh::mesh_config::PathForm;
use crate::proxy::http::path;
use crate::proxy::refusal::Refusal;
use crate::transport::pool::Wire;

/// Tells the other agent which major version the application is to be spoken to in, where it is not the one between
/// the agents. Never accepted from, nor shown to, an application.
pub(super) const ORIGINAL_VERSION: HeaderName = HeaderName::from_static("x-mesh-agent-http-version");

/// Says in a response of the destination's agent how its own attempt ended. Never accepted from, nor shown to, an
/// application.
pub(super) const UNSERVED: HeaderName = HeaderName::from_static("x-mesh-agent-unserved");

/// The authority that the client named: the request target's, else `Host`.
///
/// Errors: several `Host` lines, none where HTTP/1.1 demands one (RFC 9112 section 3.2), or user information, which
/// serves to mislead only (RFC 9110 section 4.2.4).
pub(super) fn authority(request: &Request<impl Sized>) -> Result<Option<Authority>, Refusal> {
    match named_authority(request)? {
        Some(authority) if authority.as_str().contains('@') => Err(Refusal::Malformed),
        named => Ok(named),
    }
}

fn named_authority(request: &Request<impl Sized>) -> Result<Option<Authority>, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Malformed);
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.clone()));
    }
    match host {
        Some(host) if host.is_empty() => Ok(None),
        Some(host) => Authority::try_from(host.as_bytes())
            .map(Some)
            .map_err(|_invalid| Refusal::Malformed),
        None if request.version() == Version::HTTP_11 => Err(Refusal::Malformed),
        None => Ok(None),
    }
}

/// Brings the path into the form in which it is routed, judged and sent on.
pub(super) fn normalise_path(request: &mut Request<impl Sized>, form: PathForm) -> Result<(), Refusal> {
    let normal = match path::normal(request.uri().path(), form) {
        Some(Cow::Borrowed(_)) => return Ok(()),
        Some(Cow::Owned(normal)) => normal,
        None => return Err(Refusal::Malformed),
    };
    let target = match request.uri().query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal,
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_invalid| Refusal::Malformed)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_invalid| Refusal::Malformed)?;
    Ok(())
}

/// Makes `request` ready for a connection that speaks `wire`.
pub(super) fn prepare(
    request: &mut Request<impl Sized>,
    wire: Wire,
    authority: &Authority,
) -> Result<(), Refusal> {
    remove_hop_by_hop(request.headers_mut());
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    match wire {
        Wire::H1 => {
            join_cookies(request.headers_mut());
            name_host(request.headers_mut(), authority)?;
            request.headers_mut().remove(TE);
            *request.uri_mut() = Uri::from(path);
            *request.version_mut() = Version::HTTP_11;
        }
        Wire::H2 => {
            request.headers_mut().remove(HOST);
            *request.uri_mut() = Uri::builder()
                .scheme(Scheme::HTTP)
                .authority(authority.clone())
                .path_and_query(path)
                .build()
                .map_err(|_invalid| Refusal::Malformed)?;
            *request.version_mut() = Version::HTTP_2;
        }
    }
    Ok(())
}

/// Makes `Host` name `authority`, as it mostly does already.
fn name_host(headers: &mut HeaderMap, authority: &Authority) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let is_named = hosts.next().is_some_and(|host| host == authority.as_str()) && hosts.next().is_none();
    if !is_named {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_invalid| Refusal::Malformed)?;
        headers.insert(HOST, host);
    }
    Ok(())
}

/// Takes away the fields that `Connection` names, but for those that frame the message and name its target.
pub(super) fn remove_named_by_connection(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TE, UPGRADE].contains(&name) {
            headers.remove(name);
        }
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// Takes away what belongs to one connection only: what `Connection` names, and the fields known to.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // What overrides the length (RFC 9112 section 6.3) goes, so the length must not stay to be believed.
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    headers.remove(UPGRADE);
    for name in [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    // `trailers` is the only value that may go on, and only over HTTP/2 (RFC 9113 section 8.2.2).
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    headers.remove(TE);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// As [`remove_hop_by_hop`], for a response; `Trailer` announces fields that go on.
pub(super) fn prepare_response(headers: &mut HeaderMap) {
    headers.remove(UNSERVED);
    let trailer = headers.remove(TRAILER);
    remove_hop_by_hop(headers);
    if let Some(trailer) = trailer {
        headers.insert(TRAILER, trailer);
    }
}

/// A method as the access log shows it: one longer than any that is registered says nothing.
pub(super) fn short(method: &Method) -> Method {
    if method.as_str().len() <= MAX_METHOD {
        return method.clone();
    }
    Method::from_bytes(b"OVERLONG").unwrap_or_default()
}

/// Longer than `UPDATEREDIRECTREF`, the longest of RFC 9110's registry.
const MAX_METHOD: usize = 32;

/// The protocol that an HTTP/1.1 request asks to change to (RFC 9110 section 7.8). `h2c` is never passed on.
pub(super) fn upgrade_of(request: &Request<impl Sized>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let asks = request
        .headers()
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = request.headers().get(UPGRADE)?;
    let is_h2c = protocol
        .to_str()
        .is_ok_and(|text| text.split(',').any(|one| one.trim().eq_ignore_ascii_case("h2c")));
    (asks && !is_h2c).then(|| protocol.clone())
}

/// Whether the content type is gRPC's.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-web")
    })
}

/// HTTP/2 may split cookies over lines; HTTP/1.1 may not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)], version: Version) -> Request<()> {
        let mut builder = Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn what_connection_names_does_not_travel() {
        let mut request = request(
            "/",
            &[
                ("host", "a"),
                ("connection", "close, X-Hop"),
                ("x-hop", "1"),
                ("keep-alive", "5"),
                ("transfer-encoding", "chunked"),
                ("te", "trailers"),
                ("x-end", "2"),
            ],
            Version::HTTP_11,
        );
        prepare(&mut request, Wire::H2, &"a".parse().unwrap()).unwrap();
        let left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["te", "x-end"]);
        assert_eq!(request.uri(), "http://a/");
    }

    #[test]
    fn an_authority_becomes_a_host_line_again() {
        let mut request = request(
            "http://shop:8080/a?b=c",
            &[("cookie", "a=1"), ("cookie", "b=2")],
            Version::HTTP_2,
        );
        prepare(&mut request, Wire::H1, &"shop:8080".parse().unwrap()).unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()[HOST], "shop:8080");
        assert_eq!(request.headers()[COOKIE], "a=1; b=2");
    }

    #[test]
    fn contradictory_hosts_are_refused() {
        let two = request("/", &[("host", "a"), ("host", "b")], Version::HTTP_11);
        assert!(matches!(authority(&two), Err(Refusal::Malformed)));
        let none = request("/", &[], Version::HTTP_11);
        assert!(matches!(authority(&none), Err(Refusal::Malformed)));
        let old = request("/", &[], Version::HTTP_10);
        assert!(matches!(authority(&old), Ok(None)));
    }

    #[test]
    fn the_request_target_wins_over_host() {
        let both = request("http://target/", &[("host", "other")], Version::HTTP_11);
        assert_eq!(authority(&both).unwrap().unwrap(), "target");
    }

    #[test]
    fn only_a_real_upgrade_is_one() {
        let cases = [
            (
                &[("connection", "Upgrade"), ("upgrade", "websocket")][..],
                Version::HTTP_11,
                true,
            ),
            (
                &[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")][..],
                Version::HTTP_11,
                true,
            ),
            (&[("upgrade", "websocket")][..], Version::HTTP_11, false),
            (
                &[("connection", "upgrade"), ("upgrade", "h2c")][..],
                Version::HTTP_11,
                false,
            ),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket")][..],
                Version::HTTP_10,
                false,
            ),
        ];
        for (headers, version, expected) in cases {
            assert_eq!(
                upgrade_of(&request("/", headers, version)).is_some(),
                expected,
                "{headers:?} {version:?}"
            );
        }
    }
}
