//! Tries a request again where its route says so, as long as nothing of an answer was given; asks two endpoints at once, or
//! something else, where its Service says so.
//!
//! Place in the walk: between the course of a request and the plan of each attempt, on the client's side only: what the
//! client's agent decides, nobody multiplies on the way. Must not know: how reasons, pauses and budgets are worked out.
//!
//! A request whose rule and Service have no such policy pays nothing here: no copy of its head, no look at its body.

mod attempt;
mod fallback;
mod race;

use std::future::{Future, ready};
use std::time::Duration;

use futures_util::future::Either;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use tokio::time::{Instant, sleep, timeout_at};

use self::attempt::{Answer, Outcome};
pub(super) use self::fallback::is_unreachable;
pub(super) use self::race::is_raced;
use crate::balance::{Limit, Slot};
use crate::mesh::fallback::Fallback;
use crate::mesh::hedge::Hedge;
use crate::mesh::route::{RetryOn, RetryPolicy};
use crate::proxy::conduct;
use crate::proxy::http::admission::admit;
use crate::proxy::http::body::inflow::Inflow;
use crate::proxy::http::body::replay::{Replay, Sending};
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::choose::Tried;
use crate::proxy::http::decide::{Course, Target};
use crate::proxy::http::ledger::{Ledger, grpc_status};
use crate::proxy::http::plan::{Caller, Plan};
use crate::proxy::http::routed::Applied;
use crate::proxy::http::{forward, patience, plan};
use crate::proxy::refusal::Refusal;
use crate::route::{Attempts, NoMore};
use crate::snapshot::Upstream;
use crate::telemetry::{ResponseFlag, RetryOutcome};
use crate::transport::http::Body;
use crate::transport::pool::Leased;

/// Sends a request on its course, again if need be, and its response back.
pub(super) fn carry<'a>(
    caller: &'a Caller<'_>,
    course: Course,
    mut request: Request<Inflow>,
) -> impl Future<Output = Result<Response<Body>, Refusal>> + 'a {
    request.headers_mut().remove(ATTEMPT_COUNT);
    async move {
        match Cares::about(caller, &course, &request) {
            None => once(caller, course, request.map(Upload::Once)).await,
            // Larger than what most requests need.
            Some(cares) => Box::pin(carefully(caller, &course, cares, request)).await,
        }
    }
}

async fn carefully(
    caller: &Caller<'_>,
    course: &Course,
    cares: Cares<'_>,
    request: Request<Inflow>,
) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let mut head = Request::from_parts(head, ());
    forward::identify(head.headers_mut());
    let until = patience::end(head.headers(), caller.ledger.started(), course.deadline);
    let now = std::time::Instant::now();
    if cares.policy.is_some() {
        cares.upstream.may_try_again(now);
    }
    let (replay, first) = Replay::of(body);
    let tries = Tries {
        caller,
        course,
        attempts: Attempts::of(cares.policy, until),
        cares,
        until,
        replay,
        sent: 0,
        tried: Tried {
            leaves_localities: cares.policy.is_some_and(|policy| policy.leaves_localities),
            ..Tried::default()
        },
        room: None,
    };
    tries.run(&head, first).await
}

/// Sends a request on its course, and its response back.
pub(super) fn once<'a>(
    caller: &Caller<'a>,
    course: Course,
    mut request: Request<Upload>,
) -> impl Future<Output = Result<Response<Body>, Refusal>> + use<'a> {
    let Caller { mesh, ledger, .. } = *caller;
    patience::pass_on(request.headers_mut(), ledger.started());
    match plan::outbound(caller, course, &mut request, None) {
        Ok(plan) => Either::Left(forward::carry(mesh, request, plan, ledger)),
        Err(refusal) => Either::Right(ready(Err(refusal))),
    }
}

/// What is done for one request besides sending it.
#[derive(Debug, Clone, Copy)]
struct Cares<'a> {
    upstream: &'a Upstream,
    /// When it is tried again.
    policy: Option<&'a RetryPolicy>,
    /// When a second endpoint is asked too.
    hedge: Option<&'a Hedge>,
    /// What answers when nobody else does.
    fallback: Option<&'a Fallback>,
}

