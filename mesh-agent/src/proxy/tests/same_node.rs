//! Two pods of one node: one agent is both ends.

use http::Version;

use super::app::{App, grpc};
use super::client::{H1, H2, HOST, call, get, get2};
use super::facts::{CART, LabPod, WEB};
use super::lab::Lab;
use crate::mesh::service::AppProtocol;

#[tokio::test]
async fn http_1_arrives_as_http_1() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/a?b=c")).await;

    assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"));
    let seen = app.only_seen();
    assert_eq!(seen.head.version, Version::HTTP_11);
    assert_eq!(seen.head.uri, "/a?b=c");
    assert_eq!(seen.header("host"), Some(HOST));
}

#[tokio::test]
async fn http_2_arrives_as_http_2() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;

    let reply = H2::dial(&lab, WEB, vip).await.fetch(get2("/a?b=c")).await;

    assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"));
    assert_eq!(reply.version, Version::HTTP_2);
    let seen = app.only_seen();
    assert_eq!(seen.head.version, Version::HTTP_2);
    assert_eq!(seen.head.uri.authority().unwrap(), HOST);
}

/// A client that wants much does not take its server along to the threads for that, and one thread drives both connections.
#[tokio::test]
async fn what_a_client_asks_for_is_its_own_work_not_the_servers() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let tasks = |pod: LabPod| lab.a.mesh.pods.find(&pod.workload().uid).unwrap().tasks.clone();
    let (of_server, of_client) = (tasks(CART).active(), tasks(WEB).active());
    let (mut one, mut two) = (H1::dial(&lab, WEB, vip).await, H2::dial(&lab, WEB, vip).await);

    one.fetch(get("/")).await;
    two.fetch(get2("/")).await;

    assert_eq!(
        lab.a.flows.true_peers(),
        2,
        "a connection of each version is kept"
    );
    assert_eq!(tasks(CART).active(), of_server);
    assert!(
        tasks(WEB).active() >= of_client + 4,
        "two from the client, two to the server"
    );
}

#[tokio::test]
async fn grpc_trailers_reach_the_client_and_the_record() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| async { grpc(b"\0\0\0\0\x01x", 5) }).await;
    let vip = lab.service("cart", AppProtocol::Grpc, &[app.addr]).await;

    let reply = H2::dial(&lab, WEB, vip).await.fetch(call(b"\0\0\0\0\x01x")).await;

    assert_eq!(reply.body, &b"\0\0\0\0\x01x"[..]);
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "5");
    assert_eq!(app.only_seen().header("te"), Some("trailers"));
    for line in lab.a.logged(2).await {
        assert_eq!(
            (line["grpc_status"].as_u64(), line["response_flags"].as_str()),
            (Some(5), Some("-")),
            "{line}"
        );
    }
}
