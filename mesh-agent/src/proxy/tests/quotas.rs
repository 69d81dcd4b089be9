//! A `RateLimitPolicy` whose requests a service counts: who is asked, and what becomes of a request without an answer.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Response};
use http_body_util::BodyExt;

use super::app::{App, full};
use super::client::{H1, get};
use super::facts::{BANK, CART, LabPod, PORT, WEB, name};
use super::lab::Lab;
use super::limits::{SERVERS, hourly, policy, set};
use crate::lifecycle::PATIENCE;
use crate::mesh::policy::external::AuthorizerTarget;
use crate::mesh::policy::rate_limit::{
    DescriptorEntry, DescriptorValue, GlobalLimit, KeyPart, RateLimit, RateLimitPolicy,
};
use crate::mesh::service::AppProtocol;

/// A limit of users that a service counts.
fn global(fails_open: bool, timeout: Duration) -> RateLimitPolicy {
    let user = KeyPart::Header(HeaderName::from_static("x-user"));
    counted(DescriptorValue::Of(user), fails_open, timeout)
}

fn counted(value: DescriptorValue, fails_open: bool, timeout: Duration) -> RateLimitPolicy {
    policy(vec![RateLimit {
        local: None,
        global: Some(Arc::new(GlobalLimit {
            target: AuthorizerTarget::Service(name("limiter")),
            port: PORT,
            domain: "shop".into(),
            descriptors: vec![vec![DescriptorEntry {
                key: "user".into(),
                value,
            }]],
            timeout,
            fails_open,
        })),
        ..hourly(1, vec![])
    }])
}

/// Says of "deny" that it is over, of "fail" nothing that can be read, of "hang" nothing, and of others that they are within.
async fn limiter(lab: &Lab, place: LabPod) -> App {
    let app = App::http(lab, place, |request| async move {
        let question = request.into_body().collect().await.unwrap().to_bytes();
        let is = |word: &[u8]| question.windows(word.len()).any(|window| window == word);
        // The code, then a header: key "x-quota", value "5".
        let header = b"\x0c\x0a\x07x-quota\x12\x015";
        let message = if is(b"hang") {
            std::future::pending().await
        } else if is(b"fail") {
            b"\xff\xff".to_vec()
        } else if is(b"deny") {
            [b"\x08\x02\x1a", &header[..], b"\x2a\x05later"].concat()
        } else {
            [b"\x08\x01\x22", &header[..], b"\x1a", header].concat()
        };
        let length = u8::try_from(message.len()).unwrap();
        let mut answer = Response::new(full([&[0, 0, 0, 0, length], &message[..]].concat()));
        let headers = answer.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        headers.insert("grpc-status", "0".parse().unwrap());
        answer
    })
    .await;
    lab.service("limiter", AppProtocol::Grpc, &[app.addr]).await;
    app
}

/// A request of `user`; nobody's is not asked about.
fn of(user: &str) -> http::Request<crate::transport::http::Body> {
    let mut request = get("/");
    if !user.is_empty() {
        request.headers_mut().insert("x-user", user.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_service_counts_for_the_cluster_and_changes_what_it_lets_in() {
    let lab = Lab::start().await;
    let limiter = limiter(&lab, BANK).await;
    lab.change(set(global(false, PATIENCE)));
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        let reply = client.fetch(of("alice")).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"), "{server}");
        assert_eq!(reply.headers["x-quota"], "5", "{server}");
        assert_eq!(app.only_seen().header("x-quota"), Some("5"), "{server}");

        let reply = client.fetch(of("deny")).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (429, "later"), "{server}");
        assert_eq!(reply.headers["x-envoy-ratelimited"], "true", "{server}");
        assert_eq!(reply.headers["x-quota"], "5", "{server}");

        assert_eq!(
            client.fetch(of("")).await.status,
            200,
            "{server}: there is nothing to say"
        );
        assert_eq!(app.seen().len(), 2, "{server}: what is refused arrives nowhere");
    }
    assert_eq!(limiter.seen().len(), 4);
    let denied = [("result", "denied")];
    let counted = [&lab.a, &lab.b].map(|agent| agent.sum("mesh_rate_limit_checks_total", &denied));
    assert_eq!(counted, [1, 1], "each destination's agent asks for itself");
}

#[tokio::test]
async fn without_an_answer_the_policy_says_what_becomes_of_a_request() {
    let lab = Lab::start().await;
    limiter(&lab, BANK).await;
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Http, &[app.addr]).await;
        for (fails_open, status) in [(true, 200), (false, 500)] {
            for (user, timeout) in [("fail", PATIENCE), ("hang", Duration::from_millis(20))] {
                lab.change(set(global(fails_open, timeout)));
                let reply = H1::dial(&lab, WEB, vip).await.fetch(of(user)).await;
                assert_eq!(reply.status, status, "{server} {user}");
            }
        }
    }
    let lines = lab.b.logged(4).await;
    let failed = lines.iter().filter(|line| {
        line["response_flags"] == "RLSE" && line["response_code_details"] == "rate_limiter_error"
    });
    assert_eq!(failed.count(), 2);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_no_answer() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    for (fails_open, status) in [(true, 200), (false, 500)] {
        lab.change(set(global(fails_open, PATIENCE)));
        let reply = H1::dial(&lab, WEB, vip).await.fetch(of("alice")).await;
        assert_eq!(reply.status, status);
    }
}

#[tokio::test]
async fn nobody_is_asked_whether_somebody_may_be_asked() {
    let lab = Lab::start().await;
    // Protected by the policy itself, and on another node than the server.
    let limiter = limiter(&lab, BANK).await;
    lab.change(set(counted(
        DescriptorValue::Fixed("all".into()),
        false,
        PATIENCE,
    )));
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let reply = H1::dial(&lab, WEB, vip).await.fetch(of("alice")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(limiter.seen().len(), 1);
}
