//! Routes with `ExternalAuth`: the client's agent asks, and what is not let in leaves the node for nobody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;

use super::app::{App, full};
use super::client::{H1, H2, call, get, post};
use super::explain::Shop;
use super::facts::{BANK, CART, LEGACY, LabPod, PAY, PORT, WEB, name, route, rule};
use super::lab::{Lab, eventually};
use crate::lifecycle::PATIENCE;
use crate::mesh::policy::external::{
    Authorizer, AuthorizerTarget, CheckProtocol, CheckedBody, GrpcCheck, HttpCheck, NameMatch, OnError,
};
use crate::mesh::route::{
    BackendTarget, Cors, Gate, HttpRule, Mirror, OriginMatch, PathRewrite, Redirect, RetryOn, RetryPolicy,
    RuleAction, Share,
};
use crate::mesh::service::AppProtocol;
use crate::proxy::explain::report::Outcome;

fn gate(authorizer: Authorizer) -> Gate {
    Gate {
        field: "spec.rules[0].filters[0].externalAuth.backendRef".into(),
        authorizer: Arc::new(authorizer),
    }
}

fn http() -> Authorizer {
    Authorizer {
        target: AuthorizerTarget::Service(name("opa")),
        port: PORT,
        timeout: PATIENCE,
        on_error: OnError::Refuse(StatusCode::SERVICE_UNAVAILABLE),
        body: None,
        protocol: CheckProtocol::Http(Box::new(HttpCheck {
            path_prefix: "/check".into(),
            upstream_on_allow: vec![NameMatch::NotOfContent],
            ..HttpCheck::default()
        })),
    }
}

fn routed(lab: &Lab, rule: &HttpRule) {
    lab.change(|facts| facts.http_routes = vec![route("cart", vec![rule.clone()])]);
}

/// Everything to `cart`, which `opa` must let in.
fn guarded(lab: &Lab, authorizer: Authorizer) {
    let mut rule = rule("/", &[("cart", 1)], None);
    rule.filters.gate = Some(gate(authorizer));
    routed(lab, &rule);
}

/// Lets in what asks for a path with `ok`, as an admin; shows who asks and what of the body it was shown.
async fn opa(lab: &Lab, pod: LabPod) -> App {
    let app = App::http(lab, pod, |request| async move {
        let is_ok = request.uri().path().contains("ok");
        let shown = request.into_body().collect().await.unwrap().to_bytes();
        let mut answer = Response::new(full("who are you"));
        let headers = answer.headers_mut();
        headers.insert("x-role", "admin".parse().unwrap());
        headers.insert("content-type", "text/x-verdict".parse().unwrap());
        headers.insert("x-shown", shown.len().into());
        if !is_ok {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
        }
        answer
    })
    .await;
    lab.service("opa", AppProtocol::Http, &[app.addr]).await;
    app
}

#[tokio::test]
async fn what_is_not_let_in_reaches_no_application_on_either_node() {
    for (server, judge) in [(CART, BANK), (PAY, CART), (PAY, LEGACY), (LEGACY, BANK)] {
        let lab = Lab::start().await;
        let app = App::echo(&lab, server).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        let opa = opa(&lab, judge).await;
        guarded(&lab, http());
        let mut client = H1::dial(&lab, WEB, vip).await;

        let mut request = post("/ok?a=b", "body");
        request.headers_mut().insert("x-role", "forged".parse().unwrap());
        request
            .headers_mut()
            .insert("content-type", "text/plain".parse().unwrap());
        let reply = client.fetch(request).await;
        let place = format!("{} asked by {}", server.name, judge.name);
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "body"), "{place}");
        let seen = app.only_seen();
        assert_eq!(seen.header("x-role"), Some("admin"), "{place}");
        assert_eq!(
            seen.header("content-type"),
            Some("text/plain"),
            "{place}: its own"
        );
        let asked = opa.only_seen().head;
        assert_eq!(asked.uri.path_and_query().unwrap(), "/check/ok?a=b", "{place}");
        assert_eq!(asked.headers["content-length"], "0", "{place}: shown nothing");

        let reply = client.fetch(get("/no")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text()),
            (401, "who are you"),
            "{place}"
        );
        assert_eq!(app.seen().len(), 1, "{place}");
        let lines = lab.a.logged(2).await;
        let line = lines.iter().find(|line| line["path"] == "/no").unwrap();
        assert_eq!(
            (&line["response_flags"], &line["response_code_details"]),
            (&"UAEX".into(), &"ext_authz_denied".into())
        );
        let checks = |result| lab.a.sum("mesh_external_checks_total", &[("result", result)]);
        assert_eq!((checks("allowed"), checks("denied")), (1, 1), "{place}");
    }
}

