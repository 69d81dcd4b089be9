//! What was tried again, asked twice, copied, and answered by another, and how endpoints answered health checks.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::mesh::family;

/// Families of further attempts, mirrors, hedges and fallbacks.
#[derive(Debug)]
pub struct ResilienceMetrics {
    retries: [Counter; RetryOutcome::ALL.len()],
    mirrors: [Counter; MirrorOutcome::ALL.len()],
    hedges: [Counter; HedgeOutcome::ALL.len()],
    fallbacks: [Counter; FallbackOutcome::ALL.len()],
    checks: [Counter; HealthFinding::ALL.len()],
}

/// What became of a request whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryOutcome {
    /// One more attempt was begun.
    Begun,
    /// A further attempt was answered as it should be.
    Succeeded,
    /// It was tried as often as its policy says.
    UsedUp,
    /// The destination's budget grants no more.
    OverBudget,
    /// As many are being tried again as the destination's limits allow.
    Overflow,
    /// Its time is over.
    TooLate,
    /// Its body is too large to be sent again, or was broken off by the client.
    BodyGone,
}

impl RetryOutcome {
    /// Every outcome, in the order of the variants.
    pub const ALL: [Self; 7] = [
        Self::Begun,
        Self::Succeeded,
        Self::UsedUp,
        Self::OverBudget,
        Self::Overflow,
        Self::TooLate,
        Self::BodyGone,
    ];

    /// The value of label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Succeeded => "succeeded",
            Self::UsedUp => "used_up",
            Self::OverBudget => "over_budget",
            Self::Overflow => "overflow",
            Self::TooLate => "too_late",
            Self::BodyGone => "body_gone",
        }
    }
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MirrorOutcome {
    /// The mirror answered it, whatever it was.
    Answered,
    /// It was not delivered, or not answered in time.
    Failed,
    /// It was not begun: the client's pod has too many under way.
    Crowded,
    /// The mirror read too slowly.
    Behind,
}

impl MirrorOutcome {
    /// Every outcome, in the order of the variants.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::Crowded, Self::Behind];

    /// The value of label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Crowded => "crowded",
            Self::Behind => "behind",
        }
    }
}

/// What became of a request that took longer than usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HedgeOutcome {
    /// A further endpoint was asked.
    Begun,
    /// A further endpoint's answer is the client's.
    Won,
    /// The Service's budget grants no more.
    OverBudget,
    /// As many are under way, or are being tried again, as the destination's limits allow.
    Overflow,
    /// Its body is not wholly known: too large to be sent twice, or still on its way.
    BodyGone,
    /// There is no other endpoint that may be asked.
    NoOther,
}

impl HedgeOutcome {
    /// Every outcome, in the order of the variants.
    pub const ALL: [Self; 6] = [
        Self::Begun,
        Self::Won,
        Self::OverBudget,
        Self::Overflow,
        Self::BodyGone,
        Self::NoOther,
    ];

    /// The value of label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Won => "won",
            Self::OverBudget => "over_budget",
            Self::Overflow => "overflow",
            Self::BodyGone => "body_gone",
            Self::NoOther => "no_other",
        }
    }
}

/// What became of a request that its own Service did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FallbackOutcome {
    /// The agent answered what is written.
    Answered,
    /// Another Service answered, whatever it was.
    Served,
    /// The other Service did not answer either.
    Failed,
    /// Its body is gone, so that nobody else could be asked.
    BodyGone,
    /// Its time is over, so that nobody else could be asked.
    TooLate,
    /// The other Service is not known.
    Absent,
}

impl FallbackOutcome {
    /// Every outcome, in the order of the variants.
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::Served,
        Self::Failed,
        Self::BodyGone,
        Self::TooLate,
        Self::Absent,
    ];

    /// The value of label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Served => "served",
            Self::Failed => "failed",
            Self::BodyGone => "body_gone",
            Self::TooLate => "too_late",
            Self::Absent => "absent",
        }
    }
}

