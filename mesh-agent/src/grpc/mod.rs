//! gRPC calls over HTTP/2, unary and server-streaming: framing, status, and the client's side.
//!
//! Place in the walk: beside it; certificate authorities and external services are asked through it. Must not know: what is
//! asked, certificates, sockets.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. Messages are never compressed.

mod stream;

use std::pin::pin;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::stream::Answers;

/// How a call ended, as far as this mesh uses the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// It has an answer.
    Ok = 0,
    /// Something unknown went wrong.
    Unknown = 2,
    /// The request is wrong and stays so.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// The caller is known, and may not.
    PermissionDenied = 7,
    /// The caller asks too often or for too much.
    ResourceExhausted = 8,
    /// There is no such method.
    Unimplemented = 12,
    /// The server is broken.
    Internal = 13,
    /// The server cannot now.
    Unavailable = 14,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// As it stands in the trailer `grpc-status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "0",
            Self::Unknown => "2",
            Self::InvalidArgument => "3",
            Self::DeadlineExceeded => "4",
            Self::PermissionDenied => "7",
            Self::ResourceExhausted => "8",
            Self::Unimplemented => "12",
            Self::Internal => "13",
            Self::Unavailable => "14",
            Self::Unauthenticated => "16",
        }
    }
}

/// Why bytes are not one message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is cut off, or followed by another.
    #[error("not exactly one message")]
    Length,
    /// The flag byte says that it is compressed.
    #[error("the message is compressed")]
    Compressed,
    /// It is another kind of message.
    #[error("the message cannot be read")]
    Decode(#[from] prost::DecodeError),
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke.
    #[error("the connection failed")]
    Connection(#[from] h2::Error),
    /// The request cannot be put into headers.
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    /// What answered is no gRPC server, a proxy's error page for instance.
    #[error("the answer is no grpc: http status {0}")]
    NotGrpc(http::StatusCode),
    /// The server refused; the text is its own, made printable.
    #[error("refused with grpc status {code}: {message}")]
    Refused {
        /// The code as the server wrote it.
        code: String,
        /// Its explanation.
        message: String,
    },
    /// The answer is larger than any that is expected.
    #[error("the answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The answer is not the expected message.
    #[error("the answer cannot be read")]
    Frame(#[from] FrameError),
}

/// A message with its length before it.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// The one message of a body.
pub fn unframe<M: Message + Default>(mut body: &[u8]) -> Result<M, FrameError> {
    if body.len() < PREFIX {
        return Err(FrameError::Length);
    }
    if body.get_u8() != 0 {
        return Err(FrameError::Compressed);
    }
    let length = usize::try_from(body.get_u32()).map_err(|_| FrameError::Length)?;
    if length != body.len() {
        return Err(FrameError::Length);
    }
    Ok(M::decode(body)?)
}

/// Makes one call on a fresh connection. `authorization` is sent as it is and never logged by HTTP/2.
///
/// Waits as long as the server does: the caller sets the deadline. Cancel-safe: the connection is closed.
pub async fn call<S, Q, A>(
    stream: S,
    (authority, path): (&str, &str),
    authorization: HeaderValue,
    request: &Q,
) -> Result<A, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Q: Message,
    A: Message + Default,
{
    let (sender, connection) = client::handshake(stream).await?;
    let head = Request::post(format!("https://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", authorization)
        .body(())?;
    let mut exchange = pin!(exchange(sender, head, frame(request)));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The server may close at once after its answer, which then waits in the stream.
        ended = connection => match exchange.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(ended.err().map_or(error, CallError::Connection)),
        },
    }
}

async fn exchange<A: Message + Default>(
    sender: client::SendRequest<Bytes>,
    head: Request<()>,
    body: Bytes,
) -> Result<A, CallError> {
    let (response, mut out): (_, SendStream<Bytes>) = sender.ready().await?.send_request(head, false)?;
    out.send_data(body, true)?;
    let (head, mut body) = response.await?.into_parts();
    // A refusal may come as headers alone.
    outcome(&head.headers)?;
    if head.status != http::StatusCode::OK {
        return Err(CallError::NotGrpc(head.status));
    }
    let bytes = collect(&mut body, MAX_ANSWER).await?.ok_or(CallError::TooLarge)?;
    if let Some(trailers) = body.trailers().await? {
        outcome(&trailers)?;
    }
    Ok(unframe(&bytes)?)
}

/// All data of a stream; none if it is more than `limit` bytes. Cancel-safe only in that the stream is then unusable.
pub async fn collect(body: &mut RecvStream, limit: usize) -> Result<Option<Bytes>, h2::Error> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(Some(bytes.freeze()))
}

/// An explanation as the header `grpc-message` takes it: what is not printable ASCII is percent-encoded.
pub fn encode_message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes().take(MAX_MESSAGE) {
        if byte == b'%' || !(b' '..=b'~').contains(&byte) {
            encoded.extend(['%', hexadecimal(byte >> 4), hexadecimal(byte & 0xf)]);
        } else {
            encoded.push(char::from(byte));
        }
    }
    encoded
}

fn hexadecimal(digit: u8) -> char {
    char::from_digit(digit.into(), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

/// The status in headers or trailers; absent is well so far.
pub fn outcome(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| {
        let value = headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(value);
        let printable = text.chars().map(|c| if c.is_control() { '?' } else { c });
        printable.take(MAX_MESSAGE).collect::<String>()
    };
    match text("grpc-status").as_str() {
        "" | "0" => Ok(()),
        code => Err(CallError::Refused {
            code: code.to_owned(),
            message: text("grpc-message"),
        }),
    }
}

/// Flag byte and length.
const PREFIX: usize = 5;
/// A chain and a bundle of a few dozen kilobytes at most.
const MAX_ANSWER: usize = 1024 * 1024;
/// Of a server's explanation as much is kept.
const MAX_MESSAGE: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Answer {
        #[prost(string, repeated, tag = "1")]
        words: Vec<String>,
    }

    fn answer() -> Answer {
        Answer {
            words: vec!["leaf".into(), "root".into()],
        }
    }

    #[test]
    fn a_framed_message_is_read_back() {
        let read: Answer = unframe(&frame(&answer())).unwrap();
        assert_eq!(read, answer());
    }

    #[test]
    fn every_cut_and_every_surplus_is_refused() {
        let whole = frame(&answer());
        for length in 0..whole.len() {
            unframe::<Answer>(&whole[..length]).unwrap_err();
        }
        unframe::<Answer>(&[&whole[..], &[0]].concat()).unwrap_err();
        let mut compressed = whole.to_vec();
        compressed[0] = 1;
        assert!(matches!(
            unframe::<Answer>(&compressed),
            Err(FrameError::Compressed)
        ));
    }

    #[test]
    fn an_explanation_is_percent_encoded() {
        assert_eq!(encode_message("50% \u{e9}\n"), "50%25 %C3%A9%0A");
    }

    #[test]
    fn a_refusal_is_read_and_made_printable() {
        let mut headers = HeaderMap::new();
        outcome(&headers).unwrap();
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        outcome(&headers).unwrap();
        headers.insert("grpc-status", HeaderValue::from_static("7"));
        headers.insert("grpc-message", HeaderValue::from_bytes(b"no \xff\tway").unwrap());
        let error = outcome(&headers).unwrap_err().to_string();
        assert!(error.contains("status 7") && !error.contains('\t'), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(unframe::<Answer>(&bytes));
        }
    }
}
