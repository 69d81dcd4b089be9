//! `sessionPersistence` of rules: what is read, and what leaves the route out.

use std::time::Duration;

use super::routes::TO_WEB;
use super::{named, read};
use crate::mesh::route::{HttpRoute, SessionCarrier, SessionPersistence};

/// The route of a kind whose rule says this of sessions, and the fields that are reported.
fn route(kind: &str, session: &str) -> (Option<HttpRoute>, Vec<String>) {
    let mut reading = read(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: r, namespace: shop}}, spec: \
         {{{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], sessionPersistence: {session}}}]}}}}"
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    (reading.facts.http_routes.pop(), fields)
}

fn cookie(name: Option<&str>, is_permanent: bool, seconds: Option<u64>) -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Cookie {
            name: name.map(Into::into),
            is_permanent,
        },
        lifetime: seconds.map(Duration::from_secs),
    }
}

fn header(name: &'static str) -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Header(http::HeaderName::from_static(name)),
        lifetime: None,
    }
}

#[test]
fn sessions_are_read_with_the_defaults_of_the_api() {
    for (written, expected) in [
        ("{}", cookie(None, false, None)),
        (
            "{sessionName: JSESSIONID}",
            cookie(Some("JSESSIONID"), false, None),
        ),
        (
            "{type: Cookie, absoluteTimeout: 1h}",
            cookie(None, false, Some(3600)),
        ),
        (
            "{absoluteTimeout: 10s, cookieConfig: {lifetimeType: Permanent}}",
            cookie(None, true, Some(10)),
        ),
        (
            "{cookieConfig: {lifetimeType: Session}}",
            cookie(None, false, None),
        ),
        ("{type: Header}", header("mesh-session")),
        ("{type: Header, sessionName: X-Session}", header("x-session")),
    ] {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let (route, fields) = route(kind, written);
            assert_eq!(fields, Vec::<String>::new(), "{kind} {written}");
            let session = route.unwrap().rules.remove(0).session;
            assert_eq!(session, Some(expected.clone()), "{kind} {written}");
        }
    }
    assert_eq!(route("HTTPRoute", "null").0.unwrap().rules[0].session, None);
}

#[test]
fn a_session_that_cannot_be_leaves_the_route_out() {
    let long = format!("{{sessionName: {}}}", "s".repeat(129));
    for (written, field) in [
        ("{cookieConfig: {lifetimeType: Permanent}}", "absoluteTimeout"),
        ("{absoluteTimeout: 0s}", "absoluteTimeout"),
        ("{absoluteTimeout: soon}", "absoluteTimeout"),
        ("{sessionName: 'a;b'}", "sessionName"),
        ("{sessionName: 'a=b'}", "sessionName"),
        ("{sessionName: ''}", "sessionName"),
        (long.as_str(), "sessionName"),
        ("{type: Header, sessionName: Cookie}", "sessionName"),
        ("{type: Header, sessionName: set-cookie}", "sessionName"),
        ("{type: Header, sessionName: host}", "sessionName"),
        ("{type: Header, sessionName: 'a b'}", "sessionName"),
        ("{type: Header, sessionName: Transfer-Encoding}", "sessionName"),
    ] {
        let (route, fields) = route("HTTPRoute", written);
        assert_eq!(route, None, "{written}");
        assert_eq!(
            fields,
            [format!("spec.rules[0].sessionPersistence.{field}")],
            "{written}"
        );
    }
    for written in ["{type: Url}", "{cookieConfig: {lifetimeType: Forever}}", "[]"] {
        let (route, fields) = route("HTTPRoute", written);
        assert_eq!((route, fields.len()), (None, 1), "{written}");
    }
}
