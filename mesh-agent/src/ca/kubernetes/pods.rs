//! The pods of a cluster by a watch, as far as it matters who runs where.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, Object};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::{Deserialize, Serialize};

use super::index::{Place, PodPlaces};
use super::review::{Account, BoundPod};
use super::reviewer::AgentPods;
use super::watch_error;
use crate::ca::{NodeName, NodePods, PodsUnknown};
use crate::lifecycle::{ReadyGuard, Stop};
use crate::mesh::identity::SpiffeId;
use crate::telemetry::CaMetrics;

/// Which identities run on which node, as the API server tells.
///
/// Between a lost watch and its next list the last state stays in force: whoever asks proves a token as well, and while
/// the API server is away only those are taken that it vouched for before.
pub struct ClusterPods {
    trust_domain: Arc<str>,
    agents: BTreeSet<Account>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// None until the first list is complete.
    now: Option<PodPlaces>,
    /// A list that is under way.
    next: PodPlaces,
}

/// Of a pod no more is decoded than this.
type LeanPod = Object<LeanSpec, LeanStatus>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeanSpec {
    node_name: String,
    service_account_name: String,
    host_network: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct LeanStatus {
    phase: String,
}

impl ClusterPods {
    /// Knows no pod yet; those of `agents` are remembered by their uid.
    pub fn new(trust_domain: &str, agents: BTreeSet<Account>) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            agents,
            known: Mutex::default(),
        }
    }

    /// Watches all pods until `stop`; `first` is dropped when all were seen once. After a failure it goes on where it
    /// was, or lists anew when the API server has forgotten that point (410), with a growing pause.
    pub async fn follow(self: Arc<Self>, client: Client, metrics: CaMetrics, first: ReadyGuard, stop: Stop) {
        let kind = ApiResource::erase::<Pod>(&());
        let pods: Api<LeanPod> = Api::all_with(client, &kind);
        let events = watcher(pods, watcher::Config::default()).default_backoff();
        self.learn_all(events.boxed(), &metrics, first, stop).await;
    }

    async fn learn_all(
        &self,
        mut events: BoxStream<'_, watcher::Result<Event<LeanPod>>>,
        metrics: &CaMetrics,
        first: ReadyGuard,
        stop: Stop,
    ) {
        let (mut first, mut complaint) = (Some(first), None);
        loop {
            let event = tokio::select! {
                () = stop.requested() => return,
                event = events.next() => event,
            };
            match event {
                // Never ends while it is asked, says kube; without it nothing new would be learned.
                None => return tracing::error!("the watch of pods has ended"),
                Some(Ok(event)) => {
                    let is_whole = matches!(event, Event::InitDone);
                    if let Some(identities) = self.learn(event) {
                        metrics.identities(identities);
                    }
                    if is_whole {
                        first = None;
                        complaint = None;
                        tracing::info!("all pods are known");
                    }
                }
                Some(Err(error)) => {
                    let said = watch_error(&error);
                    if complaint.as_ref() != Some(&said) {
                        let is_first = first.is_some();
                        tracing::error!(error = said, is_first, "pods cannot be watched; tried again");
                        complaint = Some(said);
                    }
                }
            }
        }
    }

    /// How many pairs of node and identity there are now; none where nothing has changed for askers.
    fn learn(&self, event: Event<LeanPod>) -> Option<usize> {
        let mut known = self.known();
        let known = &mut *known;
        match event {
            Event::Init => known.next = PodPlaces::default(),
            Event::InitApply(pod) => self.put(&pod, &mut known.next),
            Event::InitDone => known.now = Some(std::mem::take(&mut known.next)),
            Event::Apply(pod) => self.put(&pod, known.now.as_mut()?),
            Event::Delete(pod) => known.now.as_mut()?.remove(&key(&pod)),
        }
        known.now.as_ref().map(PodPlaces::place_count)
    }

    fn put(&self, pod: &LeanPod, places: &mut PodPlaces) {
        places.put(key(pod), self.place(pod));
        if let Some(uid) = self.agent(pod) {
            places.put_agent(key(pod), uid);
        }
    }

    /// The uid of an agent's pod that has not ended.
    fn agent(&self, pod: &LeanPod) -> Option<Box<str>> {
        let namespace = pod.metadata.namespace.as_deref()?;
        let is_agent = |agent: &Account| agent.is(namespace, &pod.spec.service_account_name);
        let uid = pod.metadata.uid.as_deref()?;
        (!is_over(pod) && self.agents.iter().any(is_agent)).then(|| uid.into())
    }

    /// None for a pod without a node, one that has ended, and one that shares its node's network: it is the node.
    fn place(&self, pod: &LeanPod) -> Option<Place> {
        if pod.spec.node_name.is_empty() || pod.spec.host_network || is_over(pod) {
            return None;
        }
        let namespace = pod.metadata.namespace.as_deref()?;
        // The API server fills it in but for static pods, which a node may show it in any namespace: what is no name
        // gets no certificate.
        let account = &pod.spec.service_account_name;
        let identity = SpiffeId::new(&self.trust_domain, namespace, account).ok()?;
        Some((NodeName::new(&pod.spec.node_name), identity))
    }

    /// A panic while it is held leaves at worst a pod unknown, which the next list mends.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodePods for ClusterPods {
    fn runs(&self, node: &NodeName, identity: &SpiffeId) -> Result<bool, PodsUnknown> {
        let known = self.known();
        let now = known.now.as_ref().ok_or(PodsUnknown)?;
        Ok(now.contains(&(node.clone(), identity.clone())))
    }
}

impl AgentPods for ClusterPods {
    fn is_there(&self, pod: &BoundPod) -> bool {
        let known = self.known();
        let name = format!("{}/{}", pod.namespace, pod.name);
        known
            .now
            .as_ref()
            .is_some_and(|now| now.has_agent(&name, &pod.uid))
    }
}

impl fmt::Debug for ClusterPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.known().now.as_ref().map(PodPlaces::place_count);
        write!(f, "ClusterPods({places:?})")
    }
}

fn is_over(pod: &LeanPod) -> bool {
    let phase = pod.status.as_ref().map_or("", |status| &status.phase);
    matches!(phase, "Succeeded" | "Failed")
}

fn key(pod: &LeanPod) -> Box<str> {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()).into()
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
