//! `RateLimitPolicy` on both paths and in plaintext: who is refused, and what they are told.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::net::TcpStream;

use super::app::App;
use super::authorization::{from, policy as authorization};
use super::client::{H1, H2, call, get};
use super::facts::{BANK, CART, LEGACY, LabPod, PAY, WEB, node};
use super::lab::Lab;
use super::retries::{again, retrying};
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::policy::authorization::{PolicyAction, PolicyTarget};
use crate::mesh::policy::rate_limit::{
    GrpcRefusal, KeyPart, LimitMatch, LimitPath, LimitUnit, LocalLimit, RateLimit, RateLimitPolicy,
};
use crate::mesh::service::AppProtocol;
use crate::policy::authentication::testing::{ISSUER, Signer, inline, policy as authentication, rule};

/// So few that no clock matters.
pub(super) fn hourly(requests: u32, key: Vec<KeyPart>) -> RateLimit {
    let requests = NonZeroU32::new(requests).unwrap();
    RateLimit {
        of: LimitMatch::default(),
        key,
        local: Some(LocalLimit {
            requests,
            unit: LimitUnit::Hour,
            burst: requests,
            is_divided: false,
        }),
        global: None,
    }
}

pub(super) fn policy(limits: Vec<RateLimit>) -> RateLimitPolicy {
    RateLimitPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        meta: Arc::new(ObjectMeta::default()),
        target: PolicyTarget::Selector([].into()),
        limits,
        grpc_status: GrpcRefusal::default(),
        is_dry_run: false,
    }
}

pub(super) fn set(policy: RateLimitPolicy) -> impl Fn(&mut Facts) {
    move |facts| facts.rate_limit_policies = vec![policy.clone()]
}

pub(super) const SERVERS: [(LabPod, &str); 2] = [(CART, "cart"), (PAY, "pay")];

/// The status of as many requests in turn, each on a connection of its own.
async fn statuses(lab: &Lab, client: LabPod, vip: std::net::SocketAddr, paths: &[&str]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in paths {
        let reply = H1::dial(lab, client, vip).await.fetch(get(path)).await;
        statuses.push(reply.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_on_both_paths_and_told_when_to_come_back() {
    let lab = Lab::start().await;
    lab.change(set(policy(vec![hourly(2, vec![])])));
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        for _ in 0..2 {
            assert_eq!(client.fetch(get("/")).await.status, 200, "{server}");
        }
        let reply = client.fetch(get("/")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text()),
            (429, "local_rate_limited"),
            "{server}"
        );
        assert_eq!(reply.headers["x-envoy-ratelimited"], "true");
        let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=1800).contains(&wait), "{wait}");
        assert_eq!(app.seen().len(), 2, "{server}: what is refused arrives nowhere");
        assert_eq!(
            statuses(&lab, BANK, vip, &["/"]).await,
            [429],
            "{server}: for all alike"
        );
    }
}

#[tokio::test]
async fn a_refusal_is_told_to_the_log_and_the_metrics_of_the_destination() {
    let lab = Lab::start().await;
    lab.change(set(policy(vec![hourly(1, vec![])])));
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    assert_eq!(statuses(&lab, WEB, vip, &["/first", "/second"]).await, [200, 429]);
    let lines = lab.b.logged(2).await;
    let line = lines.iter().find(|line| line["path"] == "/second").unwrap();
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"RL".into(), &"local_rate_limited".into())
    );
    let reason = [("reason", "local_rate_limited")];
    assert_eq!(lab.b.sum("mesh_policy_denials_total", &reason), 1);
    assert_eq!(lab.a.sum("mesh_policy_denials_total", &reason), 0);
}

#[tokio::test]
async fn plaintext_counts_and_has_no_identity() {
    let lab = Lab::start().await;
    lab.change(set(policy(vec![hourly(1, vec![KeyPart::Source])])));
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let gate = lab.steer(app.addr, WEB.ip).await;
    for status in [200, 429] {
        let stream = TcpStream::connect(gate).await.unwrap();
        let reply = H1::on(&lab, stream).await.fetch(get("/")).await;
        assert_eq!(reply.status, status);
    }
    assert_eq!(statuses(&lab, WEB, vip, &["/", "/"]).await, [200, 429]);
}

