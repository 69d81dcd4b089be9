//! An EndpointSlice as it is kept: what its endpoints share is there once, since of these there may be a hundred thousand.
//!
//! Place in the walk: held by its source and by every reading; a snapshot takes the endpoints of one Service out of it at a
//! time. Must not know: which Services there are.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::service::{Endpoint, EndpointCondition, ServiceName};
use crate::mesh::traffic::EndpointPlace;
use crate::mesh::workload::WorkloadUid;

/// The endpoints of one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service that they stand behind.
    pub service: ServiceName,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// Its TCP ports: the Service port's name, and the number to dial.
    pub ports: Box<[(Arc<str>, u16)]>,
    /// Its addresses.
    pub members: Box<[SliceMember]>,
}

/// One address of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceMember {
    /// The address.
    pub addr: IpAddr,
    /// The slice's conditions, nil read as the API says.
    pub condition: EndpointCondition,
    /// `targetRef.uid` when it is a Pod's.
    pub workload: Option<WorkloadUid>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// What few endpoints say.
    pub seldom: Option<Box<Seldom>>,
}

/// What few endpoints say: what one is called, and for whom it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seldom {
    /// `hostname`.
    pub hostname: Option<Arc<str>>,
    /// `hints.forZones`.
    pub for_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<Arc<str>>,
}

impl EndpointSlice {
    /// One for each address and port, made as they are asked for.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let ports = |member| self.ports.iter().map(move |port| (member, port));
        self.members
            .iter()
            .flat_map(ports)
            .map(|(member, port)| self.endpoint(member, port))
    }

    /// Where those of one condition are dialled.
    pub fn addrs(&self, condition: EndpointCondition) -> impl Iterator<Item = SocketAddr> {
        let such = self.members.iter().filter(move |one| one.condition == condition);
        such.flat_map(|one| {
            self.ports
                .iter()
                .map(|(_, port)| SocketAddr::new(one.addr, *port))
        })
    }

    fn endpoint(&self, member: &SliceMember, (port_name, port): &(Arc<str>, u16)) -> Endpoint {
        let seldom = member.seldom.as_deref();
        Endpoint {
            service: self.service.clone(),
            meta: Arc::clone(&self.meta),
            port_name: Arc::clone(port_name),
            addr: SocketAddr::new(member.addr, *port),
            condition: member.condition,
            workload: member.workload.clone(),
            hostname: seldom.and_then(|seldom| seldom.hostname.clone()),
            place: EndpointPlace {
                region: None,
                zone: member.zone.clone(),
                node: member.node.clone(),
                for_zones: seldom.map_or_else(Vec::new, |seldom| seldom.for_zones.clone()),
                for_nodes: seldom.map_or_else(Vec::new, |seldom| seldom.for_nodes.clone()),
            },
            labels: BTreeMap::new(),
            weight: 1,
        }
    }
}

/// What stands behind one Service, not taken apart yet.
#[derive(Debug, Default)]
pub struct Behind<'f> {
    slices: Vec<&'f EndpointSlice>,
    singles: Vec<&'f Endpoint>,
}

impl<'f> Behind<'f> {
    /// All of the facts, and some more, by Service.
    pub fn by_service(
        facts: &'f Facts,
        more: impl IntoIterator<Item = &'f Endpoint>,
    ) -> HashMap<&'f ServiceName, Self> {
        let mut all: HashMap<&ServiceName, Self> = HashMap::with_capacity(facts.services.len());
        for slice in &facts.slices {
            all.entry(&slice.service).or_default().slices.push(slice);
        }
        for endpoint in facts.endpoints.iter().chain(more) {
            all.entry(&endpoint.service).or_default().singles.push(endpoint);
        }
        all
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let of_slices = self.slices.iter().flat_map(|slice| slice.endpoints());
        of_slices.chain(self.singles.iter().copied().cloned()).collect()
    }
}
