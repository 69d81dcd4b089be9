//! AuthorizationPolicy on both paths and in plaintext: who is let in, what the others are told, and that a change ends
//! what it forbids.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, heard, speaks, written_by_hand};
use super::client::{H1, H2, call, exchange, get, get2, post};
use super::facts::{BANK, CART, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyAction, PolicyRule, PolicyTarget, TextAttribute, TextMatch, Values,
};
use crate::mesh::service::AppProtocol;

use PolicyAction::{Allow, Deny};

pub(super) fn policy(action: PolicyAction, rules: Vec<PolicyRule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        meta: Arc::new(ObjectMeta::default()),
        target: PolicyTarget::Selector(BTreeMap::new()),
        action,
        rules,
        is_dry_run: false,
        provider: None,
    }
}

fn is(of: TextAttribute, text: &str) -> Condition {
    let any = vec![match text.strip_suffix('*') {
        Some(prefix) => TextMatch::Prefix(prefix.into()),
        None => TextMatch::Exact(text.into()),
    }];
    Condition::Text {
        of,
        values: Values { any, none: vec![] },
    }
}

pub(super) fn from(pod: LabPod) -> PolicyRule {
    let principal = format!("cluster.local/ns/shop/sa/{}", pod.name);
    PolicyRule {
        from: vec![vec![is(TextAttribute::Principal, &principal)]],
        ..PolicyRule::default()
    }
}

pub(super) fn to(of: TextAttribute, text: &str) -> PolicyRule {
    PolicyRule {
        to: vec![vec![is(of, text)]],
        ..PolicyRule::default()
    }
}

pub(super) fn set(policies: Vec<AuthorizationPolicy>) -> impl Fn(&mut Facts) {
    move |facts| facts.authorization_policies.clone_from(&policies)
}

/// An application that echoes bytes.
pub(super) async fn echo(lab: &Lab, pod: LabPod) -> std::net::SocketAddr {
    speaks(lab, pod, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _end = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

#[tokio::test]
async fn an_identity_is_let_in_or_not_on_both_paths() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;

        lab.change(set(vec![policy(Allow, vec![from(WEB)])]));
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"), "{name}");
        let reply = H1::dial(&lab, BANK, vip).await.fetch(get("/")).await;
        assert_eq!(
            (reply.status, reply.text()),
            (StatusCode::FORBIDDEN, "RBAC: access denied"),
            "{name}"
        );

        lab.change(set(vec![policy(Deny, vec![from(WEB)])]));
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.status, 403, "{name}");
        assert_eq!(app.seen().len(), 1, "{name}: what is refused arrives nowhere");
    }
}

#[tokio::test]
async fn a_refusal_is_told_to_the_log_and_the_metrics_of_the_destination() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    lab.change(set(vec![policy(Deny, vec![from(BANK), from(WEB)])]));
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    let line = &lab.b.logged(1).await[0];
    assert_eq!(
        line["response_code_details"],
        "rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[1]]"
    );
    assert_eq!(line["response_flags"], "UAEX");
    let reason = [("reason", "authorization_denied")];
    assert_eq!(lab.b.sum("mesh_policy_denials_total", &reason), 1);
    assert_eq!(lab.a.sum("mesh_policy_denials_total", &reason), 0);
}

#[tokio::test]
async fn a_grpc_client_is_told_permission_denied() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Grpc, &[app.addr]).await;
        lab.change(set(vec![policy(
            Deny,
            vec![to(TextAttribute::Path, "/shop.Cart/*")],
        )]));
        let reply = H2::dial(&lab, WEB, vip).await.fetch(call(b"\0\0\0\0\x01x")).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["grpc-status"], "7");
        assert_eq!(reply.headers["grpc-message"], "RBAC: access denied");
    }
}

