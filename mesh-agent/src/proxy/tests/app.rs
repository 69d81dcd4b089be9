//! Applications behind the mesh.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::facts::LabPod;
use super::lab::Lab;
use crate::detect::{Spoken, look, spoken};
use crate::transport::http::{Body, TaskExecutor};

/// An HTTP server of a pod, and what it saw.
#[derive(Clone)]
pub(super) struct App {
    pub(super) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// The head of a request as the application saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) peer: SocketAddr,
    pub(super) head: http::request::Parts,
}

type Handler = dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

impl App {
    /// Serves HTTP of either version on any port of `pod`.
    pub(super) async fn http<F, R>(lab: &Lab, pod: LabPod, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serving(lab, pod, false, handler).await
    }

    /// As [`App::http`], and takes extended CONNECT.
    pub(super) async fn extended<F, R>(lab: &Lab, pod: LabPod, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serving(lab, pod, true, handler).await
    }

    async fn serving<F, R>(lab: &Lab, pod: LabPod, is_extended: bool, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
        let app = Self {
            addr: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(move |request| Box::pin(handler(request)));
        let (tasks, seen) = (lab.tasks.clone(), Arc::clone(&app.seen));
        lab.tasks.spawn("app", async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                let mut h2 = http2::Builder::new(TaskExecutor(tasks.clone()));
                if is_extended {
                    h2.enable_connect_protocol();
                }
                tasks.spawn("app-connection", serve(stream, peer, handler, seen, h2));
            }
        });
        app
    }

    /// Answers `text` to everything.
    pub(super) async fn says(lab: &Lab, pod: LabPod, text: &'static str) -> Self {
        Self::http(lab, pod, move |_| async move { Response::new(full(text)) }).await
    }

    /// Answers with the request's body.
    pub(super) async fn echo(lab: &Lab, pod: LabPod) -> Self {
        Self::http(lab, pod, |request| async {
            Response::new(full(request.into_body().collect().await.unwrap().to_bytes()))
        })
        .await
    }

    /// What it was asked so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(super) fn only_seen(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Seen>>>,
    h2: http2::Builder<TaskExecutor>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        seen.lock().push(Seen {
            peer,
            head: copy_of(&head),
        });
        let answer = handler(Request::from_parts(head, body));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let Ok((version, stream)) = look(stream, Duration::from_mins(1), spoken).await else {
        return;
    };
    let io = TokioIo::new(stream);
    // An error is a client that went away.
    let _served = if version == Some(Spoken::Http2) {
        h2.serve_connection(io, service).await
    } else {
        http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await
    };
}

fn copy_of(head: &http::request::Parts) -> http::request::Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

/// A server of bytes on any port of `pod`, one task a connection.
pub(super) async fn speaks<F, R>(lab: &Lab, pod: LabPod, talk: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tasks = lab.tasks.clone();
    lab.tasks.spawn("server", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.spawn("server-connection", talk(stream));
        }
    });
    addr
}

/// Reads to the end of a request's head; whether there was one.
pub(super) async fn heard(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(read) if read > 0 => {}
            _ => return false,
        }
    }
    true
}

/// A body of one piece.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that yields what the sender is given, then trailers or an end.
pub(super) fn streamed() -> (UnboundedSender<Frame<Bytes>>, Body) {
    let (sender, mut frames) = unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, StreamBody::new(stream).boxed_unsync())
}

/// An application whose responses are written by the test, one piece at a time.
pub(super) async fn written_by_hand(
    lab: &Lab,
    pod: LabPod,
) -> (App, UnboundedReceiver<UnboundedSender<Frame<Bytes>>>) {
    let (hand, bodies) = unbounded_channel();
    let app = App::http(lab, pod, move |_| {
        let (frames, body) = streamed();
        frames.send(Frame::data(Bytes::from_static(b"begin "))).unwrap();
        // A test that is over takes no more bodies.
        let _taken = hand.send(frames);
        async move { Response::new(body) }
    })
    .await;
    (app, bodies)
}

/// A gRPC response of one message and a status in its trailers.
pub(super) fn grpc(message: &'static [u8], status: u32) -> Response<Body> {
    let (frames, body) = streamed();
    frames.send(Frame::data(Bytes::from_static(message))).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    frames.send(Frame::trailers(trailers)).unwrap();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
