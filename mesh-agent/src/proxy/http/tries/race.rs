//! Asks another endpoint beside one that is slow; the first good answer is the client's.
//!
//! Place in the walk: the first attempt of a request whose Service is hedged; a further one is never raced. Must not know:
//! what slow is, and how much hedging is granted.
//!
//! Whoever loses is cancelled: its HTTP/2 stream is reset, its HTTP/1.1 connection closed. That is no failure of its
//! endpoint, and it counts among the answers with the time that it had taken so far: it would have taken longer, and to
//! forget it would make slow endpoints look fast.

use std::mem;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::Tries;
use super::attempt::Outcome;
use crate::balance::{Limit, Slot};
use crate::mesh::hedge::Hedge;
use crate::proxy::http::body::inflow::Inflow;
use crate::proxy::http::body::replay::Sending;
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::choose::Tried;
use crate::proxy::http::decide::Target;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::outcome::Heard;
use crate::proxy::http::plan::{self, Caller, Plan};
use crate::proxy::refusal::Refusal;
use crate::telemetry::{HedgeOutcome, HttpRecord, ResponseFlag};

/// Whether a request may be done twice: an idempotent method (RFC 9110 section 9.2.2), a gRPC call where the Service says
/// so; and not that of a client whose session is kept at one endpoint.
pub(in crate::proxy::http) fn is_raced(
    hedge: &Hedge,
    method: &Method,
    is_grpc: bool,
    target: &Target,
) -> bool {
    let may_repeat = if is_grpc {
        hedge.grpc
    } else {
        method.is_idempotent()
    };
    may_repeat && target.kept().is_none()
}

/// One try of several.
struct Racer {
    /// From 1 on.
    number: u32,
    began: Instant,
    /// Its records: the request's own for the first.
    ledger: Arc<Ledger>,
    /// Counts it as one more try.
    _room: Option<Slot>,
}

