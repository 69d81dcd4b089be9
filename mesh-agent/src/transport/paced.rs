//! A byte stream that gives a long poll an end.
//!
//! Place in the walk: between HTTP/2 and its bytes, on both sides. One poll of an HTTP/2 connection goes on for as long as there
//! is something to read or room to write: with a thousand small frames that is milliseconds, which all other pods wait for.
//! Must not know: what the bytes mean.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use crate::lifecycle;
use crate::transport::ByteStream;

/// Bytes that are read and written until the poll has taken its time, and then at once in the next one.
#[derive(Debug)]
pub struct Paced<S> {
    inner: Take<S>,
    /// Bytes that the next read takes at most: few where few of them make much work.
    most: u64,
    read: Pace,
    written: Pace,
}

/// The poll in which something was last done.
#[derive(Debug, Default)]
struct Pace(Option<Instant>);

impl<S: ByteStream> Paced<S> {
    /// The bytes of `inner`.
    pub fn new(inner: S) -> Self {
        Self {
            inner: inner.take(FEW),
            most: FEW,
            read: Pace::default(),
            written: Pace::default(),
        }
    }

    fn inner(&mut self) -> Pin<&mut S> {
        Pin::new(self.inner.get_mut())
    }
}

impl Pace {
    /// Whether the poll has taken long enough; the task is polled again then. The first step of each poll is always taken.
    fn is_over(&mut self, cx: &Context<'_>) -> bool {
        let Some(begun) = lifecycle::poll_begun() else {
            return false;
        };
        let is_first = self.0.replace(begun) != Some(begun);
        if is_first || begun.elapsed() < LONG {
            return false;
        }
        cx.waker().wake_by_ref();
        true
    }
}

impl<S: ByteStream> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_over(cx) {
            self.most = (self.most / 4).max(LEAST);
            return Poll::Pending;
        }
        let most = self.most;
        self.inner.set_limit(most);
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.inner.limit() == 0 {
            self.most = (most * 2).min(MOST);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: ByteStream> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.written.is_over(cx) {
            return Poll::Pending;
        }
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.written.is_over(cx) {
            return Poll::Pending;
        }
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

impl<S: ByteStream> ByteStream for Paced<S> {
    fn reset_on_close(&self) {
        self.inner.get_ref().reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        self.inner.get_ref().proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        self.inner.get_ref().revoked()
    }
}

/// A poll that took so long reads and writes no more: a turn beside a neighbour.
const LONG: Duration = Duration::from_micros(50);
/// Bytes of the first read: a hundred small frames.
const FEW: u64 = 2048;
/// Of any read: less than a frame of data, which is no work, may be read in two.
const LEAST: u64 = 512;
const MOST: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::task::{ArcWake, waker};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::transport::never;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Debug)]
    struct Plain(DuplexStream);

    impl AsyncRead for Plain {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Plain {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl ByteStream for Plain {
        fn reset_on_close(&self) {}

        fn proved_until(&self) -> Option<SystemTime> {
            None
        }

        fn revoked(&self) -> BoxFuture<'static, ()> {
            never()
        }
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    async fn filled(bytes: usize) -> (Paced<Plain>, DuplexStream) {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(&vec![7; bytes]).await.unwrap();
        (Paced::new(Plain(near)), far)
    }

    /// Reads once in a poll that began at `begun`; how much came.
    fn read(paced: &mut Paced<Plain>, begun: Instant, woken: &Arc<Woken>) -> Option<usize> {
        let waker = waker(Arc::clone(woken));
        let mut room = vec![0; 1 << 20];
        let mut buf = ReadBuf::new(&mut room);
        let poll = lifecycle::in_poll_begun(begun, || {
            Pin::new(paced).poll_read(&mut Context::from_waker(&waker), &mut buf)
        });
        match poll {
            Poll::Ready(read) => {
                read.unwrap();
                Some(buf.filled().len())
            }
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_long_poll_reads_once_and_is_polled_again() {
        let (mut paced, _far) = filled(100_000).await;
        let woken = Arc::<Woken>::default();
        let begun = ago(1);
        assert_eq!(read(&mut paced, begun, &woken), Some(2048));
        assert_eq!(read(&mut paced, begun, &woken), None);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(read(&mut paced, ago(2), &woken), Some(1024), "less at a time");
    }

    #[tokio::test]
    async fn a_poll_that_is_short_reads_more_and_more_at_a_time() {
        let (mut paced, _far) = filled(100_000).await;
        let woken = Arc::<Woken>::default();
        let begun = Instant::now() + Duration::from_hours(1);
        for bytes in [2048, 4096, 8192, 16_384] {
            assert_eq!(read(&mut paced, begun, &woken), Some(bytes));
        }
    }

    #[tokio::test]
    async fn a_long_poll_writes_once_and_is_polled_again() {
        let (mut paced, _far) = filled(0).await;
        let woken = Arc::<Woken>::default();
        let waker = waker(Arc::clone(&woken));
        let mut write = |begun| {
            let cx = &mut Context::from_waker(&waker);
            lifecycle::in_poll_begun(begun, || Pin::new(&mut paced).poll_write(cx, b"frame").is_ready())
        };
        let begun = ago(1);
        assert_eq!((write(begun), write(begun), write(ago(2))), (true, false, true));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_end_of_the_bytes_is_the_end() {
        let (mut paced, far) = filled(10).await;
        drop(far);
        let mut all = Vec::new();
        assert_eq!(paced.read_to_end(&mut all).await.unwrap(), 10);
    }
}
