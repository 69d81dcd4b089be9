//! The connections to one destination.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::lifecycle::Tasks;
use crate::mesh::traffic::Reuse;
use crate::transport::DialError;
use crate::transport::http::{H1Sender, H2Sender, POOLED_STREAMS, start_h2, start_h2_asking};
use crate::transport::pool::lease::H2Lease;
use crate::transport::pool::{Connect, Cut};

/// Idle HTTP/1.1 connections, the one used last on top.
#[derive(Debug, Default)]
pub(super) struct H1Shelf {
    idle: Vec<Idle>,
}

/// A connection that waits for its next request.
#[derive(Debug)]
struct Idle {
    sender: H1Sender,
    since: Instant,
    carried: u32,
}

impl H1Shelf {
    /// The freshest connection that is open and idle for less than `idle`, and how many requests it has carried.
    pub(super) fn take(&mut self, idle: Duration) -> Option<(H1Sender, u32)> {
        while let Some(Idle {
            sender,
            since,
            carried,
        }) = self.idle.pop()
        {
            if since.elapsed() >= idle {
                self.idle.clear();
                return None;
            }
            if !sender.is_closed() {
                return Some((sender, carried));
            }
        }
        None
    }

    pub(super) fn put(&mut self, sender: H1Sender, carried: u32) {
        if self.idle.len() < MAX_IDLE {
            let since = Instant::now();
            self.idle.push(Idle {
                sender,
                since,
                carried,
            });
        }
    }

    /// Closes what is too old; whether anything is left.
    pub(super) fn sweep(&mut self, idle: Duration) -> bool {
        self.idle
            .retain(|one| one.since.elapsed() < idle && !one.sender.is_closed());
        !self.idle.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.idle.len()
    }
}

/// HTTP/2 connections, open or being opened.
#[derive(Debug, Default)]
pub(super) struct H2Shelf {
    connections: Vec<Opening>,
}

impl H2Shelf {
    /// A connection that has room for one more stream; connections that ended are forgotten.
    pub(super) fn free(&mut self) -> Option<Opening> {
        self.connections.retain(Opening::is_alive);
        let free = self.connections.iter().find(|connection| connection.has_room())?;
        free.begun.fetch_add(1, Ordering::Relaxed);
        Some(free.clone())
    }

    /// Keeps a connection, or one that is being opened, for whoever comes.
    pub(super) fn keep(&mut self, opening: &Opening) {
        self.connections.push(opening.clone());
    }

    /// Forgets what ended or is unused for long; whether anything is left.
    pub(super) fn sweep(&mut self) -> bool {
        self.connections
            .retain(|connection| connection.is_alive() && !connection.is_stale());
        !self.connections.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }
}

/// An HTTP/2 connection that is open, or will be.
#[derive(Clone)]
pub(super) struct Opening {
    sender: Shared<BoxFuture<'static, Result<H2Sender, Arc<DialError>>>>,
    streams: Arc<AtomicU32>,
    /// What the peer takes at a time, as it said last; not below [`POOLED_STREAMS`] as long as that is not known.
    taken_at_once: Arc<AtomicU32>,
    /// How many requests it has been given so far.
    begun: Arc<AtomicU32>,
    reuse: Reuse,
    last_used: Arc<Mutex<Instant>>,
    /// Set once it is open, see [`ByteStream::proved_until`](crate::transport::ByteStream::proved_until).
    proved_until: Arc<OnceLock<SystemTime>>,
}

impl Opening {
    /// Begins to open a connection. A task sees it through, although who asked for it may go away meanwhile.
    pub(super) fn begin(tasks: &Tasks, connect: Connect<'_>, reuse: Reuse, cut: Cut) -> Self {
        let (driver, connecting) = (tasks.clone(), connect());
        let proved_until: Arc<OnceLock<SystemTime>> = Arc::default();
        let until_when = Arc::clone(&proved_until);
        let taken_at_once = Arc::new(AtomicU32::new(u32::MAX));
        let said = Arc::clone(&taken_at_once);
        let future: BoxFuture<'static, Result<H2Sender, Arc<DialError>>> = Box::pin(async move {
            let stream = connecting.await.map_err(Arc::new)?;
            if let Some(until) = stream.proved_until() {
                // The first and only time that it is set.
                until_when.get_or_init(|| until);
                // An agent, which takes more than are put on one connection.
                return start_h2(&driver, stream, cut).await.map_err(Arc::new);
            }
            start_h2_asking(&driver, stream, cut, said)
                .await
                .map_err(Arc::new)
        });
        let sender = future.shared();
        tasks.spawn("open-http2", sender.clone().map(drop));
        Self {
            sender,
            streams: Arc::default(),
            taken_at_once,
            begun: Arc::new(AtomicU32::new(1)),
            reuse,
            last_used: Arc::new(Mutex::new(Instant::now())),
            proved_until,
        }
    }

    /// Waits until it is open; holds a stream of it from then on. None where the peer takes fewer streams than were
    /// waiting for it.
    pub(super) async fn wait(self) -> Result<Option<(H2Sender, H2Lease)>, Arc<DialError>> {
        let (lease, before) = H2Lease::new(&self.streams);
        *self.last_used.lock() = Instant::now();
        let sender = self.sender.await?;
        // One stream at least: a peer that takes none at the moment makes it wait.
        let taken_at_once = self.taken_at_once.load(Ordering::Relaxed).max(1);
        Ok((before < taken_at_once).then_some((sender, lease)))
    }

    /// Whether new requests may use it: those that it carries already go on.
    fn is_alive(&self) -> bool {
        if self
            .proved_until
            .get()
            .is_some_and(|until| *until <= SystemTime::now())
        {
            return false;
        }
        let begun = self.begun.load(Ordering::Relaxed);
        if self.reuse.requests.is_some_and(|most| begun >= most.get()) {
            return false;
        }
        match self.sender.peek() {
            None => true,
            Some(Ok(sender)) => !sender.is_closed(),
            Some(Err(_)) => false,
        }
    }

    fn has_room(&self) -> bool {
        let most = self.reuse.streams.map_or(POOLED_STREAMS, NonZeroU32::get);
        let room = most
            .min(POOLED_STREAMS)
            .min(self.taken_at_once.load(Ordering::Relaxed));
        self.streams.load(Ordering::Relaxed) < room
    }

    fn is_stale(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
            && self.last_used.lock().elapsed() > self.reuse.idle.unwrap_or(STALE)
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

/// Idle HTTP/1.1 connections to one destination for one client. As many as a burst of requests leaves behind: what is closed
/// for want of room is opened again by the next burst, and keeps its port for a minute.
const MAX_IDLE: usize = 1024;
/// An HTTP/2 connection without streams is closed after this time.
const STALE: Duration = Duration::from_mins(2);
