//! Server-streaming calls: one request, answers for as long as the server has any, on a connection of their own.
//!
//! Must not know: what is answered. Answers may be secret, so what they are put together in is wiped.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use h2::client::{self, Connection, ResponseFuture};
use h2::{Reason, RecvStream};
use http::Request;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::{CallError, FrameError, MAX_ANSWER, PREFIX, frame, outcome};

/// The answers `A` to one call over the byte stream `S`. Dropping it ends the call and the connection.
pub struct Answers<S, A> {
    connection: Option<Connection<S, Bytes>>,
    incoming: Incoming,
    answer: PhantomData<fn() -> A>,
}

impl<S, A> Answers<S, A>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Message + Default,
{
    /// Sends the request and its end; waits for no answer. The path is that of a local service, without TLS.
    pub async fn ask(stream: S, path: &str, request: &impl Message) -> Result<Self, CallError> {
        let (sender, mut connection) = client::handshake(stream).await?;
        let head = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = tokio::select! {
            biased;
            sender = sender.ready() => sender?,
            ended = &mut connection => return Err(broken(ended.err())),
        };
        let (response, mut out) = sender.send_request(head, false)?;
        out.send_data(frame(request), true)?;
        Ok(Self {
            connection: Some(connection),
            incoming: Incoming::new(response),
            answer: PhantomData,
        })
    }

    /// The next answer; none when the server has ended the call well. Waits as long as the server does.
    ///
    /// Cancel-safe. The connection is served only while this is waited for. Not to be called again after an error or
    /// the end: it would say again that the connection failed.
    pub async fn next(&mut self) -> Result<Option<A>, CallError> {
        let Some(connection) = &mut self.connection else {
            return read(self.incoming.next().await);
        };
        let ended = tokio::select! {
            biased;
            message = self.incoming.next() => return read(message),
            ended = connection => ended,
        };
        // What came before the end still waits in the stream.
        self.connection = None;
        match self.incoming.next().await {
            Err(CallError::Connection(error)) => Err(broken(ended.err().or(Some(error)))),
            message => read(message),
        }
    }
}

impl<S, A> fmt::Debug for Answers<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("is_connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}

/// The answering half of the call.
struct Incoming {
    /// Until the head of the answer is there.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// Received, and not yet part of a message.
    chunk: Bytes,
    pieces: Pieces,
}

impl Incoming {
    fn new(response: ResponseFuture) -> Self {
        Self {
            response: Some(response),
            body: None,
            chunk: Bytes::new(),
            pieces: Pieces::default(),
        }
    }

    async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        if let Some(response) = &mut self.response {
            let answered = response.await;
            self.response = None;
            let (head, body) = answered?.into_parts();
            // A refusal may come as headers alone.
            outcome(&head.headers)?;
            if head.status != http::StatusCode::OK {
                return Err(CallError::NotGrpc(head.status));
            }
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else {
            return Err(broken(None));
        };
        loop {
            if let Some(message) = self.pieces.take(&mut self.chunk)? {
                return Ok(Some(message));
            }
            let Some(chunk) = body.data().await else { break };
            self.chunk = chunk?;
            body.flow_control().release_capacity(self.chunk.len())?;
        }
        if let Some(trailers) = body.trailers().await? {
            outcome(&trailers)?;
        }
        if self.pieces.is_empty() {
            Ok(None)
        } else {
            Err(FrameError::Length.into())
        }
    }
}

/// Messages out of chunks that are cut anywhere. Pure.
#[derive(Default)]
struct Pieces {
    prefix: Vec<u8>,
    /// Made with the length that the prefix promises, so that it never moves and leaves no copy behind.
    message: Option<(usize, Zeroizing<Vec<u8>>)>,
}

impl Pieces {
    /// Takes as much of `chunk` as the next message needs; that message, if it is whole.
    fn take(&mut self, chunk: &mut Bytes) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        let missing = PREFIX.saturating_sub(self.prefix.len()).min(chunk.len());
        self.prefix.extend_from_slice(&chunk.split_to(missing));
        if self.message.is_none() {
            let Ok([flag, length @ ..]) = <[u8; PREFIX]>::try_from(self.prefix.as_slice()) else {
                return Ok(None);
            };
            if flag != 0 {
                return Err(FrameError::Compressed.into());
            }
            let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| CallError::TooLarge)?;
            if length > MAX_ANSWER {
                return Err(CallError::TooLarge);
            }
            self.message = Some((length, Zeroizing::new(Vec::with_capacity(length))));
        }
        let Some((length, bytes)) = &mut self.message else {
            return Ok(None);
        };
        let missing = length.saturating_sub(bytes.len()).min(chunk.len());
        bytes.extend_from_slice(chunk.get(..missing).unwrap_or_default());
        chunk.advance(missing);
        if bytes.len() < *length {
            return Ok(None);
        }
        self.prefix.clear();
        Ok(self.message.take().map(|(_, bytes)| bytes))
    }

    fn is_empty(&self) -> bool {
        self.prefix.is_empty()
    }
}

fn read<A: Message + Default>(
    message: Result<Option<Zeroizing<Vec<u8>>>, CallError>,
) -> Result<Option<A>, CallError> {
    let Some(message) = message? else { return Ok(None) };
    Ok(Some(A::decode(message.as_slice()).map_err(FrameError::from)?))
}

/// A connection that the other side closed without a word is as broken as any.
fn broken(error: Option<h2::Error>) -> CallError {
    CallError::Connection(error.unwrap_or_else(|| Reason::NO_ERROR.into()))
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
