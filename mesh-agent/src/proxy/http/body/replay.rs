//! A request body that can be sent again as long as it is small.
//!
//! Place in the walk: round the body of a request whose route allows further attempts. Must not know: when there are
//! further attempts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::proxy::http::body::inflow::{Inflow, beginning, longer};
use crate::transport::http::BodyError;

/// What was sent of a body, and what is still to come.
#[derive(Debug)]
pub(in crate::proxy::http) struct Replay<B>(Arc<Mutex<State<B>>>);

#[derive(Debug)]
struct State<B> {
    rest: B,
    kept: Vec<Kept>,
    size: usize,
    /// Too much of it was sent to be kept, or its sender broke it off.
    is_lost: bool,
    /// Its sender said that there is no more.
    has_ended: bool,
    /// The sending that may be read.
    newest: u32,
    /// Wakes it when it waits for more.
    waiting: Option<Waker>,
}

#[derive(Debug, Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// One sending of a body. It fails once another one is begun: its connection may still hold it, and must not take away
/// what the other one needs.
#[derive(Debug)]
pub(in crate::proxy::http) struct Sending<B> {
    shared: Arc<Mutex<State<B>>>,
    number: u32,
    /// How many of the kept frames were sent.
    sent: usize,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Replay<B> {
    /// Keeps what is sent of `body`, which is to be sent for the first time.
    pub(in crate::proxy::http) fn of(body: B) -> (Self, Sending<B>) {
        let shared = Arc::new(Mutex::new(State {
            rest: body,
            kept: Vec::new(),
            size: 0,
            is_lost: false,
            has_ended: false,
            newest: 0,
            waiting: None,
        }));
        let first = Sending {
            shared: Arc::clone(&shared),
            number: 0,
            sent: 0,
        };
        (Self(shared), first)
    }

    /// The body from its beginning; `None` when that is gone.
    pub(in crate::proxy::http) fn again(&self) -> Option<Sending<B>> {
        let mut state = self.0.lock();
        if state.is_lost {
            return None;
        }
        state.newest += 1;
        let number = state.newest;
        let before = state.waiting.take();
        drop(state);
        // It learns that it is over, and lets its connection go.
        if let Some(before) = before {
            before.wake();
        }
        Some(Sending {
            shared: Arc::clone(&self.0),
            number,
            sent: 0,
        })
    }

    /// The body from its beginning, for a sending that does not end those before it; `None` unless all of it is known,
    /// so that none of them has to be read from its sender.
    pub(in crate::proxy::http) fn beside(&self) -> Option<Sending<B>> {
        let state = self.0.lock();
        (state.is_whole() && !state.is_lost).then(|| Sending {
            shared: Arc::clone(&self.0),
            number: state.newest,
            sent: 0,
        })
    }

    /// Whether all of it was read from its sender.
    pub(in crate::proxy::http) fn is_whole(&self) -> bool {
        self.0.lock().is_whole()
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Sending<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        if state.newest != this.number {
            return Poll::Ready(Some(Err("another attempt was begun".into())));
        }
        if let Some(kept) = state.kept.get(this.sent) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(match kept.clone() {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if state.has_ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut state.rest).poll_frame(cx) else {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match &frame {
            Some(Ok(frame)) => {
                state.keep(frame);
                this.sent = state.kept.len();
            }
            // What the client did not finish must not be sent again.
            Some(Err(_)) => state.lose(),
            None => state.has_ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        self.sent >= state.kept.len() && state.is_whole()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock();
        let unsent = state.kept.iter().skip(self.sent).map(Kept::len).sum();
        longer(&state.rest.size_hint(), unsent)
    }
}

impl Sending<Inflow> {
    /// Reads until `limit` bytes are known or the body ends; the first `limit` bytes, and whether there are more.
    pub(in crate::proxy::http) fn poll_peek(
        &self,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<(Bytes, bool)> {
        let mut state = self.shared.lock();
        if let Some(left) = limit.checked_sub(state.size) {
            ready!(state.rest.poll_peek(left, cx));
        }
        let kept = state.kept.iter().filter_map(Kept::data);
        Poll::Ready(beginning(kept.chain(state.rest.peeked()), limit))
    }
}

impl<B: Body> State<B> {
    fn is_whole(&self) -> bool {
        self.has_ended || self.rest.is_end_stream()
    }
}

impl<B> State<B> {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.is_lost {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.size += data.len();
            if self.size > MAX_KEPT {
                return self.lose();
            }
            self.kept.push(Kept::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.kept.push(Kept::Trailers(trailers.clone()));
        }
    }

    fn lose(&mut self) {
        self.is_lost = true;
        self.kept = Vec::new();
    }
}

impl Kept {
    fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Data(data) => Some(data),
            Self::Trailers(_) => None,
        }
    }

    fn len(&self) -> u64 {
        let len = self.data().map_or(0, Bytes::len);
        u64::try_from(len).unwrap_or(u64::MAX)
    }
}

/// Bytes of a body that are kept for another attempt (as Linkerd does).
pub(in crate::proxy::http) const MAX_KEPT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;
    use crate::lifecycle::Tasks;

    type Frames = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, BodyError>>>>;

    fn body(frames: Vec<Frame<Bytes>>) -> Frames {
        let frames: Vec<_> = frames.into_iter().map(Ok).collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_body_is_sent_again_from_its_beginning_wherever_it_stopped() {
        for read_before in 0..4 {
            let mut trailers = HeaderMap::new();
            trailers.insert("end", "1".parse().unwrap());
            let frames = vec![data("one"), data("two"), Frame::trailers(trailers)];
            let (replay, mut first) = Replay::of(body(frames));
            for _ in 0..read_before {
                first.frame().await.unwrap().unwrap();
            }
            drop(first);
            let second = replay.again().unwrap().collect().await.unwrap();
            assert_eq!(second.trailers().unwrap()["end"], "1");
            assert_eq!(second.to_bytes(), "onetwo", "{read_before}");
        }
    }

    #[tokio::test]
    async fn a_sending_beside_another_one_has_the_same_body_and_takes_nothing_from_it() {
        let (replay, mut first) = Replay::of(body(vec![data("one"), data("two")]));
        assert!(replay.beside().is_none(), "there may be more");
        first.frame().await.unwrap().unwrap();
        assert!(replay.beside().is_none());
        first.frame().await.unwrap().unwrap();
        assert!(first.frame().await.is_none());
        let second = replay.beside().unwrap();
        assert_eq!(second.collect().await.unwrap().to_bytes(), "onetwo");
        assert!(first.is_end_stream() && first.frame().await.is_none());
        let third = replay.beside().unwrap();
        let _fourth = replay.again().unwrap();
        assert!(third.collect().await.is_err(), "another attempt ends all of them");
    }

    #[tokio::test]
    async fn a_large_body_passes_once() {
        let half = Bytes::from(vec![b'a'; MAX_KEPT / 2]);
        for (last, is_kept) in [(0, true), (1, false)] {
            let frames = [half.clone(), half.clone(), vec![b'b'; last].into()];
            let (replay, first) = Replay::of(body(frames.map(Frame::data).into()));
            let first = first.collect().await.unwrap().to_bytes();
            assert_eq!(first.len(), MAX_KEPT + last);
            assert_eq!(replay.again().is_some(), is_kept);
        }
    }

    #[tokio::test]
    async fn what_a_client_broke_off_is_never_sent_again() {
        let broken = StreamBody::new(futures_util::stream::iter(vec![
            Ok(data("one")),
            Err(BodyError::from("gone")),
        ]));
        let (replay, first) = Replay::of(broken);
        assert!(first.collect().await.is_err());
        assert!(replay.again().is_none());
    }

    #[tokio::test]
    async fn an_attempt_that_is_over_takes_nothing_from_the_next_one() {
        let (replay, mut first) = Replay::of(body(vec![data("one"), data("two")]));
        first.frame().await.unwrap().unwrap();
        let second = replay.again().unwrap();
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(second.collect().await.unwrap().to_bytes(), "onetwo");
    }

    #[tokio::test]
    async fn an_attempt_that_waits_for_more_is_told_that_it_is_over() {
        let endless = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        let (replay, mut first) = Replay::of(endless);
        // Waits, and is polled again only when it is woken.
        let (tell, told) = tokio::sync::oneshot::channel();
        Tasks::new().spawn("first attempt", async move {
            tell.send(first.frame().await.unwrap().is_err()).unwrap();
        });
        while replay.0.lock().waiting.is_none() {
            tokio::task::yield_now().await;
        }
        let _second = replay.again().unwrap();
        assert!(told.await.unwrap());
    }

    #[tokio::test]
    async fn its_length_is_that_of_what_is_still_to_be_sent() {
        let full = Full::new(Bytes::from_static(b"twelve bytes"));
        let (replay, mut first) = Replay::of(full.map_err(|never| -> BodyError { match never {} }));
        assert_eq!(
            (first.size_hint().exact(), first.is_end_stream()),
            (Some(12), false)
        );
        first.frame().await.unwrap().unwrap();
        assert_eq!(
            (first.size_hint().exact(), first.is_end_stream()),
            (Some(0), true)
        );
        let second = replay.again().unwrap();
        assert_eq!(
            (second.size_hint().exact(), second.is_end_stream()),
            (Some(12), false)
        );
    }
}
