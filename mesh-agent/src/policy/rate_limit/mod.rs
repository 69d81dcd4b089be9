//! Decides how many requests a workload takes, and of whom: `RateLimitPolicy` compiled into one list for each workload of this
//! node.
//!
//! Place in the walk: at the destination, once an HTTP request, after authorization. Must not know: sockets, clocks, how a
//! service that counts for the whole cluster is asked, or whether the client is on this node.

mod asked;
mod bucket;
mod divided;
mod limit;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::asked::Asked;
use self::limit::Limit;
use self::table::Owner;
use super::selection::{Selected, Selection, Targeted};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::rate_limit::{
    DescriptorEntry, DescriptorValue, GlobalLimit, GrpcRefusal, RateLimit, RateLimitPolicy,
};
use crate::mesh::service::ServiceName;
use crate::mesh::workload::{Workload, WorkloadUid};

/// All policies, and those of each workload of this node.
#[derive(Debug, Default)]
pub struct RateLimits {
    policies: Vec<Arc<Policy>>,
    selection: Selection,
    of_workload: HashMap<WorkloadUid, Arc<Limits>>,
}

/// A policy and what is left of its limits. All workloads of this node that it selects count together.
#[derive(Debug)]
struct Policy {
    declared: RateLimitPolicy,
    limits: Vec<Arc<Limit>>,
}

impl RateLimits {
    /// Compiles all policies; `local` are the workloads that will be asked about, and `pods` tells which ports of which
    /// workloads stand behind a Service, `None` where there is no such Service.
    ///
    /// A limit that a policy of the same name had in `previous`, in the same words, goes on with the tokens that it has.
    pub fn compile<'w>(
        policies: &[RateLimitPolicy],
        root_namespace: &str,
        local: impl Iterator<Item = &'w Workload>,
        pods: impl Fn(&ServiceName) -> Option<Vec<(WorkloadUid, u16)>>,
        previous: Option<&Self>,
    ) -> (Self, Vec<Rejection>) {
        let before: HashMap<_, _> = previous
            .into_iter()
            .flat_map(|previous| &previous.policies)
            .map(|policy| ((&policy.declared.namespace, &policy.declared.name), policy))
            .collect();
        let mut declared: Vec<_> = policies.iter().collect();
        declared.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let policies: Vec<Arc<Policy>> = declared
            .into_iter()
            .map(|policy| match before.get(&(&policy.namespace, &policy.name)) {
                Some(known) if known.declared == *policy => Arc::clone(known),
                known => Arc::new(Policy::compile(policy, known.map(AsRef::as_ref))),
            })
            .collect();
        let targeted = policies.iter().map(|policy| Targeted {
            namespace: &policy.declared.namespace,
            target: &policy.declared.target,
            meta: &policy.declared.meta,
        });
        let (selection, rejections) = Selection::index(targeted, root_namespace, pods, None);
        let mut compiled = Self {
            policies,
            selection,
            of_workload: HashMap::new(),
        };
        let mut shared: HashMap<Selected, Arc<Limits>> = HashMap::new();
        for workload in local {
            let selected = compiled.selection.of(workload);
            let limits = shared
                .entry(selected)
                .or_insert_with_key(|selected| Arc::new(compiled.limits(selected)));
            let limits = Arc::clone(limits);
            compiled.of_workload.insert(workload.uid.clone(), limits);
        }
        (compiled, rejections)
    }

    /// The limits of `workload`, compiled for the occasion for one that the snapshot does not count as this node's; `None`
    /// where it has none.
    pub fn of(&self, workload: &Workload) -> Option<Arc<Limits>> {
        if self.policies.is_empty() {
            return None;
        }
        let known = self.of_workload.get(&workload.uid).map(Arc::clone);
        let limits = known.unwrap_or_else(|| Arc::new(self.limits(&self.selection.of(workload))));
        Some(limits).filter(|limits| !limits.acting.is_empty())
    }

    fn limits(&self, selected: &Selected) -> Limits {
        let acting = selected.iter().filter_map(|(policy, ports)| {
            Some(Acting {
                ports: ports.clone(),
                policy: Arc::clone(self.policies.get(*policy)?),
            })
        });
        Limits {
            acting: acting.collect(),
        }
    }
}

impl Policy {
    fn compile(declared: &RateLimitPolicy, previous: Option<&Self>) -> Self {
        let mut known: Vec<_> = previous.map(|policy| policy.limits.clone()).unwrap_or_default();
        let limits = declared.limits.iter().map(|limit| {
            match known.iter().position(|known| known.declared == *limit) {
                // Taken out, so that of two in the same words each keeps its own.
                Some(index) => known.remove(index),
                None => Arc::new(Limit::new(limit)),
            }
        });
        Self {
            limits: limits.collect(),
            declared: declared.clone(),
        }
    }
}

