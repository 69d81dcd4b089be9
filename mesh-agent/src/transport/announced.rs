//! What an HTTP/2 server announces before anything is asked of it: how many streams it takes on a connection, and whether
//! extended CONNECT (RFC 8441).
//!
//! Place in the walk: round a fresh connection, below hyper, which does not say when the server's SETTINGS have come.
//! Must not know: what is sent once they have.

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
pub(super) struct Greeted<S> {
    inner: S,
    /// Nothing once it is known.
    looking: Option<(Reader, oneshot::Sender<Said>)>,
    /// Closed when the connection is.
    _open: oneshot::Sender<()>,
}

/// What a server announced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// Streams that it takes at a time; as many as one likes, where it does not say.
    pub(super) streams: Option<u32>,
    pub(super) takes_extended: bool,
}

/// How a server begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Settings(Announced),
    /// Bytes that do not begin an HTTP/2 connection.
    SomethingElse,
    /// It ended the connection.
    Nothing,
}

/// What is to be known of a [`Greeted`] connection.
#[derive(Debug)]
pub(super) struct Announcement {
    said: oneshot::Receiver<Said>,
    open: oneshot::Receiver<()>,
}

impl<S> Greeted<S> {
    pub(super) fn new(inner: S) -> (Self, Announcement) {
        let (looking, said) = oneshot::channel();
        let (is_open, open) = oneshot::channel();
        let stream = Self {
            inner,
            looking: Some((Reader::default(), looking)),
            _open: is_open,
        };
        (stream, Announcement { said, open })
    }

    fn look(&mut self, bytes: &[u8]) {
        let Some((reader, _)) = &mut self.looking else {
            return;
        };
        if let Some(said) = reader.read(bytes)
            && let Some((_, looking)) = self.looking.take()
        {
            // Who asked may have gone away.
            let _nobody = looking.send(said);
        }
    }
}

impl Announcement {
    /// How the server begins. Waits as long as the caller does. Cancel-safe.
    pub(super) async fn said(&mut self) -> Said {
        (&mut self.said).await.unwrap_or(Said::Nothing)
    }

    /// Waits until the connection is closed.
    pub(super) async fn closed(self) {
        // Nothing is ever sent.
        let _closed = self.open.await;
    }
}

/// The first frame of an HTTP/2 server, as far as it was read: SETTINGS (RFC 9113 section 3.4).
#[derive(Debug, Default)]
struct Reader {
    head: Vec<u8>,
    /// What is left of the frame.
    left: Option<usize>,
    setting: Vec<u8>,
    announced: Announced,
}

impl Reader {
    /// Reads on; what it says, once that is known.
    fn read(&mut self, bytes: &[u8]) -> Option<Said> {
        for byte in bytes {
            let left = if let Some(left) = self.left {
                self.setting.push(*byte);
                self.note_setting();
                left - 1
            } else {
                self.head.push(*byte);
                match *self.head {
                    [high, middle, low, SETTINGS, NO_ACK, 0, 0, 0, 0] => {
                        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
                    }
                    _ if self.head.len() < FRAME_HEAD => continue,
                    _ => return Some(Said::SomethingElse),
                }
            };
            if left == 0 {
                return Some(Said::Settings(self.announced));
            }
            self.left = Some(left);
        }
        None
    }

    /// Takes down the setting that is being read, once it is whole.
    fn note_setting(&mut self) {
        let [high, low, value @ ..] = &*self.setting else {
            return;
        };
        let Ok(value) = value.try_into().map(u32::from_be_bytes) else {
            return;
        };
        match [*high, *low] {
            MAX_CONCURRENT_STREAMS => self.announced.streams = Some(value),
            ENABLE_CONNECT_PROTOCOL => self.announced.takes_extended = value == 1,
            _ => {}
        }
        self.setting.clear();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
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

impl<S: ByteStream> ByteStream for Greeted<S> {
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

/// Length of a frame's head (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;
const SETTINGS: u8 = 4;
const NO_ACK: u8 = 0;
/// RFC 9113 section 6.5.2, RFC 8441 section 3.
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
const ENABLE_CONNECT_PROTOCOL: [u8; 2] = [0, 8];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A length of 6 each (RFC 9113 section 6.5.1).
    fn settings(settings: &[(u8, u32)]) -> Vec<u8> {
        let len = u8::try_from(settings.len() * 6).unwrap();
        let mut frame = vec![0, 0, len, SETTINGS, NO_ACK, 0, 0, 0, 0];
        for (id, value) in settings {
            frame.extend([0, *id]);
            frame.extend(value.to_be_bytes());
        }
        frame
    }

    fn read(bytes: &[u8], size: usize) -> Option<Said> {
        let mut reader = Reader::default();
        bytes.chunks(size).find_map(|piece| reader.read(piece))
    }

    fn announced(streams: Option<u32>, takes_extended: bool) -> Said {
        Said::Settings(Announced {
            streams,
            takes_extended,
        })
    }

    #[test]
    fn the_first_settings_say_it_however_they_are_cut() {
        let ack = [0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];
        for (bytes, expected) in [
            (settings(&[]), Some(announced(None, false))),
            (settings(&[(3, 100), (8, 1)]), Some(announced(Some(100), true))),
            (settings(&[(8, 1), (4, 1 << 20)]), Some(announced(None, true))),
            (
                settings(&[(3, u32::MAX), (8, 0)]),
                Some(announced(Some(u32::MAX), false)),
            ),
            (settings(&[(3, 1), (3, 0)]), Some(announced(Some(0), false))),
            (settings(&[(8, 256)]), Some(announced(None, false))),
            (
                [settings(&[]), settings(&[(8, 1)])].concat(),
                Some(announced(None, false)),
            ),
            (settings(&[(8, 1)])[..14].to_vec(), None),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                Some(Said::SomethingElse),
            ),
            (
                [&ack[..], &settings(&[(8, 1)])].concat(),
                Some(Said::SomethingElse),
            ),
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
                let mut reader = Reader::default();
                for byte in bytes {
                    if reader.read(&[byte]).is_some() {
                        break;
                    }
                    prop_assert!(reader.head.len() <= FRAME_HEAD && reader.setting.len() < 6);
                }
            }
        }
    }
}
