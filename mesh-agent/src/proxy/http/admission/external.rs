//! Asks the service that a CUSTOM policy names, before the other policies of the destination are asked.
//!
//! Place in the walk: after the destination is known, before a byte of the request is sent there. Must not know: the
//! protocols of such services, which policy it was.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderValue, Request, StatusCode, Version};
use tokio::time::{Instant, timeout, timeout_at};

use crate::external::{self, Changes, CheckError, Decision, End, Question, Shown};
use crate::mesh::policy::external::Authorizer;
use crate::proxy::Mesh;
use crate::proxy::arrival::Visit;
use crate::proxy::http::admission::check::{self, AskError};
use crate::proxy::http::body::upload::{Shows, Upload, peek};
use crate::proxy::http::headers::ORIGINAL_VERSION;
use crate::proxy::http::plan::Plan;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::{Refusal, Unapproved};
use crate::telemetry::CheckResult;

/// Asks the provider that a plan names, if it names one, and the other policies about what became of the request.
///
/// Waits as long as the provider's timeout and the route's deadline allow. Cancel-safe: the check is given up.
pub(in crate::proxy::http) async fn admit(
    mesh: &Arc<Mesh>,
    request: &mut Request<Upload>,
    plan: &mut Plan,
) -> Result<(), Refusal> {
    match plan.ask.take() {
        Some(provider) => Box::pin(ask(mesh, request, plan, provider)).await,
        None => Ok(()),
    }
}

/// Has `provider` decide, changes the request as it says, and asks the other policies about what became of it.
async fn ask(
    mesh: &Arc<Mesh>,
    request: &mut Request<Upload>,
    plan: &mut Plan,
    provider: Arc<str>,
) -> Result<(), Refusal> {
    let Some(mut visit) = plan.visit.take() else {
        return Err(Refusal::NotEnrolled);
    };
    let authorizer = mesh.snapshots.load().authorizer(&provider).map(Arc::clone);
    let Some(authorizer) = authorizer else {
        // Declared a moment ago: what could be asked then cannot be now.
        return Err(Refusal::External(Unapproved::Unanswered(StatusCode::FORBIDDEN)));
    };
    let asked = Asked {
        mesh,
        authorizer: &authorizer,
        pod: &visit.pod,
    };
    let told = arriving(mesh, &visit, request, plan);
    let outcome = asked.about(request, &told, plan.deadline).await;
    if let Err(refusal) = &outcome {
        visit.arrival().refused(mesh, refusal);
    }
    if let Some(changes) = outcome? {
        changes.request.apply(request.headers_mut());
        plan.on_response.extend(changes.response);
    }
    visit.approved = Some(provider);
    let snapshot = mesh.snapshots.load();
    let again =
        visit
            .arrival()
            .admit_request(mesh, &snapshot, request, &plan.authority, plan.token.as_ref())?;
    plan.visit = Some(visit);
    match again {
        None => Ok(()),
        // Policies name another one since a moment ago; the client may try again.
        Some(_) => Err(Refusal::External(Unapproved::Unanswered(StatusCode::FORBIDDEN))),
    }
}

/// `None`: let in without an answer.
pub(in crate::proxy::http) type Outcome = Result<Option<Changes>, Refusal>;

/// How an outcome is counted; `None` is a request or connection that is let in without an answer.
pub(in crate::proxy) fn result_of<T>(outcome: &Result<Option<T>, Refusal>) -> CheckResult {
    match outcome {
        Ok(Some(_)) => CheckResult::Allowed,
        Ok(None) => CheckResult::FailedOpen,
        Err(Refusal::External(Unapproved::Denied(_))) => CheckResult::Denied,
        Err(Refusal::External(Unapproved::BodyTooLarge | Unapproved::BodyTooSlow)) => CheckResult::NotAsked,
        Err(_) => CheckResult::FailedClosed,
    }
}

/// What is known of a request that arrives at a pod, besides the request.
fn arriving<'p>(mesh: &Mesh, visit: &Visit, request: &Request<Upload>, plan: &'p Plan) -> Told<'p> {
    let Visit { pod, peer, addr, .. } = visit;
    let is_from_http1 = visit.is_all
        && peer.is_some()
        && (request.headers().get(ORIGINAL_VERSION))
            .is_some_and(|version| version == HeaderValue::from_static("1"));
    let snapshot = mesh.snapshots.load();
    let service = snapshot.inbound(&pod.pod.workload, addr.port()).service;
    Told {
        authority: &plan.authority,
        version: if is_from_http1 {
            Version::HTTP_11
        } else {
            request.version()
        },
        source: End {
            addr: (visit.client, plan.client.port()).into(),
            principal: peer.as_ref().map(|peer| Cow::Owned(peer.to_string())),
            service: None,
        },
        destination: End {
            addr: *addr,
            principal: Some(Cow::Owned(pod.pod.workload.identity.to_string())),
            service: service.map(|service| service.host()),
        },
    }
}

