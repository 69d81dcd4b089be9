//! Clients in a pod of the lab.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::full;
use super::facts::LabPod;
use super::lab::{Lab, soon};
use crate::transport::http::{Body, TaskExecutor};

/// A response that was read to its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

impl Reply {
    pub(super) async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = soon("response body", body.collect()).await.unwrap();
        Self {
            status: head.status,
            version: head.version,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        }
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// An HTTP/1.1 connection of an application.
pub(super) struct H1(pub(super) http1::SendRequest<Body>);

impl H1 {
    pub(super) async fn dial(lab: &Lab, from: LabPod, original: SocketAddr) -> Self {
        Self::on(lab, lab.dial(from, original).await).await
    }

    pub(super) async fn on(lab: &Lab, stream: TcpStream) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        lab.tasks.spawn("client", async move {
            // How it ended is seen by the sender.
            let _ended = connection.with_upgrades().await;
        });
        Self(sender)
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        soon("connection", self.0.ready()).await?;
        soon("response", self.0.send_request(request)).await
    }

    pub(super) async fn fetch(&mut self, request: Request<Body>) -> Reply {
        Reply::of(self.send(request).await.unwrap()).await
    }
}

/// An HTTP/2 connection of an application.
pub(super) struct H2(pub(super) http2::SendRequest<Body>);

impl H2 {
    pub(super) async fn dial(lab: &Lab, from: LabPod, original: SocketAddr) -> Self {
        Self::on(lab, lab.dial(from, original).await).await
    }

    pub(super) async fn on(lab: &Lab, stream: TcpStream) -> Self {
        let builder = http2::Builder::new(TaskExecutor(lab.tasks.clone()));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        lab.tasks.spawn("client", async move {
            let _ended = connection.await;
        });
        Self(sender)
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        soon("response", self.0.send_request(request)).await
    }

    pub(super) async fn fetch(&mut self, request: Request<Body>) -> Reply {
        Reply::of(self.send(request).await.unwrap()).await
    }
}

/// A GET in origin form with a `Host`, for HTTP/1.1.
pub(super) fn get(path: &str) -> Request<Body> {
    let request = Request::get(path).header("host", HOST);
    request.body(full("")).unwrap()
}

/// A POST in origin form with a `Host`, for HTTP/1.1.
pub(super) fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let request = Request::post(path).header("host", HOST);
    request.body(full(body)).unwrap()
}

/// A GET in absolute form, for HTTP/2.
pub(super) fn get2(path: &str) -> Request<Body> {
    let request = Request::get(format!("http://{HOST}{path}"));
    request.body(full("")).unwrap()
}

/// A gRPC call of one message, for HTTP/2.
pub(super) fn call(message: &'static [u8]) -> Request<Body> {
    Request::post(format!("http://{HOST}/shop.Cart/Add"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(full(message))
        .unwrap()
}

/// Sends bytes and reads to the end of the stream.
pub(super) async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut all = Vec::new();
    soon("end of the stream", stream.read_to_end(&mut all)).await?;
    Ok(all)
}

/// The authority that clients name.
pub(super) const HOST: &str = "cart.shop:80";
