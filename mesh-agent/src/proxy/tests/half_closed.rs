//! Clients that are done sending and wait for their answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{App, speaks};
use super::facts::{CART, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

const BOTH: [(LabPod, &str); 2] = [(CART, "cart"), (PAY, "pay")];

/// Sends `request` and a FIN as a client whose socket stays open; returns all that comes back.
async fn answer_to(lab: &Lab, vip: std::net::SocketAddr, request: &str) -> String {
    lab.a.flows.clients_stay_open();
    let mut stream = lab.dial(WEB, vip).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("the end of the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

#[tokio::test]
async fn a_client_that_is_done_sending_gets_its_answer_and_then_the_end() {
    let requests = [
        ("GET / HTTP/1.0\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "hello",
        ),
    ];
    let lab = Lab::start().await;
    for (pod, name) in BOTH {
        let app = App::echo(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        for (request, body) in requests {
            let answer = answer_to(&lab, vip, request).await;
            assert!(
                answer.starts_with("HTTP/1.") && answer.contains(" 200 OK\r\n") && answer.ends_with(body),
                "{name} {request:?}: {answer:?}"
            );
        }
    }
    assert!(lab.a.log().iter().all(|line| line["response_flags"] != "DC"));
}

#[tokio::test]
async fn a_request_that_is_cut_short_is_not_waited_for() {
    let lab = Lab::start().await;
    for (pod, name) in BOTH {
        let app = App::echo(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let cut = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel";
        let answer = answer_to(&lab, vip, cut).await;
        assert!(!answer.contains(" 200 "), "{name}: {answer:?}");
        eventually("load is given back", || lab.a.load() == 0).await;
    }
}

#[tokio::test]
async fn a_connection_that_changed_protocol_passes_the_end_on() {
    let lab = Lab::start().await;
    for (pod, name) in BOTH {
        // Answers the bytes that follow only after their end.
        let addr = speaks(&lab, pod, |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
            stream.write_all(agreed.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nwords";
        let answer = answer_to(&lab, vip, request).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{name}: {answer:?}");
        assert!(answer.ends_with("\r\n\r\nwords"), "{name}: {answer:?}");
    }
}
