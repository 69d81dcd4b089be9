//! Services by name and by cluster address, their endpoints, and what these tell of the pods' own ports.
//!
//! Place in the walk: what is behind a cluster address, what a pod's port speaks. Must not know: routes, policies.

mod indexing;

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use self::indexing::Indexing;
use super::addresses::Addresses;
use super::checked::{Checked, CheckedEndpoints};
use super::known::{KnownService, Ports};
use super::loads::Loads;
use super::selected::selected;
use super::traffic::Traffic;
use super::upstream::Upstream;
use super::workloads::Workloads;
use super::{InboundPort, SnapshotSettings};
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::service::{Service, ServiceName};
use crate::mesh::slice::Behind;
use crate::mesh::workload::{Workload, WorkloadUid};

#[derive(Debug, Default)]
pub(super) struct Services {
    by_name: HashMap<ServiceName, Arc<KnownService>>,
    addresses: Addresses,
    /// The classes of local pods, for each of which a DestinationRule is chosen.
    classes: HashMap<WorkloadUid, usize>,
    /// By the pod's own port; what is said of all pods of a Service's port is there once.
    inbound: HashMap<WorkloadUid, Vec<(u16, Arc<InboundPort>)>>,
    /// The ports of pods behind a Service, ready or not.
    pods: HashMap<ServiceName, Vec<(WorkloadUid, u16)>>,
    loads: Loads,
    checked: CheckedEndpoints,
}

impl Services {
    pub(super) fn index(
        facts: &Facts,
        workloads: &Workloads,
        settings: &SnapshotSettings,
        previous: Option<&Self>,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let traffic = Traffic::index(facts, workloads.local(), settings, rejections);
        let selected = selected(facts);
        // What stands behind a Service is taken apart when it is its turn: all of it at once is large.
        let mut by_service = Behind::by_service(facts, &selected);
        let mut eldest_first: Vec<&Service> = facts.services.iter().map(Deref::deref).collect();
        // Whoever writes a ServiceEntry takes no address from a Service, however old the entry is.
        eldest_first.sort_by_key(|service| (service.name.is_host(), service.meta.seniority()));
        let mut indexing = Indexing::new(workloads, traffic, settings, previous, rejections);
        for service in eldest_first {
            let behind = by_service.remove(&service.name).unwrap_or_default();
            indexing.add(service, &behind.endpoints());
        }
        for (service, orphans) in by_service {
            let why = format!("Service {service} is not known; these endpoints are not used");
            indexing.reject_orphans(orphans.endpoints().iter(), &why);
        }
        indexing.index
    }

    pub(super) fn get(&self, service: &ServiceName) -> Option<&KnownService> {
        self.by_name.get(service).map(AsRef::as_ref)
    }

    /// A port of a Service as clients use it for whom no rule of their own acts.
    pub(super) fn upstream(&self, service: &ServiceName, port: u16) -> Option<&Arc<Upstream>> {
        self.by_name.get(service)?.common.get(port, None)
    }

    /// The ports of a Service as `client` uses them.
    pub(super) fn used_by<'a>(&'a self, client: &Workload, service: &'a KnownService) -> &'a Ports {
        service.ports_of(|| self.classes.get(&client.uid).copied())
    }

    /// The ports of a Service that is exported to `client`, as it uses them.
    pub(super) fn seen_by(&self, client: &Workload, service: &ServiceName) -> Option<&Ports> {
        let known = self.by_name.get(service)?;
        let is_seen = known.exported_to.reaches(&client.namespace);
        is_seen.then(|| self.used_by(client, known))
    }

    /// All, those of subsets too, and as each client uses them.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.by_name.values().flat_map(|known| known.upstreams())
    }

    /// The endpoints whose health is checked.
    pub(super) fn checked(&self) -> impl Iterator<Item = &Arc<Checked>> {
        self.checked.all()
    }

    /// The ports of one Service as clients use them for whom no rule of their own acts.
    pub(super) fn of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Upstream>> {
        let known = self.by_name.get(service).into_iter();
        known.flat_map(|service| service.common.whole.values())
    }

    /// The ports of a pod that Services tell something of, in no order.
    pub(super) fn inbound_ports(&self, uid: &WorkloadUid) -> impl Iterator<Item = u16> {
        self.known_inbound(uid).map(|(port, _)| *port)
    }

    /// The Service whose cluster address it is, of those that are exported to `client`.
    pub(super) fn at(&self, client: &Workload, addr: IpAddr) -> Option<(&ServiceName, &KnownService)> {
        let owners = self.addresses.at(addr.to_canonical());
        let mut known = owners.filter_map(|owner| self.by_name.get_key_value(owner));
        let (name, service) = known.find(|(_, service)| service.exported_to.reaches(&client.namespace))?;
        Some((name, service))
    }

    pub(super) fn vips(&self) -> impl Iterator<Item = (IpAddr, &ServiceName)> {
        self.addresses.all()
    }

    /// The ports of pods behind a Service, those that are not ready too; `None` when there is no such Service.
    pub(super) fn pods(&self, service: &ServiceName) -> Option<Vec<(WorkloadUid, u16)>> {
        self.by_name.get(service)?;
        Some(self.pods.get(service).cloned().unwrap_or_default())
    }

    pub(super) fn inbound(&self, uid: &WorkloadUid, port: u16) -> Option<&InboundPort> {
        let mut known = self.known_inbound(uid);
        known.find_map(|(of, said)| (*of == port).then_some(said.as_ref()))
    }

    fn known_inbound(&self, uid: &WorkloadUid) -> impl Iterator<Item = &(u16, Arc<InboundPort>)> {
        self.inbound.get(uid).into_iter().flatten()
    }
}
