//! HTTP connections that are used again, for the requests of one pod.
//!
//! HTTP/1.1: an idle connection is taken by one request and comes back when the response was read to its end.
//! HTTP/2: one connection carries many requests; a second is opened when the first is full. Keys carry the
//! destination's uid, so that an address that moved to another pod never meets an old connection.

mod departures;
mod lease;
mod shelf;

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use hyper::body::Body as _;
use parking_lot::Mutex;

use crate::lifecycle::Tasks;
use crate::mesh::leaving::Leaving;
use crate::mesh::traffic::Reuse;
use crate::mesh::workload::WorkloadUid;
use crate::transport::http::{Body, H1Sender, H2Sender, frame_for_h1, no_body, start_h1};
use crate::transport::pool::lease::{H1Lease, H2Lease};
use crate::transport::pool::shelf::{H1Shelf, H2Shelf, Opening};
use crate::transport::proxy_header::ProxyHeader;
use crate::transport::{ByteStream, DialError};

pub use crate::transport::pool::departures::{Cut, Departures};
pub use crate::transport::pool::lease::Leased;

/// Opens one connection; called once for each connection that is needed, which for most requests is none.
pub type Connect<'c> =
    &'c (dyn Fn() -> BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>> + Send + Sync);

/// The HTTP version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 with prior knowledge, or inside mTLS.
    H2,
}

/// Which connections may carry a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The destination pod, when it is one.
    pub endpoint: Option<WorkloadUid>,
    /// Where the connection goes.
    pub addr: SocketAddr,
    /// The client that the destination sees: connections of two clients are never mixed.
    pub client: Option<IpAddr>,
    /// What is spoken.
    pub wire: Wire,
    /// The number of the TLS that the application speaks itself: connections that were begun by other rules are not used.
    pub tls: Option<u64>,
    /// What each began with, where the destination is told who is behind it: connections tell of one client each.
    pub proxied: Option<ProxyHeader>,
    /// How they are used again; where a policy changes that, new ones are opened.
    pub reuse: Reuse,
}

