//! Istio's ServiceEntry: servers outside of the cluster, or beside it, as Services with fixed endpoints.
//!
//! Place in the walk: becomes the Service and the endpoints of a destination, as if a Service and its slices were there.
//! Must not know: DNS, routes.
//!
//! Each host is a Service of the entry's namespace whose name is the host. One without an address of its own is given
//! one of [`OWN_BLOCK`], to which the mesh's DNS leads.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::entry_servers::{self, WorkloadSelector};
use super::object::{Object, unknown_fields};
use super::service::{own_addr, port_number};
use super::{export, protocol};
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::route::NamePattern;
use crate::mesh::service::{Endpoint, EndpointCondition, Resilience, Service, ServiceName, ServicePort};
use crate::mesh::traffic::{EndpointPlace, ServiceTraffic};

/// networking.istio.io/v1, as far as it is read; all else is reported.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<Port>,
    location: Option<String>,
    resolution: Option<String>,
    endpoints: Vec<WrittenEndpoint>,
    export_to: Vec<String>,
    subject_alt_names: Vec<String>,
    workload_selector: Option<WorkloadSelector>,
}

#[derive(Debug, Deserialize)]
struct Port {
    number: i32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: String,
    #[serde(rename = "targetPort")]
    target: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenEndpoint {
    address: String,
    ports: BTreeMap<String, i32>,
    labels: BTreeMap<String, String>,
    weight: Option<u32>,
    locality: Option<String>,
}

/// Where connections to a host go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// `STATIC`: to the endpoints that are listed.
    Listed,
    /// `NONE`: to the address that was dialled.
    Dialled,
}

/// The Services that an entry stands for, and their endpoints.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<(Vec<Service>, Vec<Endpoint>), Rejection> {
    let spec: Spec = object.parse_part(object.spec(), "spec")?;
    report(object, &spec, rejections);
    let resolution = resolution(object, spec.resolution.as_deref())?;
    let addresses = addresses(object, &spec.addresses)?;
    let ports = ports(object, &spec.ports)?;
    if resolution == Resolution::Dialled && addresses.is_empty() {
        let reason = "with resolution NONE an entry needs addresses: connections are told by what they dial; no effect";
        return Err(object.reject("spec.addresses", reason));
    }
    if resolution == Resolution::Dialled && !spec.endpoints.is_empty() {
        rejections.push(object.reject("spec.endpoints", NOTHING_BUT_DIALLED));
    }
    let is_dialled = resolution == Resolution::Dialled;
    let selector = spec.workload_selector.as_ref().filter(|_| !is_dialled);
    if spec.workload_selector.is_some() && is_dialled {
        rejections.push(object.reject("spec.workloadSelector", NOTHING_BUT_DIALLED));
    }
    let selects = selector.map(|written| entry_servers::selected(object, written, &spec.endpoints, &ports));
    let words = spec.export_to.iter().map(String::as_str);
    let mut entry = Entry {
        object,
        resolution,
        ports,
        traffic: ServiceTraffic {
            keeps_dialled: is_dialled,
            exported_to: export::read(object, "spec.exportTo", words, rejections),
            selects: selects.transpose()?.map(Arc::new),
            server_names: entry_servers::names(object, &spec.subject_alt_names)?,
            ..ServiceTraffic::default()
        },
        services: Vec::new(),
        endpoints: Vec::new(),
    };
    for (index, host) in spec.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        let Some(host) = host_of(host) else {
            let reason =
                format!("{host:?} has no address of its own; use a name with a dot and without a wildcard");
            rejections.push(object.reject(&field, reason));
            continue;
        };
        let is_first = entry.services.is_empty();
        if !is_first && !addresses.is_empty() {
            let reason = "the entry's addresses are its first host's; this one is known by name only";
            rejections.push(object.reject(&field, reason));
            if resolution == Resolution::Dialled {
                continue;
            }
        }
        let vips = if is_first { addresses.clone() } else { Vec::new() };
        entry.add(&host, vips, &spec.endpoints, rejections);
    }
    Ok((entry.services, entry.endpoints))
}

