//! CUSTOM policies: their provider decides before anything reaches the application, on every path.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::net::TcpStream;

use super::app::{App, full};
use super::client::{H1, H2, call, get, post};
use super::facts::{BANK, CART, LEGACY, LabPod, PAY, PORT, WEB, name};
use super::lab::Lab;
use crate::lifecycle::PATIENCE;
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::mesh_config::{MeshConfig, PathForm};
use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyAction, PolicyRule, PolicyTarget, TextAttribute, TextMatch, Values,
};
use crate::mesh::policy::external::{
    Authorizer, AuthorizerTarget, CheckProtocol, CheckedBody, GrpcCheck, HttpCheck, NameMatch, OnError,
};
use crate::mesh::service::AppProtocol;

/// A policy for one pod of the lab.
fn policy(action: PolicyAction, pod: LabPod, rules: Vec<PolicyRule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        namespace: "shop".into(),
        name: format!("{}-{}", action.as_str().to_lowercase(), pod.name).into(),
        meta: Arc::new(ObjectMeta::default()),
        target: PolicyTarget::Selector(BTreeMap::from([("pod".to_owned(), pod.name.to_owned())])),
        action,
        provider: (action == PolicyAction::Custom).then(|| "opa".into()),
        rules,
        is_dry_run: false,
    }
}

fn to(of: TextAttribute, wanted: TextMatch) -> PolicyRule {
    let (any, none) = (vec![wanted], vec![]);
    PolicyRule {
        to: vec![vec![Condition::Text {
            of,
            values: Values { any, none },
        }]],
        ..PolicyRule::default()
    }
}

fn path(prefix: &str) -> PolicyRule {
    to(TextAttribute::Path, TextMatch::Prefix(prefix.into()))
}

pub(super) fn http() -> Authorizer {
    Authorizer {
        target: AuthorizerTarget::Service(name("opa")),
        port: PORT,
        timeout: PATIENCE,
        on_error: OnError::Refuse(StatusCode::FORBIDDEN),
        body: None,
        protocol: CheckProtocol::Http(Box::new(HttpCheck {
            path_prefix: "/check".into(),
            request_headers: vec![NameMatch::Prefix("x-".into())],
            upstream_on_allow: vec![NameMatch::Exact("x-role".into())],
            downstream_on_allow: vec![NameMatch::Exact("x-told".into())],
            ..HttpCheck::default()
        })),
    }
}

pub(super) fn grpc() -> Authorizer {
    Authorizer {
        protocol: CheckProtocol::Grpc(GrpcCheck::default()),
        ..http()
    }
}

/// Protects both servers by `authorizer`, below `/guarded`, and by further policies.
pub(super) fn guard(lab: &Lab, authorizer: &Authorizer, more: &[AuthorizationPolicy]) {
    let authorizer = Arc::new(authorizer.clone());
    lab.change(move |facts: &mut Facts| {
        for workload in &mut facts.workloads {
            let name = workload.pod_name.to_string();
            workload.labels.insert("pod".to_owned(), name);
        }
        facts.mesh_configs = vec![MeshConfig {
            namespace: "mesh-system".into(),
            meta: Arc::new(ObjectMeta::default()),
            authorizers: BTreeMap::from([("opa".into(), Arc::clone(&authorizer))]),
            path_form: PathForm::Base,
        }];
        facts.authorization_policies = [CART, PAY]
            .map(|pod| policy(PolicyAction::Custom, pod, vec![path("/guarded")]))
            .to_vec();
        facts.authorization_policies.extend_from_slice(more);
    });
}

/// Lets in what is below `/guarded/ok`, and says of anything else who it was.
async fn judge(lab: &Lab, pod: LabPod) -> App {
    let app = App::http(lab, pod, |request| async move {
        let path = request.uri().path().to_owned();
        let shown = request.into_body().collect().await.unwrap().to_bytes();
        let mut answer = Response::new(full(shown));
        if path.starts_with("/check/guarded/ok") {
            answer.headers_mut().insert("x-role", "admin".parse().unwrap());
            answer.headers_mut().insert("x-told", "yes".parse().unwrap());
        } else {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            answer
                .headers_mut()
                .insert("www-authenticate", "Basic".parse().unwrap());
            *answer.body_mut() = full("who are you");
        }
        answer
    })
    .await;
    lab.service("opa", AppProtocol::Http, &[app.addr]).await;
    app
}

