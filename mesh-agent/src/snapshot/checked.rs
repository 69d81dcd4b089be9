//! Endpoints whose health is checked, each once however many ports and subsets of its Service lead to it.
//!
//! Place in the walk: made while Services are indexed; read at picks, and by whoever asks the endpoints. Must not know:
//! how they are asked.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Snapshot, Upstream, UpstreamEndpoint};
use crate::balance::{Change, Finding, Health, Thresholds, Usage};
use crate::mesh::health_check::HealthCheck;
use crate::mesh::service::ServiceName;
use crate::mesh::workload::WorkloadUid;

/// An endpoint that is asked for its health. It survives a new snapshot as long as the same pod stands behind the address
/// and the check is the same; when it is dropped, nobody is to ask any more.
#[derive(Debug)]
pub struct Checked {
    /// The Service whose endpoint it is.
    pub service: ServiceName,
    /// What is asked: the endpoint's address, and its port unless the check says another.
    pub addr: SocketAddr,
    /// The pod behind it, if it is one.
    pub workload: Option<WorkloadUid>,
    /// How it is asked.
    pub check: Arc<HealthCheck>,
    /// What its answers make of it.
    pub health: Arc<Health>,
    /// When its Service was used from this node.
    pub usage: Arc<Usage>,
    is_taken: AtomicBool,
    /// When it was asked last.
    asked_at: Mutex<Option<Instant>>,
}

impl Checked {
    /// Whether it is nobody's yet; from then on it is the caller's to ask.
    pub fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::Relaxed)
    }

    /// It is asked now.
    pub fn began(&self, now: Instant) {
        *self.asked_at.lock() = Some(now);
    }

    /// When it was asked last.
    pub fn last(&self) -> Option<Instant> {
        *self.asked_at.lock()
    }

    /// Takes a finding in.
    pub fn found(&self, finding: Finding, now: Instant) -> Option<Change> {
        let thresholds = Thresholds {
            unhealthy: self.check.unhealthy_threshold,
            healthy: self.check.healthy_threshold,
        };
        self.health.found(finding, thresholds, now)
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.service, self.addr)
    }
}

/// All of a snapshot.
#[derive(Debug, Default)]
pub(super) struct CheckedEndpoints {
    by_target: HashMap<Target, Arc<Checked>>,
    usages: HashMap<ServiceName, Arc<Usage>>,
}

type Target = (ServiceName, SocketAddr, Option<WorkloadUid>);

impl CheckedEndpoints {
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Checked>> {
        self.by_target.values()
    }

    /// When a Service with a check was used.
    pub(super) fn usage(&self, service: &ServiceName) -> Option<&Arc<Usage>> {
        self.usages.get(service)
    }

    /// That of an endpoint of `service`, with what `previous` knows of it.
    pub(super) fn endpoint(
        &mut self,
        service: &ServiceName,
        check: &Arc<HealthCheck>,
        (addr, workload): (SocketAddr, Option<WorkloadUid>),
        previous: Option<&Self>,
    ) -> Arc<Health> {
        let usage = self.usages.entry(service.clone()).or_insert_with(|| {
            let known = previous.and_then(|previous| previous.usages.get(service));
            known.map(Arc::clone).unwrap_or_default()
        });
        let addr = SocketAddr::new(addr.ip(), check.port.unwrap_or(addr.port()));
        let target = (service.clone(), addr, workload);
        let known = previous
            .and_then(|previous| previous.by_target.get(&target))
            .filter(|known| known.check == *check);
        let usage = Arc::clone(usage);
        let checked = self.by_target.entry(target).or_insert_with_key(|target| {
            known.cloned().unwrap_or_else(|| {
                Arc::new(Checked {
                    service: service.clone(),
                    addr,
                    workload: target.2.clone(),
                    check: Arc::clone(check),
                    health: Arc::default(),
                    usage,
                    is_taken: AtomicBool::default(),
                    asked_at: Mutex::default(),
                })
            })
        });
        Arc::clone(&checked.health)
    }
}

/// An endpoint that gets no traffic since it does not answer its health checks as it should.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unhealthy {
    /// `NAMESPACE/NAME` of the Service.
    pub service: String,
    /// What is asked.
    pub asked: SocketAddr,
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.service, self.asked)
    }
}

impl Snapshot {
    /// The endpoints whose health is to be checked, in no order.
    pub fn checked(&self) -> impl Iterator<Item = &Arc<Checked>> {
        self.services.checked()
    }

    /// Those that are unhealthy, sorted.
    pub fn unhealthy(&self) -> Vec<Unhealthy> {
        let unhealthy = self.checked().filter(|checked| checked.health.is_unhealthy());
        let mut unhealthy: Vec<_> = unhealthy
            .map(|checked| Unhealthy {
                service: checked.service.to_string(),
                asked: checked.addr,
            })
            .collect();
        unhealthy.sort();
        unhealthy
    }
}

impl Upstream {
    /// Notes that a client of this node uses it, where somebody wants to know: the health of what is used is checked.
    pub fn used_by(&self, client: IpAddr, now: Instant) {
        if let Some(usage) = &self.usage {
            usage.note(client, now);
        }
    }

    /// How many of its endpoints are unhealthy; `None` where nobody asks them.
    pub fn unhealthy(&self) -> Option<usize> {
        self.usage.as_ref()?;
        let endpoints = self.endpoints().iter();
        Some(endpoints.filter(|endpoint| endpoint.is_unhealthy()).count())
    }
}

impl UpstreamEndpoint {
    /// Whether it is left out for its answers to health checks.
    pub fn is_unhealthy(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.is_unhealthy())
    }
}