/// Names what has no effect.
fn report(object: &Object, spec: &Spec, rejections: &mut Vec<Rejection>) {
    let known = [
        "hosts",
        "addresses",
        "ports",
        "location",
        "resolution",
        "endpoints",
        "exportTo",
        "subjectAltNames",
        "workloadSelector",
    ];
    rejections.extend(
        unknown_fields(object.spec(), &known).map(|field| object.unsupported(&format!("spec.{field}"))),
    );
    for (list, known) in [
        (
            "endpoints",
            &["address", "ports", "labels", "weight", "locality"][..],
        ),
        ("ports", &["number", "name", "protocol", "targetPort"]),
    ] {
        let parts = object
            .spec()
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for (index, part) in parts.enumerate() {
            let unknown = unknown_fields(part, known);
            rejections
                .extend(unknown.map(|field| object.unsupported(&format!("spec.{list}[{index}].{field}"))));
        }
    }
    if let Some(location) = spec.location.as_deref()
        && !matches!(location, "MESH_EXTERNAL" | "MESH_INTERNAL")
    {
        let reason = format!("{location:?} is not known; use MESH_EXTERNAL or MESH_INTERNAL; ignored");
        rejections.push(object.reject("spec.location", reason));
    }
}

/// Gives every host without an address one of [`OWN_BLOCK`]: the same ones as long as the same hosts are declared, and
/// mostly the same ones when others come and go.
pub(super) fn give_addresses(facts: &mut Facts) {
    let mut taken: HashSet<IpAddr> = facts
        .services
        .iter()
        .flat_map(|one| one.vips.iter().copied())
        .collect();
    let mut without: Vec<_> = facts
        .services
        .iter_mut()
        .filter(|service| service.name.is_host() && service.vips.is_empty())
        .collect();
    without.sort_by(|a, b| a.name.cmp(&b.name));
    for service in without {
        let mut hasher = DefaultHasher::new();
        service.name.hash(&mut hasher);
        let [.., third, fourth] = hasher.finish().to_be_bytes();
        let first = u16::from_be_bytes([third, fourth]);
        let free = (0..=u16::MAX)
            .map(|step| own_address(first.wrapping_add(step)))
            .find(|addr| !matches!(addr.octets(), [.., 0 | 255]) && !taken.contains(&IpAddr::V4(*addr)));
        if let Some(addr) = free {
            taken.insert(IpAddr::V4(addr));
            service.vips.push(IpAddr::V4(addr));
        }
    }
}

fn own_address(number: u16) -> Ipv4Addr {
    let [third, fourth] = number.to_be_bytes();
    let [first, second] = OWN_BLOCK;
    Ipv4Addr::new(first, second, third, fourth)
}

/// An entry that is being read.
struct Entry<'a> {
    object: &'a Object,
    resolution: Resolution,
    /// Each with the port of endpoints that say nothing else.
    ports: Vec<(ServicePort, u16)>,
    traffic: ServiceTraffic,
    services: Vec<Service>,
    endpoints: Vec<Endpoint>,
}

