//! Requests in which nothing moves.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;

use super::app::{App, written_by_hand};
use super::client::{H1, H2, get, get2};
use super::facts::{CART, WEB};
use super::lab::{Lab, soon};
use crate::mesh::service::AppProtocol;

/// Long enough that a busy machine begins everything in time.
const PATIENCE: Duration = Duration::from_secs(3);

/// Flag and details of the request that the agent wrote down.
async fn logged(lab: &Lab) -> (String, String) {
    let line = lab.a.logged(1).await.remove(0);
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("response_flags"), text("response_code_details"))
}

fn silent() -> (String, String) {
    ("SI".to_owned(), "stream_idle_timeout".to_owned())
}

#[tokio::test]
async fn a_request_that_nobody_answers_gets_504_when_nothing_moved_for_too_long() {
    let lab = Lab::patient_for(PATIENCE).await;
    let app = App::http(&lab, CART, |_| std::future::pending()).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(logged(&lab).await, silent());
    assert_eq!(lab.a.load(), 0, "nothing of it is left");
}

#[tokio::test]
async fn a_response_that_stands_still_for_too_long_breaks_off() {
    for is_http2 in [false, true] {
        let lab = Lab::patient_for(PATIENCE).await;
        let (app, mut bodies) = written_by_hand(&lab, CART).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        let response = if is_http2 {
            H2::dial(&lab, WEB, vip).await.send(get2("/")).await
        } else {
            H1::dial(&lab, WEB, vip).await.send(get("/")).await
        };
        // It is not the application that ends it.
        let _frames = soon("the application", bodies.recv()).await.unwrap();
        let read = soon("the end", response.unwrap().into_body().collect()).await;
        assert!(read.is_err(), "it was whole");
        assert_eq!(logged(&lab).await, silent());
    }
}
