//! RequestAuthentication on both paths: whose requests are let in, what the others are told, and what the application
//! sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderName;
use serde_json::{Value, json};

use super::app::App;
use super::client::{H1, H2, Reply, call, get};
use super::facts::{CART, PAY, WEB};
use super::lab::{Lab, soon};
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyAction, PolicyRule, PolicyTarget, TextAttribute, TextMatch, Values,
};
use crate::mesh::policy::request_authentication::{ClaimHeader, RequestAuthentication};
use crate::mesh::service::AppProtocol;
use crate::policy::authentication::testing::{ISSUER, Signer, inline, policy, rule};

/// Says who the user is in `x-user`.
fn of(signer: &Signer) -> RequestAuthentication {
    let mut rule = rule(inline(&[signer.jwk()]));
    rule.claim_headers = vec![ClaimHeader {
        header: HeaderName::from_static("x-user"),
        claim: vec!["sub".into()],
    }];
    policy(vec![rule])
}

fn guarded(signer: &Signer) -> impl Fn(&mut Facts) {
    let policy = of(signer);
    move |facts| facts.request_authentications = vec![policy.clone()]
}

fn payload(expires_in_s: i64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    json!({"iss": ISSUER, "sub": "alice", "exp": now + expires_in_s})
}

/// A request with a token and a lie.
fn lying(path: &str, token: Option<&str>) -> http::Request<crate::transport::http::Body> {
    let mut request = get(path);
    request.headers_mut().insert("x-user", "root".parse().unwrap());
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    request
}

fn header<'r>(reply: &'r Reply, name: &str) -> &'r str {
    reply
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_good_token_proves_who_asks_and_a_bad_one_refuses_on_both_paths() {
    let lab = Lab::start().await;
    let signer = Signer::new("k");
    lab.change(guarded(&signer));
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;

        let token = signer.sign(&payload(600));
        let reply = client.fetch(lying("/", Some(&token))).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"), "{name}");
        let seen = app.only_seen();
        assert_eq!(
            (seen.header("x-user"), seen.header("authorization")),
            (Some("alice"), None)
        );

        let reply = client
            .fetch(lying(&format!("/a?b=c&access_token={token}"), None))
            .await;
        assert_eq!(reply.status, 200, "{name}");
        let seen = app.seen().remove(1);
        assert_eq!(
            (
                seen.header("x-user"),
                seen.head.uri.path_and_query().unwrap().as_str()
            ),
            (Some("alice"), "/a?b=c")
        );

        let reply = client.fetch(lying("/", None)).await;
        assert_eq!(reply.status, 200, "{name}: no token is no lie");
        assert_eq!(app.seen().remove(2).header("x-user"), None, "{name}");

        let mut request = lying("/", Some(&token));
        let named = "keep-alive, X-User".parse().unwrap();
        request.headers_mut().insert("connection", named);
        assert_eq!(client.fetch(request).await.status, 200, "{name}");
        let seen = app.seen().remove(3);
        assert_eq!(
            seen.header("x-user"),
            Some("alice"),
            "{name}: Connection takes nothing away"
        );

        let expired = signer.sign(&payload(-600));
        let reply = client.fetch(lying("/x", Some(&expired))).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text()),
            (401, "Jwt is expired"),
            "{name}"
        );
        assert_eq!(
            header(&reply, "www-authenticate"),
            "Bearer realm=\"http://cart.shop:80/x\", error=\"invalid_token\""
        );
        let forged = Signer::new("k").sign(&payload(600));
        let reply = client.fetch(lying("/", Some(&forged))).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text()),
            (401, "Jwt verification fails"),
            "{name}"
        );
        assert_eq!(app.seen().len(), 4, "{name}: what is refused arrives nowhere");
    }
}

#[tokio::test]
async fn a_refused_token_is_told_to_the_log_and_the_metrics_of_the_destination() {
    let lab = Lab::start().await;
    let signer = Signer::new("k");
    lab.change(guarded(&signer));
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let expired = signer.sign(&payload(-600));
    H1::dial(&lab, WEB, vip)
        .await
        .fetch(lying("/", Some(&expired)))
        .await;
    let line = &lab.b.logged(1).await[0];
    assert_eq!(
        line["response_code_details"],
        "jwt_authn_access_denied{Jwt_is_expired}"
    );
    assert_eq!(line["response_flags"], "UAEX");
    let reason = [("reason", "jwt_expired")];
    assert_eq!(lab.b.sum("mesh_policy_denials_total", &reason), 1);
    assert_eq!(lab.a.sum("mesh_policy_denials_total", &reason), 0);
}

#[tokio::test]
async fn a_grpc_client_is_told_unauthenticated() {
    let lab = Lab::start().await;
    lab.change(guarded(&Signer::new("k")));
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Grpc, &[app.addr]).await;
    let mut request = call(b"");
    request
        .headers_mut()
        .insert("authorization", "Bearer x.y.z".parse().unwrap());
    let reply = H2::dial(&lab, WEB, vip).await.fetch(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(header(&reply, "grpc-status"), "16");
    assert_eq!(header(&reply, "grpc-message"), "Jwt header is an invalid JSON");
}

#[tokio::test]
async fn authorization_asks_for_what_the_token_proved() {
    let lab = Lab::start().await;
    let signer = Signer::new("k");
    let authentication = of(&signer);
    let is = |of, text: &str| Condition::Text {
        of,
        values: Values {
            any: vec![TextMatch::Exact(text.into())],
            none: vec![],
        },
    };
    let allowed = AuthorizationPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        meta: Arc::new(ObjectMeta::default()),
        target: PolicyTarget::Selector(BTreeMap::new()),
        action: PolicyAction::Allow,
        provider: None,
        rules: vec![PolicyRule {
            // What the agent says of the user counts as any header does.
            from: vec![vec![is(
                TextAttribute::RequestPrincipal,
                &format!("{ISSUER}/alice"),
            )]],
            when: vec![is(TextAttribute::Header("x-user".into()), "alice")],
            ..PolicyRule::default()
        }],
        is_dry_run: false,
    };
    lab.change(move |facts| {
        facts.request_authentications = vec![authentication.clone()];
        facts.authorization_policies = vec![allowed.clone()];
    });
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        let mut bob = payload(600);
        bob["sub"] = json!("bob");
        let (alice, bob) = (signer.sign(&payload(600)), signer.sign(&bob));
        for (token, status) in [(Some(&alice), 200), (Some(&bob), 403), (None, 403)] {
            let reply = client.fetch(lying("/", token.map(String::as_str))).await;
            assert_eq!(reply.status, status, "{name} {}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_policy_of_keys_elsewhere_refuses_tokens_until_they_are_here() {
    let lab = Lab::start().await;
    let signer = Signer::new("k");
    let elsewhere =
        crate::mesh::policy::request_authentication::KeySource::Uri("http://keys.example/".into());
    let authentication = policy(vec![rule(elsewhere)]);
    lab.change(move |facts| facts.request_authentications = vec![authentication.clone()]);
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let token = signer.sign(&payload(600));
    let mut client = H1::dial(&lab, WEB, vip).await;
    let reply = client.fetch(lying("/", Some(&token))).await;
    assert_eq!(
        (reply.status.as_u16(), reply.text()),
        (401, "Jwks remote fetch is failed")
    );
    let told = lab.b.mesh.snapshots.key_wanted();
    soon("who fetches keys is told", told).await;
}
