//! Heads of HTTP/1.1 that say in two ways where their message ends (RFC 9112 section 6.3).
//!
//! Place in the walk: between a client's bytes and hyper, which takes `Transfer-Encoding` beside `Content-Length` in
//! silence and shows the length no more. This looks at the fields that frame a message and spoils the line that
//! contradicts, so that hyper answers 400 and closes. It follows bodies only to find the next head; where it loses its
//! way, hyper still frames what is sent on anew. Must not know: any other field, or what becomes of the request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::http::connection::progress::Progress;
use crate::transport::ByteStream;

/// A client's HTTP/1.1 bytes, looked through on their way to the parser.
#[derive(Debug)]
pub(super) struct Framed<S> {
    inner: S,
    reader: Reader,
    progress: Arc<Progress>,
}

impl<S> Framed<S> {
    /// The bytes of `inner`, until both sides have changed to another protocol.
    pub(super) fn new(inner: S, progress: Arc<Progress>) -> Self {
        Self {
            inner,
            reader: Reader::default(),
            progress,
        }
    }
}

/// Where in the client's messages the next byte lies.
#[derive(Debug, Default)]
struct Reader {
    state: State,
    /// The beginning of a line of which more is to come.
    line: Vec<u8>,
    is_longer: bool,
    head: Head,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    RequestLine,
    Fields,
    Body(u64),
    ChunkSize,
    /// The bytes of a chunk that are left, its line end included.
    Chunk(u64),
    Trailers,
    /// What comes is refused, or is no HTTP any more.
    Unwatched,
}

/// What a head said so far of where its message ends.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    length: Option<u64>,
    is_chunked: bool,
}

/// The head, or the line, contradicts itself.
#[derive(Debug, PartialEq, Eq)]
struct Contradiction;

impl Reader {
    /// Looks through the next bytes; spoils the first line that contradicts.
    fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Unwatched => {
                    // Not kept for as long as a tunnel lives.
                    self.line = Vec::new();
                    return;
                }
                State::Body(left) => self.pass(rest.len(), left, State::Body, State::RequestLine),
                State::Chunk(left) => self.pass(rest.len(), left, State::Chunk, State::ChunkSize),
                State::RequestLine | State::Fields | State::ChunkSize | State::Trailers => self.take(rest),
            };
        }
    }

    /// Whether nothing of a next request was read.
    fn is_between(&self) -> bool {
        self.state == State::RequestLine && self.line.is_empty()
    }

    /// Bytes of a body, `left` of which are still to come.
    fn pass(&mut self, there: usize, left: u64, more: fn(u64) -> State, then: State) -> usize {
        let passed = usize::try_from(left).unwrap_or(usize::MAX).min(there);
        let left = left.saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX));
        self.state = if left == 0 { then } else { more(left) };
        passed
    }

    /// A line, or the part of it that is there.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.keep(bytes);
            return bytes.len();
        };
        let (line, _) = bytes.split_at(end);
        let judged = if self.line.is_empty() {
            self.judge(line)
        } else {
            self.keep(line);
            let line = std::mem::take(&mut self.line);
            let judged = self.judge(&line);
            self.line = line;
            judged
        };
        self.line.clear();
        self.is_longer = false;
        if let Ok(next) = judged {
            self.state = next;
        } else {
            self.state = State::Unwatched;
            if let Some(line_feed) = bytes.get_mut(end) {
                *line_feed = SPOILED;
            }
        }
        end + 1
    }

    /// Keeps what tells one line from another, never all of a long one.
    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_FRAMING_LINE.saturating_sub(self.line.len());
        self.is_longer |= bytes.len() > room;
        self.line.extend(bytes.iter().take(room));
    }

    /// What comes after `line`, which has lost its line feed.
    fn judge(&mut self, line: &[u8]) -> Result<State, Contradiction> {
        let content = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            // Empty lines may precede a request (RFC 9112 section 2.2).
            State::RequestLine if content.is_empty() => Ok(State::RequestLine),
            State::RequestLine => {
                self.head = Head::default();
                Ok(State::Fields)
            }
            State::Fields if content.is_empty() => Ok(self.head.body()),
            State::Fields => {
                let is_longer = self.is_longer || content.len() > LONGEST_FRAMING_LINE;
                self.head.read(content, is_longer)?;
                Ok(State::Fields)
            }
            State::ChunkSize => match chunk_size(content)? {
                0 => Ok(State::Trailers),
                size => Ok(State::Chunk(size.checked_add(LINE_END).ok_or(Contradiction)?)),
            },
            State::Trailers if content.len() == line.len() => Err(Contradiction),
            State::Trailers if content.is_empty() => Ok(State::RequestLine),
            state @ (State::Trailers | State::Body(_) | State::Chunk(_) | State::Unwatched) => Ok(state),
        }
    }
}