impl Tries<'_> {
    /// Sends the request, and again to others while no good answer comes: what came of the try that counts.
    pub(super) async fn race(
        &mut self,
        head: &Request<()>,
        first: Sending<Inflow>,
        hedge: &Hedge,
    ) -> Outcome {
        let mut tried = mem::take(&mut self.tried);
        let (outcome, sent) = self.race_avoiding(head, first, hedge, &mut tried).await;
        self.tried = Tried {
            must_differ: false,
            ..tried
        };
        self.sent += sent;
        outcome
    }

    /// Also how often the request was sent.
    async fn race_avoiding(
        &self,
        head: &Request<()>,
        first: Sending<Inflow>,
        hedge: &Hedge,
        tried: &mut Tried,
    ) -> (Outcome, u32) {
        let upstream = self.cares.upstream;
        let now = Instant::now();
        upstream.may_hedge(hedge, now.into_std());
        let slow = upstream.slow_after(hedge, now.into_std());
        let mut next = slow.map(|slow| now + slow);
        let mut sent = 1;
        let mut request = self.request(head, first, sent);
        let plan = match plan::outbound(self.caller, self.course.clone(), &mut request, Some(tried)) {
            Ok(plan) => plan,
            Err(refusal) => return (Outcome::Refused(refusal), sent),
        };
        let own = Racer::new(sent, Arc::clone(self.caller.ledger), None);
        let mut running = vec![own.seen()];
        let mut racing = FuturesUnordered::new();
        racing.push(Box::pin(self.drive(own, request, plan)));
        loop {
            let step = match next {
                Some(at) => timeout_at(at, racing.next()).await,
                None => Ok(racing.next().await),
            };
            match step {
                Err(_elapsed) => {
                    let another = self.another(head, hedge, sent + 1, tried);
                    next = None;
                    self.hedged(another.as_ref().map_or_else(|why| *why, |_| HedgeOutcome::Begun));
                    if let Ok((racer, request, plan)) = another {
                        sent += 1;
                        running.push(racer.seen());
                        racing.push(Box::pin(self.drive(racer, request, plan)));
                        let may_go_on = sent < hedge.max_attempts;
                        next = slow.filter(|_| may_go_on).map(|slow| Instant::now() + slow);
                    }
                }
                Ok(Some((racer, outcome))) => {
                    running.retain(|other| other.number != racer.number);
                    if let Outcome::Answered(_) = &outcome {
                        upstream.saw_answer(racer.began.elapsed(), Instant::now().into_std());
                    }
                    if running.is_empty() || is_good(&outcome) {
                        // Those that lost are over before the client hears of it.
                        drop(racing);
                        self.cancel(running);
                        self.settle(&racer, &outcome);
                        return (outcome, sent);
                    }
                    if asks_for_patience(&outcome) {
                        next = None;
                    }
                    self.forget(&racer.ledger, outcome);
                }
                // Whoever is the last to end is the one that counts.
                Ok(None) => return (Outcome::Refused(Refusal::NoEndpoint), sent),
            }
        }
    }

    async fn drive(&self, racer: Racer, request: Request<Upload>, plan: Box<Plan>) -> (Racer, Outcome) {
        let outcome = self.send(request, plan, &racer.ledger).await;
        (racer, outcome)
    }

    /// One more try at an endpoint that was not tried yet, or why there is none.
    fn another(
        &self,
        head: &Request<()>,
        hedge: &Hedge,
        number: u32,
        tried: &mut Tried,
    ) -> Result<(Racer, Request<Upload>, Box<Plan>), HedgeOutcome> {
        let upstream = self.cares.upstream;
        if upstream.endpoints().len() <= tried.addrs.len() {
            return Err(HedgeOutcome::NoOther);
        }
        let body = self.replay.beside().ok_or(HedgeOutcome::BodyGone)?;
        let room = upstream.breakers().take(Limit::Retries);
        let room = room.ok_or(HedgeOutcome::Overflow)?;
        if !upstream.grants_hedge(hedge, Instant::now().into_std()) {
            return Err(HedgeOutcome::OverBudget);
        }
        let ledger = self.caller.ledger.of_try();
        let caller = Caller {
            ledger: &ledger,
            ..*self.caller
        };
        let mut request = self.request(head, body, number);
        tried.must_differ = true;
        let planned = plan::outbound(&caller, self.course.clone(), &mut request, Some(tried));
        let plan = planned.map_err(|refusal| {
            ledger.attempt_is_over(|record| ledger.refused_at(record, &refusal));
            if matches!(refusal, Refusal::Overloaded) {
                HedgeOutcome::Overflow
            } else {
                HedgeOutcome::NoOther
            }
        })?;
        Ok((Racer::new(number, ledger, Some(room)), request, plan))
    }

    /// They lost; what they were asked is withdrawn already.
    fn cancel(&self, running: Vec<Racer>) {
        for loser in running {
            let upstream = self.cares.upstream;
            upstream.saw_answer(loser.began.elapsed(), Instant::now().into_std());
            loser.ledger.attempt_is_over(was_cancelled);
        }
    }

    /// The request's records are those of the try that counts from now on.
    fn settle(&self, counted: &Racer, outcome: &Outcome) {
        if counted.number == 1 {
            return;
        }
        let ledger = self.caller.ledger;
        ledger.adopt(&counted.ledger);
        if let Outcome::Answered(answer) = outcome {
            answer.plan.tell_source(ledger);
            ledger.at_source(|record| record.details("hedge_won"));
            self.hedged(HedgeOutcome::Won);
        }
    }

    fn hedged(&self, outcome: HedgeOutcome) {
        self.caller.mesh.telemetry.resilience().hedged(outcome);
    }
}

impl Racer {
    fn new(number: u32, ledger: Arc<Ledger>, room: Option<Slot>) -> Self {
        Self {
            number,
            began: Instant::now(),
            ledger,
            _room: room,
        }
    }

    /// As it is known to whoever waits for it.
    fn seen(&self) -> Self {
        Self {
            number: self.number,
            began: self.began,
            ledger: Arc::clone(&self.ledger),
            _room: None,
        }
    }
}

/// Whether it is worth more than waiting for another answer.
fn is_good(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(_) => false,
        Outcome::Answered(answer) => {
            let status = answer.response.status();
            let is_refused = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            // RESOURCE_EXHAUSTED, and what a gateway would say.
            let is_forbidden = matches!(answer.heard(), Some(Heard::Forbidden));
            !is_refused && !is_forbidden && !matches!(answer.grpc, Some(4 | 8 | 14))
        }
    }
}

/// Whether the destination asks not to be asked again at once (RFC 9110 section 10.2.3; gRPC A6, "server pushback").
fn asks_for_patience(outcome: &Outcome) -> bool {
    let has = |headers: &HeaderMap| headers.contains_key(RETRY_AFTER) || headers.contains_key(PUSHBACK);
    match outcome {
        Outcome::Refused(_) => false,
        Outcome::Answered(answer) => has(answer.response.headers()),
    }
}

/// As the destination of another node sees it: a client that went away.
fn was_cancelled(record: &HttpRecord) {
    record.flag(ResponseFlag::Dc);
    record.details("hedge_cancelled");
}

const PUSHBACK: &str = "grpc-retry-pushback-ms";
