//! Whose a cluster address is.
//!
//! Place in the walk: the first step from an address to a destination. Must not know: ports, endpoints.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::iter;
use std::net::IpAddr;

use super::workloads::Workloads;
use crate::mesh::export::Export;
use crate::mesh::facts::Rejection;
use crate::mesh::service::{Service, ServiceName};

/// The owners of cluster addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    first: HashMap<IpAddr, ServiceName>,
    /// Those that no client of the first one sees.
    further: HashMap<IpAddr, Vec<ServiceName>>,
}

impl Addresses {
    /// All owners of an address, unmapped.
    pub(super) fn at(&self, addr: IpAddr) -> impl Iterator<Item = &ServiceName> {
        let first = self.first.get(&addr);
        // Nearly never is there one.
        let further = first.and_then(|_| self.further.get(&addr));
        first.into_iter().chain(further.into_iter().flatten())
    }

    /// All addresses, each with all its owners, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (IpAddr, &ServiceName)> {
        self.first.iter().flat_map(|(addr, first)| {
            let further = self.further.get(addr).into_iter().flatten();
            iter::once(first).chain(further).map(|owner| (*addr, owner))
        })
    }

    /// Gives a Service its addresses, as far as nobody has them whom one of its clients sees, and says which it cannot have.
    /// A ServiceEntry takes no address from a pod: it would lead the pod's traffic elsewhere.
    pub(super) fn claim<'s>(
        &mut self,
        service: &Service,
        workloads: &Workloads,
        exported_to: impl Fn(&ServiceName) -> Option<&'s Export>,
    ) -> Vec<Rejection> {
        let is_host = service.name.is_host();
        let field = if is_host {
            "spec.addresses"
        } else {
            "spec.clusterIPs"
        };
        let mut rejections = Vec::new();
        for vip in &service.vips {
            let addr = vip.to_canonical();
            let is_seen_too = |owner: &&ServiceName| {
                exported_to(owner).is_some_and(|export| export.overlaps(&service.traffic.exported_to))
            };
            let pod = workloads.at(addr).filter(|_| is_host);
            let elder = self
                .at(addr)
                .find(is_seen_too)
                .map(|elder| format!("Service {elder}"));
            let owner = elder.or_else(|| Some(pod?.meta.object.to_string()));
            let Some(owner) = owner else {
                self.give(addr, &service.name);
                continue;
            };
            let reason = format!("{vip} belongs to {owner} already; traffic to it goes there");
            rejections.push(service.meta.reject(field, reason));
        }
        rejections
    }

    fn give(&mut self, addr: IpAddr, owner: &ServiceName) {
        if self.at(addr).any(|known| known == owner) {
            return;
        }
        match self.first.entry(addr) {
            Entry::Vacant(vacant) => {
                vacant.insert(owner.clone());
            }
            Entry::Occupied(_) => self.further.entry(addr).or_default().push(owner.clone()),
        }
    }
}