impl<'a> Cares<'a> {
    /// `None` for a request that is sent once, come what may.
    fn about(caller: &Caller<'_>, course: &'a Course, request: &Request<Inflow>) -> Option<Self> {
        let Target::Upstream(upstream, _) = &course.target else {
            return None;
        };
        let policy = course.route.as_ref().and_then(Applied::retry);
        let is_grpc = caller.ledger.is_grpc();
        let may_race = |hedge: &&Hedge| is_raced(hedge, request.method(), is_grpc, &course.target);
        let hedge = upstream.hedge().filter(may_race);
        let fallback = upstream.fallback();
        (policy.is_some() || hedge.is_some() || fallback.is_some()).then_some(Self {
            upstream,
            policy,
            hedge,
            fallback,
        })
    }
}

/// The attempts of one request.
struct Tries<'a> {
    caller: &'a Caller<'a>,
    course: &'a Course,
    cares: Cares<'a>,
    attempts: Attempts,
    /// When all must be over.
    until: Option<std::time::Instant>,
    replay: Replay<Inflow>,
    /// How often the request was sent.
    sent: u32,
    tried: Tried,
    /// Counts the request as one that is being tried again.
    room: Option<Slot>,
}

impl Tries<'_> {
    async fn run(mut self, head: &Request<()>, first: Sending<Inflow>) -> Result<Response<Body>, Refusal> {
        let (outcome, why) = self.until_over(head, first).await;
        if let Some(why) = why {
            self.note_end(why);
        }
        match self.falls_back(&outcome) {
            Some((fallback, cause)) => self.fall_back(head, outcome, fallback, cause, why).await,
            None => self.finish(outcome, why),
        }
    }

    /// The outcome of the last attempt, and why there is no further one although there is a reason to.
    async fn until_over(
        &mut self,
        head: &Request<()>,
        first: Sending<Inflow>,
    ) -> (Outcome, Option<RetryOutcome>) {
        let mut body = first;
        let mut hedge = self.cares.hedge;
        loop {
            let outcome = match hedge.take() {
                Some(hedge) => Box::pin(self.race(head, body, hedge)).await,
                None => Box::pin(self.attempt(head, body)).await,
            };
            let Some(pause) = self.pause_after(&outcome) else {
                return (outcome, None);
            };
            body = match self.next(pause) {
                Ok(again) => again,
                Err(why) => return (outcome, Some(why)),
            };
            self.forget(self.caller.ledger, outcome);
            sleep(pause).await;
            self.attempts.begin();
        }
    }

    /// The request as it is sent for the `number`th time.
    fn request(&self, head: &Request<()>, body: Sending<Inflow>, number: u32) -> Request<Upload> {
        let mut request = Request::new(Upload::Kept(body));
        request.method_mut().clone_from(head.method());
        request.uri_mut().clone_from(head.uri());
        *request.version_mut() = head.version();
        request.headers_mut().clone_from(head.headers());
        let number = HeaderValue::from(number);
        request.headers_mut().insert(ATTEMPT_COUNT, number);
        patience::pass_on(request.headers_mut(), self.caller.ledger.started());
        request
    }

    async fn attempt(&mut self, head: &Request<()>, body: Sending<Inflow>) -> Outcome {
        self.sent += 1;
        let mut request = self.request(head, body, self.sent);
        let avoids = |policy: &RetryPolicy| policy.avoids_previous || policy.leaves_localities;
        let tried = self.cares.policy.is_none_or(avoids).then_some(&mut self.tried);
        match plan::outbound(self.caller, self.course.clone(), &mut request, tried) {
            Ok(plan) => self.send(request, plan, self.caller.ledger).await,
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Sends the request as planned, and waits for the head of an answer.
    async fn send(&self, request: Request<Upload>, plan: Box<Plan>, ledger: &Ledger) -> Outcome {
        match Box::pin(self.answer_to(request, plan, ledger)).await {
            Ok(answer) => Outcome::Answered(Box::new(answer)),
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    async fn answer_to(
        &self,
        mut request: Request<Upload>,
        mut plan: Box<Plan>,
        ledger: &Ledger,
    ) -> Result<Answer, Refusal> {
        let mesh = self.caller.mesh;
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
        let asks = self
            .cares
            .policy
            .is_some_and(|policy| policy.on.iter().any(is_grpc));
        if !self.caller.ledger.is_grpc() || !asks || !self.replay.is_whole() {
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

    /// How long to wait before the next attempt, if there is a reason for one.
    fn pause_after(&self, outcome: &Outcome) -> Option<Duration> {
        let policy = self.cares.policy?;
        let reason = outcome.attempts().find(|attempt| policy.wants(*attempt))?;
        Some(policy.pause(self.attempts.number(), reason, &mut rand::rng()))
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
            let room = self.cares.upstream.breakers().take(Limit::Retries);
            self.room = Some(room.ok_or(RetryOutcome::Overflow)?);
        }
        if self.cares.upstream.grants_attempt(now) {
            self.tell(RetryOutcome::Begun);
            Ok(body)
        } else {
            Err(RetryOutcome::OverBudget)
        }
    }

    /// There was a reason to try again, and it is not done.
    fn note_end(&self, why: RetryOutcome) {
        self.tell(why);
        let flag = match why {
            RetryOutcome::UsedUp | RetryOutcome::OverBudget => ResponseFlag::Urx,
            RetryOutcome::Overflow => ResponseFlag::Uo,
            RetryOutcome::TooLate
            | RetryOutcome::BodyGone
            | RetryOutcome::Begun
            | RetryOutcome::Succeeded => return,
        };
        self.caller.ledger.each(|record| record.flag(flag));
    }

    /// What there is goes to the client; `why` there is no further attempt although there was a reason for one.
    fn finish(&self, outcome: Outcome, why: Option<RetryOutcome>) -> Result<Response<Body>, Refusal> {
        let Caller { mesh, ledger, .. } = *self.caller;
        let answer = match outcome {
            // What was wrong with the last attempt is said by the refusal itself.
            Outcome::Refused(refusal) => return Err(refusal),
            Outcome::Answered(_)
                if why == Some(RetryOutcome::OverBudget) && self.cares.upstream.refuses_over_budget() =>
            {
                self.forget(ledger, outcome);
                return Err(Refusal::OverBudget);
            }
            Outcome::Answered(answer) => *answer,
        };
        match why {
            Some(why) => ledger.each(|record| record.details(details(why))),
            None if self.attempts.number() > 1 => self.tell(RetryOutcome::Succeeded),
            None => {}
        }
        Ok(forward::answer(mesh, answer.response, answer.plan, ledger))
    }

    /// The attempt whose records `ledger` holds is over, and the client hears nothing of it.
    fn forget(&self, ledger: &Ledger, outcome: Outcome) {
        outcome.forget(ledger, self.caller.ledger.is_grpc());
    }

    fn tell(&self, outcome: RetryOutcome) {
        self.caller.mesh.telemetry.resilience().retried(outcome);
    }
}

fn details(why: RetryOutcome) -> &'static str {
    match why {
        RetryOutcome::UsedUp => "retry_limit_exceeded",
        RetryOutcome::OverBudget => "retry_budget_exceeded",
        RetryOutcome::Overflow => "retry_overflow",
        RetryOutcome::TooLate => "retry_too_late",
        RetryOutcome::BodyGone => "retry_body_gone",
        RetryOutcome::Begun | RetryOutcome::Succeeded => "",
    }
}

/// Envoy's count of the attempts, from 1 on, where there may be several; what an application says of it is not believed.
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// How long the head of a gRPC response may be held back to see whether a message follows.
const PEEK_PATIENCE: Duration = Duration::from_secs(1);
