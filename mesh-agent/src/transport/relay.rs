//! Copies bytes between two streams until both directions are done.
//!
//! A direction ends with the peer's FIN (or a TLS `close_notify`), which is passed on as one while the other direction
//! goes on. An error ends both and is passed on as a reset. An idle connection holds no buffer: bytes pass through
//! one scratch buffer a thread, and only what a slow reader did not take is kept.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::transport::ByteStream;

/// Told of every byte that was passed on.
pub trait Meter {
    /// `count` bytes went from the client to the upstream.
    fn sent(&self, count: u64);
    /// `count` bytes went from the upstream to the client.
    fn received(&self, count: u64);
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides said that they were done.
    Finished,
    /// The client failed or vanished.
    ClientFailed(io::Error),
    /// The upstream failed or vanished.
    UpstreamFailed(io::Error),
    /// No byte passed for the idle time.
    Idle,
}

/// Copies between `client` and `upstream` until both directions are done, one fails, or no byte passed for `idle`.
///
/// Not cancel-safe: bytes under way are lost with the future.
pub async fn relay<C, U>(client: C, upstream: U, idle: Duration, meter: &impl Meter) -> RelayEnd
where
    C: ByteStream,
    U: ByteStream,
{
    let mut client = client;
    let mut upstream = upstream;
    let mut sending = Direction::default();
    let mut receiving = Direction::default();
    let mut idle_clock = Box::pin(IdleClock::new(idle));
    let end = poll_fn(|cx| {
        let moved_out = match sending.poll_copy(cx, &mut client, &mut upstream, |n| meter.sent(n)) {
            Ok(moved) => moved,
            Err(Side::Reader(error)) => return Poll::Ready(RelayEnd::ClientFailed(error)),
            Err(Side::Writer(error)) => return Poll::Ready(RelayEnd::UpstreamFailed(error)),
        };
        let moved_in = match receiving.poll_copy(cx, &mut upstream, &mut client, |n| meter.received(n)) {
            Ok(moved) => moved,
            Err(Side::Reader(error)) => return Poll::Ready(RelayEnd::UpstreamFailed(error)),
            Err(Side::Writer(error)) => return Poll::Ready(RelayEnd::ClientFailed(error)),
        };
        if sending.is_done() && receiving.is_done() {
            return Poll::Ready(RelayEnd::Finished);
        }
        idle_clock
            .as_mut()
            .poll_idle(cx, moved_out || moved_in)
            .map(|()| RelayEnd::Idle)
    })
    .await;
    if !matches!(end, RelayEnd::Finished) {
        client.reset_on_close();
        upstream.reset_on_close();
    }
    end
}

/// Which side of a direction failed.
enum Side {
    Reader(io::Error),
    Writer(io::Error),
}

/// One direction of a relay.
#[derive(Debug, Default)]
struct Direction {
    /// What the writer has not taken yet; empty, and without memory, while the writer keeps up.
    kept: Vec<u8>,
    kept_from: usize,
    stage: Stage,
    needs_flush: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Copying,
    Closing,
    Done,
}

