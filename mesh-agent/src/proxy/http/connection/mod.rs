//! One connection of a client: how it is read and written, and what ends it.
//!
//! Place in the walk: when a connection is found to carry HTTP, and around its requests. Must not know: what is asked, and
//! where it goes.

mod framing;
pub(super) mod half_closed;
mod head_timer;
mod http1;
mod http2;
mod lent;
pub(super) mod progress;
mod resets;
pub(super) mod silence;

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::Either;
use hyper::service::service_fn;

use crate::detect::Spoken;
use crate::lifecycle::seldom;
use crate::proxy::Mesh;
use crate::proxy::departing::told_to_end;
use crate::proxy::http::connection::half_closed::Answers;
use crate::proxy::http::connection::http1::Http1;
use crate::proxy::http::connection::progress::Progress;
use crate::proxy::http::connection::resets::Resets;
use crate::proxy::http::connection::silence::Silence;
use crate::proxy::http::{Connection, Side};
use crate::proxy::inbound::visit;
use crate::proxy::live::until_newly_refused;
use crate::transport::ByteStream;

/// Serves HTTP on `stream` until the client ends it, or gracefully when the pod leaves or the agent stops.
pub(in crate::proxy) async fn serve_http(
    mesh: Arc<Mesh>,
    side: Side,
    stream: Box<dyn ByteStream>,
    spoken: Spoken,
) {
    let (Side::Outbound { source: pod, .. } | Side::Inbound { pod, .. }) = &side;
    let tasks = pod.tasks.clone();
    let stop = tasks.stop();
    let idle = mesh.settings.idle_timeout;
    let (answers, progress) = (Arc::<Answers>::default(), Arc::<Progress>::default());
    let spoken = match spoken {
        Spoken::Http1 | Spoken::Opaque => Either::Left(Http1::of(stream, &side, &answers, &progress, idle)),
        Spoken::Http2 => Either::Right((stream, told_to_end(&side, stop.clone()))),
    };
    let connection = Arc::new(Connection {
        mesh,
        side,
        answers,
        progress,
        silence: Silence::new(idle),
    });
    let (watched, resets) = (Arc::clone(&connection), Arc::<Resets>::default());
    let opened = Arc::clone(&resets);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        let unanswered = opened.opened();
        async move {
            let response = Box::pin(connection.answer(request)).await;
            unanswered.answered();
            Ok::<_, Infallible>(response)
        }
    });
    let serving = match spoken {
        Either::Left(http1) => Either::Left(http1.serve(service, stop)),
        // Larger than most connections ever need.
        Either::Right((stream, told)) => Either::Right(Box::pin(http2::serve(stream, service, tasks, told))),
    };
    let served = tokio::select! {
        served = serving => served,
        // Dropped in the middle: what is under way on it ends too.
        () = seldom(watched.forbidden()) => return,
        () = seldom(resets.are_too_many()) => return tracing::debug!("most requests of a connection were given up at once"),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "client connection ended");
    }
}

impl Connection {
    /// Returns when policies change so that no request on the connection would be let in any more. Requests of a
    /// connection that was refused from the start are told so one by one.
    async fn forbidden(&self) {
        let Side::Inbound { pod, ends, peer } = &self.side else {
            // It leads to many destinations, each with policies of its own.
            return std::future::pending().await;
        };
        let visit = visit(pod, *ends, peer.as_ref());
        let arrival = visit.arrival();
        let refusal = until_newly_refused(&self.mesh, |snapshot| arrival.judge_connection(snapshot)).await;
        // Not counted: perhaps nobody was going to ask anything.
        tracing::debug!(client = %ends.client, details = %refusal.details(), "connection closed by policy");
    }
}