#[tokio::test]
async fn nobody_who_can_be_asked_is_no_leave() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let broken = App::http(&lab, BANK, |_| async {
        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    })
    .await;
    lab.service("broken", AppProtocol::Http, &[broken.addr]).await;
    lab.service("empty", AppProtocol::Http, &[]).await;
    let silent = App::http(&lab, BANK, |_| std::future::pending()).await;
    lab.service("silent", AppProtocol::Http, &[silent.addr]).await;
    for target in ["unknown", "empty", "broken", "silent"] {
        guarded(
            &lab,
            Authorizer {
                target: AuthorizerTarget::Service(name(target)),
                timeout: if target == "silent" {
                    Duration::from_millis(50)
                } else {
                    PATIENCE
                },
                ..http()
            },
        );
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/ok")).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{target}");
    }
    assert_eq!(app.seen().len(), 0);
    let failed = [("result", "failed_closed")];
    assert_eq!(lab.a.sum("mesh_external_checks_total", &failed), 4);
}

#[tokio::test]
async fn a_backend_may_have_a_gate_of_its_own_behind_that_of_the_rule() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let opa = opa(&lab, BANK).await;
    let mut rule = rule("/", &[("cart", 1)], None);
    rule.filters.gate = Some(gate(http()));
    let RuleAction::Forward(backends) = &mut rule.action else {
        unreachable!()
    };
    let own = CheckProtocol::Http(Box::new(HttpCheck {
        path_prefix: "/backend".into(),
        request_headers: vec![NameMatch::Exact("x-role".into())],
        ..HttpCheck::default()
    }));
    backends[0].filters.gate = Some(gate(Authorizer {
        protocol: own,
        ..http()
    }));
    routed(&lab, &rule);
    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/ok")).await.status, 200);
    let asked = opa.seen();
    let paths: Vec<_> = asked.iter().map(|one| one.head.uri.path()).collect();
    assert_eq!(paths, ["/check/ok", "/backend/ok"]);
    assert_eq!(
        asked[1].header("x-role"),
        Some("admin"),
        "it sees what the first one wrote"
    );
    assert_eq!(client.fetch(get("/no")).await.status, 401);
    assert_eq!(opa.seen().len(), 3, "who was refused once is asked about no more");
}

#[tokio::test]
async fn the_question_is_asked_before_the_route_changes_anything_and_once_for_all_tries() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| async {
        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let opa = opa(&lab, BANK).await;
    let mut rule = rule("/", &[("cart", 1)], None);
    rule.filters.gate = Some(gate(http()));
    rule.filters.rewrite.path = Some(PathRewrite::Full("/new".into()));
    rule.filters.request.set = vec![("x-role".parse().unwrap(), "of the route".parse().unwrap())];
    rule.retry = Some(RetryPolicy {
        attempts: 2,
        on: vec![RetryOn::Status(StatusCode::BAD_GATEWAY)],
        backoff: Duration::from_millis(1),
        least_pause: Duration::ZERO,
        avoids_previous: false,
        leaves_localities: false,
    });
    routed(&lab, &rule);
    H1::dial(&lab, WEB, vip).await.fetch(get("/ok")).await;
    assert_eq!(opa.only_seen().head.uri.path(), "/check/ok");
    let seen = app.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|one| one.head.uri.path() == "/new"));
    assert!(
        seen.iter()
            .all(|one| one.header("x-role") == Some("of the route"))
    );
}

#[tokio::test]
async fn a_body_that_is_shown_goes_on_whole_to_the_application_and_to_mirrors() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let opa = opa(&lab, BANK).await;
    let copies = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let noted = Arc::clone(&copies);
    let copy = App::http(&lab, PAY, move |request| {
        let noted = Arc::clone(&noted);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            noted.lock().push(body);
            Response::new(full(""))
        }
    })
    .await;
    lab.service("copy", AppProtocol::Http, &[copy.addr]).await;
    let mut rule = rule("/", &[("cart", 1)], None);
    rule.filters.gate = Some(gate(Authorizer {
        body: Some(CheckedBody {
            max_bytes: 10,
            allow_partial: false,
            as_bytes: true,
        }),
        ..http()
    }));
    rule.filters.mirrors = vec![Mirror {
        field: "spec.rules[0].filters[1].requestMirror.backendRef".into(),
        target: BackendTarget::Service(name("copy"), PORT),
        share: Share::ALL,
    }];
    routed(&lab, &rule);
    let mut client = H1::dial(&lab, WEB, vip).await;
    let reply = client.fetch(post("/ok", Bytes::from_static(b"0123456789"))).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "0123456789"));
    assert_eq!(app.only_seen().header("x-shown"), Some("10"));
    eventually("copy", || copies.lock().len() == 1).await;
    assert_eq!(copies.lock()[0], "0123456789");
    assert_eq!(opa.seen().len(), 1);

    let reply = client
        .fetch(post("/ok", Bytes::from_static(b"0123456789x")))
        .await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((app.seen().len(), opa.seen().len()), (1, 1), "nobody sees it");
}

