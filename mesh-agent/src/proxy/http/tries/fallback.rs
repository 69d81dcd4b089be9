//! What answers a request that its own Service does not.
//!
//! Place in the walk: after the last attempt, before anything of an answer is passed on. Must not know: why attempts fail.
//!
//! Answers of the application are its own, and so are those of policies, limits and routes: none of them has a fallback.
//! The Service that stands in is asked as any other is, with its policies and limits; its own fallback is not.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};

use super::Tries;
use super::attempt::{Answer, Outcome};
use crate::mesh::fallback::{Fallback, FallbackOn, FallbackTo, StaticAnswer};
use crate::proxy::http::decide::{Course, Target};
use crate::proxy::http::outcome::Heard;
use crate::proxy::http::plan::{self, Caller};
use crate::proxy::http::{forward, reply};
use crate::proxy::refusal::Refusal;
use crate::snapshot::Upstream;
use crate::telemetry::{FallbackOutcome, ResponseFlag, RetryOutcome};
use crate::transport::DialError;
use crate::transport::http::Body;

/// Why the Service itself does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    on: FallbackOn,
    flag: Option<ResponseFlag>,
    reason: &'static str,
}

impl Cause {
    fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Refused(refusal) => is_unreachable(refusal).then(|| Self {
                on: FallbackOn::Unreachable,
                flag: Some(refusal.flag()),
                reason: refusal.reason(),
            }),
            Outcome::Answered(answer) => match answer.heard() {
                Some(Heard::Failed(_)) => Some(Self {
                    on: FallbackOn::Unreachable,
                    flag: Some(ResponseFlag::Uf),
                    reason: "upstream_unserved",
                }),
                Some(Heard::Forbidden) => None,
                None => is_gateway_error(answer).then_some(Self {
                    on: FallbackOn::GatewayError,
                    flag: None,
                    reason: "gateway_error",
                }),
            },
        }
    }
}

/// Whether no endpoint gave an answer; what the agent, a policy, a limit or a route answers for its own reasons is one.
pub(in crate::proxy::http) fn is_unreachable(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::NoEndpoint
        | Refusal::Overloaded
        | Refusal::NotEnrolled
        | Refusal::Broken(_)
        | Refusal::NoAnswer
        | Refusal::TimedOut => true,
        Refusal::Unreachable(error) => match **error {
            DialError::Connect(_)
            | DialError::TimedOut
            | DialError::Handshake(_)
            | DialError::Http(_)
            | DialError::NotHttp2
            | DialError::Overflow => true,
            // Our own want of a socket, a certificate, or room: somebody must see it.
            DialError::Socket(_)
            | DialError::NoCertificate
            | DialError::Tls(_)
            | DialError::Backend(_)
            | DialError::NoTunnel(_)
            | DialError::Crowded(_) => false,
        },
        Refusal::NoRoute
        | Refusal::Silent
        | Refusal::InvalidBackend
        | Refusal::Crowded
        | Refusal::Laden
        | Refusal::OverBudget
        | Refusal::NoSuchPort
        | Refusal::Plaintext
        | Refusal::Denied(_)
        | Refusal::Unauthenticated(_)
        | Refusal::External(_)
        | Refusal::RateLimited(_)
        | Refusal::RateLimiterFailed
        | Refusal::Revoked
        | Refusal::ConnectMethod
        | Refusal::ConnectProtocol
        | Refusal::TargetTooLong
        | Refusal::Aborted(_)
        | Refusal::Malformed => false,
    }
}

fn is_gateway_error(answer: &Answer) -> bool {
    matches!(answer.response.status().as_u16(), 502..=504) || matches!(answer.grpc, Some(4 | 14))
}

impl<'a> Tries<'a> {
    /// What may answer instead, and why.
    pub(super) fn falls_back(&self, outcome: &Outcome) -> Option<(&'a Fallback, Cause)> {
        let fallback = self.cares.fallback?;
        let cause = Cause::of(outcome)?;
        fallback.on.contains(&cause.on).then_some((fallback, cause))
    }

