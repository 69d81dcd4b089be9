//! What a connection speaks, from its first bytes.
//!
//! Place in the walk: after capture, before policy and routing. Must not know: who speaks, where it goes.
//! Nothing is consumed: the stream comes back with the bytes put back in front.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

/// What a look at the first bytes told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<T> {
    /// Certain.
    Is(T),
    /// Too few bytes to say.
    NeedMore,
}

/// Application protocols that the first bytes can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// An HTTP/1.x request line.
    Http1,
    /// The HTTP/2 connection preface (RFC 9113 section 3.4).
    Http2,
    /// Anything else.
    Opaque,
}

/// Tells HTTP from other bytes.
pub fn spoken(first: &[u8]) -> Look<Spoken> {
    if first.len() >= PREFACE.len() && first.starts_with(PREFACE) {
        return Look::Is(Spoken::Http2);
    }
    if first.is_empty() || PREFACE.starts_with(first) {
        return Look::NeedMore;
    }
    request_line(first)
}

/// Reads from `stream` until `judge` is certain, at most until `limit` has passed or [`MAX_LOOK`] bytes came.
///
/// Returns the verdict, `None` when the peer was silent or said too little, and the stream with the bytes put
/// back. Not cancel-safe: bytes that were read are lost with the future.
pub async fn look<S, T>(
    mut stream: S,
    limit: Duration,
    judge: impl Fn(&[u8]) -> Look<T>,
) -> io::Result<(Option<T>, Prefixed<S>)>
where
    S: AsyncRead + Unpin,
{
    let deadline = Instant::now() + limit;
    let mut first = BytesMut::new();
    let verdict = loop {
        if let Look::Is(verdict) = judge(&first) {
            break Some(verdict);
        }
        if first.len() >= MAX_LOOK {
            break None;
        }
        first.reserve(FIRST_READ);
        let Ok(read) = timeout_at(deadline, stream.read_buf(&mut first)).await else {
            break None;
        };
        if read? == 0 {
            break None;
        }
    };
    Ok((
        verdict,
        Prefixed {
            first: first.freeze(),
            inner: stream,
        },
    ))
}

/// A stream with bytes put back in front of it.
#[derive(Debug)]
pub struct Prefixed<S> {
    first: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    /// A stream from which nothing was read yet.
    pub fn untouched(inner: S) -> Self {
        Self {
            first: Bytes::new(),
            inner,
        }
    }

    /// Puts bytes that were read from a stream back in front of it.
    pub fn new(first: Bytes, inner: S) -> Self {
        Self { first, inner }
    }

    /// The stream underneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The same bytes in front of what `to` makes of the stream.
    pub fn map<T>(self, to: impl FnOnce(S) -> T) -> Prefixed<T> {
        Prefixed {
            first: self.first,
            inner: to(self.inner),
        }
    }
}

impl<S> Prefixed<Prefixed<S>> {
    /// Two layers of bytes put back become one.
    pub fn flatten(self) -> Prefixed<S> {
        let (first, inner) = (self.first, self.inner);
        if inner.first.is_empty() {
            return Prefixed {
                first,
                inner: inner.inner,
            };
        }
        let mut joined = BytesMut::with_capacity(first.len() + inner.first.len());
        joined.extend_from_slice(&first);
        joined.extend_from_slice(&inner.first);
        Prefixed {
            first: joined.freeze(),
            inner: inner.inner,
        }
    }
}

impl<S> From<S> for Prefixed<S> {
    fn from(inner: S) -> Self {
        Self::untouched(inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let take = self.first.len().min(buf.remaining());
        if let Some(head) = self.first.get(..take) {
            buf.put_slice(head);
        }
        self.first.advance(take);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

/// `METHOD SP target SP HTTP/1.x CRLF`; leading empty lines are allowed (RFC 9112 section 2.2).
fn request_line(first: &[u8]) -> Look<Spoken> {
    let line = first.trim_ascii_start();
    let Some(method_len) = line.iter().position(|byte| *byte == b' ') else {
        let may_be = line.len() <= MAX_METHOD && line.iter().copied().all(is_token);
        return if may_be {
            Look::NeedMore
        } else {
            Look::Is(Spoken::Opaque)
        };
    };
    let (method, rest) = line.split_at(method_len);
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().copied().all(is_token) {
        return Look::Is(Spoken::Opaque);
    }
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        let printable = rest.iter().all(|byte| *byte >= b' ' || *byte == b'\r');
        return if printable {
            Look::NeedMore
        } else {
            Look::Is(Spoken::Opaque)
        };
    };
    let (target, _) = rest.split_at(end);
    let version = target.trim_ascii_end().rsplit(|byte| *byte == b' ').next();
    match version {
        Some(b"HTTP/1.1" | b"HTTP/1.0") => Look::Is(Spoken::Http1),
        _ => Look::Is(Spoken::Opaque),
    }
}

/// RFC 9110 section 5.6.2, upper case only: every registered method is.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is taken for HTTP; the longest registered one has 17 bytes.
const MAX_METHOD: usize = 24;
const FIRST_READ: usize = 2048;
/// Most bytes that are read before the protocol is given up: a ClientHello or request line is shorter.
pub const MAX_LOOK: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn tells_http_from_other_bytes() {
        let cases: &[(&[u8], Look<Spoken>)] = &[
            (b"", Look::NeedMore),
            (b"P", Look::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Look::Is(Spoken::Http2)),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04",
                Look::Is(Spoken::Http2),
            ),
            (b"PRI * HTTP/2.0\r\n\r\n", Look::NeedMore),
            (b"POST /a HTTP/1.1\r\nHost: x\r\n", Look::Is(Spoken::Http1)),
            (b"GET / HTTP/1.0\r\n", Look::Is(Spoken::Http1)),
            (b"\r\nGET / HTTP/1.1\r\n", Look::Is(Spoken::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Look::Is(Spoken::Http1)),
            (b"GET /partial", Look::NeedMore),
            (b"GET / SPDY/3\r\n", Look::Is(Spoken::Opaque)),
            (b"EHLO mail.example\r\n", Look::Is(Spoken::Opaque)),
            (b"PING\r\n", Look::Is(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Look::Is(Spoken::Opaque)),
            (b"\x16\x03\x01\x02\x00\x01", Look::Is(Spoken::Opaque)),
            (b"GET \x01\x02", Look::Is(Spoken::Opaque)),
        ];
        for (first, expected) in cases {
            assert_eq!(spoken(first), *expected, "{}", first.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            if let Look::Is(early) = spoken(&bytes[..cut]) {
                prop_assert_eq!(spoken(&bytes), Look::Is(early));
            }
        }
    }

    #[tokio::test]
    async fn bytes_that_were_looked_at_are_read_again() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        drop(peer);
        let (verdict, mut stream) = look(ours, Duration::from_secs(1), spoken).await.unwrap();
        assert_eq!(verdict, Some(Spoken::Http1));
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_costs_no_more_than_the_limit() {
        let (_peer, ours) = tokio::io::duplex(64);
        let before = Instant::now();
        let (verdict, _) = look(ours, Duration::from_millis(100), spoken).await.unwrap();
        assert_eq!(verdict, None);
        assert_eq!(before.elapsed(), Duration::from_millis(100));
    }
}