#[tokio::test]
async fn paths_are_judged_in_the_form_that_the_application_gets() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        lab.change(set(vec![policy(Deny, vec![to(TextAttribute::Path, "/admin*")])]));
        for trick in [
            "/admin",
            "/%61dmin",
            "/x/../admin",
            "/x/%2e%2e/admin",
            "//admin",
            "/x/..%2fadmin",
            "/%2fadmin",
            "/x\\..\\admin",
            "/x/..;/admin",
            "/admin?x=/public",
            "http://cart.shop/admin",
        ] {
            let reply = H1::dial(&lab, WEB, vip).await.fetch(get(trick)).await;
            assert_eq!(reply.status, 403, "{name} {trick}");
        }
        assert_eq!(app.seen().len(), 0);
        let reply = H1::dial(&lab, WEB, vip)
            .await
            .fetch(get("/admin/../a/./%62?x=%61//.."))
            .await;
        assert_eq!(reply.status, 200);
        assert_eq!(app.only_seen().head.uri, "/a/b?x=%61//..");
    }
}

#[tokio::test]
async fn a_header_that_does_not_travel_on_does_not_count() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let header = TextAttribute::Header("x-key".into());
    lab.change(set(vec![policy(Allow, vec![to(header, "secret")])]));
    for (connection, status) in [("keep-alive", 200), ("x-key", 403)] {
        let mut request = get("/");
        request.headers_mut().insert("x-key", "secret".parse().unwrap());
        request
            .headers_mut()
            .insert("connection", connection.parse().unwrap());
        let reply = H1::dial(&lab, WEB, vip).await.fetch(request).await;
        assert_eq!(reply.status, status, "{connection}");
    }
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_for_itself() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        lab.change(set(vec![policy(Allow, vec![to(TextAttribute::Method, "GET")])]));
        let mut client = H1::dial(&lab, WEB, vip).await;
        assert_eq!(client.fetch(get("/")).await.status, 200, "{name}");
        assert_eq!(client.fetch(post("/", Bytes::new())).await.status, 403, "{name}");
        assert_eq!(client.fetch(get("/")).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn opaque_bytes_are_let_in_or_not_on_both_paths() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let vip = lab
            .service(name, AppProtocol::Tcp, &[echo(&lab, pod).await])
            .await;
        for (rules, is_let_in) in [
            (policy(Allow, vec![from(WEB)]), true),
            (policy(Allow, vec![from(BANK)]), false),
            (policy(Deny, vec![from(WEB)]), false),
            (policy(Allow, vec![to(TextAttribute::Path, "/*")]), false),
            (policy(Deny, vec![to(TextAttribute::Path, "/never")]), false),
        ] {
            lab.change(set(vec![rules.clone()]));
            let mut stream = lab.dial(WEB, vip).await;
            let mut answer = [0; 2];
            let echoed = match stream.write_all(b"hi").await {
                Ok(()) => soon("an answer", stream.read_exact(&mut answer))
                    .await
                    .map(|_| answer),
                Err(error) => Err(error),
            };
            assert_eq!(echoed.is_ok(), is_let_in, "{name} {rules:?}");
        }
    }
}

#[tokio::test]
async fn opaque_bytes_to_a_port_that_says_http_do_not_go_round_its_rules() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "hello").await;
    // The client's agent takes it for TCP, the destination's for HTTP.
    let vip = lab.service("pay", AppProtocol::Tcp, &[app.addr]).await;
    lab.b.change(|facts| {
        for port in facts.services.iter_mut().flat_map(|service| &mut service.ports) {
            port.protocol = AppProtocol::Http;
        }
    });
    let deny_admin = policy(Deny, vec![to(TextAttribute::Path, "/admin")]);
    let allow_public = policy(Allow, vec![to(TextAttribute::Path, "/public")]);
    for rules in [deny_admin, allow_public] {
        lab.change(set(vec![rules]));
        let mut stream = lab.dial(WEB, vip).await;
        let request = b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = exchange(&mut stream, request).await.unwrap_or_default();
        assert_eq!(answer.escape_ascii().to_string(), "");
    }
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn plaintext_has_no_identity() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let gate = lab.steer(app.addr, WEB.ip).await;
    for (rules, status) in [
        (vec![from(WEB)], 403),
        (vec![to(TextAttribute::Path, "/public")], 200),
    ] {
        lab.change(set(vec![policy(Allow, rules)]));
        let stream = TcpStream::connect(gate).await.unwrap();
        let reply = H1::on(&lab, stream).await.fetch(get("/public")).await;
        assert_eq!(reply.status, status, "an address proves nothing");
    }
}

