//! What policies refused, and what they only recorded.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::mesh::{Label, family, registered};

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
        }
    }
}
