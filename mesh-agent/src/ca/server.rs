//! The transport of the service: TLS, HTTP/2, one gRPC method. Every wait on a caller has a deadline.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::service::{Asked, CaService, Caller};
use super::{NodeName, Refusal};
use crate::grpc::{self, Code};
use crate::identity::istio::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse};
use crate::lifecycle::{Stop, Tasks};

/// Bound, and not serving yet.
#[derive(Debug)]
pub struct CaServer {
    listener: TcpListener,
    service: Arc<CaService>,
}

impl CaServer {
    /// Listens, so that a port that is taken shows at start.
    pub async fn bind(addr: SocketAddr, service: CaService) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(addr).await?,
            service: Arc::new(service),
        })
    }

    /// Where it listens, with the port that port 0 became.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the stop of `tasks`.
    pub fn run(self, tasks: &Tasks) {
        let connections = tasks.child();
        tasks.spawn("ca-accept", accept(self.listener, self.service, connections));
    }
}

/// Takes no more connections than it has permits for; the rest wait in the kernel's queue.
async fn accept(listener: TcpListener, service: Arc<CaService>, connections: Tasks) {
    let stop = connections.stop();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            // Fails only where the semaphore is closed, which nobody does: never a connection without a permit.
            let permit = Arc::clone(&permits).acquire_owned().await?;
            Ok::<_, AcquireError>((permit, listener.accept().await))
        };
        let next = tokio::select! {
            () = stop.requested() => return,
            next = next => next,
        };
        let Ok((permit, accepted)) = next else {
            return tracing::error!("the permits for connections are gone; no more callers are served");
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, stop) = (Arc::clone(&service), stop.clone());
                connections.spawn("ca-connection", async move {
                    tokio::select! {
                        () = serve(stream, peer.ip(), &service, &stop) => {}
                        () = async { stop.requested().await; sleep(GRACE).await } => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: without a pause this loop would take a core.
                tracing::warn!(%error, "cannot accept a connection to the ca");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: IpAddr, service: &CaService, stop: &Stop) {
    let handshake = async {
        stream.set_nodelay(true)?;
        let tls = TlsAcceptor::from(service.keys().load().tls())
            .accept(stream)
            .await?;
        let connection = server::Builder::new()
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .initial_window_size(WINDOW)
            .max_send_buffer_size(MAX_SEND)
            .handshake::<_, Bytes>(tls)
            .await;
        connection.map_err(std::io::Error::other)
    };
    let mut connection = match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return no_handshake(service, peer, &error.to_string()),
        Err(_elapsed) => return no_handshake(service, peer, "timed out"),
    };
    let mut answering = FuturesUnordered::new();
    let mut is_closing = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => answering.push(answer(request, respond, peer, service)),
                Some(Err(error)) => return tracing::debug!(%peer, %error, "connection to the ca failed"),
                None => return,
            },
            Some(()) = answering.next() => {}
            () = stop.requested(), if !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
            // Whoever has nothing to ask makes room.
            () = sleep(IDLE), if answering.is_empty() => return,
        }
    }
}

fn no_handshake(service: &CaService, peer: IpAddr, error: &str) {
    service.metrics().handshake_failed();
    tracing::debug!(%peer, error, "tls handshake with the ca failed");
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: IpAddr,
    service: &CaService,
) {
    let mut asked = Asked::default();
    let outcome = timeout(REQUEST, decide(request, peer, service, &mut asked))
        .await
        .unwrap_or(Err(Refusal::Deadline));
    let node = asked.node.as_ref().map(NodeName::to_string);
    let sent = match outcome {
        Ok(answer) => {
            service.metrics().issued();
            tracing::info!(%peer, node, identity = asked.identity, "certificate signed");
            send(&mut respond, &answer)
        }
        Err(refusal) => {
            service.metrics().refused(refusal.as_str());
            let reason = refusal.as_str();
            let error = crate::identity::error_chain(&refusal);
            tracing::warn!(%peer, node, identity = asked.identity, reason, error, "certificate refused");
            refuse(&mut respond, refusal.code(), &error)
        }
    };
    if let Err(error) = sent {
        tracing::debug!(%peer, %error, "the caller of the ca went away");
    }
}

async fn decide(
    request: Request<RecvStream>,
    peer: IpAddr,
    service: &CaService,
    asked: &mut Asked,
) -> Result<CreateCertificateResponse, Refusal> {
    let (head, mut body) = request.into_parts();
    let caller = Caller {
        addr: peer,
        authorization: text(&head.headers, "authorization"),
    };
    let is_grpc =
        text(&head.headers, "content-type").is_some_and(|kind| kind.starts_with("application/grpc"));
    let admitted = if head.method != Method::POST || !is_grpc {
        Err(Refusal::Protocol)
    } else if head.uri.path() != CREATE_CERTIFICATE {
        Err(Refusal::Method)
    } else {
        service.admit(caller, Instant::now()).await
    };
    // Read in any case: some clients take an answer in the middle of their request for a broken stream.
    let body = grpc::collect(&mut body, MAX_REQUEST)
        .await
        .map_err(|_broken| Refusal::Protocol)?;
    let node = admitted?;
    asked.node = Some(node.clone());
    let request: CreateCertificateRequest = grpc::unframe(&body.ok_or(Refusal::TooLarge)?)?;
    service.create(&node, &request, asked, SystemTime::now())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn send(respond: &mut SendResponse<Bytes>, answer: &CreateCertificateResponse) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", GRPC);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(grpc::frame(answer), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(Code::Ok.as_str()));
    stream.send_trailers(trailers)
}

fn refuse(respond: &mut SendResponse<Bytes>, code: Code, message: &str) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    let headers = head.headers_mut();
    headers.insert("content-type", GRPC);
    headers.insert("grpc-status", HeaderValue::from_static(code.as_str()));
    let message = grpc::encode_message(message);
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    respond.send_response(head, true).map(drop)
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// An agent opens at most eight.
const MAX_CONNECTIONS: usize = 512;
const MAX_STREAMS: u32 = 16;
const MAX_HEAD: u32 = 16 * 1024;
/// A request has at most a few kilobytes: an RSA key of 8192 bits, a name.
const MAX_REQUEST: usize = 32 * 1024;
const WINDOW: u32 = 64 * 1024;
const MAX_SEND: usize = 256 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_mins(1);
/// For answers under way when the service stops.
const GRACE: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