    /// Answers instead; where that is not possible, what there is goes to the client.
    pub(super) async fn fall_back(
        self,
        head: &Request<()>,
        outcome: Outcome,
        fallback: &Fallback,
        cause: Cause,
        why: Option<RetryOutcome>,
    ) -> Result<Response<Body>, Refusal> {
        match &fallback.to {
            FallbackTo::Answer(answer) => match self.written(answer, head.method()) {
                Some(response) => {
                    self.give_up_on(outcome, cause);
                    self.fell_back(FallbackOutcome::Answered);
                    Ok(self.told(response, answer))
                }
                None => self.finish(outcome, why),
            },
            FallbackTo::Service { service, port } => {
                let snapshot = self.caller.mesh.snapshots.load();
                let client = &self.caller.source.pod.workload;
                if let Some(upstream) = snapshot.upstream(client, service, *port) {
                    let upstream = Arc::clone(upstream);
                    Box::pin(self.ask(head, upstream, outcome, cause, why)).await
                } else {
                    self.fell_back(FallbackOutcome::Absent);
                    self.finish(outcome, why)
                }
            }
        }
    }

    async fn ask(
        mut self,
        head: &Request<()>,
        upstream: Arc<Upstream>,
        outcome: Outcome,
        cause: Cause,
        why: Option<RetryOutcome>,
    ) -> Result<Response<Body>, Refusal> {
        let now = std::time::Instant::now();
        if self.until.is_some_and(|until| now >= until) {
            self.fell_back(FallbackOutcome::TooLate);
            return self.finish(outcome, why);
        }
        let Some(body) = self.replay.again() else {
            self.fell_back(FallbackOutcome::BodyGone);
            return self.finish(outcome, why);
        };
        self.give_up_on(outcome, cause);
        let course = Course {
            // No session begins at another Service than the one that was asked.
            target: Target::Upstream(upstream, None),
            ..self.course.clone()
        };
        self.sent += 1;
        let mut request = self.request(head, body, self.sent);
        let Caller { mesh, ledger, .. } = *self.caller;
        let answered = match plan::outbound(self.caller, course, &mut request, None) {
            Ok(plan) => self.send(request, plan, ledger).await,
            Err(refusal) => Outcome::Refused(refusal),
        };
        match answered {
            Outcome::Answered(answer) => {
                self.fell_back(FallbackOutcome::Served);
                Ok(forward::answer(mesh, answer.response, answer.plan, ledger))
            }
            Outcome::Refused(refusal) => {
                self.fell_back(FallbackOutcome::Failed);
                Err(refusal)
            }
        }
    }

    /// The source's record says what was wrong; that of a destination on this node is closed.
    fn give_up_on(&self, outcome: Outcome, cause: Cause) {
        let ledger = self.caller.ledger;
        self.forget(ledger, outcome);
        ledger.at_source(|record| {
            if let Some(flag) = cause.flag {
                record.flag(flag);
            }
            record.details(format!("fallback{{{}}}", cause.reason));
        });
    }

    /// `None` for a gRPC call that the answer says nothing to.
    fn written(&self, answer: &StaticAnswer, method: &Method) -> Option<Response<Bytes>> {
        let mut response = Response::new(Bytes::new());
        if self.caller.ledger.is_grpc() {
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from(answer.grpc_status?));
            headers.insert("grpc-message", HeaderValue::from_static("fallback"));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            return Some(response);
        }
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, answer.content_type.clone());
        if method == Method::HEAD {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
        } else {
            response.body_mut().clone_from(&answer.body);
        }
        Some(response)
    }

    /// The written answer as the client gets it, changed as its route says.
    fn told(&self, mut response: Response<Bytes>, answer: &StaticAnswer) -> Response<Body> {
        let ledger = self.caller.ledger;
        if let (true, Some(code)) = (ledger.is_grpc(), answer.grpc_status) {
            ledger.each(|record| record.grpc_status(code));
        }
        if let Some(route) = &self.course.route {
            route.edit_response(response.headers_mut());
        }
        reply::whole(response, ledger)
    }

    fn fell_back(&self, outcome: FallbackOutcome) {
        self.caller.mesh.telemetry.resilience().fell_back(outcome);
    }
}