impl PoolKey {
    /// How long an HTTP/1.1 connection may be idle.
    fn idle_h1(&self) -> Duration {
        self.reuse.idle.unwrap_or(IDLE)
    }
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection came about; no byte of the request was sent.
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// The connection broke after the request, or a part of it, was sent.
    #[error("connection ended before the response")]
    Broken(#[source] hyper::Error),
}

/// Idle HTTP/1.1 connections by where they lead.
#[derive(Debug, Default)]
struct H1Shelves {
    shelves: Mutex<HashMap<PoolKey, H1Shelf>>,
    is_closed: AtomicBool,
    departures: Departures,
}

impl H1Shelves {
    /// Keeps a connection that has carried `carried` requests for the next one, if it may carry one more.
    ///
    /// Taken when as many destinations had gone away as `departures` counted: not kept if its own did since.
    fn put(&self, key: PoolKey, sender: H1Sender, carried: u32, departures: u64) {
        if self
            .departures
            .has_left_since(departures, key.endpoint.as_ref(), key.addr)
        {
            return;
        }
        let is_spent = key.reuse.requests.is_some_and(|most| carried >= most.get());
        let mut shelves = self.shelves.lock();
        if !is_spent && !sender.is_closed() && !self.is_closed.load(Ordering::Acquire) {
            shelves.entry(key).or_default().put(sender, carried);
        }
    }
}

/// The HTTP connections of one pod to its destinations.
#[derive(Debug)]
pub struct HttpPool {
    tasks: Tasks,
    h1: Arc<H1Shelves>,
    h2: Mutex<HashMap<PoolKey, H2Shelf>>,
}

impl HttpPool {
    /// An empty pool; `tasks` are its pod's.
    pub fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            h1: Arc::default(),
            h2: Mutex::default(),
        }
    }

    /// Sends `request` over a connection of `key`, opening one with `connect` when none is free, which is then driven by
    /// `tasks`: those of whoever asks, whose work it is.
    ///
    /// A request that the peer provably did not begin with is sent again on another connection. Waits for the
    /// response's headers for as long as the caller does. Cancel-safe: a dropped request is reset (HTTP/2), or its
    /// connection closed (HTTP/1.1).
    pub fn send<'a>(
        &'a self,
        tasks: &'a Tasks,
        key: &'a PoolKey,
        request: Request<Body>,
        connect: Connect<'a>,
    ) -> impl Future<Output = Result<Response<Leased>, SendError>> + 'a {
        match key.wire {
            Wire::H1 => Either::Left(self.send_h1(tasks, key, request, connect)),
            Wire::H2 => Either::Right(self.send_h2(tasks, key, request, connect)),
        }
    }

    /// Closes what was idle for longer than the idle time; called from a periodic task.
    pub fn sweep(&self) {
        let mut shelves = self.h1.shelves.lock();
        shelves.retain(|key, shelf| shelf.sweep(key.idle_h1()));
        drop(shelves);
        self.h2.lock().retain(|_, shelf| shelf.sweep());
        self.h1.departures.sweep();
    }

    /// Lets go of destinations that go away: what is idle closes now, what is in use when it is done, or after `limit`.
    pub fn leave(&self, leaving: &Arc<Leaving>, limit: Duration) {
        let cuts = self.h1.departures.leave(leaving);
        let stays = |key: &PoolKey| !leaving.includes(key.endpoint.as_ref(), key.addr);
        self.h1.shelves.lock().retain(|key, _| stays(key));
        // Streams that are under way hold the connection; it ends with the last of them.
        self.h2.lock().retain(|key, _| stays(key));
        if cuts.is_empty() {
            return;
        }
        let stop = self.tasks.stop();
        self.tasks.spawn("leave", async move {
            tokio::select! {
                () = tokio::time::sleep(limit) => {
                    for cut in &cuts {
                        cut.cancel();
                    }
                }
                // What is left then has the agent's own time to end.
                () = stop.requested() => {}
            }
        });
    }

    /// What ends a connection that is opened now when its destination goes away.
    pub fn cut_of(&self, endpoint: Option<WorkloadUid>, addr: SocketAddr) -> Cut {
        self.h1.departures.cut_of(endpoint, addr)
    }

    /// Closes what is idle, and from now on everything that becomes idle: the pod leaves or the agent stops.
    pub fn close(&self) {
        self.h1.is_closed.store(true, Ordering::Release);
        self.h1.shelves.lock().clear();
        self.h2.lock().clear();
    }

    /// How many connections are kept: idle HTTP/1.1 ones and all of HTTP/2.
    pub fn len(&self) -> usize {
        let h1: usize = self.h1.shelves.lock().values().map(H1Shelf::len).sum();
        let h2: usize = self.h2.lock().values().map(H2Shelf::len).sum();
        h1 + h2
    }

    /// Whether no connection is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn send_h1<'a>(
        &'a self,
        tasks: &'a Tasks,
        key: &'a PoolKey,
        mut request: Request<Body>,
        connect: Connect<'a>,
    ) -> impl Future<Output = Result<Response<Leased>, SendError>> + 'a {
        frame_for_h1(&mut request);
        async move {
            let departures = self.h1.departures.count();
            while let Some((mut sender, carried)) = self.take_idle(key) {
                if sender.ready().await.is_err() {
                    continue;
                }
                let again = replay_of(&request);
                let mut failed = match sender.try_send_request(request).await {
                    Ok(response) => {
                        let carried = carried.saturating_add(1);
                        return Ok(self.lease_h1(key, sender, carried, response, departures));
                    }
                    Err(failed) => failed,
                };
                if let Some(unsent) = failed.take_message() {
                    request = unsent;
                    continue;
                }
                // It may have been read: once more, on a connection that is surely open, and no more (RFC 9110 9.2.2).
                match again.filter(|_| closed_early(failed.error())) {
                    Some(again) => request = again,
                    None => return Err(SendError::Broken(failed.into_error())),
                }
                break;
            }
            let stream = connect()
                .await
                .map_err(|error| SendError::Dial(Arc::new(error)))?;
            let cut = self.cut_of(key.endpoint.clone(), key.addr);
            let mut sender = start_h1(tasks, stream, cut)
                .await
                .map_err(|error| SendError::Dial(Arc::new(error)))?;
            let response = sender.send_request(request).await.map_err(SendError::Broken)?;
            Ok(self.lease_h1(key, sender, 1, response, departures))
        }
    }

    fn take_idle(&self, key: &PoolKey) -> Option<(H1Sender, u32)> {
        self.h1.shelves.lock().get_mut(key)?.take(key.idle_h1())
    }

    fn lease_h1(
        &self,
        key: &PoolKey,
        sender: H1Sender,
        carried: u32,
        response: Response<hyper::body::Incoming>,
        departures: u64,
    ) -> Response<Leased> {
        let lease = H1Lease::new(Arc::clone(&self.h1), key.clone(), sender, carried, departures);
        response.map(|body| Leased::h1(body, lease))
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn has room for its arguments twice"
    )]
    fn send_h2<'a>(
        &'a self,
        tasks: &'a Tasks,
        key: &'a PoolKey,
        mut request: Request<Body>,
        connect: Connect<'a>,
    ) -> impl Future<Output = Result<Response<Leased>, SendError>> + 'a {
        async move {
            for _ in 0..MAX_TRIES {
                let (mut sender, lease) = self.h2_stream(tasks, key, connect).await?;
                let again = copy_without_body(&request);
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok(response.map(|body| Leased::h2(body, lease))),
                    Err(mut failed) => match failed
                        .take_message()
                        .or(again.filter(|_| never_begun(failed.error())))
                    {
                        Some(unsent) => request = unsent,
                        None => return Err(SendError::Broken(failed.into_error())),
                    },
                }
            }
            Err(SendError::Dial(Arc::new(DialError::TimedOut)))
        }
    }

    /// A stream of a connection. Each round opens a connection that takes one stream more at least.
    async fn h2_stream(
        &self,
        tasks: &Tasks,
        key: &PoolKey,
        connect: Connect<'_>,
    ) -> Result<(H2Sender, H2Lease), SendError> {
        loop {
            let opening = self.h2_connection(tasks, key, connect);
            if let Some(stream) = opening.wait().await.map_err(SendError::Dial)? {
                return Ok(stream);
            }
        }
    }

    /// A connection with room; a new one when there is none, kept unless the pool is closed: then it ends with what
    /// it was opened for.
    fn h2_connection(&self, tasks: &Tasks, key: &PoolKey, connect: Connect<'_>) -> Opening {
        let mut shelves = self.h2.lock();
        let kept = shelves.get_mut(key).and_then(H2Shelf::free);
        kept.unwrap_or_else(|| {
            let cut = self.cut_of(key.endpoint.clone(), key.addr);
            let opening = Opening::begin(tasks, connect, key.reuse, cut);
            if !self.h1.is_closed.load(Ordering::Acquire) {
                shelves.entry(key.clone()).or_default().keep(&opening);
            }
            opening
        })
    }
}

/// A copy of a request that may be sent twice: an idempotent method (RFC 9110 section 9.2.2) without a body.
fn replay_of(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_idempotent() {
        return None;
    }
    copy_without_body(request)
}

/// A copy of a request that has no body.
fn copy_without_body(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(no_body());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    *copy.version_mut() = request.version();
    Some(copy)
}

/// Whether a connection that was used again was closed by its peer before a byte of the response
/// (RFC 9112 section 9.3.1: such a request may be sent again).
fn closed_early(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed()
}

/// Whether an HTTP/2 peer says that it did not begin with the request: its stream is above the last one of a graceful
/// GOAWAY, or was refused (RFC 9113 sections 6.8 and 8.7: any such request may be sent again).
pub fn never_begun(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_going = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (is_going || is_refused);
        }
        cause = error.source();
    }
    false
}

/// HTTP/2 connections that may turn out closed before a request gives up.
const MAX_TRIES: usize = 8;
/// Shorter than the keep-alive time of common servers (Node.js closes after 5 s), so that we close first.
const IDLE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod tests;
