//! What is asked and what answers mean, tried without a network. That names and tags are Envoy's is a claim of the lab.

mod checks;
mod over_http;

use std::time::Duration;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use proptest::prelude::*;

use super::proto::{
    BoolValue, CheckResponse, DeniedResponse, HeaderValueOption, HttpResponse, HttpStatus, OkResponse,
    QueryParameter, Status,
};
use super::*;
use crate::mesh::policy::external::{
    AuthorizerTarget, CheckedBody, GrpcCheck, HttpCheck, NameMatch, OnError,
};
use crate::mesh::service::ServiceName;

fn authorizer(protocol: CheckProtocol) -> Authorizer {
    Authorizer {
        target: AuthorizerTarget::Service(ServiceName::new("tools", "opa")),
        port: 9000,
        timeout: Duration::from_millis(1500),
        on_error: OnError::Refuse(StatusCode::FORBIDDEN),
        body: None,
        protocol,
    }
}

fn over_http(how: HttpCheck) -> Authorizer {
    authorizer(CheckProtocol::Http(Box::new(how)))
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().map(line) {
        headers.append(name, value);
    }
    headers
}

fn option(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(proto::HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..proto::HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

fn appended(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        append: Some(BoolValue { value: true }),
        ..option(name, value)
    }
}

fn acting(action: i32, name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        append_action: action,
        ..option(name, value)
    }
}

/// What a gRPC authorizer's answer means.
fn decided(code: i32, response: Option<HttpResponse>) -> Result<Decision, CheckError> {
    let message = CheckResponse {
        status: Some(Status { code }),
        http_response: response,
    };
    let answer = Response::new(crate::grpc::frame(&message));
    let trailers = headers(&[("grpc-status", "0")]);
    decide(
        &authorizer(CheckProtocol::Grpc(GrpcCheck::default())),
        answer,
        Some(&trailers),
    )
}

fn allowed(decision: Result<Decision, CheckError>) -> Changes {
    match decision.unwrap() {
        Decision::Allowed(changes) => changes,
        Decision::Denied(reply) => panic!("{reply:?}"),
    }
}

fn denied(decision: Result<Decision, CheckError>) -> Reply {
    match decision.unwrap() {
        Decision::Denied(reply) => *reply,
        Decision::Allowed(changes) => panic!("{changes:?}"),
    }
}

#[test]
fn headers_of_the_authorizer_replace_the_clients_and_none_of_the_meshs() {
    let ok = OkResponse {
        headers: vec![
            option("X-User", "alice"),
            appended("x-many", "c"),
            acting(1, "x-present", "new"),
            acting(1, "x-absent", "new"),
            acting(3, "x-gone", "new"),
            option(":path", "/admin"),
            option("host", "elsewhere"),
            option("connection", "x-user"),
            option("content-length", "0"),
            option("transfer-encoding", "chunked"),
            option("x-mesh-agent-http-version", "2"),
        ],
        headers_to_remove: vec!["x-secret".to_owned(), "host".to_owned(), ":method".to_owned()],
        response_headers_to_add: vec![option("x-told", "1")],
        ..OkResponse::default()
    };
    let changes = allowed(decided(0, Some(HttpResponse::Ok(ok))));
    let mut request = headers(&[
        ("host", "shop"),
        ("x-user", "mallory"),
        ("x-user", "eve"),
        ("x-many", "a"),
        ("x-present", "old"),
        ("x-secret", "s"),
    ]);
    changes.request.apply(&mut request);
    assert_eq!(
        request,
        headers(&[
            ("host", "shop"),
            ("x-user", "alice"),
            ("x-many", "a"),
            ("x-many", "c"),
            ("x-present", "old"),
            ("x-absent", "new"),
        ])
    );
    let mut response = HeaderMap::new();
    changes
        .response
        .iter()
        .for_each(|change| change.apply(&mut response));
    assert_eq!(response, headers(&[("x-told", "1")]));
}