/// What a health check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HealthFinding {
    /// The answer that is wanted.
    Passed,
    /// Another answer.
    Failed,
    /// No answer in time, or no connection.
    NoAnswer,
}

impl HealthFinding {
    /// Every result, in the order of the variants.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::NoAnswer];

    /// The value of label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NoAnswer => "no_answer",
        }
    }
}

impl ResilienceMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            retries: family(
                registry,
                (
                    "mesh_retries",
                    "Further attempts of requests, and why there was none although there was a reason",
                ),
                ("outcome", RetryOutcome::ALL.map(RetryOutcome::as_str)),
            ),
            mirrors: family(
                registry,
                (
                    "mesh_mirrored_requests",
                    "Copies of requests by what became of them",
                ),
                ("outcome", MirrorOutcome::ALL.map(MirrorOutcome::as_str)),
            ),
            hedges: family(
                registry,
                (
                    "mesh_hedges",
                    "Requests that took long: further endpoints that were asked, and why none was",
                ),
                ("outcome", HedgeOutcome::ALL.map(HedgeOutcome::as_str)),
            ),
            fallbacks: family(
                registry,
                (
                    "mesh_fallbacks",
                    "Requests that their own Service did not answer, by what became of them",
                ),
                ("outcome", FallbackOutcome::ALL.map(FallbackOutcome::as_str)),
            ),
            checks: family(
                registry,
                (
                    "mesh_health_checks",
                    "Health checks of endpoints by what they found",
                ),
                ("result", HealthFinding::ALL.map(HealthFinding::as_str)),
            ),
        }
    }

    /// An attempt failed, or succeeded after one had.
    pub fn retried(&self, outcome: RetryOutcome) {
        let [
            begun,
            succeeded,
            used_up,
            over_budget,
            overflow,
            too_late,
            body_gone,
        ] = &self.retries;
        let counter = match outcome {
            RetryOutcome::Begun => begun,
            RetryOutcome::Succeeded => succeeded,
            RetryOutcome::UsedUp => used_up,
            RetryOutcome::OverBudget => over_budget,
            RetryOutcome::Overflow => overflow,
            RetryOutcome::TooLate => too_late,
            RetryOutcome::BodyGone => body_gone,
        };
        counter.inc();
    }

    /// A copy was to be made.
    pub fn mirrored(&self, outcome: MirrorOutcome) {
        let [answered, failed, crowded, behind] = &self.mirrors;
        let counter = match outcome {
            MirrorOutcome::Answered => answered,
            MirrorOutcome::Failed => failed,
            MirrorOutcome::Crowded => crowded,
            MirrorOutcome::Behind => behind,
        };
        counter.inc();
    }

    /// A request took longer than usual.
    pub fn hedged(&self, outcome: HedgeOutcome) {
        let [begun, won, over_budget, overflow, body_gone, no_other] = &self.hedges;
        let counter = match outcome {
            HedgeOutcome::Begun => begun,
            HedgeOutcome::Won => won,
            HedgeOutcome::OverBudget => over_budget,
            HedgeOutcome::Overflow => overflow,
            HedgeOutcome::BodyGone => body_gone,
            HedgeOutcome::NoOther => no_other,
        };
        counter.inc();
    }

    /// A request was not answered by its own Service.
    pub fn fell_back(&self, outcome: FallbackOutcome) {
        let [answered, served, failed, body_gone, too_late, absent] = &self.fallbacks;
        let counter = match outcome {
            FallbackOutcome::Answered => answered,
            FallbackOutcome::Served => served,
            FallbackOutcome::Failed => failed,
            FallbackOutcome::BodyGone => body_gone,
            FallbackOutcome::TooLate => too_late,
            FallbackOutcome::Absent => absent,
        };
        counter.inc();
    }

    /// A health check ended.
    pub fn checked(&self, result: HealthFinding) {
        let [passed, failed, no_answer] = &self.checks;
        let counter = match result {
            HealthFinding::Passed => passed,
            HealthFinding::Failed => failed,
            HealthFinding::NoAnswer => no_answer,
        };
        counter.inc();
    }
}
