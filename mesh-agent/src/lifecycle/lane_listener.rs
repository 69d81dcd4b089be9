//! A listener that goes where the task goes that accepts.
//!
//! Place in the walk: the doors of pods. Must not know: who dials, why a task moved.
//!
//! Were it left with the threads that it began on, each connection of a pod that opens many would wake one of these only to
//! wake another.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::LaneStream;
use super::lanes::{Home, here};

/// Registered with the driver of the threads on which it is polled. One task polls it.
#[derive(Debug)]
pub struct LaneListener {
    registered: Mutex<Registered>,
    addr: SocketAddr,
}

#[derive(Debug)]
struct Registered {
    listener: TcpListener,
    /// Where it is registered, or where that failed; `None` where it was first polled by a task of no lane.
    home: Option<Home>,
}

impl LaneListener {
    /// Puts a non-blocking listener on the current runtime.
    ///
    /// Errors: it cannot be registered, or has no address.
    pub fn from_std(listener: StdListener) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let registered = Registered {
            listener,
            home: here(),
        };
        Ok(Self {
            registered: Mutex::new(registered),
            addr,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection, on the threads of the caller's lane.
    ///
    /// Errors: what accept(2) says.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(LaneStream, SocketAddr)>> {
        let mut registered = self.registered.lock();
        registered.settle();
        let (stream, peer) = ready!(registered.listener.poll_accept(cx))?;
        Poll::Ready(Ok((stream.into(), peer)))
    }

    /// Another descriptor of it.
    ///
    /// Errors: there are too many.
    pub fn try_clone(&self) -> io::Result<StdListener> {
        self.registered.lock().try_clone()
    }
}

impl Registered {
    fn settle(&mut self) {
        let here = here();
        if here.is_none() || here == self.home {
            return;
        }
        self.home = here;
        // What waits in the queue is told of at once where it is registered anew.
        match self.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => self.listener = listener,
            Err(error) => tracing::debug!(%error, "a listener is woken by threads that its pod has left"),
        }
    }

    fn try_clone(&self) -> io::Result<StdListener> {
        let fd: BorrowedFd<'_> = self.listener.as_fd();
        let fd: OwnedFd = fd.try_clone_to_owned()?;
        Ok(StdListener::from(fd))
    }
}

#[cfg(test)]
#[path = "lane_listener_tests.rs"]
mod tests;
