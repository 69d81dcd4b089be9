//! The agent's end of a connection with an application of its node, whose bytes may go past TCP.
//!
//! Such bytes lie in a queue of their own that is read first, and an application may take a read of the last of them for the
//! end of all: it then waits for ever for what lies in TCP behind them. So the agent lets nothing get there: it counts what it
//! writes, and waits for the application before more is unread than the splice takes. What the application sends may lie in both
//! when the agent is as far behind: then it reads until nothing is left. Must not know: maps and programs, what the bytes mean.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use mesh_common::splice::{READS_BEFORE, WINDOW};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::lifecycle::LaneStream;
use crate::pod::LocalPod;
use crate::pod::flows::FlowTable;
use crate::pod::legs::{Backlog, LegEnds};
use crate::pod::netns::NetnsCookie;
use crate::transport::ByteStream;

/// Such a connection.
#[derive(Debug)]
pub struct Leg {
    way: Way,
    stream: LaneStream,
}

#[derive(Debug)]
enum Way {
    /// All bytes take TCP.
    Tcp,
    /// They do until it is known whether the sockets are joined: not before it is worthwhile to ask.
    Unasked(Box<Question>),
    /// Some do not.
    Spliced(Box<Splice>),
}

/// What must be asked of the kernel, and how many reads and writes there were.
#[derive(Debug)]
struct Question {
    flows: Arc<dyn FlowTable>,
    netns: NetnsCookie,
    dialled: SocketAddr,
    calls: u32,
}

#[derive(Debug)]
struct Splice {
    backlog: Box<dyn Backlog>,
    /// What may be written until the backlog must be looked at again.
    room: u64,
    /// Bytes that were read since a read last left nothing.
    in_a_row: u64,
    /// Reads and writes since what was spliced was counted.
    calls: u32,
    /// The next wait for an application that leaves no room.
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Leg {
    /// A connection whose bytes take TCP, whatever they are.
    pub fn over_tcp(stream: LaneStream) -> Self {
        Self {
            way: Way::Tcp,
            stream,
        }
    }

    /// The same when the agent relays its bytes unread from now on: they may be spliced. `dialled` is what the application of
    /// `pod` dialled, or where it listens.
    #[must_use]
    pub fn relayed(mut self, pod: &LocalPod, dialled: SocketAddr) -> Self {
        self.way = Way::Unasked(Box::new(Question {
            flows: Arc::clone(&pod.flows),
            netns: pod.netns.cookie(),
            dialled,
            calls: 0,
        }));
        self
    }

    /// The same with a `backlog` that is known already: for a trial.
    pub fn spliced(stream: LaneStream, backlog: Box<dyn Backlog>) -> Self {
        Self {
            way: Way::Spliced(Box::new(Splice::new(backlog))),
            stream,
        }
    }

    /// Bytes passed once more. What lives as long as that is told to the kernel, which joins the next connections like it, and
    /// asked for: the application's end is spliced to only after as many reads.
    fn count_call(&mut self) {
        let question = match &mut self.way {
            Way::Tcp => return,
            Way::Unasked(question) => question,
            Way::Spliced(splice) => {
                splice.calls += 1;
                if splice.calls >= CALLS_BETWEEN_TALLIES {
                    splice.calls = 0;
                    self.tally();
                }
                return;
            }
        };
        question.calls += 1;
        if question.calls < CALLS_BEFORE {
            return;
        }
        self.way = match question.ask(&self.stream) {
            Ok(Some(backlog)) => Way::Spliced(Box::new(Splice::new(backlog))),
            Ok(None) => Way::Tcp,
            Err(error) => {
                tracing::warn!(%error, dialled = %question.dialled, "a connection with an application is not spliced");
                Way::Tcp
            }
        };
    }

    /// What the kernel would forget is counted now.
    fn tally(&self) {
        if let Way::Spliced(splice) = &self.way
            && let Err(error) = splice.backlog.tally()
        {
            tracing::debug!(%error, "spliced bytes are not counted");
        }
    }
}

impl Question {
    fn ask(&self, stream: &LaneStream) -> io::Result<Option<Box<dyn Backlog>>> {
        let ends = LegEnds {
            agent: stream.local_addr()?,
            application: stream.peer_addr()?,
            dialled: self.dialled,
        };
        self.flows.splice(self.netns, ends)
    }
}

impl Splice {
    fn new(backlog: Box<dyn Backlog>) -> Self {
        Self {
            backlog,
            room: 0,
            in_a_row: 0,
            calls: 0,
            pause: SHORTEST_PAUSE,
            waiting: None,
        }
    }

    /// Waits until `wanted` bytes may be written.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: u64) -> Poll<io::Result<()>> {
        while self.room < wanted {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            let unread = self.backlog.unread()?.unwrap_or(0);
            self.room = WINDOW.saturating_sub(unread);
            if self.room < wanted {
                // At most as long as the application has kept the agent waiting already.
                self.waiting = Some(Box::pin(sleep(self.pause)));
                self.pause = LONGEST_PAUSE.min(self.pause * 2);
            } else {
                self.pause = SHORTEST_PAUSE;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// `TcpStream::poll_read` waits after a read that does not fill the buffer. That is the end of one queue: something can lie
    /// in TCP behind it only when the window was full before, all of which was read in a row then. Only the kernel can say then
    /// that nothing is left.
    fn poll_read(
        &mut self,
        stream: &mut LaneStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while self.in_a_row >= FAR_BEHIND {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.in_a_row = 0,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        self.in_a_row = if buf.remaining() == 0 {
            self.in_a_row + bytes(buf.filled().len() - before)
        } else {
            0
        };
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Leg {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Self { way, stream } = &mut *self;
        if let Way::Spliced(splice) = way {
            ready!(splice.poll_read(stream, cx, buf))?;
            if buf.filled().len() == before {
                self.tally();
            }
        } else {
            ready!(Pin::new(stream).poll_read(cx, buf))?;
        }
        self.count_call();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Leg {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { way, stream } = &mut *self;
        let stream = Pin::new(stream);
        let Way::Spliced(splice) = way else {
            let written = ready!(stream.poll_write(cx, buf))?;
            self.count_call();
            return Poll::Ready(Ok(written));
        };
        let buf = buf.get(..MOST_AT_ONCE).unwrap_or(buf);
        ready!(splice.poll_room(cx, bytes(buf.len())))?;
        let written = ready!(stream.poll_write(cx, buf))?;
        splice.room = splice.room.saturating_sub(bytes(written));
        self.count_call();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tally();
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Way::Spliced(_) = self.way {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ByteStream for Leg {
    fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        self.stream.proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        self.stream.revoked()
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.tally();
    }
}

fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A round trip is a read and a write, so that the application was read about as often as it must have been.
const CALLS_BEFORE: u32 = 2 * READS_BEFORE;
/// Few enough for metrics, and so many that it costs nothing.
const CALLS_BETWEEN_TALLIES: u32 = 128;
/// Less than the splice takes, so that there can be room for it.
const MOST_AT_ONCE: usize = 1 << 20;
/// Far less than the window, of which the kernel takes what is being read, at most a buffer, for unread.
const FAR_BEHIND: u64 = WINDOW / 2;
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// How late at most a connection goes on whose application reads again after it had stopped.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
#[path = "leg_tests.rs"]
mod tests;
