//! HTTP/2 servers as others write them: few streams at a time, GOAWAY, 1xx before the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::app::{heard, speaks};
use super::client::{H1, H2, Reply, get, get2};
use super::facts::{CART, LabPod, PAY, WEB};
use super::lab::{Agent, Lab, eventually, soon};
use crate::lifecycle::Tasks;
use crate::mesh::service::AppProtocol;
use crate::transport::http::Body;

const SIDES: [(LabPod, &str); 2] = [(CART, "cart"), (PAY, "pay")];

/// An HTTP/2 server that takes few streams at a time, and keeps them until it may answer.
struct Few {
    limit: u32,
    connections: AtomicUsize,
    asked: AtomicUsize,
    answers: Semaphore,
}

impl Few {
    async fn serve(self: Arc<Self>, stream: TcpStream, tasks: Tasks) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(self.limit);
        let mut server = builder.handshake::<_, Bytes>(stream).await.unwrap();
        // Until the agent closes it.
        while let Some(Ok((_, respond))) = server.accept().await {
            self.asked.fetch_add(1, Ordering::Relaxed);
            tasks.spawn("answer", Arc::clone(&self).answer(respond));
        }
    }

    async fn answer(self: Arc<Self>, mut respond: SendResponse<Bytes>) {
        self.answers.acquire().await.unwrap().forget();
        respond.send_response(Response::new(()), true).unwrap();
    }
}

async fn status_of(mut client: http2::SendRequest<Body>) -> StatusCode {
    client.send_request(get2("/")).await.unwrap().status()
}

#[tokio::test]
async fn a_server_that_takes_few_streams_gets_more_connections() {
    let lab = Lab::start().await;
    for (pod, name) in SIDES {
        for (limit, connections) in [(1, 12), (4, 3)] {
            let few = Arc::new(Few {
                limit,
                connections: AtomicUsize::new(0),
                asked: AtomicUsize::new(0),
                answers: Semaphore::new(0),
            });
            let (server, tasks) = (Arc::clone(&few), lab.tasks.clone());
            let addr = speaks(&lab, pod, move |stream| {
                Arc::clone(&server).serve(stream, tasks.clone())
            })
            .await;
            let vip = lab
                .service(&format!("{name}-{limit}"), AppProtocol::Http2, &[addr])
                .await;
            let client = H2::dial(&lab, WEB, vip).await;
            let asking = (0..12).map(|_| status_of(client.0.clone()));
            let all_are_asked = async {
                let are_asked = || few.asked.load(Ordering::Relaxed) == 12;
                eventually("no request waits for another", are_asked).await;
                few.answers.add_permits(12);
            };
            let answered = async { tokio::join!(join_all(asking), all_are_asked) };
            let (statuses, ()) = soon("12 answers", answered).await;
            assert_eq!(statuses, [StatusCode::OK; 12], "{name}");
            assert_eq!(
                few.connections.load(Ordering::Relaxed),
                connections,
                "{name}: {limit}"
            );
        }
    }
}

/// An HTTP/2 server whose requests are answered by `answer`.
async fn server<F>(lab: &Lab, pod: LabPod, answer: F) -> std::net::SocketAddr
where
    F: Fn(SendResponse<Bytes>) + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    speaks(lab, pod, move |stream| {
        let answer = Arc::clone(&answer);
        async move {
            let mut server = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, respond))) = server.accept().await {
                answer(respond);
            }
        }
    })
    .await
}

/// Answers a request, and what came with it; the next ones must go elsewhere.
async fn goes_away(stream: TcpStream, connections: Arc<AtomicUsize>) {
    connections.fetch_add(1, Ordering::Relaxed);
    let mut server = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = server.accept().await {
        // GOAWAY goes out before what is asked next is read.
        server.graceful_shutdown();
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"bye"), true).unwrap();
    }
}

#[tokio::test]
async fn a_server_that_goes_away_fails_no_request() {
    let lab = Lab::start().await;
    for (pod, name) in SIDES {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let addr = speaks(&lab, pod, move |stream| goes_away(stream, Arc::clone(&counted))).await;
        let vip = lab.service(name, AppProtocol::Http2, &[addr]).await;
        let mut client = H2::dial(&lab, WEB, vip).await;
        for _ in 0..20 {
            let reply = client.fetch(get2("/")).await;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, "bye"), "{name}");
        }
        assert!(connections.load(Ordering::Relaxed) > 1, "{name}");
    }
}