#[tokio::test]
async fn the_own_nodes_probes_are_not_counted() {
    let lab = Lab::start().await;
    let kubelet: IpAddr = "127.0.1.99".parse().unwrap();
    let app = App::says(&lab, CART, "alive").await;
    lab.change(set(policy(vec![hourly(1, vec![])])));
    lab.change(|facts| {
        facts.nodes.push(node("node-a", kubelet));
        let cart = facts.workloads.iter_mut().find(|pod| pod.addrs == [CART.ip]);
        cart.unwrap().probe_ports.insert(app.addr.port());
    });
    for (client, expected) in [
        (kubelet, [200, 200]),
        (LEGACY.ip, [200, 429]),
        (kubelet, [200, 200]),
    ] {
        let gate = lab.steer(app.addr, client).await;
        for status in expected {
            let stream = TcpStream::connect(gate).await.unwrap();
            let reply = H1::on(&lab, stream).await.fetch(get("/")).await;
            assert_eq!(reply.status, status, "{client}");
        }
    }
}

#[tokio::test]
async fn each_caller_has_its_own_bucket_on_both_paths() {
    let lab = Lab::start().await;
    lab.change(set(policy(vec![hourly(1, vec![KeyPart::Source])])));
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Http, &[app.addr]).await;
        for client in [WEB, BANK] {
            assert_eq!(
                statuses(&lab, client, vip, &["/", "/"]).await,
                [200, 429],
                "{server}"
            );
        }
    }
}

#[tokio::test]
async fn a_user_is_told_by_the_claims_of_a_verified_token() {
    let lab = Lab::start().await;
    let signer = Signer::new("k");
    let tokens = authentication(vec![rule(inline(&[signer.jwk()]))]);
    let limits = policy(vec![hourly(1, vec![KeyPart::Claim(["sub".into()].into())])]);
    lab.change(move |facts| {
        facts.request_authentications = vec![tokens.clone()];
        facts.rate_limit_policies = vec![limits.clone()];
    });
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (user, status) in [("alice", 200), ("alice", 429), ("bob", 200)] {
        let token = signer.sign(&json!({"iss": ISSUER, "sub": user, "exp": now + 600}));
        let mut request = get("/");
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let reply = H1::dial(&lab, WEB, vip).await.fetch(request).await;
        assert_eq!(reply.status, status, "{user}");
    }
}

#[tokio::test]
async fn what_other_policies_refuse_costs_nothing() {
    let lab = Lab::start().await;
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Http, &[app.addr]).await;
        let deny = authorization(PolicyAction::Deny, vec![from(BANK)]);
        lab.change(move |facts| {
            facts.authorization_policies = vec![deny.clone()];
            facts.rate_limit_policies = vec![policy(vec![hourly(1, vec![])])];
        });
        assert_eq!(
            statuses(&lab, BANK, vip, &["/", "/"]).await,
            [403, 403],
            "{server}"
        );
        assert_eq!(
            statuses(&lab, WEB, vip, &["/", "/"]).await,
            [200, 429],
            "{server}"
        );
    }
}

#[tokio::test]
async fn a_path_is_counted_however_the_application_may_read_it() {
    let lab = Lab::start().await;
    let login = RateLimit {
        of: LimitMatch {
            path: Some(LimitPath::Exact("/login".into())),
            ..LimitMatch::default()
        },
        ..hourly(1, vec![])
    };
    lab.change(set(policy(vec![login])));
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let paths = [
        "/logout",
        "/login",
        "/%6cogin?x",
        "//login",
        "/x/..%2flogin",
        "/login;a=b",
        "/logout",
    ];
    let expected = [200, 200, 429, 429, 429, 429, 200];
    assert_eq!(statuses(&lab, WEB, vip, &paths).await, expected);
}

