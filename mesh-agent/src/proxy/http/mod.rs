//! The HTTP walk: one connection of a client, request by request.

pub(super) mod admission;
pub(super) mod body;
mod choose;
mod connection;
mod decide;
pub mod explain;
mod extended;
mod fault;
mod forward;
mod headers;
mod introduce;
mod ledger;
mod line;
mod mirror;
mod outcome;
pub(super) mod path;
mod patience;
mod place;
mod plan;
pub(super) mod probe;
mod reach;
mod reply;
mod routed;
mod strict;
mod tries;
mod upgrade;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

pub(super) use self::connection::serve_http;
use crate::mesh::identity::SpiffeId;
use crate::proxy::departing::tell_leaving;
use crate::proxy::http::admission::gate;
use crate::proxy::http::body::held::Share;
use crate::proxy::http::body::inflow::Inflow;
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::connection::half_closed::{Answers, Turn};
use crate::proxy::http::connection::progress::Progress;
use crate::proxy::http::connection::silence::{Pulse, Silence, unless_silent};
use crate::proxy::http::decide::{Outcome, decide};
use crate::proxy::http::extended::Extended;
use crate::proxy::http::headers::UNSERVED;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::plan::Caller;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::{Ends, Mesh};
use crate::telemetry::plain::clipped;
use crate::telemetry::{HttpStart, PathTaken};
use crate::transport::http::Body;

/// From where the walk looks at a connection.
#[derive(Debug)]
pub(super) enum Side {
    /// An application of this node dialled.
    Outbound {
        /// Its pod.
        source: Arc<ServedPod>,
        /// The application, and what it dialled.
        ends: Ends,
    },
    /// Somebody dialled a pod of this node.
    Inbound {
        /// The pod that was dialled.
        pod: Arc<ServedPod>,
        /// The remote client, and the pod's own end.
        ends: Ends,
        /// Who the client proved to be; `None` when it spoke plaintext.
        peer: Option<SpiffeId>,
    },
}

/// One connection of a client.
#[derive(Debug)]
struct Connection {
    mesh: Arc<Mesh>,
    side: Side,
    answers: Arc<Answers>,
    progress: Arc<Progress>,
    silence: Arc<Silence>,
}

impl Connection {
    /// One request, answered by the application or by the agent; never fails.
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Body> {
        let extended = Extended::of(&mut request);
        let is_grpc = headers::is_grpc(request.headers());
        let start = self.start_of(&request);
        let version = request.version();
        let turn = Turn::new(Arc::clone(&self.answers));
        let flow = decide::first_flow(&self);
        let pulse = Pulse::new(&self.silence);
        let ledger = Ledger::open(&self.mesh.telemetry, flow, start, is_grpc, turn, pulse);
        let answered = self.carry(request, extended.is_some(), &ledger).await;
        let answered = match extended {
            Some(extended) => answered.and_then(|response| extended.answer(response)),
            None => answered,
        };
        match answered {
            Ok(response) => {
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    self.progress.changes_protocol();
                }
                tell_leaving(&self.side, version, response)
            }
            Err(refusal) => {
                tracing::debug!(%refusal, cause = ?refusal, "request refused");
                ledger.refused(&refusal);
                let mut response = reply::refuse(&refusal, ledger.is_grpc());
                if let (Side::Inbound { peer: Some(_), .. }, Some(told)) =
                    (&self.side, outcome::told(&refusal))
                {
                    response.headers_mut().insert(UNSERVED, told);
                }
                // What follows a request that was not understood may be no request (RFC 9112 section 11.2).
                if refusal.is_misunderstanding() && version <= Version::HTTP_11 {
                    let headers = response.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        }
    }

    async fn carry(
        &self,
        mut request: Request<Incoming>,
        is_extended: bool,
        ledger: &Arc<Ledger>,
    ) -> Result<Response<Body>, Refusal> {
        self.take_place(ledger)?;
        strict::check(&request)?;
        headers::normalise_path(&mut request, self.mesh.snapshots.load().path_form())?;
        let upgrade = if is_extended {
            Some(Extended::protocol())
        } else {
            headers::upgrade_of(&request)
        };
        // Before anything is decided by headers: what does not travel on must not count.
        headers::remove_named_by_connection(request.headers_mut());
        let delayed = fault::inject(&self.mesh, &self.side, &request, ledger).await?;
        let sending = Box::pin(self.send_on(request, ledger, upgrade));
        let response = unless_silent(ledger.pulse(), sending).await?;
        delayed.note(ledger);
        Ok(response)
    }

    fn send_on<'a>(
        &'a self,
        request: Request<Incoming>,
        ledger: &'a Arc<Ledger>,
        upgrade: Option<HeaderValue>,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>> + 'a {
        let mesh = &self.mesh;
        let (pod, direction) = self.side.owner();
        let mut request =
            request.map(|body| Inflow::new(body, Arc::clone(ledger)).counted(Share::new(pod, direction)));
        async move {
            let plan = match &self.side {
                Side::Outbound { source, ends } => {
                    let caller = Caller {
                        mesh,
                        source,
                        ends: *ends,
                        ledger,
                    };
                    let decision = decide(&caller, &mut request)?;
                    let course = match gate::pass(&caller, &mut request, decision).await? {
                        Outcome::Forward(course) => course,
                        Outcome::Answer(response) => return Ok(reply::whole(response, ledger)),
                    };
                    if upgrade.is_none() {
                        mirror::send(&caller, &course, &mut request);
                        return tries::carry(&caller, course, request).await;
                    }
                    plan::outbound(&caller, course, &mut request, None)?
                }
                Side::Inbound { pod, ends, peer } => {
                    if peer.is_none() {
                        ledger.path_taken(PathTaken::Plain);
                    }
                    if reach::is_asked(&request, peer.as_ref()) {
                        let answer = reach::answer(mesh, pod, *ends, peer.as_ref()).await?;
                        return Ok(reply::whole(answer, ledger));
                    }
                    plan::inbound(mesh, pod, *ends, peer.as_ref(), &mut request)?
                }
            };
            let request = request.map(Upload::Once);
            match upgrade {
                Some(protocol) => Box::pin(upgrade::carry(mesh, request, plan, ledger, protocol)).await,
                None => forward::carry(mesh, request, plan, ledger).await,
            }
        }
    }

    fn start_of(&self, request: &Request<Incoming>) -> Arc<HttpStart> {
        let (Side::Outbound { ends, .. } | Side::Inbound { ends, .. }) = &self.side;
        let mut start = HttpStart {
            method: Method::GET,
            path: String::new(),
            authority: String::new(),
            protocol: request.version(),
            user_agent: None,
            request_id: None,
            x_forwarded_for: None,
            source: ends.client,
            destination: ends.original,
            started: Instant::now(),
        };
        if self.mesh.telemetry.access_log().is_on() {
            note_texts(&mut start, request);
        }
        Arc::new(start)
    }
}

/// What only the access log shows.
fn note_texts(start: &mut HttpStart, request: &Request<impl Sized>) {
    let text = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok()).map(clipped)
    };
    let uri = request.uri();
    let authority = uri.authority().map(|authority| clipped(authority.as_str()));
    start.method = headers::short(request.method());
    start.path = uri
        .path_and_query()
        .map_or_else(|| "/".to_owned(), |path| clipped(path.as_str()));
    start.authority = authority.or_else(|| text("host")).unwrap_or_default();
    start.user_agent = text("user-agent");
    start.request_id = text("x-request-id");
    start.x_forwarded_for = text("x-forwarded-for");
}