#[tokio::test]
async fn informational_answers_are_never_the_answer() {
    const MANY: usize = 1000;
    let lab = Lab::start().await;
    for (pod, name) in SIDES {
        let one = speaks(&lab, pod, |mut stream| async move {
            assert!(heard(&mut stream).await);
            for status in ["100 Continue", "102 Processing", "103 Early Hints"].repeat(MANY / 3) {
                let head = format!("HTTP/1.1 {status}\r\nlink: </a>; rel=preload\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nyes";
            stream.write_all(answer).await.unwrap();
        })
        .await;
        let two = server(&lab, pod, |mut respond| {
            for _ in 0..MANY {
                let hints = Response::builder()
                    .status(103)
                    .header("link", "</a>; rel=preload");
                respond.send_informational(hints.body(()).unwrap()).unwrap();
            }
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"yes"), true).unwrap();
        })
        .await;
        for (version, protocol, addr) in [("1", AppProtocol::Http, one), ("2", AppProtocol::Http2, two)] {
            let vip = lab.service(&format!("{name}-{version}"), protocol, &[addr]).await;
            let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
            let told = (reply.status.as_u16(), reply.text());
            assert_eq!(told, (200, "yes"), "{name} {version}");
            assert!(!reply.headers.contains_key("link"), "{name} {version}");
        }
    }
}

#[tokio::test]
async fn a_client_that_is_refused_is_not_told_to_continue() {
    let lab = Lab::start().await;
    let nobody = lab.service("cart", AppProtocol::Http, &[]).await;
    let mut stream = lab.dial(WEB, nobody).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let answer = super::client::exchange(&mut stream, head).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 503 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// How an application fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    SaysNothing,
    Garbage,
    EndsInTheHead,
    EndsInTheBody,
}

impl Fault {
    const ALL: [Self; 4] = [
        Self::SaysNothing,
        Self::Garbage,
        Self::EndsInTheHead,
        Self::EndsInTheBody,
    ];

    /// What the client gets, and what the log of the application's node says; no status where the response is cut.
    fn expected(self) -> (Option<u16>, &'static str) {
        match self {
            Self::SaysNothing | Self::EndsInTheHead => (Some(503), "UC"),
            Self::Garbage => (Some(502), "UPE"),
            Self::EndsInTheBody => (None, "UC"),
        }
    }

    async fn over_h1(self, mut stream: TcpStream) {
        // A connection that the pool gives up is no request.
        if !heard(&mut stream).await {
            return;
        }
        let said: &[u8] = match self {
            Self::SaysNothing => b"",
            Self::Garbage => b"\x00\x01\x02 this is no HTTP\r\n\r\n",
            Self::EndsInTheHead => b"HTTP/1.1 200 OK\r\ncontent-le",
            Self::EndsInTheBody => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        };
        stream.write_all(said).await.unwrap();
    }

    async fn over_h2(self, mut stream: TcpStream) {
        if self == Self::Garbage {
            let said = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            stream.write_all(said).await.unwrap();
            // What is closed before it was read resets the connection, and takes what was said with it.
            let _ended = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            return;
        }
        let mut server = h2::server::handshake(stream).await.unwrap();
        let Some(Ok((request, mut respond))) = server.accept().await else {
            return;
        };
        drop::<Request<_>>(request);
        if self == Self::EndsInTheHead {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            while let Some(Ok(_)) = server.accept().await {}
        }
    }
}

#[tokio::test]
async fn an_application_that_fails_gives_the_right_status_and_flag_and_leaves_nothing() {
    for fault in Fault::ALL {
        for protocol in [AppProtocol::Http, AppProtocol::Http2] {
            // Below, where the head is surely taken before the connection ends.
            if fault == Fault::EndsInTheBody && protocol == AppProtocol::Http2 {
                continue;
            }
            for (pod, name) in SIDES {
                let what = format!("{fault:?} over {protocol:?} at {name}");
                Box::pin(fails_as_expected(fault, protocol, pod, &what)).await;
            }
        }
    }
}