impl Direction {
    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Moves what can be moved now; says whether anything moved. Wakes the task when more can be.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: impl Fn(u64),
    ) -> Result<bool, Side>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut moved = false;
        for _ in 0..ROUNDS_PER_POLL {
            match self.poll_round(cx, reader, writer) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(0)) => return Ok(true),
                Poll::Ready(Ok(bytes)) => {
                    moved = true;
                    count(u64::try_from(bytes).unwrap_or(u64::MAX));
                }
                Poll::Ready(Err(side)) => return Err(side),
            }
        }
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    /// One read and the writes that follow from it. `Ready(Ok(0))` when the direction is done.
    fn poll_round<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<usize, Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.stage == Stage::Done {
            return Poll::Pending;
        }
        ready!(self.poll_write_kept(cx, writer)).map_err(Side::Writer)?;
        if self.stage == Stage::Copying {
            let copied =
                SCRATCH.with_borrow_mut(|scratch| self.poll_read_and_write(cx, reader, writer, scratch));
            match copied {
                Poll::Pending => {
                    if self.needs_flush
                        && Pin::new(&mut *writer)
                            .poll_flush(cx)
                            .map_err(Side::Writer)?
                            .is_ready()
                    {
                        self.needs_flush = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.stage = Stage::Closing,
                Poll::Ready(other) => return Poll::Ready(other),
            }
        }
        ready!(Pin::new(writer).poll_shutdown(cx)).map_err(Side::Writer)?;
        self.stage = Stage::Done;
        Poll::Ready(Ok(0))
    }

    fn poll_write_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.kept_from..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept_from += written;
        }
        self.kept = Vec::new();
        self.kept_from = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads into the thread's scratch buffer and writes on from there; the rest is kept. Returns bytes read.
    fn poll_read_and_write<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(reader).poll_read(cx, &mut buf)).map_err(Side::Reader)?;
        let read = buf.filled();
        let mut rest = read;
        while !rest.is_empty() {
            match Pin::new(&mut *writer)
                .poll_write(cx, rest)
                .map_err(Side::Writer)?
            {
                Poll::Ready(0) => return Poll::Ready(Err(Side::Writer(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(written) => rest = rest.get(written..).unwrap_or_default(),
                Poll::Pending => {
                    self.kept = rest.to_vec();
                    self.kept_from = 0;
                    break;
                }
            }
        }
        self.needs_flush = true;
        Poll::Ready(Ok(read.len()))
    }
}

/// Fires when nothing moved for the idle time; moving only notes the moment, so that it costs no timer.
struct IdleClock {
    idle: Duration,
    last_moved: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl IdleClock {
    fn new(idle: Duration) -> Self {
        let now = Instant::now();
        Self {
            idle,
            last_moved: now,
            sleep: Box::pin(sleep_until(now + idle)),
        }
    }

    fn poll_idle(mut self: Pin<&mut Self>, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if moved {
            self.last_moved = Instant::now();
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let due = self.last_moved + self.idle;
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}

thread_local! {
    /// Bytes pass through here; never held across a poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

const SCRATCH_BYTES: usize = 64 * 1024;
/// So that one busy connection cannot keep a worker from its neighbours.
const ROUNDS_PER_POLL: usize = 8;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::SystemTime;

    use futures_util::future::BoxFuture;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::transport::never;

    impl ByteStream for DuplexStream {
        fn reset_on_close(&self) {}

        fn proved_until(&self) -> Option<SystemTime> {
            None
        }

        fn revoked(&self) -> BoxFuture<'static, ()> {
            never()
        }
    }

    #[derive(Default)]
    struct Counted {
        sent: Cell<u64>,
        received: Cell<u64>,
    }

    impl Meter for Counted {
        fn sent(&self, count: u64) {
            self.sent.set(self.sent.get() + count);
        }
        fn received(&self, count: u64) {
            self.received.set(self.received.get() + count);
        }
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_half_closed_client_still_gets_its_answer() {
        let (mut client, inner_client) = duplex(16);
        let (mut upstream, inner_upstream) = duplex(16);
        let meter = Counted::default();
        let peers = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            upstream.read_to_string(&mut question).await.unwrap();
            upstream
                .write_all(b"the answer, longer than a buffer")
                .await
                .unwrap();
            upstream.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (question, answer)
        };
        let (end, (question, answer)) =
            tokio::join!(relay(inner_client, inner_upstream, HOUR, &meter), peers);
        assert!(matches!(end, RelayEnd::Finished));
        assert_eq!(
            (question.as_str(), answer.as_str()),
            ("question", "the answer, longer than a buffer")
        );
        assert_eq!((meter.sent.get(), meter.received.get()), (8, 32));
    }

    #[tokio::test]
    async fn a_slow_reader_gets_every_byte_in_order() {
        let (mut client, inner_client) = duplex(64 * 1024);
        let (mut upstream, inner_upstream) = duplex(7);
        let meter = Counted::default();
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let expected = bytes.clone();
        let write = async move {
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            client
        };
        let read = async move {
            let mut all = Vec::new();
            upstream.read_to_end(&mut all).await.unwrap();
            drop(upstream);
            all
        };
        let (_end, _client, all) =
            tokio::join!(relay(inner_client, inner_upstream, HOUR, &meter), write, read);
        assert_eq!(all, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_after_the_idle_time() {
        let (mut client, inner_client) = duplex(64);
        let (mut upstream, inner_upstream) = duplex(64);
        let started = Instant::now();
        let meter = Counted::default();
        let late = async {
            tokio::time::advance(Duration::from_secs(40)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(upstream.read_u8().await.unwrap(), b'x');
        };
        let (end, ()) = tokio::join!(
            relay(inner_client, inner_upstream, Duration::from_mins(1), &meter),
            late
        );
        assert!(matches!(end, RelayEnd::Idle));
        assert!(started.elapsed() >= Duration::from_secs(100));
        drop((client, upstream));
    }
}
