//! Endpoints of hosts whose ServiceEntry selects pods.
//!
//! Place in the walk: beside the endpoints of slices, before both are grouped. Must not know: policies, who asks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::mesh::facts::Facts;
use crate::mesh::pod_selector::PodSelector;
use crate::mesh::service::{Endpoint, EndpointCondition, Service};
use crate::mesh::traffic::EndpointPlace;
use crate::mesh::workload::Workload;

/// An endpoint for each address and port of each pod that is selected.
pub(super) fn selected(facts: &Facts) -> Vec<Endpoint> {
    let selecting = |service| Some((service, selector_of(service)?));
    let services = facts.services.iter().map(Deref::deref);
    let mut selecting = services.filter_map(selecting).peekable();
    if selecting.peek().is_none() {
        return Vec::new();
    }
    let mut pods: HashMap<&str, Vec<&Workload>> = HashMap::new();
    for workload in &facts.workloads {
        pods.entry(&workload.namespace).or_default().push(workload);
    }
    let of_service = |(service, selector): (&Service, &PodSelector)| -> Vec<Endpoint> {
        let own = pods.get(&*service.name.namespace).into_iter().flatten();
        let own = own.filter(|workload| selector.selects(&workload.labels));
        own.flat_map(|workload| endpoints(service, selector, workload))
            .collect()
    };
    selecting.flat_map(of_service).collect()
}

fn selector_of(service: &Service) -> Option<&PodSelector> {
    service.traffic.selects.as_deref()
}

fn endpoints(service: &Service, selector: &PodSelector, workload: &Workload) -> Vec<Endpoint> {
    let ends = workload.addrs.iter().flat_map(|addr| {
        selector
            .targets
            .iter()
            .map(move |(name, port)| (*addr, name, *port))
    });
    ends.map(|(addr, port_name, port)| Endpoint {
        service: service.name.clone(),
        meta: Arc::clone(&service.meta),
        port_name: Arc::clone(port_name),
        addr: SocketAddr::new(addr, port),
        condition: condition(workload),
        workload: Some(workload.uid.clone()),
        hostname: None,
        place: EndpointPlace::default(),
        labels: std::collections::BTreeMap::new(),
        weight: 1,
    })
    .collect()
}

/// As an EndpointSlice says it of a pod.
fn condition(workload: &Workload) -> EndpointCondition {
    match (workload.is_ready, workload.is_terminating) {
        (false, _) => EndpointCondition::NotServing,
        (true, true) => EndpointCondition::ServingTerminating,
        (true, false) => EndpointCondition::Ready,
    }
}
