//! What an HTTP/2 server announces: how many streams it takes on a connection, as often as it says so, and whether extended
//! CONNECT (RFC 8441).
//!
//! Place in the walk: round a fresh connection, below hyper, which does not say when the server's SETTINGS have come.
//! Must not know: what is sent once they have.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::transport::ByteStream;

/// A connection whose frames of SETTINGS from the server are looked at, and left as they are.
#[derive(Debug)]
pub(super) struct Greeted<S> {
    inner: S,
    reader: Reader,
    /// Nothing once it is known how the server begins.
    looking: Option<oneshot::Sender<Said>>,
    /// How many streams the server takes at a time; as many as one likes, where it does not say.
    streams: Arc<AtomicU32>,
    /// Closed when the connection is.
    _open: oneshot::Sender<()>,
}

/// What a server announced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announced {
    streams: Option<u32>,
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
    /// `streams` is kept at what the server took last at a time.
    pub(super) fn new(inner: S, streams: Arc<AtomicU32>) -> (Self, Announcement) {
        let (looking, said) = oneshot::channel();
        let (is_open, open) = oneshot::channel();
        let stream = Self {
            inner,
            reader: Reader::default(),
            looking: Some(looking),
            streams,
            _open: is_open,
        };
        (stream, Announcement { said, open })
    }

    fn look(&mut self, bytes: &[u8]) {
        let Self {
            reader,
            looking,
            streams,
            ..
        } = self;
        reader.read(bytes, &mut |said| {
            if let Said::Settings(announced) = said {
                streams.store(announced.streams.unwrap_or(u32::MAX), Ordering::Relaxed);
            }
            if let Some(looking) = looking.take() {
                // Who asked may have gone away.
                let _nobody = looking.send(said);
            }
        });
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

/// The frames of an HTTP/2 server, as far as they were read: the first is SETTINGS (RFC 9113 sections 3.4 and 4.1).
#[derive(Debug, Default)]
struct Reader {
    head: Vec<u8>,
    /// What is left of the frame's payload.
    left: usize,
    is_settings: bool,
    setting: Vec<u8>,
    announced: Announced,
    has_begun: bool,
    /// It is no HTTP/2, and never will be.
    is_lost: bool,
}

impl Reader {
    /// Reads on; tells what it says as often as it says it.
    fn read(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Said)) {
        while !bytes.is_empty() && !self.is_lost {
            let missing = FRAME_HEAD - self.head.len();
            let wanted = if missing > 0 { missing } else { self.left };
            let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if missing > 0 {
                self.head.extend(piece);
                if missing == piece.len() {
                    self.begin_frame(tell);
                }
            } else {
                self.left -= piece.len();
                self.note_settings(piece);
            }
            if self.head.len() == FRAME_HEAD && self.left == 0 {
                self.head.clear();
                if self.is_settings {
                    tell(Said::Settings(self.announced));
                }
            }
        }
    }

    fn begin_frame(&mut self, tell: &mut impl FnMut(Said)) {
        let [high, middle, low, kind, flags, stream @ ..] = &*self.head else {
            return;
        };
        self.left = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        self.is_settings = *kind == SETTINGS && *flags == NO_ACK && *stream == CONNECTION;
        self.setting.clear();
        if !self.has_begun && !self.is_settings {
            self.is_lost = true;
            tell(Said::SomethingElse);
        }
        self.has_begun = true;
    }

    fn note_settings(&mut self, payload: &[u8]) {
        if self.is_settings {
            for byte in payload {
                self.setting.push(*byte);
                self.note_setting();
            }
        }
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
/// The stream that is the connection itself.
const CONNECTION: [u8; 4] = [0; 4];
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

    fn read_all(bytes: &[u8], size: usize) -> Vec<Said> {
        let (mut reader, mut all) = (Reader::default(), Vec::new());
        for piece in bytes.chunks(size) {
            reader.read(piece, &mut |said| all.push(said));
        }
        all
    }

    fn read(bytes: &[u8], size: usize) -> Option<Said> {
        read_all(bytes, size).first().copied()
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

    #[test]
    fn what_comes_between_is_passed_over_and_what_is_not_said_again_stays() {
        let data = [&[0, 0, 14, 0, 0, 0, 0, 0, 1][..], &settings(&[(3, 7)])[1..]].concat();
        let ack = vec![0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];
        let of_a_stream = [&[0, 0, 6, SETTINGS, NO_ACK, 0, 0, 0, 1][..], &[0, 3, 0, 0, 0, 9]].concat();
        let bytes = [
            settings(&[(3, 100), (8, 1)]),
            ack,
            data,
            settings(&[(3, 5)]),
            of_a_stream,
            settings(&[]),
            settings(&[(3, 0)]),
        ]
        .concat();
        let expected = [100, 5, 5, 0].map(|streams| announced(Some(streams), true));
        for size in 1..=bytes.len() {
            assert_eq!(read_all(&bytes, size), expected, "in pieces of {size}");
        }
    }

    proptest! {
        #[test]
        fn it_keeps_no_more_than_a_frame_head_and_a_setting(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let frame = [&[0, 0xff, 0xff, SETTINGS, NO_ACK, 0, 0, 0, 0][..], &bytes].concat();
            for bytes in [bytes, frame] {
                let mut reader = Reader::default();
                for byte in bytes {
                    reader.read(&[byte], &mut |_| {});
                    prop_assert!(reader.head.len() <= FRAME_HEAD && reader.setting.len() < 6);
                }
            }
        }
    }
}
