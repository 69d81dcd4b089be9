//! Looks at the tokens of a request that reaches a pod of this node, and makes the request what its application may see.
//!
//! Place in the walk: before the pod's policies ask for claims and headers. Must not know: how a token is verified.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Uri};

use crate::mesh::policy::request_authentication::TokenLocation;
use crate::policy::authentication::location::{cookie_name, parameters};
use crate::policy::authentication::{Admitted, Claims, Failure};
use crate::proxy::Mesh;
use crate::proxy::arrival::Arrival;
use crate::proxy::refusal::{Refusal, Unauthenticated};
use crate::snapshot::Snapshot;

/// Verifies the tokens of `request`, and returns what they claim; `None` where none came or nobody asks for one.
///
/// Tokens that are not to be forwarded are gone afterwards, and headers that carry claims hold what the agent put
/// there, or nothing.
pub(in crate::proxy::http) fn authenticate(
    mesh: &Mesh,
    snapshot: &Snapshot,
    arrival: &Arrival<'_>,
    request: &mut Request<impl Sized>,
    authority: &Authority,
) -> Result<Option<Claims>, Refusal> {
    let Some(guard) = arrival.guard(snapshot) else {
        return Ok(None);
    };
    let port = arrival.addr.port();
    let admitted = guard
        .admit(port, request.uri(), request.headers(), SystemTime::now())
        .map_err(|failure| {
            if failure.may_be_old_keys() {
                mesh.snapshots.keys_missed();
            }
            let refusal = refusal(failure, authority, request);
            arrival.refused(mesh, &refusal);
            refusal
        })?;
    apply(admitted, request)
}

/// What [`authenticate`] would do; nobody is told, and no key is asked for.
pub(in crate::proxy::http) fn foresee(
    snapshot: &Snapshot,
    arrival: &Arrival<'_>,
    request: &mut Request<impl Sized>,
    authority: &Authority,
) -> Result<Option<Claims>, Refusal> {
    let Some(guard) = arrival.guard(snapshot) else {
        return Ok(None);
    };
    let port = arrival.addr.port();
    let admitted = guard
        .foresee(port, request.uri(), request.headers(), SystemTime::now())
        .map_err(|failure| refusal(failure, authority, request))?;
    apply(admitted, request)
}

fn refusal(failure: Failure, authority: &Authority, request: &Request<impl Sized>) -> Refusal {
    Refusal::Unauthenticated(Unauthenticated {
        failure,
        challenge: challenge(authority, request.uri().path()),
    })
}

/// What the client is asked for (RFC 6750 section 3), with `http://HOST/PATH` as Envoy writes it, without what could end the quoted text that it stands in.
fn challenge(authority: &Authority, path: &str) -> HeaderValue {
    let url = format!("http://{authority}{path}");
    let safe: String = url
        .chars()
        .filter(|c| c.is_ascii_graphic() && !"\"\\".contains(*c))
        .collect();
    let challenge = format!("Bearer realm=\"{safe}\", error=\"invalid_token\"");
    HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\""))
}

fn apply(admitted: Admitted, request: &mut Request<impl Sized>) -> Result<Option<Claims>, Refusal> {
    for location in &admitted.stripped {
        strip(location, request)?;
    }
    for name in &admitted.cleared {
        request.headers_mut().remove(name);
    }
    for (name, value) in admitted.set {
        hold(request.headers_mut(), &name);
        request.headers_mut().insert(name, value);
    }
    Ok(admitted.claims)
}

/// Takes a field out of `Connection`, by which a client would have it removed on the way to the application.
fn hold(headers: &mut HeaderMap, name: &HeaderName) {
    let lines = headers.get_all(CONNECTION).iter();
    let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let names = lines.iter().flat_map(|line| line.split(',')).map(str::trim);
    let kept: Vec<&str> = names
        .filter(|one| !one.eq_ignore_ascii_case(name.as_str()))
        .collect();
    let kept = HeaderValue::try_from(kept.join(", "));
    if let (false, Ok(kept)) = (lines.is_empty(), kept) {
        headers.insert(CONNECTION, kept);
    }
}

