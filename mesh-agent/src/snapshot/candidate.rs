//! What an upstream is made of: endpoints that are known, and how they are spread.
//!
//! Place in the walk: between the index of Services and the upstreams that it holds. Must not know: routes, policies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::{Health, Load, Usage};
use crate::mesh::service::{EndpointCondition, Resilience, ServiceName, ServicePort};
use crate::mesh::traffic::{EndpointPlace, Locality, Nearest, TrafficPolicy};
use crate::mesh::workload::Workload;

/// What stands in front of some endpoints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front<'f> {
    pub(super) service: &'f ServiceName,
    pub(super) port: &'f ServicePort,
    pub(super) subset: Option<&'f Arc<str>>,
}

/// An endpoint of the facts, its pod found and its load taken over.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'f> {
    pub(super) addr: SocketAddr,
    pub(super) condition: EndpointCondition,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) load: Arc<Load>,
    /// Where the Service has a health check.
    pub(super) health: Option<Arc<Health>>,
    pub(super) locality: Arc<Locality>,
    pub(super) slice: &'f EndpointPlace,
    /// Besides those of its pod.
    pub(super) labels: &'f BTreeMap<String, String>,
    pub(super) weight: u32,
}

impl Candidate<'_> {
    /// Whether it, or its pod, has all these labels.
    pub(super) fn carries(&self, labels: &BTreeMap<String, String>) -> bool {
        let of_pod = self.workload.as_ref().map(|workload| &*workload.labels);
        labels.iter().all(|(name, value)| {
            let mut own = of_pod.into_iter().chain([self.labels]);
            own.any(|own| own.get(name) == Some(value))
        })
    }
}

/// How the endpoints of a port are spread, and seen from where.
#[derive(Debug)]
pub(super) struct Spread<'f> {
    pub(super) policy: TrafficPolicy,
    pub(super) nearest: Option<Nearest>,
    /// Only endpoints of the own node count.
    pub(super) is_local_only: bool,
    /// A client reaches the address that it dialled.
    pub(super) keeps_dialled: bool,
    pub(super) resilience: &'f Resilience,
    pub(super) own: &'f Locality,
    /// Where the Service has a health check: when it is used, and below which percentage of good endpoints all are.
    pub(super) checked: Option<(Arc<Usage>, u32)>,
}

/// Ready endpoints; when there is none, those that still serve while they terminate (KEP-1669).
pub(super) fn usable<'f>(mut candidates: Vec<Candidate<'f>>, spread: &Spread<'_>) -> Vec<Candidate<'f>> {
    if spread.is_local_only {
        candidates.retain(|candidate| candidate.locality.node == spread.own.node);
    }
    let is_any_ready = candidates
        .iter()
        .any(|candidate| candidate.condition == EndpointCondition::Ready);
    let wanted = if is_any_ready {
        EndpointCondition::Ready
    } else {
        EndpointCondition::ServingTerminating
    };
    candidates.retain(|candidate| candidate.condition == wanted);
    candidates.sort_by_key(|candidate| candidate.addr);
    candidates
}