/// What an authorizer is told of a request besides the request.
#[derive(Debug)]
pub(in crate::proxy::http) struct Told<'a> {
    /// Whom it is addressed to.
    pub(in crate::proxy::http) authority: &'a Authority,
    /// What the client spoke.
    pub(in crate::proxy::http) version: Version,
    /// Who sends it.
    pub(in crate::proxy::http) source: End<'static>,
    /// Where it goes.
    pub(in crate::proxy::http) destination: End<'static>,
}

/// An authorizer that is asked in the name of a pod.
pub(in crate::proxy::http) struct Asked<'a> {
    pub(in crate::proxy::http) mesh: &'a Arc<Mesh>,
    pub(in crate::proxy::http) authorizer: &'a Authorizer,
    pub(in crate::proxy::http) pod: &'a Arc<ServedPod>,
}

impl Asked<'_> {
    /// Has it decide, and counts what it decided; of the changes that it wants only that of the target is made.
    pub(in crate::proxy::http) async fn about(
        &self,
        request: &mut Request<impl Shows>,
        told: &Told<'_>,
        deadline: Option<Instant>,
    ) -> Outcome {
        let outcome = self.outcome(request, told, deadline).await;
        self.mesh.telemetry.mesh().checked(result_of(&outcome));
        outcome
    }

    async fn outcome(
        &self,
        request: &mut Request<impl Shows>,
        told: &Told<'_>,
        deadline: Option<Instant>,
    ) -> Outcome {
        // Before the permit: a client that is slow must not keep others from being asked about.
        let shown = self.shown(request.body_mut()).await?;
        let permit = timeout(self.authorizer.timeout, self.pod.checks.acquire()).await;
        // The semaphore is never closed; if it were, no permit would be no limit.
        let Ok(_permit) = permit else {
            return self.unanswered(&AskError::TimedOut);
        };
        let limit = Instant::now() + self.authorizer.timeout;
        let limit = deadline.map_or(limit, |deadline| deadline.min(limit));
        let decision = Box::pin(timeout_at(limit, self.decision(request, told, shown)));
        match decision.await.unwrap_or(Err(AskError::TimedOut)) {
            Ok(Decision::Allowed(changes)) => match changed_target(request, &changes) {
                Ok(()) => Ok(Some(changes)),
                Err(error) => self.unanswered(&error.into()),
            },
            Ok(Decision::Denied(reply)) => Err(Refusal::External(Unapproved::Denied(reply))),
            Err(error) => self.unanswered(&error),
        }
    }

    fn unanswered(&self, error: &AskError) -> Outcome {
        check::undecided(self.pod, self.authorizer, error).map(|()| None)
    }

    async fn shown(&self, body: &mut impl Shows) -> Result<Option<Shown>, Refusal> {
        let Some(checked) = self.authorizer.body else {
            return Ok(None);
        };
        let peeked = timeout(BODY_PATIENCE, async {
            // As above.
            let _permit = self.pod.bodies.acquire().await.ok();
            peek(body, checked.max_bytes).await
        });
        let Ok((bytes, is_partial)) = peeked.await else {
            return Err(Refusal::External(Unapproved::BodyTooSlow));
        };
        if is_partial && !checked.allow_partial {
            return Err(Refusal::External(Unapproved::BodyTooLarge));
        }
        Ok(Some(Shown { bytes, is_partial }))
    }

    async fn decision<B>(
        &self,
        request: &Request<B>,
        told: &Told<'_>,
        body: Option<Shown>,
    ) -> Result<Decision, AskError> {
        let check = external::check(
            self.authorizer,
            &Question {
                method: request.method(),
                path: request.uri().path_and_query().map_or("/", PathAndQuery::as_str),
                authority: told.authority,
                version: told.version,
                headers: request.headers(),
                source: told.source.clone(),
                destination: told.destination.clone(),
                body,
                now: SystemTime::now(),
            },
        )?;
        let (answer, trailers) = check::send(self.mesh, self.pod, self.authorizer.into(), check).await?;
        Ok(external::decide(self.authorizer, answer, trailers.as_ref())?)
    }
}

/// Changes the query, if the authorizer wants it.
fn changed_target(request: &mut Request<impl Sized>, changes: &Changes) -> Result<(), CheckError> {
    let Some(target) = request.uri().path_and_query() else {
        return Ok(());
    };
    if let Some(target) = changes.request.target(target)? {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(target);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_invalid| CheckError::Unsendable("query"))?;
    }
    Ok(())
}

/// How long a client may take to send what its authorizer is shown of the body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
