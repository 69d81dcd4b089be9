//! What policies refused, and what they only recorded.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::mesh::{Label, MeshMetrics, family, registered};

/// Families of the policy engine.
#[derive(Debug)]
pub(super) struct PolicyMetrics {
    pub(super) denials: Family<Label, Counter>,
    pub(super) audits: Counter,
    /// Allowed, denied.
    pub(super) dry_runs: [Counter; 2],
    /// That brought keys, and that failed.
    pub(super) key_fetches: [Counter; 2],
    pub(super) keys_missing: Gauge,
    /// In the order of [`CheckResult`].
    checks: [Counter; 5],
    /// Allowed, denied.
    limit_dry_runs: [Counter; 2],
    /// In the order of [`QuotaResult`].
    quotas: [Counter; 4],
    crowded: Counter,
}

/// What came of asking a rate limit service about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuotaResult {
    /// The request is within its limits.
    Allowed,
    /// It is over one.
    Denied,
    /// There was no answer, and the request was let in.
    FailedOpen,
    /// There was no answer, and the request was refused.
    FailedClosed,
}

/// What came of asking an extension provider about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckResult {
    /// It let the request in.
    Allowed,
    /// It did not.
    Denied,
    /// It gave no decision, and the request was let in.
    FailedOpen,
    /// It gave no decision, and the request was refused.
    FailedClosed,
    /// It was not asked, since what it must see of the body is not to be had.
    NotAsked,
}

impl MeshMetrics {
    /// Rate limits on trial counted a request.
    pub fn rate_limit_tried(&self, would_deny: bool) {
        let [allow, deny] = &self.policy.limit_dry_runs;
        if would_deny { deny } else { allow }.inc();
    }

    /// A rate limit service was asked.
    pub fn quota_asked(&self, result: QuotaResult) {
        let [allowed, denied, failed_open, failed_closed] = &self.policy.quotas;
        let counter = match result {
            QuotaResult::Allowed => allowed,
            QuotaResult::Denied => denied,
            QuotaResult::FailedOpen => failed_open,
            QuotaResult::FailedClosed => failed_closed,
        };
        counter.inc();
    }

    /// A request's key found no room of its own in so many limits.
    pub fn rate_limit_crowded(&self, limits: u64) {
        self.policy.crowded.inc_by(limits);
    }

    /// An extension provider was asked.
    pub fn checked(&self, result: CheckResult) {
        let [allowed, denied, failed_open, failed_closed, not_asked] = &self.policy.checks;
        let counter = match result {
            CheckResult::Allowed => allowed,
            CheckResult::Denied => denied,
            CheckResult::FailedOpen => failed_open,
            CheckResult::FailedClosed => failed_closed,
            CheckResult::NotAsked => not_asked,
        };
        counter.inc();
    }
}

impl PolicyMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            denials: registered(registry, ("mesh_policy_denials", "Flows that policy refused")),
            audits: registered(
                registry,
                (
                    "mesh_policy_audits",
                    "Requests and opaque connections that an AUDIT policy matched",
                ),
            ),
            dry_runs: family(
                registry,
                (
                    "mesh_policy_dry_runs",
                    "Requests and opaque connections by what policies with the dry-run annotation would have done",
                ),
                ("result", ["allow", "deny"]),
            ),
            key_fetches: family(
                registry,
                ("mesh_jwks_fetches", "Fetches of the public keys of token issuers"),
                ("result", ["ok", "failed"]),
            ),
            keys_missing: registered(
                registry,
                (
                    "mesh_jwks_missing",
                    "Sources of public keys that were never fetched: tokens that need them are refused",
                ),
            ),
            checks: family(
                registry,
                (
                    "mesh_external_checks",
                    "Requests about which an extension provider was to be asked, by what came of it",
                ),
                (
                    "result",
                    ["allowed", "denied", "failed_open", "failed_closed", "not_asked"],
                ),
            ),
            limit_dry_runs: family(
                registry,
                (
                    "mesh_rate_limit_dry_runs",
                    "Requests that limits with the dry-run annotation count, by what these would have done",
                ),
                ("result", ["allow", "deny"]),
            ),
            quotas: family(
                registry,
                (
                    "mesh_rate_limit_checks",
                    "Questions to rate limit services, by what came of them",
                ),
                ("result", ["allowed", "denied", "failed_open", "failed_closed"]),
            ),
            crowded: registered(
                registry,
                (
                    "mesh_rate_limit_shared",
                    "Requests whose key found no room in a limit, so that they were counted together with others",
                ),
            ),
        }
    }
}
