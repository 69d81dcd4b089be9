//! `RateLimitPolicy` as it is written; what `deploy/crds/ratelimitpolicies.yaml` lets through.

use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::Value;

use crate::mesh::policy::rate_limit::{GrpcRefusal, LimitUnit};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    /// Read as the targets of Istio's policies are.
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Value>,
    pub(super) grpc_status: Option<GrpcStatus>,
    pub(super) limits: Vec<Limit>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum GrpcStatus {
    Unavailable,
    ResourceExhausted,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    pub(super) r#match: Option<Match>,
    pub(super) key: Option<Vec<Part>>,
    pub(super) local: Option<Local>,
    pub(super) global: Option<Global>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    pub(super) path: Option<Path>,
    pub(super) method: Option<String>,
    pub(super) headers: Option<Vec<Header>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Path {
    #[serde(default)]
    pub(super) r#type: PathKind,
    pub(super) value: String,
}

/// In Gateway API's words.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum PathKind {
    Exact,
    #[default]
    PathPrefix,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) r#type: ValueKind,
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// In Gateway API's words, as far as it has them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum ValueKind {
    #[default]
    Exact,
    Prefix,
    RegularExpression,
    Present,
}

/// What is told of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) r#type: PartKind,
    pub(super) name: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum PartKind {
    Source,
    Header,
    Path,
    Claim,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Local {
    pub(super) requests: NonZeroU32,
    pub(super) unit: Unit,
    pub(super) burst: Option<NonZeroU32>,
    #[serde(default)]
    pub(super) divided: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unit {
    Second,
    Minute,
    Hour,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Global {
    pub(super) service: String,
    pub(super) port: u16,
    pub(super) domain: String,
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) timeout: Option<String>,
    #[serde(default)]
    pub(super) failure_mode: FailureMode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Descriptor {
    pub(super) entries: Vec<Entry>,
}

/// `value` or `from`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) from: Option<Part>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FailureMode {
    #[default]
    Open,
    Deny,
}

impl From<GrpcStatus> for GrpcRefusal {
    fn from(written: GrpcStatus) -> Self {
        match written {
            GrpcStatus::Unavailable => Self::Unavailable,
            GrpcStatus::ResourceExhausted => Self::ResourceExhausted,
        }
    }
}

impl From<Unit> for LimitUnit {
    fn from(written: Unit) -> Self {
        match written {
            Unit::Second => Self::Second,
            Unit::Minute => Self::Minute,
            Unit::Hour => Self::Hour,
        }
    }
}
