//! Tries a request again where its route says so, as long as nothing of an answer was given.
//!
//! Place in the walk: between the course of a request and the plan of each attempt, on the client's side only: what the
//! client's agent decides, nobody multiplies on the way. Must not know: how reasons, pauses and budgets are worked out.
//!
//! A request whose rule has no such policy pays nothing here: no copy of its head, no look at its body.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use tokio::time::{Instant, sleep, timeout_at};

use crate::balance::{Limit, Slot};
use crate::mesh::route::{RetryOn, RetryPolicy};
use crate::proxy::conduct;
use crate::proxy::hop::Hop;
use crate::proxy::http::admission::admit;
use crate::proxy::http::decide::{Course, Target};
use crate::proxy::http::inflow::Inflow;
use crate::proxy::http::ledger::grpc_status;
use crate::proxy::http::outcome::Heard;
use crate::proxy::http::plan::{Caller, Plan};
use crate::proxy::http::replay::{Replay, Sending};
use crate::proxy::http::routed::Applied;
use crate::proxy::http::upload::Upload;
use crate::proxy::http::{forward, outcome, patience, plan};
use crate::proxy::refusal::Refusal;
use crate::route::{Attempt, Attempts, NoMore};
use crate::snapshot::Upstream;
use crate::telemetry::{ResponseFlag, RetryOutcome};
use crate::transport::http::Body;
use crate::transport::pool::Leased;

/// Sends a request on its course, again if need be, and its response back.
pub(super) async fn carry(
    caller: &Caller<'_>,
    course: Course,
    mut request: Request<Inflow>,
) -> Result<Response<Body>, Refusal> {
    request.headers_mut().remove(ATTEMPT_COUNT);
    let policy = course.route.as_ref().and_then(Applied::retry);
    let (Some(policy), Target::Upstream(upstream)) = (policy, &course.target) else {
        return once(caller, course, request.map(Upload::Once)).await;
    };
    let (head, body) = request.into_parts();
    let mut head = Request::from_parts(head, ());
    forward::identify(head.headers_mut());
    let until = patience::end(head.headers(), caller.ledger.started(), course.deadline);
    upstream.may_try_again(std::time::Instant::now());
    let (replay, first) = Replay::of(body);
    let tries = Tries {
        caller,
        course: &course,
        upstream,
        attempts: Attempts::of(policy, until),
        policy,
        replay,
        tried: Vec::new(),
        room: None,
    };
    Box::pin(tries.run(&head, first)).await
}

/// Sends a request on its course, and its response back.
pub(super) async fn once(
    caller: &Caller<'_>,
    course: Course,
    mut request: Request<Upload>,
) -> Result<Response<Body>, Refusal> {
    let Caller { mesh, ledger, .. } = *caller;
    patience::pass_on(request.headers_mut(), ledger.started());
    let mut plan = plan::outbound(caller, course, &mut request, None)?;
    admit(mesh, &mut request, &mut plan).await?;
    Box::pin(forward::carry(mesh, request, plan, ledger)).await
}

/// The attempts of one request.
struct Tries<'a> {
    caller: &'a Caller<'a>,
    course: &'a Course,
    upstream: &'a Upstream,
    policy: &'a RetryPolicy,
    attempts: Attempts,
    replay: Replay<Inflow>,
    tried: Vec<SocketAddr>,
    /// Counts the request as one that is being tried again.
    room: Option<Slot>,
}

/// What came of an attempt.
enum Outcome {
    Answered(Box<Answer>),
    Refused(Refusal),
}

struct Answer {
    response: Response<Leased>,
    plan: Plan,
    /// The gRPC status, if it is known before a message.
    grpc: Option<u32>,
}

