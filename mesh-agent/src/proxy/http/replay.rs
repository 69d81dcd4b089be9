//! A request body that can be sent again as long as it is small.
//!
//! Place in the walk: round the body of a request whose route allows further attempts. Must not know: when there are
//! further attempts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

/// What was sent of a body, and what is still to come.
#[derive(Debug)]
pub(super) struct Replay<B>(Arc<Mutex<State<B>>>);

#[derive(Debug)]
struct State<B> {
    rest: B,
    kept: Vec<Kept>,
    size: usize,
    /// Too much of it was sent to be kept.
    is_lost: bool,
}

#[derive(Debug, Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// One sending of a body. Only the newest one may be read.
#[derive(Debug)]
pub(super) struct ReplayBody<B> {
    shared: Arc<Mutex<State<B>>>,
    /// How many of the kept frames were sent.
    sent: usize,
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    /// Keeps what is sent of `body`.
    pub(super) fn of(body: B) -> Self {
        Self(Arc::new(Mutex::new(State {
            rest: body,
            kept: Vec::new(),
            size: 0,
            is_lost: false,
        })))
    }

    /// The body from its beginning; `None` when that is gone.
    pub(super) fn body(&self) -> Option<ReplayBody<B>> {
        (!self.0.lock().is_lost).then(|| ReplayBody {
            shared: Arc::clone(&self.0),
            sent: 0,
        })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        if let Some(kept) = state.kept.get(this.sent) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(match kept.clone() {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let frame = ready!(Pin::new(&mut state.rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                state.keep(frame);
                this.sent = state.kept.len();
            }
            // What the client did not finish cannot be sent again.
            Some(Err(_)) => state.lose(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        self.sent >= state.kept.len() && state.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock();
        let unsent = state.kept.iter().skip(self.sent).map(Kept::len).sum::<u64>();
        let rest = state.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + unsent);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + unsent);
        }
        hint
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
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => u64::try_from(data.len()).unwrap_or(u64::MAX),
            Self::Trailers(_) => 0,
        }
    }
}

/// Bytes of a body that are kept for another attempt (as Linkerd does).
const MAX_KEPT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    type Frames =
        StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

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
            let replay = Replay::of(body(vec![data("one"), data("two"), Frame::trailers(trailers)]));
            let mut first = replay.body().unwrap();
            for _ in 0..read_before {
                first.frame().await.unwrap().unwrap();
            }
            drop(first);
            let second = replay.body().unwrap().collect().await.unwrap();
            assert_eq!(second.trailers().unwrap()["end"], "1");
            assert_eq!(second.to_bytes(), "onetwo", "{read_before}");
        }
    }

    #[tokio::test]
    async fn a_large_body_passes_once() {
        let half = Bytes::from(vec![b'a'; MAX_KEPT / 2]);
        for (last, is_kept) in [(0, true), (1, false)] {
            let frames = [half.clone(), half.clone(), vec![b'b'; last].into()];
            let replay = Replay::of(body(frames.map(Frame::data).into()));
            let first = replay.body().unwrap().collect().await.unwrap().to_bytes();
            assert_eq!(first.len(), MAX_KEPT + last);
            assert_eq!(replay.body().is_some(), is_kept);
        }
    }

    #[tokio::test]
    async fn its_length_is_that_of_what_is_still_to_be_sent() {
        let replay = Replay::of(Full::new(Bytes::from_static(b"twelve bytes")));
        let mut first = replay.body().unwrap();
        assert_eq!(
            (first.size_hint().exact(), first.is_end_stream()),
            (Some(12), false)
        );
        first.frame().await.unwrap().unwrap();
        assert_eq!(
            (first.size_hint().exact(), first.is_end_stream()),
            (Some(0), true)
        );
        let second = replay.body().unwrap();
        assert_eq!(
            (second.size_hint().exact(), second.is_end_stream()),
            (Some(12), false)
        );
    }
}