#[tokio::test]
async fn a_redirect_waits_for_leave_and_a_preflight_does_not() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let opa = opa(&lab, BANK).await;
    let mut moved = rule("/", &[], None);
    moved.filters.gate = Some(gate(http()));
    moved.cors = Some(Cors {
        origins: vec![OriginMatch::Any],
        ..Cors::default()
    });
    moved.action = RuleAction::Redirect(Redirect {
        scheme: None,
        host: Some("example.org".into()),
        port: None,
        path: None,
        status: StatusCode::FOUND,
    });
    routed(&lab, &moved);
    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/no")).await.status, 401);
    let reply = client.fetch(get("/ok")).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["location"]),
        (302, &"http://example.org/ok".parse().unwrap())
    );
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/no")
        .header("host", "cart.shop:80")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "GET");
    let reply = client.fetch(preflight.body(full("")).unwrap()).await;
    assert_eq!(
        reply.status,
        StatusCode::NO_CONTENT,
        "it carries nothing by which anybody could decide"
    );
    assert_eq!(opa.seen().len(), 2);
}

#[tokio::test]
async fn over_grpc_only_the_named_headers_are_shown_and_the_refusal_is_in_trailers() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, PAY).await;
    let vip = lab.service("cart", AppProtocol::Grpc, &[app.addr]).await;
    let opa = App::http(&lab, BANK, |request| async {
        let check = request.into_body().collect().await.unwrap().to_bytes();
        let holds = |word: &[u8]| check.windows(word.len()).any(|window| window == word);
        // A CheckResponse: empty, or with a status of 7 and a denial with the body "no".
        let message: &[u8] = if holds(b"x-shown") && !holds(b"x-hidden") {
            b""
        } else {
            b"\x0a\x02\x08\x07\x12\x04\x1a\x02no"
        };
        let length = u8::try_from(message.len()).unwrap();
        let mut answer = Response::new(full([&[0, 0, 0, 0, length], message].concat()));
        let headers = answer.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        headers.insert("grpc-status", "0".parse().unwrap());
        answer
    })
    .await;
    lab.service("opa", AppProtocol::Grpc, &[opa.addr]).await;
    for (names, status) in [
        (vec!["x-shown"], None),
        (vec![], Some("7")),
        (vec!["x-hidden"], Some("7")),
    ] {
        let names: Vec<&str> = names;
        let request_headers = names
            .into_iter()
            .map(|one| NameMatch::Exact(one.into()))
            .collect();
        guarded(
            &lab,
            Authorizer {
                protocol: CheckProtocol::Grpc(GrpcCheck { request_headers }),
                ..http()
            },
        );
        let mut request = call(b"\0\0\0\0\x01x");
        for name in ["x-shown", "x-hidden"] {
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        let reply = H2::dial(&lab, WEB, vip).await.fetch(request).await;
        assert_eq!(reply.status, 200);
        let told = reply
            .headers
            .get("grpc-status")
            .map(|told| told.to_str().unwrap());
        assert_eq!(told, status);
    }
}

#[tokio::test]
async fn an_explanation_names_who_decides() {
    let lab = Lab::start().await;
    let shop = Shop::open(&lab, "cart").await;
    guarded(&lab, http());
    let explanation = shop.explained(&lab, "/x");
    assert_eq!(explanation.verdict.outcome, Outcome::Asked);
    let reason = explanation.verdict.reason;
    assert!(
        reason.starts_with("opa.shop.svc.cluster.local:80 decides"),
        "{reason}"
    );
    let changes = explanation.routes.unwrap().chosen.unwrap().changes;
    assert!(changes[0].contains("only if opa.shop.svc.cluster.local:80 lets it in"));
}