async fn fails_as_expected(fault: Fault, protocol: AppProtocol, pod: LabPod, what: &str) {
    let lab = Lab::start().await;
    let addr = if protocol == AppProtocol::Http2 {
        speaks(&lab, pod, move |stream| fault.over_h2(stream)).await
    } else {
        speaks(&lab, pod, move |stream| fault.over_h1(stream)).await
    };
    let vip = lab.service("faulty", protocol, &[addr]).await;
    let (status, flag) = fault.expected();
    let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await;
    match (response, status) {
        (Ok(response), Some(status)) => assert_eq!(Reply::of(response).await.status, status, "{what}"),
        (Ok(response), None) => {
            let body = soon("its end", response.into_body().collect()).await;
            assert!(body.is_err(), "{what}: cut, not ended");
        }
        (Err(error), _) => assert_eq!(status, None, "{what}: {error:?}"),
    }
    let there = lab.agent_of(pod);
    let is_told = |line: &serde_json::Value| line["reporter"] == "destination";
    eventually("its record", || there.log().iter().any(is_told)).await;
    let told = there.log().into_iter().find(is_told).unwrap();
    assert_eq!(told["response_flags"], flag, "{what}");
    let held = |agent: &Agent, pod: LabPod| {
        let served = agent.mesh.pods.find(&pod.workload().uid).unwrap();
        served.held.bytes()
    };
    // A stream that is reset leaves its connection to others.
    let is_kept = protocol == AppProtocol::Http2 && fault == Fault::EndsInTheHead;
    let is_nothing_left = || {
        lab.a.load() == 0
            && (is_kept || there.flows.true_peers() == 0)
            && held(&lab.a, WEB) + held(there, pod) == 0
    };
    eventually(&format!("{what}: nothing is left"), is_nothing_left).await;
}

/// How a response over HTTP/2 ends in the middle of its body.
#[derive(Debug, Clone, Copy)]
enum Break {
    Reset,
    Goodbye,
    Silence,
}

/// Answers with half a body, and breaks off once it may.
async fn breaks_off(stream: TcpStream, how: Break, may: Arc<Semaphore>) {
    let mut server = h2::server::handshake(stream).await.unwrap();
    let Some(Ok((_, mut respond))) = server.accept().await else {
        return;
    };
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    tokio::select! {
        _more = server.accept() => return,
        permit = may.acquire() => permit.unwrap().forget(),
    }
    match how {
        Break::Reset => body.send_reset(h2::Reason::INTERNAL_ERROR),
        Break::Goodbye => server.abrupt_shutdown(h2::Reason::INTERNAL_ERROR),
        Break::Silence => return,
    }
    while let Some(Ok(_)) = server.accept().await {}
}

#[tokio::test]
async fn a_body_that_breaks_off_over_http_2_is_never_taken_for_whole() {
    for how in [Break::Reset, Break::Goodbye, Break::Silence] {
        for (pod, name) in SIDES {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let what = format!("{how:?} at {name} for {version:?}");
                Box::pin(is_never_taken_for_whole(how, pod, version, &what)).await;
            }
        }
    }
}

async fn is_never_taken_for_whole(how: Break, pod: LabPod, version: Version, what: &str) {
    let lab = Lab::start().await;
    let may = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may);
    let addr = speaks(&lab, pod, move |stream| {
        breaks_off(stream, how, Arc::clone(&gate))
    })
    .await;
    let vip = lab.service("faulty", AppProtocol::Http2, &[addr]).await;
    let response = if version == Version::HTTP_2 {
        H2::dial(&lab, WEB, vip).await.send(get2("/")).await
    } else {
        H1::dial(&lab, WEB, vip).await.send(get("/")).await
    };
    let mut body = response.unwrap().into_body();
    let half = soon(what, body.frame()).await.unwrap().unwrap();
    assert_eq!(half.into_data().unwrap(), "half", "{what}");
    may.add_permits(1);
    let rest = soon(what, body.collect()).await;
    assert!(rest.is_err(), "{what}: taken for whole");
}
