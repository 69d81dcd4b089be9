//! Small messages in one piece: head and body of one are written from one buffer, as a write of two costs more than copying.
//!
//! Place in the walk: between hyper and the stream of an HTTP/1.1 connection, at both ends. Must not know: HTTP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose vectored writes of a few bytes are ordinary ones.
#[derive(Debug)]
pub struct Gathered<S>(S);

impl<S> Gathered<S> {
    /// Writes to `stream`.
    pub fn new(stream: S) -> Self {
        Self(stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = bufs {
            return stream.poll_write(cx, only);
        }
        let mut room = [0; SMALL];
        match gather(bufs, &mut room) {
            Some(bytes) => stream.poll_write(cx, bytes),
            None => stream.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// All of `bufs` in one, where they are few bytes.
fn gather<'r>(bufs: &'r [IoSlice<'_>], room: &'r mut [u8; SMALL]) -> Option<&'r [u8]> {
    let mut filled = 0;
    for buf in bufs {
        let end = filled + buf.len();
        room.get_mut(filled..end)?.copy_from_slice(buf);
        filled = end;
    }
    room.get(..filled)
}

/// A head with a short body; copying more would cost as much as it saves.
const SMALL: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes so many bytes at a time, and says how it was written to.
    #[derive(Default)]
    struct Wire {
        bytes: Vec<u8>,
        most: usize,
        vectored: usize,
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.most);
            self.bytes.extend_from_slice(&buf[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.vectored += 1;
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    async fn written(pieces: &[Vec<u8>], most: usize) -> Wire {
        let mut stream = Gathered::new(Wire {
            most,
            ..Wire::default()
        });
        let mut rest: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = rest.as_mut_slice();
        while rest.iter().any(|piece| !piece.is_empty()) {
            let count = stream.write_vectored(rest).await.unwrap();
            IoSlice::advance_slices(&mut rest, count);
        }
        stream.0
    }

    #[tokio::test]
    async fn what_is_small_is_one_write_and_what_is_large_is_not_copied() {
        for (pieces, vectored) in [
            (vec![vec![1; 200], vec![2; 64]], 0),
            (vec![vec![1; SMALL], vec![2; 1]], 1),
            (vec![vec![1; 100 * SMALL]], 0),
            (vec![vec![1; 200], vec![2; SMALL], vec![3; 2]], 1),
        ] {
            let wire = written(&pieces, usize::MAX).await;
            assert_eq!((wire.bytes, wire.vectored), (pieces.concat(), vectored));
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_written_once_and_in_order(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..5),
            most in 1_usize..2000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let wire = runtime.block_on(written(&pieces, most));
            prop_assert_eq!(wire.bytes, pieces.concat());
        }
    }
}
