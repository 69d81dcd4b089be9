//! What is in force for each port of a Service, and where everything stands.
//!
//! Place in the walk: asked while upstreams are built. Must not know: endpoints' health, algorithms.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::SnapshotSettings;
use super::backends_tls::BackendsTls;
use super::rules::Rules;
use crate::mesh::backend_tls::{BackendTls, WrittenTls};
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::service::{Service, ServiceName, ServicePort};
use crate::mesh::traffic::{
    BackendTrafficPolicy, BalancerKind, ConsistentHash, DestinationRule, EndpointPlace, HashKey, HashTable,
    Limits, Locality, ServiceTraffic, Subset, TrafficPolicy, WrittenPolicy,
};
use crate::mesh::workload::Workload;

/// Rules and places, indexed.
#[derive(Debug)]
pub(super) struct Traffic<'f> {
    pub(super) rules: Rules<'f>,
    of_gateway_api: HashMap<&'f ServiceName, &'f BackendTrafficPolicy>,
    tls: BackendsTls<'f>,
    nodes: HashMap<&'f str, &'f Locality>,
    /// The region of a zone, as the nodes tell it.
    regions: HashMap<&'f str, &'f Arc<str>>,
    own: Locality,
}

impl<'f> Traffic<'f> {
    pub(super) fn index(
        facts: &'f Facts,
        local: &[Arc<Workload>],
        settings: &'f SnapshotSettings,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let nodes: HashMap<_, _> = facts
            .nodes
            .iter()
            .map(|node| (node.name.as_ref(), &node.locality))
            .collect();
        let zones = facts.nodes.iter().map(|node| &node.locality);
        let regions = zones.filter_map(|place| Some((place.zone.as_deref()?, place.region.as_ref()?)));
        let own = Locality {
            node: Some(Arc::clone(&settings.node)),
            ..nodes
                .get(settings.node.as_ref())
                .copied()
                .cloned()
                .unwrap_or_default()
        };
        let known: HashMap<_, _> = facts.services.iter().map(|one| (&one.name, &**one)).collect();
        Self {
            rules: Rules::index(facts, local, &known, &settings.root_namespace, rejections),
            of_gateway_api: of_gateway_api(&facts.backend_policies, &known, rejections),
            tls: BackendsTls::index(&facts.backend_tls_policies, &known, rejections),
            regions: regions.collect(),
            nodes,
            own,
        }
    }

    /// Where the agent's own node stands.
    pub(super) fn own(&self) -> &Locality {
        &self.own
    }

    /// Where an endpoint stands: with its pod's node, else as far as its slice says.
    pub(super) fn locality(&self, workload: Option<&Workload>, slice: &EndpointPlace) -> Locality {
        let of_pod = workload
            .map(|workload| &workload.node)
            .filter(|node| !node.is_empty());
        let node = of_pod.or(slice.node.as_ref());
        let known = node.and_then(|node| self.nodes.get(node.as_ref()));
        let mut locality = known.copied().cloned().unwrap_or_default();
        locality.node = node.cloned();
        if locality.zone.is_none() {
            locality.zone.clone_from(&slice.zone);
        }
        if locality.region.is_none() {
            locality.region.clone_from(&slice.region);
        }
        if locality.region.is_none() {
            let zone = locality.zone.as_deref();
            locality.region = zone.and_then(|zone| self.regions.get(zone)).copied().cloned();
        }
        locality
    }

    /// What is in force for a port of a Service, or of a subset of its endpoints, where `rule` acts.
    pub(super) fn policy(
        &self,
        service: &Service,
        port: &ServicePort,
        rule: Option<&DestinationRule>,
        subset: Option<&Subset>,
    ) -> TrafficPolicy {
        let of_host = rule.map(|rule| of_host(rule, port.port));
        let of_host = of_host.cloned().unwrap_or_default();
        // What is said of one port says nothing of this.
        let of_rule = rule.and_then(|rule| rule.policy.proxied);
        let proxied = subset.and_then(|subset| subset.policy.proxied).or(of_rule);
        let of_rule = rule.and_then(|rule| rule.policy.tunnel.as_ref());
        let tunnel = subset.and_then(|subset| subset.policy.tunnel.as_ref());
        let mut written = match subset {
            None => of_host,
            // As Istio merges them: a port's settings inherit nothing.
            Some(subset) => of_port(&subset.ports, port.port)
                .cloned()
                .unwrap_or_else(|| subset.policy.clone().or(of_host)),
        };
        let tls = self.settled_tls(service, port, written.tls.take().as_ref());
        let of_gateway_api = self.of_gateway_api.get(&service.name);
        TrafficPolicy {
            tls,
            proxied,
            tunnel: tunnel.or(of_rule).cloned(),
            retries: of_gateway_api.and_then(|policy| policy.retries),
            session: of_gateway_api.and_then(|policy| policy.session.clone()),
            ..settled(written, &service.traffic)
        }
    }

