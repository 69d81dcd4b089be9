//! What is asked.

use super::*;
use crate::external::proto::CheckRequest;

fn sent() -> HeaderMap {
    headers(&[
        ("host", "shop"),
        ("authorization", "Bearer x"),
        ("x-many", "a"),
        ("x-many", "b"),
        ("cookie", "c=1"),
        ("cookie", "d=2"),
        ("content-length", "7"),
        ("x-mesh-agent-http-version", "1"),
        ("x-request-id", "r-1"),
    ])
}

fn asked(authorizer: &Authorizer, body: Option<Shown>) -> Request<Bytes> {
    let sent = sent();
    let question = Question {
        method: &Method::POST,
        path: "/a?b=c",
        authority: &"shop.example:8080".parse().unwrap(),
        version: Version::HTTP_11,
        headers: &sent,
        source: End {
            addr: "10.0.0.1:1234".parse().unwrap(),
            principal: Some("spiffe://cluster.local/ns/shop/sa/web".into()),
            service: None,
        },
        destination: End {
            addr: "10.0.0.2:8080".parse().unwrap(),
            principal: Some("spiffe://cluster.local/ns/shop/sa/pay".into()),
            service: Some("pay.shop.svc.cluster.local".to_owned()),
        },
        body,
        now: SystemTime::UNIX_EPOCH + Duration::from_millis(2500),
    };
    check(authorizer, &question).unwrap()
}

fn partial(bytes: &'static [u8]) -> Shown {
    Shown {
        bytes: Bytes::from_static(bytes),
        is_partial: true,
    }
}

#[test]
fn a_check_of_a_connection_says_who_dials_whom_and_nothing_of_a_request() {
    let contact = Contact {
        source: End {
            addr: "[::ffff:10.0.0.1]:1234".parse().unwrap(),
            principal: None,
            service: None,
        },
        destination: End {
            addr: "10.0.0.2:6379".parse().unwrap(),
            principal: Some("spiffe://cluster.local/ns/shop/sa/redis".into()),
            service: Some("redis.shop.svc.cluster.local".to_owned()),
        },
    };
    let check = check_connection(&authorizer(CheckProtocol::Grpc(GrpcCheck::default())), &contact).unwrap();
    assert_eq!(check.headers()["grpc-timeout"], "1500m");
    let message: CheckRequest = crate::grpc::unframe(check.body()).unwrap();
    let attributes = message.attributes.unwrap();
    let (source, destination) = (attributes.source.unwrap(), attributes.destination.unwrap());
    let of = |peer: &proto::Peer| {
        let addr = peer.address.clone().unwrap().socket_address.unwrap();
        (addr.address, addr.port_value.unwrap())
    };
    assert_eq!(of(&source), ("10.0.0.1".to_owned(), 1234));
    assert_eq!(of(&destination), ("10.0.0.2".to_owned(), 6379));
    assert_eq!(source.principal, "");
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/shop/sa/redis");
    assert_eq!(destination.service, "redis.shop.svc.cluster.local");
    assert!(attributes.request.is_none());
}

#[test]
fn only_the_status_of_an_answer_about_a_connection_counts() {
    let trailers = headers(&[("grpc-status", "0")]);
    let unsendable = OkResponse {
        headers: vec![option("x-user", "a\nb")],
        ..OkResponse::default()
    };
    for (code, response, is_in) in [
        (0, None, true),
        (0, Some(HttpResponse::Ok(unsendable)), true),
        (0, Some(HttpResponse::Denied(DeniedResponse::default())), true),
        (7, None, false),
        (16, Some(HttpResponse::Ok(OkResponse::default())), false),
    ] {
        let message = CheckResponse {
            status: Some(Status { code }),
            http_response: response,
        };
        let answer = Response::new(crate::grpc::frame(&message));
        assert_eq!(lets_in(&answer, Some(&trailers)).unwrap(), is_in, "{message:?}");
        assert!(lets_in(&answer, None).is_err(), "no status is no decision");
    }
    let refused = headers(&[("grpc-status", "14")]);
    let answer = Response::new(crate::grpc::frame(&CheckResponse::default()));
    assert!(lets_in(&answer, Some(&refused)).is_err());
}

