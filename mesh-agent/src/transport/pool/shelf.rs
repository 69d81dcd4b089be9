//! The connections to one destination.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::lifecycle::Tasks;
use crate::transport::DialError;
use crate::transport::http::{H1Sender, H2Sender, start_h2};
use crate::transport::pool::Connect;
use crate::transport::pool::lease::H2Lease;

/// Idle HTTP/1.1 connections, the one used last on top.
#[derive(Debug, Default)]
pub(super) struct H1Shelf {
    idle: Vec<(H1Sender, Instant)>,
}

impl H1Shelf {
    /// The freshest connection that is open and younger than `idle`.
    pub(super) fn take(&mut self, idle: Duration) -> Option<H1Sender> {
        while let Some((sender, since)) = self.idle.pop() {
            if since.elapsed() >= idle {
                self.idle.clear();
                return None;
            }
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    pub(super) fn put(&mut self, sender: H1Sender) {
        if self.idle.len() < MAX_IDLE {
            self.idle.push((sender, Instant::now()));
        }
    }

    /// Closes what is too old; whether anything is left.
    pub(super) fn sweep(&mut self, idle: Duration) -> bool {
        self.idle
            .retain(|(sender, since)| since.elapsed() < idle && !sender.is_closed());
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
        self.connections
            .iter()
            .find(|connection| connection.has_room())
            .cloned()
    }

    /// Begins to open one more connection; every caller that comes meanwhile waits for the same one.
    pub(super) fn open(&mut self, tasks: &Tasks, connect: &Connect) -> Opening {
        let (tasks, connecting) = (tasks.clone(), connect());
        let future: BoxFuture<'static, Result<H2Sender, Arc<DialError>>> = Box::pin(async move {
            let stream = connecting.await.map_err(Arc::new)?;
            start_h2(&tasks, stream).await.map_err(Arc::new)
        });
        let opening = Opening {
            sender: future.shared(),
            streams: Arc::default(),
            last_used: Arc::new(Mutex::new(Instant::now())),
        };
        self.connections.push(opening.clone());
        opening
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
    streams: Arc<AtomicUsize>,
    last_used: Arc<Mutex<Instant>>,
}

impl Opening {
    /// Waits until it is open; holds a stream of it from then on.
    pub(super) async fn wait(self) -> Result<(H2Sender, H2Lease), Arc<DialError>> {
        let lease = H2Lease::new(&self.streams);
        *self.last_used.lock() = Instant::now();
        let sender = self.sender.await?;
        Ok((sender, lease))
    }

    fn is_alive(&self) -> bool {
        match self.sender.peek() {
            None => true,
            Some(Ok(sender)) => !sender.is_closed(),
            Some(Err(_)) => false,
        }
    }

    fn has_room(&self) -> bool {
        self.streams.load(Ordering::Relaxed) < MAX_STREAMS
    }

    fn is_stale(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0 && self.last_used.lock().elapsed() > STALE
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

/// Idle HTTP/1.1 connections to one destination for one client.
const MAX_IDLE: usize = 256;
/// Streams on one HTTP/2 connection before a second is opened; below every common server's limit (100).
const MAX_STREAMS: usize = 96;
/// An HTTP/2 connection without streams is closed after this time.
const STALE: Duration = Duration::from_mins(2);
