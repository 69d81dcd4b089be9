//! `connectionPool` and `retryBudget` of a traffic policy, on live connections.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use http::{StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, speaks};
use super::client::{H1, get};
use super::facts::{CART, LEGACY, PAY, WEB, destination_rule};
use super::lab::{Lab, soon};
use super::retries::{again, fails, retrying};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{Limits, RetryShare, Reuse, WrittenPolicy};

fn pooling(lab: &Lab, service: &str, limits: Limits) {
    let policy = WrittenPolicy {
        limits: Some(limits),
        ..WrittenPolicy::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule(service, policy.clone())]);
}

/// How many connections four requests in turn are carried on.
async fn connections(reuse: Reuse) -> usize {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let limits = Limits {
        reuse,
        ..Limits::default()
    };
    pooling(&lab, "cart", limits);
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..4 {
        assert_eq!(client.fetch(get("/")).await.status, 200, "{reuse:?}");
    }
    let peers: BTreeSet<_> = app.seen().iter().map(|seen| seen.peer).collect();
    peers.len()
}

#[tokio::test]
async fn a_connection_carries_as_many_requests_as_its_policy_says() {
    for (requests, expected) in [(None, 1), (Some(1), 4), (Some(2), 2), (Some(3), 2), (Some(4), 1)] {
        let reuse = Reuse {
            requests: requests.and_then(NonZeroU32::new),
            ..Reuse::default()
        };
        assert_eq!(connections(reuse).await, expected, "{requests:?}");
    }
}

#[tokio::test]
async fn a_connection_that_was_idle_for_longer_than_its_policy_says_is_not_used_again() {
    // Whatever time passes between two requests is more than this.
    let idle = |idle| Reuse {
        idle: Some(idle),
        ..Reuse::default()
    };
    assert_eq!(connections(idle(Duration::from_nanos(1))).await, 4);
    assert_eq!(connections(idle(Duration::from_hours(1))).await, 1);
}

#[tokio::test]
async fn a_port_that_is_to_be_upgraded_is_spoken_to_in_http_2_on_either_node() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        client.fetch(get("/")).await;
        let upgraded = Limits {
            upgrades: true,
            ..Limits::default()
        };
        pooling(&lab, name, upgraded);
        let reply = client.fetch(get("/")).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, "hello"), "{name}");
        let versions: Vec<_> = app.seen().iter().map(|seen| seen.head.version).collect();
        assert_eq!(versions, [Version::HTTP_11, Version::HTTP_2], "{name}");
    }
}

/// The flags of an opaque connection that says one word and is then silent, once it has ended.
async fn flags_of_silence(limits: Limits) -> (String, String) {
    let lab = Lab::start().await;
    let app = speaks(&lab, LEGACY, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        // An error is a client that went away.
        let _echoed = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let vip = lab.service("legacy", AppProtocol::Tcp, &[app]).await;
    pooling(&lab, "legacy", limits);
    let mut client: TcpStream = lab.dial(WEB, vip).await;
    client.write_all(b"word").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    // Closed or reset.
    let _ended = soon("the end", client.read(&mut [0; 1])).await;
    let line = lab.a.logged(1).await.remove(0);
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("response_flags"), text("connection_termination_details"))
}

#[tokio::test]
async fn an_opaque_connection_ends_when_its_policy_says() {
    let short = Some(Duration::from_millis(20));
    let idle = Limits {
        opaque_idle: short,
        ..Limits::default()
    };
    assert_eq!(
        Box::pin(flags_of_silence(idle)).await,
        ("SI".into(), "idle_timeout".into())
    );
    let brief = Limits {
        opaque_duration: short,
        ..Limits::default()
    };
    let expected = ("DT".into(), "max_connection_duration".into());
    assert_eq!(Box::pin(flags_of_silence(brief)).await, expected);
}

#[tokio::test]
async fn a_share_of_what_is_under_way_stands_instead_of_the_default_budget() {
    for (retry_share, is_bounded) in [
        (None, true),
        (
            Some(RetryShare {
                percent_milli: 0,
                least: 1,
            }),
            false,
        ),
    ] {
        let lab = Lab::start().await;
        let app = fails(&lab, CART, usize::MAX, StatusCode::BAD_GATEWAY).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        retrying(&lab, "cart", &again(1, "5xx"));
        let policy = WrittenPolicy {
            retry_share,
            ..WrittenPolicy::default()
        };
        lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", policy.clone())]);
        let mut client = H1::dial(&lab, WEB, vip).await;
        for _ in 0..200 {
            client.fetch(get("/")).await;
        }
        // One at a time, each tried twice, unless the default of a fifth and ten a second holds.
        assert_eq!(app.seen().len() < 400, is_bounded, "{}", app.seen().len());
    }
}