    /// The TLS that applications behind a port of a Service speak, whatever subset they are of.
    pub(super) fn tls(&self, service: &Service, port: &ServicePort) -> Option<Arc<BackendTls>> {
        let rule = self.rules.of_neighbours(&service.name);
        let written = rule.and_then(|rule| of_host(rule, port.port).tls.as_ref());
        self.settled_tls(service, port, written)
    }

    /// Gateway API's policy goes before a rule's; whom a rule does not name, the ServiceEntry may.
    fn settled_tls(
        &self,
        service: &Service,
        port: &ServicePort,
        written: Option<&WrittenTls>,
    ) -> Option<Arc<BackendTls>> {
        let mut tls = match (self.tls.of(&service.name, &port.name), written) {
            (Some(tls), _) => return Some(Arc::new(tls.of(&service.name))),
            (None, Some(WrittenTls::Begun(tls))) => tls.of(&service.name),
            (None, Some(WrittenTls::Mesh) | None) => return None,
        };
        if tls.names.is_empty() {
            tls.names = service.traffic.server_names.to_vec();
        }
        Some(Arc::new(tls))
    }
}

/// The policies of Gateway API by Service; of several for one the eldest counts.
fn of_gateway_api<'f>(
    policies: &'f [BackendTrafficPolicy],
    known: &HashMap<&ServiceName, &Service>,
    rejections: &mut Vec<Rejection>,
) -> HashMap<&'f ServiceName, &'f BackendTrafficPolicy> {
    let mut eldest_first: Vec<_> = policies.iter().collect();
    eldest_first.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
    let mut index: HashMap<_, &BackendTrafficPolicy> = HashMap::new();
    for policy in eldest_first {
        for (field, service) in &policy.targets {
            let wrong = match index.entry(service) {
                _ if !known.contains_key(service) => format!("Service {service} is not known"),
                Entry::Occupied(elder) => {
                    format!("the older {} acts on this Service", elder.get().meta.object)
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(policy);
                    continue;
                }
            };
            rejections.push(policy.meta.reject(field, wrong));
        }
    }
    index
}

/// What a rule says of a port of the Services that it is about.
fn of_host(rule: &DestinationRule, port: u16) -> &WrittenPolicy {
    of_port(&rule.ports, port).unwrap_or(&rule.policy)
}

fn of_port(ports: &[(u16, WrittenPolicy)], port: u16) -> Option<&WrittenPolicy> {
    ports
        .iter()
        .find_map(|(of, policy)| (*of == port).then_some(policy))
}

/// A rule goes before what the Service says of itself.
fn settled(written: WrittenPolicy, service: &ServiceTraffic) -> TrafficPolicy {
    let WrittenPolicy {
        load_balancer,
        limits,
        retry_share,
        outliers,
        tls: _,
        proxied: _,
        tunnel: _,
    } = written;
    let load_balancer = load_balancer.unwrap_or_default();
    let affinity = service
        .has_affinity
        .then_some(BalancerKind::ConsistentHash(ConsistentHash {
            key: HashKey::SourceIp,
            table: HashTable::Ring(AFFINITY_RING),
            balance_factor: None,
        }));
    TrafficPolicy {
        balancer: load_balancer
            .kind
            .or(affinity)
            .or_else(|| service.balancer.clone())
            .unwrap_or_default(),
        locality: load_balancer.locality.unwrap_or_default(),
        warmup: load_balancer.warmup,
        limits: Limits {
            retry_share,
            ..limits.unwrap_or_default()
        },
        outliers,
        retries: None,
        session: None,
        tls: None,
        proxied: None,
        tunnel: None,
    }
}

/// Istio's and Envoy's default.
const AFFINITY_RING: u32 = 1024;