#[test]
fn the_query_is_changed_and_nothing_is_smuggled_in_by_it() {
    let target = |set: &[(&str, &str)], remove: &[&str]| {
        let ok = OkResponse {
            query_parameters_to_set: set
                .iter()
                .map(|(key, value)| QueryParameter {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
            query_parameters_to_remove: remove.iter().map(|name| (*name).to_owned()).collect(),
            ..OkResponse::default()
        };
        let changes = allowed(decided(0, Some(HttpResponse::Ok(ok))));
        let target = changes.request.target(&"/a?b=1&c=2&b=3".parse().unwrap());
        target.map(|target| target.map(|target| target.to_string()))
    };
    assert_eq!(target(&[], &[]).unwrap(), None);
    assert_eq!(target(&[("b", "4")], &[]).unwrap().unwrap(), "/a?c=2&b=4");
    assert_eq!(target(&[], &["b"]).unwrap().unwrap(), "/a?c=2");
    assert_eq!(target(&[], &["b", "c"]).unwrap().unwrap(), "/a");
    for value in ["x#y", "x y", "x\r\ny"] {
        assert!(target(&[("d", value)], &[]).is_err(), "{value:?}");
    }
}

#[test]
fn a_denial_is_told_with_status_headers_and_body() {
    let response = DeniedResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![
            option("www-authenticate", "Bearer"),
            option("content-length", "9"),
        ],
        body: Bytes::from_static(b"who are you"),
    };
    let reply = denied(decided(16, Some(HttpResponse::Denied(response))));
    assert_eq!(
        (reply.status, reply.body.as_ref()),
        (StatusCode::UNAUTHORIZED, &b"who are you"[..])
    );
    let told = headers(&[("www-authenticate", "Bearer"), ("content-type", "text/plain")]);
    assert_eq!(reply.headers, told);
}

#[test]
fn a_denial_without_a_usable_status_is_403() {
    for code in [0, 7, 100, 199, 1000, -1] {
        let response = DeniedResponse {
            status: Some(HttpStatus { code }),
            ..DeniedResponse::default()
        };
        let reply = denied(decided(7, Some(HttpResponse::Denied(response))));
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{code}");
    }
    assert_eq!(denied(decided(7, None)).status, StatusCode::FORBIDDEN);
    let contradiction = Some(HttpResponse::Ok(OkResponse::default()));
    assert_eq!(denied(decided(7, contradiction)).status, StatusCode::FORBIDDEN);
}

#[test]
fn what_is_no_answer_is_no_decision() {
    let grpc = authorizer(CheckProtocol::Grpc(GrpcCheck::default()));
    let (ok, refused) = (
        headers(&[("grpc-status", "0")]),
        headers(&[("grpc-status", "14")]),
    );
    let whole = crate::grpc::frame(&CheckResponse::default());
    let mut page = Response::new(Bytes::from_static(b"<html>"));
    *page.status_mut() = StatusCode::BAD_GATEWAY;
    let bad_header = CheckResponse {
        status: None,
        http_response: Some(HttpResponse::Ok(OkResponse {
            headers: vec![option("x-a", "b\nc: d")],
            ..OkResponse::default()
        })),
    };
    for (what, answer, trailers) in [
        ("no status", Response::new(whole.clone()), None),
        ("a refused call", Response::new(whole), Some(&refused)),
        (
            "garbage",
            Response::new(Bytes::from_static(b"\0\0\0\0\x02\xff\xff")),
            Some(&ok),
        ),
        ("nothing", Response::new(Bytes::new()), Some(&ok)),
        ("a page", page, None),
        (
            "a header that is none",
            Response::new(crate::grpc::frame(&bad_header)),
            Some(&ok),
        ),
    ] {
        assert!(decide(&grpc, answer, trailers).is_err(), "{what}");
    }
}

#[test]
fn an_empty_grpc_answer_lets_in_as_in_envoy() {
    let answer = Response::new(crate::grpc::frame(&CheckResponse::default()));
    let trailers = headers(&[("grpc-status", "0")]);
    allowed(decide(
        &authorizer(CheckProtocol::Grpc(GrpcCheck::default())),
        answer,
        Some(&trailers),
    ));
}

proptest! {
    #[test]
    fn any_answer_is_a_decision_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), is_framed: bool) {
        let body = if is_framed {
            let length = u32::try_from(bytes.len()).unwrap();
            [&[0], &length.to_be_bytes()[..], &bytes].concat()
        } else {
            bytes
        };
        let trailers = headers(&[("grpc-status", "0")]);
        drop(decide(&authorizer(CheckProtocol::Grpc(GrpcCheck::default())), Response::new(body.into()), Some(&trailers)));
    }
}

#[test]
fn a_reply_is_not_shown_in_logs() {
    let reply = Reply {
        status: StatusCode::FORBIDDEN,
        headers: headers(&[(CONTENT_TYPE.as_str(), "secret")]),
        body: Bytes::from_static(b"secret"),
    };
    assert!(!format!("{reply:?}").contains("secret"));
}
