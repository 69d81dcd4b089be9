//! Endpoints of one Service by port, each address once.
//!
//! Place in the walk: the first step of [`super::services`]. Must not know: which Services and pods there are.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::mesh::facts::Seniority;
use crate::mesh::service::{Endpoint, EndpointCondition};
use crate::mesh::workload::WorkloadUid;

/// The endpoints of one Service by port name, each address once.
pub(super) type EndpointsOfPorts<'a> = HashMap<&'a str, BTreeMap<SocketAddr, &'a Endpoint>>;

/// Slices may hold an address twice while endpoints move between them: the better condition counts.
pub(super) fn by_port(endpoints: &[Endpoint]) -> EndpointsOfPorts<'_> {
    let mut by_port = EndpointsOfPorts::new();
    for endpoint in endpoints {
        let addr = SocketAddr::new(endpoint.addr.ip().to_canonical(), endpoint.addr.port());
        let of_port = by_port.entry(&*endpoint.port_name).or_default();
        of_port
            .entry(addr)
            .and_modify(|known| {
                if preference(endpoint) < preference(known) {
                    *known = endpoint;
                }
            })
            .or_insert(endpoint);
    }
    by_port
}

/// Smaller is better; the order of the facts must not matter.
fn preference(endpoint: &Endpoint) -> (u8, bool, Seniority<'_>, Option<&WorkloadUid>) {
    let condition = match endpoint.condition {
        EndpointCondition::Ready => 0,
        EndpointCondition::ServingTerminating => 1,
        EndpointCondition::NotServing => 2,
    };
    (
        condition,
        endpoint.workload.is_none(),
        endpoint.meta.seniority(),
        endpoint.workload.as_ref(),
    )
}