impl Tries<'_> {
    async fn run(mut self, head: &Request<()>, first: Sending<Inflow>) -> Result<Response<Body>, Refusal> {
        let mut body = first;
        loop {
            let request = self.request(head, body);
            let outcome = match Box::pin(self.attempt(request)).await {
                Ok(answer) => Outcome::Answered(Box::new(answer)),
                Err(refusal) => Outcome::Refused(refusal),
            };
            let Some(reason) = self.reason(&outcome) else {
                return self.finish(outcome);
            };
            let count = self.attempts.number();
            let pause = self.policy.pause(count, reason, &mut rand::rng());
            body = match self.next(pause) {
                Ok(again) => again,
                Err(why) => return self.give_up(outcome, why),
            };
            self.forget(outcome);
            sleep(pause).await;
            self.attempts.begin();
        }
    }

    /// The request as it is sent this time.
    fn request(&self, head: &Request<()>, body: Sending<Inflow>) -> Request<Upload> {
        let mut request = Request::new(Upload::Kept(body));
        request.method_mut().clone_from(head.method());
        request.uri_mut().clone_from(head.uri());
        *request.version_mut() = head.version();
        request.headers_mut().clone_from(head.headers());
        let number = HeaderValue::from(self.attempts.number());
        request.headers_mut().insert(ATTEMPT_COUNT, number);
        patience::pass_on(request.headers_mut(), self.caller.ledger.started());
        request
    }

    async fn attempt(&mut self, mut request: Request<Upload>) -> Result<Answer, Refusal> {
        let Caller { mesh, ledger, .. } = *self.caller;
        let tried = self.policy.avoids_previous.then_some(&mut self.tried);
        let mut plan = plan::outbound(self.caller, self.course.clone(), &mut request, tried)?;
        admit(mesh, &mut request, &mut plan).await?;
        let mut response = forward::send(mesh, request, &mut plan, ledger).await?;
        let grpc = match grpc_status(response.headers()) {
            Some(code) => Some(code),
            None => self.grpc_in_trailers(response.body_mut(), &mut plan).await?,
        };
        Ok(Answer { response, plan, grpc })
    }

    /// The gRPC status of a response without a message. A call whose client has still something to say is not looked
    /// at: it may wait for the head of the response.
    async fn grpc_in_trailers(&self, body: &mut Leased, plan: &mut Plan) -> Result<Option<u32>, Refusal> {
        let is_grpc = |on: &RetryOn| matches!(on, RetryOn::Grpc(_));
        if !self.caller.ledger.is_grpc() || !self.policy.on.iter().any(is_grpc) || !self.replay.is_whole() {
            return Ok(None);
        }
        let until = Instant::now() + PEEK_PATIENCE;
        let until = plan
            .first_deadline()
            .map_or(until, |deadline| deadline.min(until));
        match timeout_at(until, body.trailers_only()).await {
            Ok(Ok(trailers)) => Ok(trailers.and_then(grpc_status)),
            Ok(Err(error)) => {
                conduct::broken(plan.pick.as_mut());
                Err(Refusal::Broken(error))
            }
            Err(_elapsed) => Ok(None),
        }
    }

    /// Why to try again, if there is a reason to.
    fn reason<'o>(&self, outcome: &'o Outcome) -> Option<Attempt<'o>> {
        let (own, answered) = match outcome {
            Outcome::Refused(refusal) => (outcome::of_refusal(refusal), None),
            Outcome::Answered(answer) => {
                let headers = answer.response.headers();
                let is_agents = matches!(answer.plan.hop, Hop::OtherNode { .. });
                let told = match outcome::heard(headers).filter(|_| is_agents) {
                    Some(Heard::Forbidden) => return None,
                    Some(Heard::Failed(attempt)) => Some(attempt),
                    None => None,
                };
                let answered = Attempt::Answered {
                    status: answer.response.status(),
                    headers,
                    grpc: answer.grpc,
                };
                (told, Some(answered))
            }
        };
        let mut attempts = own.into_iter().chain(answered);
        attempts.find(|attempt| self.policy.wants(*attempt))
    }

    /// The body once more, if one more attempt may begin after `pause`.
    fn next(&mut self, pause: Duration) -> Result<Sending<Inflow>, RetryOutcome> {
        let now = std::time::Instant::now();
        self.attempts.allow(pause, now).map_err(|why| match why {
            NoMore::UsedUp => RetryOutcome::UsedUp,
            NoMore::TooLate => RetryOutcome::TooLate,
        })?;
        let body = self.replay.again().ok_or(RetryOutcome::BodyGone)?;
        if self.room.is_none() {
            let room = self.upstream.breakers().take(Limit::Retries);
            self.room = Some(room.ok_or(RetryOutcome::Overflow)?);
        }
        if self.upstream.grants_attempt(now) {
            self.tell(RetryOutcome::Begun);
            Ok(body)
        } else {
            Err(RetryOutcome::OverBudget)
        }
    }

    fn finish(&self, outcome: Outcome) -> Result<Response<Body>, Refusal> {
        let Caller { mesh, ledger, .. } = *self.caller;
        let answer = match outcome {
            Outcome::Answered(answer) => *answer,
            Outcome::Refused(refusal) => return Err(refusal),
        };
        if self.attempts.number() > 1 {
            self.tell(RetryOutcome::Succeeded);
        }
        Ok(forward::answer(mesh, answer.response, answer.plan, ledger))
    }

    /// What there is goes to the client, although there was a reason to try again.
    fn give_up(&self, outcome: Outcome, why: RetryOutcome) -> Result<Response<Body>, Refusal> {
        let Caller { mesh, ledger, .. } = *self.caller;
        self.tell(why);
        let (flag, details) = match why {
            RetryOutcome::UsedUp => (Some(ResponseFlag::Urx), "retry_limit_exceeded"),
            RetryOutcome::OverBudget => (Some(ResponseFlag::Urx), "retry_budget_exceeded"),
            RetryOutcome::Overflow => (Some(ResponseFlag::Uo), "retry_overflow"),
            RetryOutcome::TooLate => (None, "retry_too_late"),
            RetryOutcome::BodyGone => (None, "retry_body_gone"),
            RetryOutcome::Begun | RetryOutcome::Succeeded => (None, ""),
        };
        if let Some(flag) = flag {
            ledger.each(|record| record.flag(flag));
        }
        match outcome {
            // What was wrong with the last attempt is said by the refusal itself.
            Outcome::Refused(refusal) => Err(refusal),
            Outcome::Answered(_)
                if why == RetryOutcome::OverBudget && self.upstream.refuses_over_budget() =>
            {
                self.forget(outcome);
                Err(Refusal::OverBudget)
            }
            Outcome::Answered(answer) => {
                ledger.each(|record| record.details(details));
                Ok(forward::answer(mesh, answer.response, answer.plan, ledger))
            }
        }
    }

    /// The attempt is over, and the client hears nothing of it: its endpoint's conduct and its record are told.
    fn forget(&self, outcome: Outcome) {
        let ledger = self.caller.ledger;
        match outcome {
            Outcome::Refused(refusal) => {
                ledger.attempt_is_over(|record| ledger.refused_at(record, &refusal));
            }
            Outcome::Answered(answer) => {
                let Answer {
                    response,
                    mut plan,
                    grpc,
                } = *answer;
                conduct::answered(plan.pick.as_mut(), &response, ledger.is_grpc());
                if let Some(code) = grpc {
                    conduct::ended_with(plan.pick.as_mut(), code);
                }
                ledger.attempt_is_over(|record| {
                    record.respond(response.status().as_u16());
                    if let Some(code) = grpc {
                        record.grpc_status(code);
                    }
                });
            }
        }
    }

    fn tell(&self, outcome: RetryOutcome) {
        self.caller.mesh.telemetry.resilience().retried(outcome);
    }
}

/// Envoy's count of the attempts, from 1 on, where there may be several; what an application says of it is not believed.
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// How long the head of a gRPC response may be held back to see whether a message follows.
const PEEK_PATIENCE: Duration = Duration::from_secs(1);
