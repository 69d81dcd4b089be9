//! The lease of the leader as a `coordination.k8s.io/v1` Lease.

use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::{ApiError, SecretName, answered, was_first};
use crate::ca::election::{LeaseApi, LeaseRecord, StoredLease};

/// A Lease of the cluster.
pub struct ClusterLease {
    api: Api<Lease>,
    name: SecretName,
}

impl ClusterLease {
    /// Asks nothing yet.
    pub fn new(client: Client, name: SecretName) -> Self {
        Self {
            api: Api::namespaced(client, name.namespace()),
            name,
        }
    }

    fn object(&self, record: LeaseRecord, version: Option<String>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.name().to_owned()),
                namespace: Some(self.name.namespace().to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder),
                lease_duration_seconds: record.duration.map(whole_seconds),
                acquire_time: record.acquired.and_then(written),
                renew_time: record.renewed.and_then(written),
                lease_transitions: Some(record.transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl LeaseApi for ClusterLease {
    fn read(&self) -> BoxFuture<'_, Result<Option<StoredLease>, ApiError>> {
        Box::pin(async move {
            let found = answered(self.api.get_opt(self.name.name())).await?;
            Ok(found.map(stored))
        })
    }

    fn write(&self, record: LeaseRecord, version: Option<String>) -> BoxFuture<'_, Result<bool, ApiError>> {
        Box::pin(async move {
            let params = PostParams::default();
            let is_there = version.is_some();
            let lease = self.object(record, version);
            let written = if is_there {
                answered(self.api.replace(self.name.name(), &params, &lease)).await
            } else {
                answered(self.api.create(&params, &lease)).await
            };
            match written {
                Ok(_) => Ok(true),
                Err(ApiError::Failed(error)) if was_first(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }
}

impl fmt::Debug for ClusterLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterLease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Every field may be absent; a lease without a holder is free.
fn stored(lease: Lease) -> StoredLease {
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    StoredLease {
        record: LeaseRecord {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: seconds.map(Duration::from_secs),
            acquired: spec.acquire_time.map(|MicroTime(at)| at.into()),
            renewed: spec.renew_time.map(|MicroTime(at)| at.into()),
            transitions: spec.lease_transitions.unwrap_or_default(),
        },
        version: lease.metadata.resource_version,
    }
}

/// The API takes whole seconds, and no zero.
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs().max(1)).unwrap_or(i32::MAX)
}

/// None for a clock that is off by thousands of years.
fn written(at: SystemTime) -> Option<MicroTime> {
    Timestamp::try_from(at).ok().map(MicroTime)
}