/// The limits of one workload, ready to be asked.
#[derive(Debug)]
pub struct Limits {
    acting: Vec<Acting>,
}

#[derive(Debug)]
struct Acting {
    /// Where it acts; `None` is everywhere.
    ports: Option<BTreeSet<u16>>,
    policy: Arc<Policy>,
}

/// What the limits of this node say of a request.
#[derive(Debug, Default)]
#[must_use]
pub struct Counted {
    /// The limit that refuses it, if one does.
    pub exceeded: Option<Exceeded>,
    /// Whether policies on trial would have refused it; `None` where none counts it.
    pub trial: Option<bool>,
    /// Who else must be asked about it.
    pub ask: Vec<Quota>,
    /// Of so many limits its key found no room, and shares a bucket with others.
    pub crowded: u64,
}

/// A limit that has no token left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// How long there will be none.
    pub wait: Duration,
    /// What a gRPC client is told.
    pub grpc: GrpcRefusal,
}

/// A question to a service that counts for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Whom, and how.
    pub service: Arc<GlobalLimit>,
    /// What it is told; never empty.
    pub descriptors: Vec<Vec<(Arc<str>, String)>>,
    /// What a gRPC client is told if it refuses.
    pub grpc: GrpcRefusal,
}

impl Limits {
    /// Counts a request: each limit that is meant gives a token, or none does.
    pub fn count(&self, asked: &Asked<'_>, now: Instant) -> Counted {
        let mut counted = Counted::default();
        let (refused, _) = self.take(asked, now, false, &mut counted.crowded);
        counted.exceeded = refused;
        if refused.is_some() {
            return counted;
        }
        let (refused, is_any) = self.take(asked, now, true, &mut counted.crowded);
        counted.trial = is_any.then_some(refused.is_some());
        let globals = self.meant(asked, false).filter_map(|(policy, limit)| {
            let service = limit.declared.global.as_ref()?;
            let descriptors = service.descriptors.iter();
            let descriptors: Vec<_> = descriptors
                .filter_map(|entries| descriptor(entries, asked))
                .collect();
            (!descriptors.is_empty()).then(|| Quota {
                service: Arc::clone(service),
                descriptors,
                grpc: policy.declared.grpc_status,
            })
        });
        counted.ask = globals.collect();
        counted
    }

    /// Takes a token of each limit that is meant, of policies on trial or of the others; also tells whether there is one.
    fn take(
        &self,
        asked: &Asked<'_>,
        now: Instant,
        on_trial: bool,
        crowded: &mut u64,
    ) -> (Option<Exceeded>, bool) {
        let mut taken = 0;
        for (policy, limit) in self.meant(asked, on_trial) {
            let (result, owner) = limit.ask(asked, now);
            *crowded += u64::from(owner == Owner::Crowd);
            if let Err(wait) = result {
                for (_, earlier) in self.meant(asked, on_trial).take(taken) {
                    earlier.give_back(asked);
                }
                let grpc = policy.declared.grpc_status;
                return (Some(Exceeded { wait, grpc }), true);
            }
            taken += 1;
        }
        (None, taken > 0)
    }

    /// The limits that would count a request, those in earnest first; no token is taken.
    pub fn concerning<'s>(
        &'s self,
        asked: &'s Asked<'_>,
    ) -> impl Iterator<Item = (&'s RateLimitPolicy, &'s RateLimit)> {
        let all = [false, true].into_iter();
        all.flat_map(move |on_trial| self.meant(asked, on_trial))
            .map(|(policy, limit)| (&policy.declared, &limit.declared))
    }

    fn meant<'s>(
        &'s self,
        asked: &'s Asked<'_>,
        on_trial: bool,
    ) -> impl Iterator<Item = (&'s Policy, &'s Limit)> {
        let acting = self.acting.iter().filter(move |acting| {
            let ports = acting.ports.as_ref();
            acting.policy.declared.is_dry_run == on_trial
                && ports.is_none_or(|ports| ports.contains(&asked.port))
        });
        acting.flat_map(move |acting| {
            let limits = acting.policy.limits.iter();
            limits
                .filter(|limit| asked.is_meant(&limit.declared.of))
                .map(|limit| (&*acting.policy, &**limit))
        })
    }
}

/// `None` where the request lacks what an entry tells, as in Envoy.
fn descriptor(entries: &[DescriptorEntry], asked: &Asked<'_>) -> Option<Vec<(Arc<str>, String)>> {
    let told = entries.iter().map(|entry| {
        let value = match &entry.value {
            DescriptorValue::Fixed(text) => text.as_ref().to_owned(),
            DescriptorValue::Of(part) => asked.text(part)?,
        };
        Some((Arc::clone(&entry.key), value))
    });
    told.collect()
}
