//! Notices which watches an API server has opened: a watch that goes on in silence is no event of its own.
//!
//! Place in the walk: round each request to the API server. Must not know: what is watched.

use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tower::{Layer, Service};

use super::standing::Standing;

/// Tells the standing of watches when one of them is answered.
#[derive(Debug, Clone)]
pub(super) struct Hearing(pub(super) Standing);

impl<S> Layer<S> for Hearing {
    type Service = Heard<S>;

    fn layer(&self, inner: S) -> Heard<S> {
        Heard {
            inner,
            standing: self.0.clone(),
        }
    }
}

/// A client whose answers are looked at.
#[derive(Debug, Clone)]
pub(super) struct Heard<S> {
    inner: S,
    standing: Standing,
}

impl<S, Q, A> Service<Request<Q>> for Heard<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        let watch = is_watch.then(|| (uri.path().to_owned(), query.to_owned()));
        let (standing, answer) = (self.standing.clone(), self.inner.call(request));
        async move {
            let answer = answer.await;
            if let (Some((path, query)), Ok(answer)) = (watch, &answer)
                && answer.status().is_success()
            {
                standing.opened(&path, &query);
            }
            answer
        }
        .boxed()
    }
}