#[test]
fn a_grpc_check_says_who_asks_whom_for_what() {
    let check = asked(
        &authorizer(CheckProtocol::Grpc(GrpcCheck::default())),
        Some(partial(b"\xffbody")),
    );
    assert_eq!(
        check.uri(),
        "http://opa.tools.svc.cluster.local:9000/envoy.service.auth.v3.Authorization/Check"
    );
    assert_eq!(check.headers()["grpc-timeout"], "1500m");
    let message: CheckRequest = crate::grpc::unframe(check.body()).unwrap();
    let attributes = message.attributes.unwrap();
    let (source, destination) = (attributes.source.unwrap(), attributes.destination.unwrap());
    let address = source.address.unwrap().socket_address.unwrap();
    assert_eq!(
        (address.address.as_str(), address.port_value),
        ("10.0.0.1", Some(1234))
    );
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/shop/sa/pay");
    assert_eq!(destination.service, "pay.shop.svc.cluster.local");
    let asked = attributes.request.unwrap();
    let time = asked.time.unwrap();
    assert_eq!((time.seconds, time.nanos), (2, 500_000_000));
    let http = asked.http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str()), ("POST", "/a?b=c"));
    assert_eq!(
        (http.host.as_str(), http.scheme.as_str()),
        ("shop.example:8080", "http")
    );
    assert_eq!(
        (http.protocol.as_str(), http.size, http.id.as_str()),
        ("HTTP/1.1", 7, "r-1")
    );
    assert_eq!(http.body, "\u{fffd}body");
    let header = |name: &str| http.headers.get(name).map(String::as_str);
    assert_eq!(header(":path"), Some("/a?b=c"));
    assert_eq!(header("x-many"), Some("a,b"));
    assert_eq!(header("cookie"), Some("c=1; d=2"));
    assert_eq!(header("x-envoy-auth-partial-body"), Some("true"));
    assert_eq!(
        (header("x-mesh-agent-http-version"), header("host")),
        (None, None)
    );
}

#[test]
fn a_body_is_shown_as_bytes_where_that_is_asked_for() {
    let authorizer = Authorizer {
        body: Some(CheckedBody {
            max_bytes: 10,
            allow_partial: true,
            as_bytes: true,
        }),
        ..authorizer(CheckProtocol::Grpc(GrpcCheck::default()))
    };
    let check = asked(&authorizer, Some(partial(b"\xff")));
    let message: CheckRequest = crate::grpc::unframe(check.body()).unwrap();
    let http = message.attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((http.body.as_str(), http.raw_body.as_ref()), ("", &b"\xff"[..]));
}

#[test]
fn an_http_check_is_much_like_the_request() {
    let how = HttpCheck {
        path_prefix: "/check".into(),
        request_headers: vec![NameMatch::Prefix("x-m".into())],
        additional_headers: vec![(HeaderName::from_static("x-many"), HeaderValue::from_static("own"))],
        ..HttpCheck::default()
    };
    let check = asked(&over_http(how), Some(partial(b"body")));
    assert_eq!(
        (check.method(), check.uri().to_string()),
        (&Method::POST, "http://shop.example:8080/check/a?b=c".to_owned())
    );
    let mut names: Vec<_> = check.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "content-length",
            "x-envoy-auth-partial-body",
            "x-many"
        ]
    );
    assert_eq!(
        (&check.headers()["x-many"], &check.headers()["content-length"]),
        (&HeaderValue::from_static("own"), &HeaderValue::from_static("4"))
    );
    assert_eq!(check.body().as_ref(), b"body");
}
