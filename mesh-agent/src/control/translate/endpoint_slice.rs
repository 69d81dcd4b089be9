//! EndpointSlices: the addresses behind Service ports and whether they may be used.
//!
//! Place in the walk: becomes the endpoints of an upstream. Must not know: which Services exist.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as api;

use super::names::Names;
use super::object::Object;
use super::service::{own_addr, port_number};
use crate::mesh::facts::Rejection;
use crate::mesh::service::{EndpointCondition, ServiceName};
use crate::mesh::slice::{EndpointSlice, Seldom, SliceMember};
use crate::mesh::workload::WorkloadUid;

/// `None` for a slice that belongs to no Service. A wrong endpoint or port is left out for itself.
pub(super) fn translate(
    object: &Object,
    names: &Names,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<EndpointSlice>, Rejection> {
    let slice: api::EndpointSlice = object.parse()?;
    let is_v4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        other => {
            let reason = format!("{other:?} is not supported; use IPv4 or IPv6");
            return Err(object.reject("addressType", reason));
        }
    };
    let labels = slice.metadata.labels.as_ref();
    let Some(name) = labels.and_then(|labels| labels.get(SERVICE_NAME)) else {
        return Ok(None);
    };
    let ports = ports(object, &slice, rejections).into();
    let mut members = Vec::with_capacity(slice.endpoints.as_ref().map_or(0, Vec::len));
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        match addr(endpoint, is_v4) {
            Ok(addr) => members.push(member(endpoint, addr, names)),
            Err(reason) => {
                rejections.push(object.reject(&format!("endpoints[{index}].addresses[0]"), reason));
            }
        }
    }
    Ok(Some(EndpointSlice {
        service: ServiceName {
            namespace: Arc::clone(&object.namespace),
            name: name.as_str().into(),
        },
        meta: Arc::clone(&object.meta),
        ports,
        members: members.into(),
    }))
}

fn member(endpoint: &api::Endpoint, addr: IpAddr, names: &Names) -> SliceMember {
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    let shared = |name: &Option<String>| name.as_deref().map(|name| names.shared(name));
    SliceMember {
        addr,
        condition: condition(endpoint.conditions.as_ref()),
        workload: pod.and_then(|pod| pod.uid.as_deref()).map(WorkloadUid::new),
        zone: shared(&endpoint.zone),
        node: shared(&endpoint.node_name),
        seldom: seldom(endpoint),
    }
}

/// What it is called, and for whom it is meant.
fn seldom(endpoint: &api::Endpoint) -> Option<Box<Seldom>> {
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
    let said = Seldom {
        hostname: endpoint.hostname.as_deref().map(Into::into),
        for_zones: zones
            .into_iter()
            .flatten()
            .map(|zone| zone.name.as_str().into())
            .collect(),
        for_nodes: nodes
            .into_iter()
            .flatten()
            .map(|node| node.name.as_str().into())
            .collect(),
    };
    let says_something = said.hostname.is_some() || !said.for_zones.is_empty() || !said.for_nodes.is_empty();
    says_something.then(|| Box::new(said))
}

/// Only the first address has a meaning (discovery/v1).
fn addr(endpoint: &api::Endpoint, is_v4: bool) -> Result<IpAddr, String> {
    let addr = own_addr(endpoint.addresses.first().ok_or("there is no address")?)?;
    if addr.is_ipv4() != is_v4 {
        return Err(format!("{addr} is not of the slice's addressType"));
    }
    Ok(addr)
}

/// The TCP ports of a slice; they are target ports already.
fn ports(
    object: &Object,
    slice: &api::EndpointSlice,
    rejections: &mut Vec<Rejection>,
) -> Vec<(Arc<str>, u16)> {
    let mut ports = Vec::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
            continue;
        }
        let field = format!("ports[{index}].port");
        let number = match port.port {
            Some(number) => port_number(object, &field, number),
            None => Err(object.reject(&field, "a port without number is not supported yet; left out")),
        };
        match number {
            Ok(number) => ports.push((port.name.as_deref().unwrap_or_default().into(), number)),
            Err(rejection) => rejections.push(rejection),
        }
    }
    ports
}

/// discovery/v1: absent means ready, serving, and not terminating.
fn condition(conditions: Option<&api::EndpointConditions>) -> EndpointCondition {
    let of = |condition: fn(&api::EndpointConditions) -> Option<bool>| conditions.and_then(condition);
    if of(|conditions| conditions.ready).unwrap_or(true) {
        EndpointCondition::Ready
    } else if of(|conditions| conditions.serving).unwrap_or(true)
        && of(|conditions| conditions.terminating).unwrap_or(false)
    {
        EndpointCondition::ServingTerminating
    } else {
        EndpointCondition::NotServing
    }
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[cfg(test)]
mod tests {
    use super::*;
    use EndpointCondition::{NotServing, Ready, ServingTerminating};

    #[test]
    fn conditions_are_read_as_the_api_says() {
        let (yes, no, nil) = (Some(true), Some(false), None);
        for (ready, serving, terminating, expected) in [
            (nil, nil, nil, Ready),
            (yes, nil, nil, Ready),
            (yes, yes, no, Ready),
            // publishNotReadyAddresses.
            (yes, no, yes, Ready),
            (no, yes, yes, ServingTerminating),
            (no, nil, yes, ServingTerminating),
            (no, no, yes, NotServing),
            (no, yes, no, NotServing),
            (no, yes, nil, NotServing),
            (no, nil, nil, NotServing),
        ] {
            let conditions = api::EndpointConditions {
                ready,
                serving,
                terminating,
            };
            assert_eq!(condition(Some(&conditions)), expected, "{conditions:?}");
        }
        assert_eq!(condition(None), Ready);
    }
}
