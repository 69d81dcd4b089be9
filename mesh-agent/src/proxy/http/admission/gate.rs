//! Asks the services that a route names (Gateway API's `ExternalAuth`) whether a request may go on.
//!
//! Place in the walk: on the client's side, after rule and backend are chosen, before the route changes anything of the
//! request: once, however often it is tried. Must not know: the protocols of such services, endpoints of the backend.
//!
//! The client's own pod asks. A request that is let in is changed as the service says, then as the route does.

use std::borrow::Cow;
use std::sync::Arc;

use http::Request;
use http::uri::Authority;

use crate::external::{End, HeaderChange};
use crate::mesh::policy::external::Authorizer;
use crate::proxy::http::admission::external::{Asked, Told};
use crate::proxy::http::body::upload::Shows;
use crate::proxy::http::decide::{Course, Outcome, authority_or};
use crate::proxy::http::plan::Caller;
use crate::proxy::refusal::Refusal;
use crate::snapshot::Destination;

/// What was decided about a request. What becomes of it is had from [`pass`] alone.
#[derive(Debug)]
pub(in crate::proxy::http) struct Decision {
    outcome: Outcome,
    gates: Vec<Arc<Authorizer>>,
}

impl Decision {
    /// All of `gates` must let the request in, which is not changed yet; without any it has been changed as its route says.
    pub(in crate::proxy::http) fn gated(outcome: Outcome, gates: Vec<Arc<Authorizer>>) -> Self {
        Self { outcome, gates }
    }

    /// Asks one after another, and changes the request as they say.
    async fn ask(self, caller: &Caller<'_>, request: &mut Request<impl Shows>) -> Result<Outcome, Refusal> {
        let Caller { mesh, source, .. } = *caller;
        let authority = authority_or(request, caller.ends.original)?;
        let deadline = match &self.outcome {
            Outcome::Forward(course) => course.deadline,
            Outcome::Answer(_) => None,
        };
        let mut on_response = Vec::new();
        for authorizer in &self.gates {
            let asked = Asked {
                mesh,
                authorizer,
                pod: source,
            };
            let told = leaving(caller, request, &authority);
            if let Some(changes) = asked.about(request, &told, deadline).await? {
                changes.request.apply(request.headers_mut());
                on_response.extend(changes.response);
            }
        }
        Ok(match self.outcome {
            Outcome::Forward(course) => forward(caller, request, course, on_response)?,
            Outcome::Answer(mut response) => {
                for change in &on_response {
                    change.apply(response.headers_mut());
                }
                Outcome::Answer(response)
            }
        })
    }
}

/// What becomes of a request about which `decision` was taken, once everybody has been asked who must be.
///
/// Waits as long as the timeouts of those services and the route's deadline allow. Cancel-safe: the question is given up.
pub(in crate::proxy::http) async fn pass(
    caller: &Caller<'_>,
    request: &mut Request<impl Shows>,
    decision: Decision,
) -> Result<Outcome, Refusal> {
    if decision.gates.is_empty() {
        return Ok(decision.outcome);
    }
    Box::pin(decision.ask(caller, request)).await
}

fn forward(
    caller: &Caller<'_>,
    request: &mut Request<impl Sized>,
    mut course: Course,
    on_response: Vec<HeaderChange>,
) -> Result<Outcome, Refusal> {
    course.edit(request, &caller.mesh.snapshots.load())?;
    if let Some(route) = &mut course.route {
        route.let_in(on_response);
    }
    Ok(Outcome::Forward(course))
}

/// What is known of a request that leaves a pod, besides the request.
fn leaving<'a>(caller: &Caller<'_>, request: &Request<impl Sized>, authority: &'a Authority) -> Told<'a> {
    let Caller {
        mesh, source, ends, ..
    } = *caller;
    let service = match mesh
        .snapshots
        .load()
        .destination(&source.pod.workload, ends.original)
    {
        Destination::Service(dialled) => Some(dialled.service.host()),
        Destination::Workload { .. } | Destination::NoSuchPort(_) | Destination::Unknown => None,
    };
    Told {
        authority,
        version: request.version(),
        source: End {
            addr: ends.client,
            principal: Some(Cow::Owned(source.pod.workload.identity.to_string())),
            service: None,
        },
        destination: End {
            addr: ends.original,
            principal: None,
            service,
        },
    }
}
