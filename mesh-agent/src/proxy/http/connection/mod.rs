//! One connection of a client: how it is read and written, and what ends it.
//!
//! Place in the walk: when a connection is found to carry HTTP, and around its requests. Must not know: what is asked, and
//! where it goes.

mod framing;
pub(super) mod half_closed;
mod head_timer;
mod resets;
mod server;
pub(super) mod silence;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::detect::Spoken;
use crate::lifecycle::seldom;
use crate::proxy::Mesh;
use crate::proxy::departing::{let_go, told_to_end};
use crate::proxy::http::connection::half_closed::Answers;
use crate::proxy::http::connection::head_timer::HeadTimer;
use crate::proxy::http::connection::resets::Resets;
use crate::proxy::http::connection::server::{http2_for, looked_after};
use crate::proxy::http::connection::silence::Silence;
use crate::proxy::http::{Connection, Side};
use crate::proxy::inbound::visit;
use crate::proxy::live::until_newly_refused;
use crate::transport::ByteStream;
use crate::transport::gathered::Gathered;
use crate::transport::http::MAX_HEAD_BYTES;
use crate::transport::paced::Paced;

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
    let answers = Arc::<Answers>::default();
    let is_other_protocol = Arc::<AtomicBool>::default();
    let (is_watched, stream): (_, Box<dyn ByteStream>) = match spoken {
        Spoken::Http1 | Spoken::Opaque => looked_after(stream, &side, &answers, &is_other_protocol),
        Spoken::Http2 => (false, Box::new(Paced::new(stream))),
    };
    let told = told_to_end(&side, stop.clone());
    let connection = Arc::new(Connection {
        mesh,
        side,
        answers,
        is_other_protocol,
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
    let serving = async {
        match spoken {
            Spoken::Http2 => {
                let builder = http2_for(tasks);
                let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    biased;
                    () = seldom(told) => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                    result = served.as_mut() => result,
                }
            }
            Spoken::Http1 | Spoken::Opaque => {
                let mut builder = http1::Builder::new();
                builder
                    .timer(HeadTimer::default())
                    .auto_date_header(false)
                    .half_close(is_watched)
                    .max_buf_size(MAX_HEAD_BYTES)
                    .max_header_size(MAX_HEAD_BYTES)
                    .header_read_timeout(idle);
                let mut served = std::pin::pin!(
                    builder
                        .serve_connection(TokioIo::new(Gathered::new(stream)), service)
                        .with_upgrades()
                );
                tokio::select! {
                    // First, so that no answer that comes afterwards is given without saying so.
                    biased;
                    () = seldom(let_go(stop)) => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                    result = served.as_mut() => result,
                }
            }
        }
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
