//! What came of an attempt.
//!
//! Place in the walk: after it was sent, before anything of it is passed on. Must not know: whether another one follows.

use http::Response;

use crate::proxy::conduct;
use crate::proxy::hop::Hop;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::outcome::{self, Heard};
use crate::proxy::http::plan::Plan;
use crate::proxy::refusal::Refusal;
use crate::route::Attempt;
use crate::transport::pool::Leased;

pub(super) enum Outcome {
    Answered(Box<Answer>),
    Refused(Refusal),
}

pub(super) struct Answer {
    pub(super) response: Response<Leased>,
    pub(super) plan: Box<Plan>,
    /// The gRPC status, if it is known before a message.
    pub(super) grpc: Option<u32>,
}

impl Answer {
    /// What the agent of another node tells of its own attempt.
    pub(super) fn heard(&self) -> Option<Heard> {
        let is_agents = matches!(self.plan.hop, Hop::OtherNode { .. });
        is_agents
            .then(|| outcome::heard(self.response.headers()))
            .flatten()
    }
}

impl Outcome {
    /// How it ended, in the words of reasons to try again: that of the endpoint's agent first; nothing where a policy there
    /// refused it.
    pub(super) fn attempts(&self) -> impl Iterator<Item = Attempt<'_>> {
        let (own, answered) = match self {
            Self::Refused(refusal) => (outcome::of_refusal(refusal), None),
            Self::Answered(answer) => {
                let answered = Attempt::Answered {
                    status: answer.response.status(),
                    headers: answer.response.headers(),
                    grpc: answer.grpc,
                };
                match answer.heard() {
                    Some(Heard::Forbidden) => (None, None),
                    Some(Heard::Failed(attempt)) => (Some(attempt), Some(answered)),
                    None => (None, Some(answered)),
                }
            }
        };
        own.into_iter().chain(answered)
    }

    /// The client hears nothing of it: its endpoint's conduct and its record are told.
    pub(super) fn forget(self, ledger: &Ledger, is_grpc: bool) {
        match self {
            Self::Refused(refusal) => {
                ledger.attempt_is_over(|record| ledger.refused_at(record, &refusal));
            }
            Self::Answered(answer) => {
                let Answer {
                    response,
                    mut plan,
                    grpc,
                } = *answer;
                conduct::answered(plan.pick.as_mut(), &response, is_grpc);
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
}