impl Entry<'_> {
    fn add(
        &mut self,
        host: &str,
        vips: Vec<IpAddr>,
        endpoints: &[WrittenEndpoint],
        rejections: &mut Vec<Rejection>,
    ) {
        let name = ServiceName::new(&self.object.namespace, host);
        match self.resolution {
            Resolution::Dialled => {
                for addr in &vips {
                    for (port, _) in self.ports.clone() {
                        let addr = SocketAddr::new(*addr, port.port);
                        self.endpoints.push(self.endpoint(&name, &port.name, addr));
                    }
                }
            }
            Resolution::Listed => {
                for (index, endpoint) in endpoints.iter().enumerate() {
                    let at = format!("spec.endpoints[{index}]");
                    match self.listed(&name, &at, endpoint) {
                        Ok(read) => self.endpoints.extend(read),
                        // One report for all hosts.
                        Err(rejection) if self.services.is_empty() => rejections.push(rejection),
                        Err(_reported) => {}
                    }
                }
            }
        }
        self.services.push(Service {
            name,
            meta: Arc::clone(&self.object.meta),
            vips,
            is_headless: false,
            ports: self.ports.iter().map(|(port, _)| port.clone()).collect(),
            traffic: self.traffic.clone(),
            resilience: Resilience::default(),
        });
    }

    fn listed(
        &self,
        name: &ServiceName,
        at: &str,
        written: &WrittenEndpoint,
    ) -> Result<Vec<Endpoint>, Rejection> {
        let addr = own_addr(&written.address).map_err(|reason| {
            let reason = format!("{reason}; the endpoint is left out");
            self.object.reject(&format!("{at}.address"), reason)
        })?;
        let mut parts = written.locality.as_deref().unwrap_or_default().split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(Arc::from);
        let place = EndpointPlace {
            region: part(),
            zone: part(),
            ..EndpointPlace::default()
        };
        let ports = self.ports.iter().map(|(port, target)| {
            let number = match written.ports.get(&*port.name) {
                Some(number) => port_number(self.object, &format!("{at}.ports[{}]", port.name), *number)?,
                None => *target,
            };
            Ok(Endpoint {
                labels: written.labels.clone(),
                // Without a weight, or with zero, which is the same in protobuf.
                weight: written.weight.unwrap_or(1).max(1),
                place: place.clone(),
                ..self.endpoint(name, &port.name, SocketAddr::new(addr, number))
            })
        });
        ports.collect()
    }

    fn endpoint(&self, service: &ServiceName, port_name: &Arc<str>, addr: SocketAddr) -> Endpoint {
        Endpoint {
            service: service.clone(),
            meta: Arc::clone(&self.object.meta),
            port_name: Arc::clone(port_name),
            addr,
            condition: EndpointCondition::Ready,
            workload: None,
            hostname: None,
            place: EndpointPlace::default(),
            labels: BTreeMap::new(),
            weight: 1,
        }
    }
}

fn resolution(object: &Object, written: Option<&str>) -> Result<Resolution, Rejection> {
    match written {
        Some("STATIC") => Ok(Resolution::Listed),
        None | Some("" | "NONE") => Ok(Resolution::Dialled),
        Some(other) => Err(object.reject(
            "spec.resolution",
            format!("{other:?} is not supported yet; use STATIC or NONE; the entry has no effect"),
        )),
    }
}

fn addresses(object: &Object, written: &[String]) -> Result<Vec<IpAddr>, Rejection> {
    let read = written.iter().enumerate().map(|(index, text)| {
        own_addr(text).map_err(|reason| {
            let reason = if text.contains('/') {
                format!("{text:?} is a block of addresses, which is not supported yet; list them")
            } else {
                reason
            };
            object.reject(&format!("spec.addresses[{index}]"), reason)
        })
    });
    let mut seen = BTreeSet::new();
    let mut addresses = read.collect::<Result<Vec<_>, _>>()?;
    addresses.retain(|addr| seen.insert(*addr));
    Ok(addresses)
}

fn ports(object: &Object, written: &[Port]) -> Result<Vec<(ServicePort, u16)>, Rejection> {
    let mut ports = Vec::new();
    for (index, port) in written.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let number = port_number(object, &format!("{at}.number"), port.number)?;
        let target = match port.target.filter(|target| *target != 0) {
            Some(target) => port_number(object, &format!("{at}.targetPort"), target)?,
            None => number,
        };
        if port.protocol.eq_ignore_ascii_case("UDP") {
            continue;
        }
        let said = Some(&*port.protocol).filter(|protocol| !protocol.is_empty());
        let protocol = protocol::select(said, &port.name, number);
        let name = port.name.as_str().into();
        ports.push((
            ServicePort {
                name,
                port: number,
                protocol,
            },
            target,
        ));
    }
    Ok(ports)
}

/// A whole name with a dot, in lower case: others are Services', or no server's.
fn host_of(written: &str) -> Option<String> {
    match NamePattern::read(written)? {
        NamePattern::Exact(name) if name.contains('.') => Some(name.as_ref().to_owned()),
        NamePattern::Exact(_) | NamePattern::Below(_) | NamePattern::Any => None,
    }
}

/// The first two bytes of the addresses of hosts that have none: reserved ones (RFC 1112 section 4), of which nobody is
/// dialled by chance; Istio takes the same.
const OWN_BLOCK: [u8; 2] = [240, 240];
const NOTHING_BUT_DIALLED: &str = "with resolution NONE there are no endpoints but what is dialled; ignored";
