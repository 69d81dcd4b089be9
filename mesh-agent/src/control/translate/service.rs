//! Services: cluster addresses, TCP ports and their protocols.
//!
//! Place in the walk: becomes the Service side of a destination. Must not know: endpoints, routes.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::object::Object;
use super::{annotation, export, fallback, health_check, hedge, protocol};
use crate::mesh::export::Export;
use crate::mesh::facts::Rejection;
use crate::mesh::service::{Resilience, Service, ServiceName, ServicePort};
use crate::mesh::traffic::{BalancerKind, Nearest, ServiceTraffic};

/// `None` for `ExternalName` Services: they are DNS aliases and take no traffic.
///
/// Ports that are not TCP are left out; their traffic is not the mesh's.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<Service>, Rejection> {
    let spec = object.parse::<api::Service>()?.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}].port");
        let number = port_number(object, &field, port.port)?;
        if port.protocol.as_deref().unwrap_or("TCP") == "TCP" {
            let name = port.name.as_deref().unwrap_or_default();
            let protocol = protocol::select(port.app_protocol.as_deref(), name, number);
            ports.push(ServicePort {
                name: name.into(),
                port: number,
                protocol,
            });
        }
    }
    Ok(Some(Service {
        name: ServiceName {
            namespace: Arc::clone(&object.namespace),
            name: Arc::clone(&object.name),
        },
        meta: Arc::clone(&object.meta),
        is_headless: spec
            .cluster_ip
            .iter()
            .chain(spec.cluster_ips.iter().flatten())
            .any(|addr| addr == "None"),
        vips: vips(object, &spec)?,
        ports,
        traffic: traffic(object, &spec, rejections),
        resilience: resilience(object, rejections),
    }))
}

/// A port that can be dialled.
pub(super) fn port_number(object: &Object, field: &str, port: i32) -> Result<u16, Rejection> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| object.reject(field, format!("{port} is not a port; use 1 to 65535")))
}

/// An address that a Service or a pod may own.
pub(super) fn own_addr(text: &str) -> Result<IpAddr, String> {
    let addr: IpAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address"))?;
    let addr = addr.to_canonical();
    if addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() {
        return Err(format!("{addr} can belong to no Service, pod or node"));
    }
    Ok(addr)
}

/// `clusterIPs`, or `clusterIP` where only that is written; none for headless Services.
fn vips(object: &Object, spec: &api::ServiceSpec) -> Result<Vec<IpAddr>, Rejection> {
    let many = spec.cluster_ips.iter().flatten().enumerate();
    let many: Vec<_> = many
        .map(|(i, addr)| (format!("spec.clusterIPs[{i}]"), addr))
        .collect();
    let one = spec
        .cluster_ip
        .iter()
        .map(|addr| ("spec.clusterIP".to_owned(), addr))
        .collect();
    let written = if many.is_empty() { one } else { many };
    written
        .into_iter()
        .filter(|(_, addr)| !matches!(addr.as_str(), "" | "None"))
        .map(|(field, addr)| own_addr(addr).map_err(|reason| object.reject(&field, reason)))
        .collect()
}

/// What is not understood is reported and ignored: traffic goes to more endpoints than the Service asks for, but to none
/// that are not its own.
fn traffic(object: &Object, spec: &api::ServiceSpec, rejections: &mut Vec<Rejection>) -> ServiceTraffic {
    let mut unknown = |field: &str, value: &str, usable: &str| {
        rejections.push(object.reject(field, format!("{value:?} is not known; use {usable}; ignored")));
    };
    let has_affinity = match spec.session_affinity.as_deref() {
        None | Some("None") => false,
        Some("ClientIP") => true,
        Some(other) => {
            unknown("spec.sessionAffinity", other, "None or ClientIP");
            false
        }
    };
    let is_local_only = match spec.internal_traffic_policy.as_deref() {
        None | Some("Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            unknown("spec.internalTrafficPolicy", other, "Cluster or Local");
            false
        }
    };
    let nearest = match spec.traffic_distribution.as_deref() {
        None => None,
        Some("PreferSameZone" | "PreferClose") => Some(Nearest::Zone),
        Some("PreferSameNode") => Some(Nearest::Node),
        Some(other) => {
            unknown(
                "spec.trafficDistribution",
                other,
                "PreferSameZone or PreferSameNode",
            );
            None
        }
    };
    let balancer = match object.annotation(LOAD_BALANCER) {
        None => None,
        Some("PEAK_EWMA") => Some(BalancerKind::PeakEwma),
        Some("LEAST_REQUEST") => Some(BalancerKind::LeastRequest),
        Some("ROUND_ROBIN") => Some(BalancerKind::RoundRobin),
        Some("RANDOM") => Some(BalancerKind::Random),
        Some(other) => {
            let field = format!("metadata.annotations[{LOAD_BALANCER}]");
            unknown(&field, other, "PEAK_EWMA, LEAST_REQUEST, ROUND_ROBIN or RANDOM");
            None
        }
    };
    ServiceTraffic {
        balancer,
        has_affinity,
        is_local_only,
        nearest,
        keeps_dialled: false,
        health_check: health_check::of_service(object, rejections).map(Arc::new),
        exported_to: exported_to(object, rejections),
        selects: None,
        server_names: Arc::default(),
    }
}

/// Istio's annotation, with commas between the words.
fn exported_to(object: &Object, rejections: &mut Vec<Rejection>) -> Export {
    let written = object.annotation(EXPORT_TO).unwrap_or_default();
    let words = written.split(',').map(str::trim).filter(|word| !word.is_empty());
    export::read(object, &annotation::field(EXPORT_TO), words, rejections)
}

fn resilience(object: &Object, rejections: &mut Vec<Rejection>) -> Resilience {
    let mut report = |rejection| rejections.push(rejection);
    Resilience {
        hedge: hedge::translate(object).map_err(&mut report).unwrap_or_default(),
        fallback: fallback::translate(object)
            .map_err(&mut report)
            .unwrap_or_default(),
    }
}

/// The only way to [`BalancerKind::PeakEwma`], for which DestinationRule has no word.
const LOAD_BALANCER: &str = "mesh-agent.dev/load-balancer";
const EXPORT_TO: &str = "networking.istio.io/exportTo";
