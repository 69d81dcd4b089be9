//! Pods by uid and by address, and the pods of this node.
//!
//! Place in the walk: who is the source, who is behind a pod address. Must not know: services, policies.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::mesh::facts::Rejection;
use crate::mesh::shared::Shared;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::telemetry::PeerLabels;

#[derive(Debug, Default)]
pub(super) struct Workloads {
    by_uid: HashMap<WorkloadUid, Known>,
    by_addr: HashMap<IpAddr, Arc<Workload>>,
    local: Vec<Arc<Workload>>,
}

#[derive(Debug, Clone)]
struct Known {
    workload: Arc<Workload>,
    /// Of the same workload in every snapshot that it is unchanged in; few of a large mesh are ever asked for.
    labels: OnceLock<Arc<PeerLabels>>,
}

impl Workloads {
    pub(super) fn index(
        facts: &[Shared<Workload>],
        node: &str,
        previous: Option<&Self>,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let mut eldest_first: Vec<_> = facts.iter().collect();
        eldest_first.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        let mut index = Self {
            by_uid: HashMap::with_capacity(facts.len()),
            by_addr: HashMap::with_capacity(facts.len()),
            local: Vec::new(),
        };
        for workload in eldest_first {
            let known = match previous.and_then(|previous| previous.by_uid.get(&workload.uid)) {
                Some(known) if workload.is_same(&known.workload) || *known.workload == **workload => {
                    known.clone()
                }
                Some(_) | None => Known {
                    workload: Arc::clone(workload.arc()),
                    labels: OnceLock::new(),
                },
            };
            let workload = Arc::clone(&known.workload);
            match index.by_uid.entry(workload.uid.clone()) {
                Entry::Vacant(vacant) => vacant.insert(known),
                Entry::Occupied(elder) => {
                    let elder = &elder.get().workload.meta.object;
                    rejections.push(workload.meta.reject(
                        "metadata.uid",
                        format!("{elder} has this uid too; a uid is never shared"),
                    ));
                    continue;
                }
            };
            index.claim_addrs(&workload, rejections);
        }
        index.find_local(node);
        index
    }

    pub(super) fn local(&self) -> &[Arc<Workload>] {
        &self.local
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.by_uid.values().map(|known| &known.workload)
    }

    /// The pods of a node, enrolled or not.
    pub(super) fn on(&self, node: &str) -> impl Iterator<Item = &Workload> {
        let all = self.by_uid.values().map(|known| known.workload.as_ref());
        all.filter(move |workload| workload.node.as_ref() == node)
    }

    pub(super) fn get(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid).map(|known| &known.workload)
    }

    pub(super) fn labels(&self, workload: &Workload) -> Arc<PeerLabels> {
        let labels = || Arc::new(PeerLabels::of(workload));
        match self.by_uid.get(&workload.uid) {
            Some(known) if std::ptr::eq(known.workload.as_ref(), workload) => {
                Arc::clone(known.labels.get_or_init(labels))
            }
            Some(_) | None => labels(),
        }
    }

    pub(super) fn at(&self, addr: IpAddr) -> Option<&Arc<Workload>> {
        self.by_addr.get(&addr.to_canonical())
    }

    /// Pods of the host network share their node's address, so it names none of them.
    fn claim_addrs(&mut self, workload: &Arc<Workload>, rejections: &mut Vec<Rejection>) {
        if workload.host_network {
            return;
        }
        for addr in &workload.addrs {
            match self.by_addr.entry(addr.to_canonical()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Arc::clone(workload));
                }
                Entry::Occupied(elder) if elder.get().uid == workload.uid => {}
                Entry::Occupied(elder) => rejections.push(workload.meta.reject(
                    "status.podIPs",
                    format!(
                        "{addr} belongs to {} already; traffic to it goes there",
                        elder.get().meta.object
                    ),
                )),
            }
        }
    }

    /// Also those that cannot be captured yet: whoever captures says why.
    fn find_local(&mut self, node: &str) {
        let mut local: Vec<_> = self
            .all()
            .filter(|workload| workload.is_enrolled() && workload.node.as_ref() == node)
            .cloned()
            .collect();
        local.sort_by(|a, b| (&a.namespace, &a.pod_name).cmp(&(&b.namespace, &b.pod_name)));
        self.local = local;
    }
}