fn strip(location: &TokenLocation, request: &mut Request<impl Sized>) -> Result<(), Refusal> {
    match location {
        TokenLocation::Bearer => drop(request.headers_mut().remove(AUTHORIZATION)),
        TokenLocation::Header { name, .. } => drop(request.headers_mut().remove(name)),
        TokenLocation::Cookie(name) => without_cookie(request.headers_mut(), name),
        TokenLocation::Parameter(name) => {
            *request.uri_mut() = without_parameter(request.uri(), name).ok_or(Refusal::Malformed)?;
        }
    }
    Ok(())
}

fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query().unwrap_or_default();
    let kept = parameters(query).filter(|parameter| parameter.name != name);
    let kept: Vec<&str> = kept.map(|parameter| parameter.raw).collect();
    let target = if kept.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), kept.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

fn without_cookie(headers: &mut HeaderMap, name: &str) {
    let lines: Vec<Vec<u8>> = headers
        .get_all(COOKIE)
        .iter()
        .map(|line| {
            let pairs = line.as_bytes().split(|byte| *byte == b';');
            let kept = pairs.filter(|pair| cookie_name(&String::from_utf8_lossy(pair)) != name);
            kept.map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b"; "[..])
        })
        .collect();
    headers.remove(COOKIE);
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        if let Ok(line) = HeaderValue::try_from(line) {
            headers.append(COOKIE, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_token_is_taken_out_of_where_it_stood_and_nothing_else_is() {
        let mut asked = request(
            "http://h/p?a=1&access%5Ftoken=t&b=2&access_token=u",
            &[
                ("cookie", "a=1; id=t; b=2"),
                ("cookie", "id=u"),
                ("authorization", "Bearer t"),
                ("x-token", "t"),
                ("x-other", "o"),
            ],
        );
        for location in [
            TokenLocation::Bearer,
            TokenLocation::Header {
                name: HeaderName::from_static("x-token"),
                prefix: "".into(),
            },
            TokenLocation::Parameter("access_token".into()),
            TokenLocation::Cookie("id".into()),
        ] {
            strip(&location, &mut asked).unwrap();
        }
        assert_eq!(asked.uri(), "http://h/p?a=1&b=2");
        let cookies: Vec<_> = asked.headers().get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        let mut names: Vec<_> = asked.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "x-other"]);
        strip(&TokenLocation::Parameter("a".into()), &mut asked).unwrap();
        strip(&TokenLocation::Parameter("b".into()), &mut asked).unwrap();
        assert_eq!(asked.uri(), "http://h/p");
    }

    #[test]
    fn what_only_the_agent_may_say_is_never_what_the_client_said() {
        let name = HeaderName::from_static("x-user");
        let lied = [("x-user", "root"), ("x-user", "admin")];
        let mut asked = request("/", &lied);
        let none = Admitted {
            cleared: vec![name.clone()],
            ..Admitted::default()
        };
        apply(none, &mut asked).unwrap();
        assert_eq!(asked.headers().get(&name), None);
        let mut asked = request("/", &lied);
        let some = Admitted {
            cleared: vec![name.clone()],
            set: vec![(name.clone(), HeaderValue::from_static("alice"))],
            ..Admitted::default()
        };
        apply(some, &mut asked).unwrap();
        let said: Vec<_> = asked.headers().get_all(&name).iter().collect();
        assert_eq!(said, ["alice"]);
    }

    #[test]
    fn nothing_of_the_request_ends_the_quotes_of_the_challenge() {
        let authority = Authority::from_static("shop:80");
        assert_eq!(
            challenge(&authority, "/a\"b\\c"),
            "Bearer realm=\"http://shop:80/abc\", error=\"invalid_token\""
        );
    }
}