impl Head {
    fn read(&mut self, line: &[u8], is_longer: bool) -> Result<(), Contradiction> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Ok(());
        };
        let (name, value) = line.split_at(colon);
        let name = name.trim_ascii();
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        if !is_length && !name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Ok(());
        }
        // Each once, never both (RFC 9112 section 6.1), and no other coding than the one that the agents undo.
        if is_longer || self.length.is_some() || self.is_chunked {
            return Err(Contradiction);
        }
        if is_length {
            self.length = Some(length(value)?);
        } else if value.eq_ignore_ascii_case(b"chunked") {
            self.is_chunked = true;
        } else {
            return Err(Contradiction);
        }
        Ok(())
    }

    fn body(self) -> State {
        match self.length {
            _ if self.is_chunked => State::ChunkSize,
            None | Some(0) => State::RequestLine,
            Some(length) => State::Body(length),
        }
    }
}

/// `1*DIGIT` (RFC 9110 section 8.6), and no more than any body has.
fn length(value: &[u8]) -> Result<u64, Contradiction> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number);
    let length = text.and_then(|text| text.parse().ok());
    length.filter(|length| *length <= MAX_LENGTH).ok_or(Contradiction)
}

/// The hexadecimal number that a line begins with; what follows it is hyper's to judge.
fn chunk_size(line: &[u8]) -> Result<u64, Contradiction> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let text = line
        .get(..digits)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let size = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    size.ok_or(Contradiction)
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.progress.is_other_protocol() {
            self.reader.state = State::Unwatched;
        }
        if let Some(fresh) = buf.filled_mut().get_mut(before..) {
            self.reader.read(fresh);
        }
        self.progress.note_read(!self.reader.is_between());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
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

impl<S: ByteStream> ByteStream for Framed<S> {
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

/// No line of a head, a chunk or trailers may hold it; hyper refuses whatever it is in.
const SPOILED: u8 = 0;
/// What is kept of a line; longer ones that frame a message are refused.
const LONGEST_FRAMING_LINE: usize = 128;
/// Eight exbibytes less one: hyper keeps the largest numbers for itself.
const MAX_LENGTH: u64 = u64::MAX >> 1;
/// CR LF.
const LINE_END: u64 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `text` in pieces of `size`; where it was spoiled, if it was.
    fn spoiled_at(text: &str, size: usize) -> Option<usize> {
        let mut reader = Reader::default();
        let mut bytes = text.as_bytes().to_vec();
        for piece in bytes.chunks_mut(size) {
            reader.read(piece);
        }
        bytes.iter().position(|byte| *byte == SPOILED)
    }

    const SOUND: [&str; 6] = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\nHost: a\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\nTE: a\r\n\r\nCL:",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding:\tchunked \r\n\r\n3\r\n\r\n\r\r\n00\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 0\r\nX: Transfer-Encoding: chunked\r\n\r\n",
    ];

    const CONTRADICTIONS: [&str; 10] = [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ncontent-length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Content-Length:                                                                                                                          1\r\n",
    ];

    #[test]
    fn sound_messages_one_after_another_stay_as_they_are_however_they_are_cut() {
        let all = SOUND.concat().repeat(2);
        for size in 1..all.len() {
            assert_eq!(spoiled_at(&all, size), None, "{size}");
        }
    }

    #[test]
    fn a_contradiction_is_spoiled_behind_any_message_however_it_is_cut() {
        for before in SOUND {
            for fields in CONTRADICTIONS {
                let text = format!("{before}POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
                for size in [1, 2, 3, 7, 40, text.len()] {
                    let at = spoiled_at(&text, size);
                    assert!(at.is_some_and(|at| at > before.len()), "{size} {text:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_changed_to_is_not_looked_at() {
        let mut reader = Reader {
            state: State::Unwatched,
            ..Reader::default()
        };
        let mut bytes = b"a\r\nContent-Length: 1\r\nContent-Length: 1\r\n".to_vec();
        reader.read(&mut bytes);
        assert!(!bytes.contains(&SPOILED));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_keep_more_than_a_line(bytes in proptest::collection::vec(any::<u8>(), 0..2000), size in 1_usize..300) {
            let mut reader = Reader::default();
            for piece in bytes.clone().chunks_mut(size) {
                reader.read(piece);
                prop_assert!(reader.line.len() <= LONGEST_FRAMING_LINE);
            }
        }
    }
}
