//! Clients that are done sending and go on reading, as `nc -N` and HTTP/1.0 clients do: their FIN is no goodbye.
//!
//! Place in the walk: under HTTP/1 of an application of this node. hyper answers such clients with its `half_close`, but
//! then looks no more at a connection during a request, and never notices a client that is gone. Both send the same FIN;
//! the hooks know which sockets live. So this looks while hyper flushes. Must not know: requests, only whether there is one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::pod::LocalPod;
use crate::transport::ByteStream;

/// The requests of one connection that were read whole and are being answered.
#[derive(Debug, Default)]
pub(in crate::proxy::http) struct Answers {
    under_way: AtomicUsize,
    reader: AtomicWaker,
}

impl Answers {
    fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }
}

/// One request of a connection.
#[derive(Debug)]
pub(in crate::proxy::http) struct Turn {
    answers: Arc<Answers>,
    is_whole: AtomicBool,
}

impl Turn {
    pub(in crate::proxy::http) fn new(answers: Arc<Answers>) -> Self {
        Self {
            answers,
            is_whole: false.into(),
        }
    }

    /// The request was read to its end: the client may be done sending. Telling it twice is telling it once.
    pub(in crate::proxy::http) fn request_is_whole(&self) {
        if !self.is_whole.swap(true, Ordering::AcqRel) {
            self.answers.under_way.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The answer was given. Telling it twice is telling it once.
    pub(in crate::proxy::http) fn end(&self) {
        if self.is_whole.swap(false, Ordering::AcqRel) {
            self.answers.under_way.fetch_sub(1, Ordering::AcqRel);
            self.answers.reader.wake();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

/// A client's stream that fails to flush once the client is gone while a request of it is being answered.
#[derive(Debug)]
pub(super) struct HalfClosed<S> {
    inner: S,
    pod: LocalPod,
    client: SocketAddr,
    answers: Arc<Answers>,
    /// Read in search of the FIN: part of the next request. Mostly empty, and without memory.
    ahead: Bytes,
    /// Since the FIN: when to look again whether the client's socket lives.
    look: Option<Pin<Box<Sleep>>>,
}

impl<S> HalfClosed<S> {
    /// The stream of the application of `pod` whose own end is `client`.
    pub(super) fn new(inner: S, pod: LocalPod, client: SocketAddr, answers: Arc<Answers>) -> Self {
        Self {
            inner,
            pod,
            client,
            answers,
            ahead: Bytes::new(),
            look: None,
        }
    }

    /// A client that cannot be looked up counts as gone, as it would without this.
    fn lives(&self) -> bool {
        let looked_up = self.pod.flows.is_open(self.pod.netns.cookie(), self.client);
        looked_up.unwrap_or_else(|error| {
            tracing::debug!(%error, client = %self.client, "cannot tell whether a client is gone");
            false
        })
    }

    /// Fails when the client is gone; otherwise leaves wakers behind that have it called again.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()>
    where
        S: AsyncRead + Unpin,
    {
        if self.ahead.is_empty() && self.look.is_none() {
            let mut bytes = [0; AHEAD];
            let mut buf = ReadBuf::new(&mut bytes);
            if Pin::new(&mut self.inner).poll_read(cx, &mut buf)?.is_pending() {
                return Ok(());
            }
            self.ahead = Bytes::copy_from_slice(buf.filled());
        }
        // hyper may wait for the bytes that were taken here; the end of the answer has it read again.
        self.answers.reader.register(cx.waker());
        if !self.ahead.is_empty() {
            return Ok(());
        }
        loop {
            if !self.lives() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_AGAIN)));
            if look.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            look.as_mut().reset(Instant::now() + LOOK_AGAIN);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClosed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(taken));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HalfClosed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.answers.is_under_way() {
            self.watch(cx)?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: ByteStream> ByteStream for HalfClosed<S> {
    fn reset_on_close(&self) {
        self.inner.reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        self.inner.proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        self.inner.revoked()
    }
}

/// How soon a client that went away after its FIN is noticed. Only half-closed clients that wait are looked after.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What is read at a time in search of the FIN.
const AHEAD: usize = 256;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::mesh::workload::fixture;
    use crate::pod::flows::FlowTable;
    use crate::pod::netns::{Netns, NetnsCookie};

    /// Knows one client, which lives or not.
    #[derive(Debug, Default)]
    struct OneClient(AtomicBool);

    impl FlowTable for OneClient {
        fn original_destination(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<Option<SocketAddr>> {
            Ok(None)
        }

        fn is_open(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<bool> {
            Ok(self.0.load(Ordering::Relaxed))
        }

        fn file_true_peer(&self, _: NetnsCookie, _: SocketAddr, _: SocketAddr) -> io::Result<()> {
            Ok(())
        }

        fn resolver_behind(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<Option<SocketAddr>> {
            Ok(None)
        }

        fn forget_true_peer(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<()> {
            Ok(())
        }
    }

    type Sent = tokio::io::Join<&'static [u8], tokio::io::Sink>;

    /// The stream of a client that sent `bytes` and a FIN.
    fn client(bytes: &'static str, lives: bool) -> (HalfClosed<Sent>, Arc<OneClient>, Arc<Answers>) {
        let flows = Arc::new(OneClient(lives.into()));
        let answers = Arc::new(Answers::default());
        let table: Arc<dyn FlowTable> = Arc::<OneClient>::clone(&flows);
        let pod = LocalPod {
            workload: Arc::new(fixture::pod("test", "pod")),
            netns: Arc::new(Netns::stand_in(NetnsCookie(1))),
            flows: table,
        };
        let client = "10.0.0.1:4000".parse().unwrap();
        let sent = tokio::io::join(bytes.as_bytes(), tokio::io::sink());
        let stream = HalfClosed::new(sent, pod, client, Arc::clone(&answers));
        (stream, flows, answers)
    }

    async fn read(stream: &mut HalfClosed<Sent>) -> String {
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn only_a_client_that_is_gone_during_its_request_fails() {
        for (is_whole, lives, fails) in [
            (false, false, false),
            (false, true, false),
            (true, true, false),
            (true, false, true),
        ] {
            let (mut stream, _flows, answers) = client("", lives);
            let turn = Turn::new(answers);
            if is_whole {
                turn.request_is_whole();
                turn.request_is_whole();
            }
            let flushed = stream.flush().await;
            assert_eq!(flushed.is_err(), fails, "whole {is_whole}, lives {lives}");
            assert_eq!(read(&mut stream).await, "");
            drop(turn);
            assert!(stream.flush().await.is_ok(), "nobody waits any more");
        }
    }

    #[tokio::test]
    async fn bytes_behind_a_request_are_kept_for_the_next_one() {
        let (mut stream, _flows, answers) = client("the next request", false);
        let turn = Turn::new(answers);
        turn.request_is_whole();
        for _ in 0..3 {
            // The FIN is behind them: nobody can see it yet.
            stream.flush().await.unwrap();
        }
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"the");
        assert_eq!(read(&mut stream).await, " next request");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_away_after_its_fin_is_noticed() {
        let (mut stream, flows, answers) = client("", true);
        let turn = Turn::new(answers);
        turn.request_is_whole();
        stream.flush().await.unwrap();
        flows.0.store(false, Ordering::Relaxed);
        // As hyper does it: flushes, and again when woken.
        let gone = std::future::poll_fn(|cx| match Pin::new(&mut stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        });
        assert_eq!(gone.await, io::ErrorKind::ConnectionAborted);
    }
}
