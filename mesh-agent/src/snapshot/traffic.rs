//! What is in force for each port of a Service, and where everything stands.
//!
//! Place in the walk: asked while upstreams are built. Must not know: endpoints' health, algorithms.
//!
//! A DestinationRule of the Service's own namespace goes before one of the root namespace, and in each the more
//! specific host before the others, of two equal ones the elder. Rules of other namespaces would hold for the clients
//! there alone, and the balancers of a node serve all of its pods: those are reported.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::backends_tls::BackendsTls;
use crate::mesh::backend_tls::{BackendTls, WrittenTls};
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::service::{Service, ServiceName, ServicePort};
use crate::mesh::traffic::{
    BackendTrafficPolicy, BalancerKind, ConsistentHash, DestinationRule, EndpointPlace, HashKey, HashTable,
    HostPattern, Limits, Locality, ServiceTraffic, Subset, TrafficPolicy, WrittenPolicy,
};
use crate::mesh::workload::Workload;

/// Rules and places, indexed.
#[derive(Debug)]
pub(super) struct Traffic<'f> {
    /// By the namespace they are in.
    rules: HashMap<&'f str, Rules<'f>>,
    of_gateway_api: HashMap<&'f ServiceName, &'f BackendTrafficPolicy>,
    tls: BackendsTls<'f>,
    root_namespace: &'f str,
    nodes: HashMap<&'f str, &'f Locality>,
    /// The region of a zone, as the nodes tell it.
    regions: HashMap<&'f str, &'f Arc<str>>,
    own: Locality,
}

/// The rules of one namespace, each host once.
#[derive(Debug, Default)]
struct Rules<'f> {
    exact: HashMap<&'f ServiceName, &'f DestinationRule>,
    /// The more specific first.
    wide: Vec<&'f DestinationRule>,
}

impl<'f> Traffic<'f> {
    pub(super) fn index(
        facts: &'f Facts,
        node: &str,
        root_namespace: &'f str,
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
            node: Some(node.into()),
            ..nodes.get(node).copied().cloned().unwrap_or_default()
        };
        let known: HashMap<_, _> = facts.services.iter().map(|one| (&one.name, one)).collect();
        let mut traffic = Self {
            rules: HashMap::new(),
            of_gateway_api: of_gateway_api(&facts.backend_policies, &known, rejections),
            tls: BackendsTls::index(&facts.backend_tls_policies, &known, rejections),
            root_namespace,
            regions: regions.collect(),
            nodes,
            own,
        };
        let mut eldest_first: Vec<_> = facts.destination_rules.iter().collect();
        eldest_first.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        for rule in eldest_first {
            if let Err(reason) = traffic.add(rule, &known) {
                rejections.push(rule.meta.reject("spec.host", reason));
            }
        }
        for rules in traffic.rules.values_mut() {
            rules.wide.sort_by(|a, b| a.host.cmp(&b.host));
        }
        traffic
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

    /// What is in force for a port of a Service, or of a subset of its endpoints.
    pub(super) fn policy(
        &self,
        service: &Service,
        port: &ServicePort,
        subset: Option<&Subset>,
    ) -> TrafficPolicy {
        let of_host = self
            .of_host(&service.name, port.port)
            .cloned()
            .unwrap_or_default();
        let mut written = match subset {
            None => of_host,
            // As Istio merges them: a port's settings inherit nothing.
            Some(subset) => of_port(&subset.ports, port.port)
                .cloned()
                .unwrap_or_else(|| subset.policy.clone().or(of_host)),
        };
        let tls = self.settled_tls(&service.name, port, written.tls.take().as_ref());
        let of_gateway_api = self.of_gateway_api.get(&service.name);
        TrafficPolicy {
            tls,
            retries: of_gateway_api.and_then(|policy| policy.retries),
            session: of_gateway_api.and_then(|policy| policy.session.clone()),
            ..settled(written, &service.traffic)
        }
    }

