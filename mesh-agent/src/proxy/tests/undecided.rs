//! Authorizers that give no decision: what becomes of the request is the provider's to say.

use std::time::Duration;

use http::{Response, StatusCode};

use super::app::{App, full};
use super::client::{H1, get};
use super::external::{grpc, guard, http, servers};
use super::facts::{BANK, WEB, name};
use super::lab::Lab;
use crate::mesh::policy::external::{Authorizer, AuthorizerTarget, OnError};
use crate::mesh::service::AppProtocol;

/// Authorizers that decide nothing, and what a client is told then.
fn without_a_decision() -> Vec<(&'static str, Authorizer, u16)> {
    let mut cases = Vec::new();
    for (what, timeout) in [
        ("deaf", 50),
        ("broken", 10_000),
        ("endless", 10_000),
        ("unknown", 10_000),
    ] {
        let ends = [
            (OnError::Allow, 200),
            (OnError::Refuse(StatusCode::IM_A_TEAPOT), 418),
        ];
        let both = [http(), grpc()]
            .into_iter()
            .flat_map(|one| ends.map(|end| (one.clone(), end)));
        cases.extend(both.map(|(authorizer, (on_error, status))| {
            let authorizer = Authorizer {
                target: AuthorizerTarget::Service(name(what)),
                timeout: Duration::from_millis(timeout),
                on_error,
                ..authorizer
            };
            (what, authorizer, status)
        }));
    }
    cases
}

#[tokio::test]
async fn without_a_decision_the_provider_says_what_becomes_of_it() {
    let lab = Lab::start().await;
    let deaf = App::http(&lab, BANK, |_| std::future::pending()).await;
    lab.service("deaf", AppProtocol::Http, &[deaf.addr]).await;
    let broken = App::http(&lab, BANK, |_| async {
        let mut answer = Response::new(full("oops"));
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    lab.service("broken", AppProtocol::Http, &[broken.addr]).await;
    let endless = App::http(&lab, BANK, |_| async {
        Response::new(full(vec![0; 2 * 1024 * 1024]))
    })
    .await;
    lab.service("endless", AppProtocol::Http, &[endless.addr]).await;
    let servers = servers(&lab, AppProtocol::Http).await;
    for (what, authorizer, status) in without_a_decision() {
        guard(&lab, &authorizer, &[]);
        for (server, _, vip) in &servers {
            let reply = H1::dial(&lab, WEB, *vip).await.fetch(get("/guarded/ok")).await;
            assert_eq!(reply.status, status, "{what} {authorizer:?} {server}");
        }
    }
    let count = |result| lab.a.sum("mesh_external_checks_total", &[("result", result)]);
    assert_eq!(
        (count("failed_open"), count("failed_closed"), count("allowed")),
        (8, 8, 0)
    );
}