#[tokio::test]
async fn a_dry_run_refuses_nothing_and_is_counted() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let on_trial = AuthorizationPolicy {
        is_dry_run: true,
        ..policy(Deny, vec![to(TextAttribute::Path, "/a")])
    };
    lab.change(set(vec![on_trial, policy(PolicyAction::Audit, vec![from(WEB)])]));
    let mut client = H1::dial(&lab, WEB, vip).await;
    for path in ["/a", "/b", "/b"] {
        assert_eq!(client.fetch(get(path)).await.status, 200);
    }
    let count = |result| lab.a.sum("mesh_policy_dry_runs_total", &[("result", result)]);
    assert_eq!((count("deny"), count("allow")), (1, 2));
    assert_eq!(lab.a.sum("mesh_policy_audits_total", &[]), 3);
}

#[tokio::test]
async fn a_change_ends_the_connections_that_it_forbids_and_no_others() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        lab.change(set(vec![]));
        let vip = lab
            .service(name, AppProtocol::Tcp, &[echo(&lab, pod).await])
            .await;
        let (mut ours, mut theirs) = (lab.dial(WEB, vip).await, lab.dial(BANK, vip).await);
        let mut echoed = [0; 1];
        for stream in [&mut ours, &mut theirs] {
            stream.write_all(b"x").await.unwrap();
            soon("an echo", stream.read_exact(&mut echoed)).await.unwrap();
        }

        lab.change(set(vec![policy(Deny, vec![from(WEB)])]));

        let ended = soon("the end", ours.read(&mut echoed)).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{name}: {ended:?}");
        theirs.write_all(b"y").await.unwrap();
        soon("an echo", theirs.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(echoed, *b"y", "{name}");
    }
}

#[tokio::test]
async fn a_change_ends_a_response_that_is_under_way() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        lab.change(set(vec![]));
        let (app, mut bodies) = written_by_hand(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
        let frames = soon("response", bodies.recv()).await.unwrap();
        let ended = lab.tasks.clone();
        let (done, end) = tokio::sync::oneshot::channel();
        ended.spawn("reader", async move {
            // Only that it ends, and how, matters.
            let _told = done.send(response.into_body().collect().await.is_err());
        });
        lab.change(set(vec![policy(Deny, vec![from(WEB)])]));
        assert!(soon("the end", end).await.unwrap(), "{name}: it ends as an error");
        drop(frames);
    }
}

#[tokio::test]
async fn a_change_ends_a_connection_that_changed_protocol_by_the_path_that_it_asked_for() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        lab.change(set(vec![]));
        let switches = speaks(&lab, pod, |mut stream| async move {
            assert!(heard(&mut stream).await);
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
            stream.write_all(switch).await.unwrap();
            let (mut read, mut write) = stream.split();
            let _end = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[switches]).await;
        let mut streams = Vec::new();
        for path in ["/chat", "/news"] {
            let mut stream = lab.dial(WEB, vip).await;
            let ask = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n!");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let mut said = Vec::new();
            while !said.ends_with(b"!") {
                assert_ne!(soon("an echo", stream.read_buf(&mut said)).await.unwrap(), 0);
            }
            streams.push(stream);
        }

        lab.change(set(vec![policy(Deny, vec![to(TextAttribute::Path, "/chat")])]));

        let mut echoed = [0; 1];
        let ended = soon("the end", streams[0].read(&mut echoed)).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{name}: {ended:?}");
        streams[1].write_all(b"?").await.unwrap();
        soon("an echo", streams[1].read_exact(&mut echoed)).await.unwrap();
        assert_eq!(echoed, *b"?", "{name}");
    }
}

#[tokio::test]
async fn a_change_ends_idle_connections_between_agents() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut client = H2::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get2("/")).await.status, 200);
    let served = || lab.b.tasks.panics();
    lab.change(set(vec![policy(Deny, vec![from(WEB)])]));
    assert_eq!(client.fetch(get2("/")).await.status, 403);
    lab.change(set(vec![]));
    assert_eq!(client.fetch(get2("/")).await.status, 200);
    eventually("nothing broke", || served() == 0).await;
}