    /// The TLS that applications behind a port of a Service speak, whatever subset they are of.
    pub(super) fn tls(&self, service: &ServiceName, port: &ServicePort) -> Option<Arc<BackendTls>> {
        let written = self
            .of_host(service, port.port)
            .and_then(|policy| policy.tls.as_ref());
        self.settled_tls(service, port, written)
    }

    /// Gateway API's policy goes before a rule's.
    fn settled_tls(
        &self,
        service: &ServiceName,
        port: &ServicePort,
        written: Option<&WrittenTls>,
    ) -> Option<Arc<BackendTls>> {
        let tls = match (self.tls.of(service, &port.name), written) {
            (Some(tls), _) | (None, Some(WrittenTls::Begun(tls))) => tls,
            (None, Some(WrittenTls::Mesh) | None) => return None,
        };
        Some(Arc::new(tls.of(service)))
    }

    /// What a rule says of a port of a Service.
    fn of_host(&self, service: &ServiceName, port: u16) -> Option<&'f WrittenPolicy> {
        let rule = self.rule(service)?;
        Some(of_port(&rule.ports, port).unwrap_or(&rule.policy))
    }

    /// The subsets that the rule for a Service names.
    pub(super) fn subsets(&self, service: &ServiceName) -> &'f [Subset] {
        self.rule(service).map_or(&[], |rule| rule.subsets.as_slice())
    }

    fn rule(&self, service: &ServiceName) -> Option<&'f DestinationRule> {
        let of_namespace = |namespace: &str| self.rules.get(namespace)?.of(service);
        of_namespace(&service.namespace).or_else(|| of_namespace(self.root_namespace))
    }

    fn add(
        &mut self,
        rule: &'f DestinationRule,
        services: &HashMap<&'f ServiceName, &'f Service>,
    ) -> Result<(), String> {
        let named = match &rule.host {
            HostPattern::Service(service) => Some(
                found(service, rule, services).ok_or_else(|| format!("Service {service} is not known"))?,
            ),
            HostPattern::Namespace(_) | HostPattern::All => None,
        };
        let of_namespace = match &rule.host {
            HostPattern::Service(_) => named.map(|service| &service.namespace),
            HostPattern::Namespace(namespace) => Some(namespace),
            HostPattern::All => None,
        };
        let is_root = *rule.namespace == *self.root_namespace;
        if let Some(namespace) = of_namespace.filter(|namespace| **namespace != rule.namespace && !is_root) {
            return Err(format!(
                "rules act from the Service's own namespace and from {} only; put it into {namespace}",
                self.root_namespace
            ));
        }
        let rules = self.rules.entry(&rule.namespace).or_default();
        let elder = if let Some(service) = named {
            match rules.exact.entry(service) {
                Entry::Vacant(vacant) => {
                    vacant.insert(rule);
                    None
                }
                Entry::Occupied(elder) => Some(*elder.get()),
            }
        } else {
            let elder = rules.wide.iter().find(|elder| elder.host == rule.host).copied();
            if elder.is_none() {
                rules.wide.push(rule);
            }
            elder
        };
        match elder {
            Some(elder) => Err(format!("the older {} acts on this host", elder.meta.object)),
            None => Ok(()),
        }
    }
}

impl<'f> Rules<'f> {
    fn of(&self, service: &ServiceName) -> Option<&'f DestinationRule> {
        let exact = self.exact.get(service).copied();
        exact.or_else(|| self.wide.iter().find(|rule| rule.host.matches(service)).copied())
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

/// The Service that a rule's host names: `NAME.NAMESPACE`, or the host of a ServiceEntry of the rule's namespace.
fn found<'f>(
    host: &ServiceName,
    rule: &DestinationRule,
    services: &HashMap<&'f ServiceName, &'f Service>,
) -> Option<&'f ServiceName> {
    let declared = |name: &ServiceName| services.get_key_value(name).map(|(name, _)| *name);
    declared(host).or_else(|| {
        let written = format!("{}.{}", host.name, host.namespace);
        declared(&ServiceName::new(&rule.namespace, &written))
    })
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
    }
}

/// Istio's and Envoy's default.
const AFFINITY_RING: u32 = 1024;
