//! Whether an HTTP/2 server takes extended CONNECT (RFC 8441), which must be known before one is sent.
//!
//! Place in the walk: round a fresh connection, below hyper, which does not say when the server's SETTINGS have come.
//! Must not know: what is sent once it is known.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::transport::ByteStream;

/// A connection whose first frame from the server is looked at, and left as it is.
#[derive(Debug)]
pub(super) struct Announced<S> {
    inner: S,
    /// Nothing once it is known.
    looking: Option<(Greeting, oneshot::Sender<bool>)>,
    /// Closed when the connection is.
    _open: oneshot::Sender<()>,
}

/// What is to be known of an [`Announced`] connection.
#[derive(Debug)]
pub(super) struct Announcement {
    said: oneshot::Receiver<bool>,
    open: oneshot::Receiver<()>,
}

impl<S> Announced<S> {
    pub(super) fn new(inner: S) -> (Self, Announcement) {
        let (looking, said) = oneshot::channel();
        let (is_open, open) = oneshot::channel();
        let stream = Self {
            inner,
            looking: Some((Greeting::default(), looking)),
            _open: is_open,
        };
        (stream, Announcement { said, open })
    }

    fn look(&mut self, bytes: &[u8]) {
        let Some((greeting, _)) = &mut self.looking else {
            return;
        };
        if let Some(said) = greeting.read(bytes)
            && let Some((_, looking)) = self.looking.take()
        {
            // Who asked may have gone away.
            let _nobody = looking.send(said);
        }
    }
}

impl Announcement {
    /// Whether the server's first SETTINGS allow extended CONNECT; false when it ends or speaks something else.
    ///
    /// Waits as long as the caller does. Cancel-safe.
    pub(super) async fn said(&mut self) -> bool {
        (&mut self.said).await.unwrap_or(false)
    }

    /// Waits until the connection is closed.
    pub(super) async fn closed(self) {
        // Nothing is ever sent.
        let _closed = self.open.await;
    }
}

/// The first frame of an HTTP/2 server, as far as it was read: SETTINGS (RFC 9113 section 3.4).
#[derive(Debug, Default)]
struct Greeting {
    head: Vec<u8>,
    /// What is left of the frame.
    left: Option<usize>,
    setting: Vec<u8>,
    is_allowed: bool,
}

impl Greeting {
    /// Reads on; what it says, once that is known.
    fn read(&mut self, bytes: &[u8]) -> Option<bool> {
        for byte in bytes {
            let left = match self.left {
                Some(left) => {
                    self.setting.push(*byte);
                    if self.setting.len() == SETTING {
                        if let [0, ENABLE_CONNECT_PROTOCOL, value @ ..] = &*self.setting {
                            self.is_allowed = value == [0, 0, 0, 1];
                        }
                        self.setting.clear();
                    }
                    left - 1
                }
                None => {
                    self.head.push(*byte);
                    match *self.head {
                        [high, middle, low, SETTINGS, NO_ACK, 0, 0, 0, 0] => {
                            usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
                        }
                        _ if self.head.len() < FRAME_HEAD => continue,
                        _ => return Some(false),
                    }
                }
            };
            if left == 0 {
                return Some(self.is_allowed);
            }
            self.left = Some(left);
        }
        None
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Announced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.look(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Announced<S> {
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

impl<S: ByteStream> ByteStream for Announced<S> {
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

/// Length of a frame's head (RFC 9113 section 4.1), and of a setting (section 6.5.1).
const FRAME_HEAD: usize = 9;
const SETTING: usize = 6;
const SETTINGS: u8 = 4;
const NO_ACK: u8 = 0;
/// `SETTINGS_ENABLE_CONNECT_PROTOCOL` (RFC 8441 section 3).
const ENABLE_CONNECT_PROTOCOL: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(settings: &[(u8, u8)]) -> Vec<u8> {
        let len = u8::try_from(settings.len() * SETTING).unwrap();
        let mut frame = vec![0, 0, len, SETTINGS, NO_ACK, 0, 0, 0, 0];
        for (id, value) in settings {
            frame.extend([0, *id, 0, 0, 0, *value]);
        }
        frame
    }

    fn read(bytes: &[u8], size: usize) -> Option<bool> {
        let mut greeting = Greeting::default();
        bytes.chunks(size).find_map(|piece| greeting.read(piece))
    }

    #[test]
    fn the_first_settings_say_it_however_they_are_cut() {
        let ack = [0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];
        for (bytes, expected) in [
            (settings(&[]), Some(false)),
            (settings(&[(3, 100), (8, 1)]), Some(true)),
            (settings(&[(8, 1), (3, 100)]), Some(true)),
            (settings(&[(8, 0)]), Some(false)),
            (settings(&[(8, 1), (8, 0)]), Some(false)),
            (settings(&[(3, 8)]), Some(false)),
            ([settings(&[]), settings(&[(8, 1)])].concat(), Some(false)),
            (settings(&[(8, 1)])[..14].to_vec(), None),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Some(false)),
            ([&ack[..], &settings(&[(8, 1)])].concat(), Some(false)),
            (b"HTTP".to_vec(), None),
        ] {
            for size in 1..=bytes.len() {
                assert_eq!(read(&bytes, size), expected, "{bytes:?} in pieces of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_keeps_no_more_than_a_frame_head_and_a_setting(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let frame = [&[0, 0xff, 0xff, SETTINGS, NO_ACK, 0, 0, 0, 0][..], &bytes].concat();
            for bytes in [bytes, frame] {
                let mut greeting = Greeting::default();
                for byte in bytes {
                    if greeting.read(&[byte]).is_some() {
                        break;
                    }
                    prop_assert!(greeting.head.len() <= FRAME_HEAD && greeting.setting.len() < SETTING);
                }
            }
        }
    }
}