/// Both servers, as an application dials them.
pub(super) async fn servers(lab: &Lab, protocol: AppProtocol) -> [(&'static str, App, SocketAddr); 2] {
    let (cart, pay) = (App::echo(lab, CART).await, App::echo(lab, PAY).await);
    let near = lab.service("cart", protocol, &[cart.addr]).await;
    let far = lab.service("pay", protocol, &[pay.addr]).await;
    [("cart", cart, near), ("pay", pay, far)]
}

#[tokio::test]
async fn an_authorizer_in_the_mesh_or_outside_decides_on_both_paths() {
    for place in [BANK, LEGACY] {
        let lab = Lab::start().await;
        let opa = judge(&lab, place).await;
        guard(&lab, &http(), &[]);
        for (server, app, vip) in servers(&lab, AppProtocol::Http).await {
            let mut client = H1::dial(&lab, WEB, vip).await;
            let mut request = get("/guarded/ok?a=b");
            request.headers_mut().insert("x-role", "forged".parse().unwrap());
            let reply = client.fetch(request).await;
            assert_eq!(reply.status, 200, "{server} {}", place.name);
            assert_eq!(reply.headers["x-told"], "yes", "{server}");
            assert_eq!(app.only_seen().header("x-role"), Some("admin"), "{server}");
            let asked = opa.seen().pop().unwrap().head;
            assert_eq!(
                (asked.uri.path(), asked.uri.query()),
                ("/check/guarded/ok", Some("a=b"))
            );
            assert_eq!(
                asked.headers["x-role"], "forged",
                "{server}: it sees what the client claims"
            );

            let reply = client.fetch(get("/guarded/no")).await;
            assert_eq!(
                (reply.status.as_u16(), reply.text()),
                (401, "who are you"),
                "{server}"
            );
            assert_eq!(reply.headers["www-authenticate"], "Basic", "{server}");
            assert_eq!(client.fetch(get("/open")).await.status, 200, "{server}");
            assert_eq!(app.seen().len(), 2, "{server}: what is refused arrives nowhere");
        }
        assert_eq!(opa.seen().len(), 4, "nobody is asked about what no rule matches");
    }
}

#[tokio::test]
async fn plaintext_is_asked_about_too() {
    let lab = Lab::start().await;
    judge(&lab, BANK).await;
    guard(&lab, &http(), &[]);
    let [(_, app, _), _] = servers(&lab, AppProtocol::Http).await;
    let gate = lab.steer(app.addr, LEGACY.ip).await;
    for (path, status) in [("/guarded/ok", 200), ("/guarded/no", 401), ("//guarded/no", 401)] {
        let stream = TcpStream::connect(gate).await.unwrap();
        let reply = H1::on(&lab, stream).await.fetch(get(path)).await;
        assert_eq!(reply.status, status, "{path}");
    }
}

#[tokio::test]
async fn what_the_authorizer_writes_is_judged_by_the_policies_after_it() {
    let lab = Lab::start().await;
    judge(&lab, BANK).await;
    let servers = servers(&lab, AppProtocol::Http).await;
    let role = |wanted: &str| {
        to(
            TextAttribute::Header("x-role".into()),
            TextMatch::Exact(wanted.into()),
        )
    };
    for (action, wanted, status) in [
        (PolicyAction::Allow, "admin", 200),
        (PolicyAction::Allow, "forged", 403),
        (PolicyAction::Deny, "admin", 403),
        (PolicyAction::Deny, "forged", 200),
    ] {
        let more = [CART, PAY].map(|pod| policy(action, pod, vec![role(wanted)]));
        guard(&lab, &http(), &more);
        for (server, _, vip) in &servers {
            let mut request = get("/guarded/ok");
            request.headers_mut().insert("x-role", "forged".parse().unwrap());
            let reply = H1::dial(&lab, WEB, *vip).await.fetch(request).await;
            assert_eq!(reply.status, status, "{server} {action:?} {wanted}");
        }
    }
}

#[tokio::test]
async fn a_body_is_shown_as_far_as_is_asked_and_sent_on_whole() {
    let lab = Lab::start().await;
    let opa = App::http(&lab, BANK, |request| async {
        let shown = request.into_body().collect().await.unwrap().to_bytes();
        let mut answer = Response::new(full(""));
        answer
            .headers_mut()
            .insert("x-told", shown.escape_ascii().to_string().parse().unwrap());
        answer
    })
    .await;
    lab.service("opa", AppProtocol::Http, &[opa.addr]).await;
    let servers = servers(&lab, AppProtocol::Http).await;
    for (max_bytes, allow_partial, expected) in [
        (100, false, Some("0123456789")),
        (10, false, Some("0123456789")),
        (9, false, None),
        (9, true, Some("012345678")),
    ] {
        let body = CheckedBody {
            max_bytes,
            allow_partial,
            as_bytes: false,
        };
        guard(
            &lab,
            &Authorizer {
                body: Some(body),
                ..http()
            },
            &[],
        );
        for (server, _, vip) in &servers {
            let request = post("/guarded/ok", Bytes::from_static(b"0123456789"));
            let reply = H1::dial(&lab, WEB, *vip).await.fetch(request).await;
            match expected {
                Some(shown) => {
                    assert_eq!(
                        (reply.status.as_u16(), reply.text()),
                        (200, "0123456789"),
                        "{server} {max_bytes}"
                    );
                    assert_eq!(reply.headers["x-told"], shown, "{server} {max_bytes}");
                }
                None => assert_eq!(reply.status, 413, "{server}"),
            }
        }
    }
    assert_eq!(
        lab.a
            .sum("mesh_external_checks_total", &[("result", "not_asked")]),
        1
    );
}

#[tokio::test]
async fn a_grpc_authorizer_is_asked_and_a_grpc_client_is_told_in_trailers() {
    let lab = Lab::start().await;
    let opa = App::http(&lab, BANK, |request| async {
        let check = request.into_body().collect().await.unwrap().to_bytes();
        let is_no = check.windows(4).any(|window| window == b"deny");
        // A CheckResponse: empty, or with a status of 7 and a denial with the body "no".
        let message: &[u8] = if is_no {
            b"\x0a\x02\x08\x07\x12\x04\x1a\x02no"
        } else {
            b""
        };
        let length = u8::try_from(message.len()).unwrap();
        let mut answer = Response::new(full([&[0, 0, 0, 0, length], message].concat()));
        answer
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        answer.headers_mut().insert("grpc-status", "0".parse().unwrap());
        answer
    })
    .await;
    lab.service("opa", AppProtocol::Grpc, &[opa.addr]).await;
    let [(_, _, near), (_, _, far)] = servers(&lab, AppProtocol::Grpc).await;
    guard(&lab, &grpc(), &[]);
    lab.change(|facts| {
        for policy in &mut facts.authorization_policies {
            policy.rules = vec![PolicyRule::default()];
        }
    });
    for vip in [near, far] {
        let mut client = H2::dial(&lab, WEB, vip).await;
        let reply = client.fetch(call(b"\0\0\0\0\x01x")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.headers.get("grpc-status")),
            (200, None)
        );
        let mut denied = call(b"\0\0\0\0\x01x");
        denied.headers_mut().insert("x-please", "deny".parse().unwrap());
        let reply = client.fetch(denied).await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            (&reply.headers["grpc-status"], &reply.headers["grpc-message"]),
            (&"7".parse().unwrap(), &"no".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_denial_has_its_own_words_in_log_and_metrics() {
    let lab = Lab::start().await;
    judge(&lab, BANK).await;
    guard(&lab, &http(), &[]);
    let [_, (_, _, far)] = servers(&lab, AppProtocol::Http).await;
    H1::dial(&lab, WEB, far).await.fetch(get("/guarded/no")).await;
    let lines = lab.b.logged(1).await;
    let line = lines.iter().find(|line| line["path"] == "/guarded/no").unwrap();
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"UAEX".into(), &"ext_authz_denied".into())
    );
    assert_eq!(
        lab.b.sum("mesh_external_checks_total", &[("result", "denied")]),
        1
    );
    assert_eq!(
        lab.b
            .sum("mesh_policy_denials_total", &[("reason", "ext_authz_denied")]),
        1
    );
}

#[tokio::test]
async fn an_authorizer_of_this_node_is_protected_by_its_own_policies() {
    let lab = Lab::start().await;
    let opa = judge(&lab, BANK).await;
    let servers = servers(&lab, AppProtocol::Http).await;
    guard(
        &lab,
        &http(),
        &[policy(PolicyAction::Deny, BANK, vec![PolicyRule::default()])],
    );
    for (server, _, vip) in servers {
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/guarded/ok")).await;
        assert_eq!(reply.status, 403, "{server}");
    }
    assert_eq!(opa.seen().len(), 0);
}