#[tokio::test]
async fn a_grpc_client_is_told_in_trailers() {
    let lab = Lab::start().await;
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Grpc, &[app.addr]).await;
        for (number, (told, status)) in [
            (GrpcRefusal::Unavailable, "14"),
            (GrpcRefusal::ResourceExhausted, "8"),
        ]
        .into_iter()
        .enumerate()
        {
            // Another number is another limit.
            let requests = u32::try_from(number).unwrap() + 1;
            lab.change(set(RateLimitPolicy {
                grpc_status: told,
                ..policy(vec![hourly(requests, vec![])])
            }));
            let mut client = H2::dial(&lab, WEB, vip).await;
            for _ in 0..requests {
                let reply = client.fetch(call(b"\0\0\0\0\x01x")).await;
                assert_eq!(reply.headers.get("grpc-status"), None, "{server}");
            }
            let reply = client.fetch(call(b"\0\0\0\0\x01x")).await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.headers["grpc-status"], status, "{server}");
            assert_eq!(reply.headers["grpc-message"], "local_rate_limited");
            assert_eq!(reply.headers["x-envoy-ratelimited"], "true");
            assert!(reply.headers.contains_key("retry-after"));
        }
    }
}

#[tokio::test]
async fn a_dry_run_refuses_nothing_and_is_counted() {
    let lab = Lab::start().await;
    lab.change(set(RateLimitPolicy {
        is_dry_run: true,
        ..policy(vec![hourly(1, vec![])])
    }));
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    assert_eq!(statuses(&lab, WEB, vip, &["/", "/", "/"]).await, [200; 3]);
    let count = |result| lab.a.sum("mesh_rate_limit_dry_runs_total", &[("result", result)]);
    assert_eq!((count("allow"), count("deny")), (1, 2));
}

#[tokio::test]
async fn a_change_of_something_else_gives_no_tokens() {
    let lab = Lab::start().await;
    lab.change(set(policy(vec![hourly(1, vec![])])));
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    assert_eq!(statuses(&lab, WEB, vip, &["/"]).await, [200]);
    lab.service("other", AppProtocol::Http, &[app.addr]).await;
    assert_eq!(statuses(&lab, WEB, vip, &["/"]).await, [429]);
    lab.change(set(policy(vec![hourly(2, vec![])])));
    assert_eq!(statuses(&lab, WEB, vip, &["/", "/", "/"]).await, [200, 200, 429]);
}

/// Whether a reason to try again is one does not depend on the node: the destination's agent is asked, or answers.
#[tokio::test]
async fn what_a_limit_or_a_policy_refuses_is_tried_again_on_no_path_unless_that_is_asked_for() {
    let lab = Lab::start().await;
    let (limited, denied) = (
        policy(vec![hourly(1, vec![])]),
        authorization(PolicyAction::Allow, vec![from(BANK)]),
    );
    for (pod, server) in SERVERS {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(server, AppProtocol::Http, &[app.addr]).await;
        let agent = if pod == CART { &lab.a } else { &lab.b };
        let refused = |reason| agent.sum("mesh_policy_denials_total", &[("reason", reason)]);
        for (words, asked) in [("429,5xx", 1), ("429,envoy-ratelimited", 3)] {
            // Another name, so that the bucket is full again.
            let name = format!("{server}-{asked}").into();
            lab.change(set(RateLimitPolicy {
                name,
                ..limited.clone()
            }));
            retrying(&lab, server, &again(2, words));
            assert_eq!(statuses(&lab, WEB, vip, &["/"]).await, [200], "{server} {words}");
            let before = refused("local_rate_limited");
            assert_eq!(statuses(&lab, WEB, vip, &["/"]).await, [429], "{server} {words}");
            assert_eq!(refused("local_rate_limited") - before, asked, "{server} {words}");
        }
        lab.change(|facts| facts.authorization_policies = vec![denied.clone()]);
        retrying(&lab, server, &again(2, "403,5xx"));
        assert_eq!(statuses(&lab, WEB, vip, &["/"]).await, [403], "{server}");
        assert_eq!(refused("authorization_denied"), 1, "{server}");
        lab.change(|facts| facts.authorization_policies.clear());
    }
}
