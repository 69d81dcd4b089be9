//! What slow readers make the agents hold, and what a pod may have of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;

use super::app::{App, full, written_by_hand};
use super::client::{H1, H2, HOST, get, get2};
use super::facts::{BANK, CART, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;
use crate::proxy::http::body::held::{MAX_HELD, SHARE};
use crate::proxy::pods::ServedPod;
use crate::transport::http::Body;

/// A body that has a GiB to give, and how much was taken of it.
fn endless(taken: &Arc<AtomicU64>) -> Body {
    let taken = Arc::clone(taken);
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let pieces = futures_util::stream::iter(0..16 * 1024).map(move |_| {
        taken.fetch_add(64 * 1024, Ordering::Relaxed);
        Ok(Frame::data(piece.clone()))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn served(lab: &Lab, pod: LabPod) -> Arc<ServedPod> {
    let pods = &lab.agent_of(pod).mesh.pods;
    pods.find(&pod.workload().uid).unwrap()
}

/// Answers of another application of the same agents are no slower for it; nothing of what stands still is taken
/// meanwhile but what sockets and windows hold.
async fn goes_on_beside(lab: &Lab, taken: &AtomicU64) {
    let hello = App::says(lab, BANK, "hello").await;
    let bank = lab.service("bank", AppProtocol::Http, &[hello.addr]).await;
    let mut client = H1::dial(lab, CART, bank).await;
    for _ in 0..200 {
        assert_eq!(client.fetch(get("/")).await.text(), "hello");
    }
    let taken = taken.load(Ordering::Relaxed);
    assert!(
        taken < 64 << 20,
        "{taken} bytes were taken for a reader that stands still"
    );
}

/// Whether the client speaks HTTP/2, what the application is spoken to in, and where it is.
const WAYS: [(bool, AppProtocol, LabPod); 8] = [
    (false, AppProtocol::Http, CART),
    (false, AppProtocol::Http, PAY),
    (false, AppProtocol::Http2, CART),
    (false, AppProtocol::Http2, PAY),
    (true, AppProtocol::Http, CART),
    (true, AppProtocol::Http, PAY),
    (true, AppProtocol::Http2, CART),
    (true, AppProtocol::Http2, PAY),
];

/// Waits until the bodies that stand still hold a share at each agent on their way.
async fn each_agent_holds_a_share(lab: &Lab, pod: LabPod) {
    let web = served(lab, WEB);
    eventually("its share", || web.held.bytes() == SHARE).await;
    if pod == PAY {
        let there = served(lab, PAY);
        eventually("its share there", || there.held.bytes() == SHARE).await;
    }
}

#[tokio::test]
async fn a_response_that_nobody_reads_holds_a_share_and_waits() {
    for (is_h2_client, protocol, pod) in WAYS {
        let lab = Lab::start().await;
        let taken = Arc::<AtomicU64>::default();
        let body = Arc::clone(&taken);
        let answer = move |_| std::future::ready(Response::new(endless(&body)));
        let app = App::http(&lab, pod, answer).await;
        let vip = lab.service("slow", protocol, &[app.addr]).await;
        let (mut one, mut two) = (H1::dial(&lab, WEB, vip).await, H2::dial(&lab, WEB, vip).await);
        let response = if is_h2_client {
            two.send(get2("/")).await.unwrap()
        } else {
            one.send(get("/")).await.unwrap()
        };
        each_agent_holds_a_share(&lab, pod).await;
        goes_on_beside(&lab, &taken).await;
        let (web, there) = (served(&lab, WEB), served(&lab, pod));
        assert_eq!(web.held.bytes(), SHARE);
        drop(response);
        drop((one, two));
        let is_given_back = || web.held.bytes() == 0 && there.held.bytes() == 0 && lab.a.load() == 0;
        eventually("all is given back", is_given_back).await;
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_holds_a_share_and_waits() {
    for (is_h2_client, protocol, pod) in WAYS {
        let lab = Lab::start().await;
        let app = App::http(&lab, pod, keeps_it).await;
        let vip = lab.service("deaf", protocol, &[app.addr]).await;
        let taken = Arc::<AtomicU64>::default();
        let (mut one, mut two) = (H1::dial(&lab, WEB, vip).await, H2::dial(&lab, WEB, vip).await);
        let request = if is_h2_client {
            Request::post(format!("http://{HOST}/"))
        } else {
            Request::post("/").header("host", HOST)
        };
        let request = request.body(endless(&taken)).unwrap();
        lab.tasks.spawn("upload", async move {
            // Never answered.
            let _cut = if is_h2_client {
                two.0.send_request(request).await
            } else {
                one.0.send_request(request).await
            };
        });
        each_agent_holds_a_share(&lab, pod).await;
        goes_on_beside(&lab, &taken).await;
    }
}

/// Reads nothing of the request, and answers nothing.
async fn keeps_it(request: Request<Incoming>) -> Response<Body> {
    std::future::pending::<()>().await;
    Response::new(request.into_body().map_err(Into::into).boxed_unsync())
}

#[tokio::test]
async fn a_reader_that_waits_for_more_holds_nothing() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let (app, mut bodies) = written_by_hand(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        let mut response = client.send(get("/")).await.unwrap();
        let frames = bodies.recv().await.unwrap();
        soon("its first piece", response.body_mut().frame())
            .await
            .unwrap()
            .unwrap();
        let (web, there) = (served(&lab, WEB), served(&lab, pod));
        eventually("nothing is held", || {
            web.held.bytes() == 0 && there.held.bytes() == 0
        })
        .await;
        drop(frames);
    }
}

#[tokio::test]
async fn a_pod_that_holds_too_much_is_refused_and_its_neighbour_is_not() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "rich").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let web = served(&lab, WEB);
    assert!(web.held.take(MAX_HELD - SHARE + 1));

    let mut client = H1::dial(&lab, WEB, vip).await;
    let refused = client.fetch(get("/")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["x-envoy-overloaded"], "true");
    assert_eq!(of_bytes(&lab), 1);
    let log = lab.a.logged(1).await;
    assert_eq!(log[0]["response_flags"], "OM");
    assert_eq!(log[0]["response_code_details"], "too_many_bytes_of_pod");
    let reply = H1::dial(&lab, CART, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 200, "its neighbour");

    web.held.give(MAX_HELD - SHARE + 1);
    assert_eq!(client.fetch(get("/")).await.status, 200);
    assert_eq!(web.held.bytes(), 0);
}

#[tokio::test]
async fn a_body_for_which_there_is_no_room_is_broken_off() {
    let lab = Lab::start().await;
    let (app, mut bodies) = written_by_hand(&lab, PAY).await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut client = H1::dial(&lab, WEB, vip).await;
    let mut response = client.send(get("/")).await.unwrap();
    let frames = bodies.recv().await.unwrap();
    soon("its first piece", response.body_mut().frame())
        .await
        .unwrap()
        .unwrap();
    let web = served(&lab, WEB);
    eventually("nothing is held", || web.held.bytes() == 0).await;
    assert!(web.held.take(MAX_HELD));

    frames.send(Frame::data(Bytes::from_static(b"more"))).unwrap();
    assert!(soon("its end", response.into_body().collect()).await.is_err());
    eventually("it is counted", || of_bytes(&lab) == 1).await;
    let log = lab.a.logged(1).await;
    assert_eq!(log[0]["response_flags"], "OM");
    eventually("load is given back", || lab.a.load() == 0).await;
}

#[tokio::test]
async fn small_bodies_hold_nothing() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| async { Response::new(full(vec![7; 16 * 1024])) }).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let web = served(&lab, WEB);
    assert!(web.held.take(MAX_HELD - SHARE));
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..50 {
        assert_eq!(client.fetch(get("/")).await.body.len(), 16 * 1024);
    }
    assert_eq!(of_bytes(&lab), 0);
}

/// How often the client's pod was refused for what it holds.
fn of_bytes(lab: &Lab) -> u64 {
    let labels = [
        ("workload", WEB.name),
        ("direction", "outbound"),
        ("limit", "bytes"),
    ];
    lab.a.sum("mesh_pod_limits_refused_total", &labels)
}
