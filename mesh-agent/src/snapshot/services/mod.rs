//! Services by name and by cluster address, their endpoints, and what these tell of the pods' own ports.
//!
//! Place in the walk: what is behind a cluster address, what a pod's port speaks. Must not know: routes, policies.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::candidate::{Candidate, Front, Spread};
use super::checked::{Checked, CheckedEndpoints};
use super::slices::{EndpointsOfPorts, group};
use super::traffic::Traffic;
use super::upstream::Upstream;
use super::workloads::Workloads;
use super::{InboundPort, SnapshotSettings};
use crate::balance::{Health, Load};
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::service::{AppProtocol, Endpoint, EndpointCondition, Service, ServiceName, ServicePort};
use crate::mesh::traffic::{Locality, Subset};
use crate::mesh::workload::{Workload, WorkloadUid};

#[derive(Debug, Default)]
pub(super) struct Services {
    by_name: HashMap<ServiceName, KnownService>,
    by_vip: HashMap<IpAddr, ServiceName>,
    inbound: HashMap<WorkloadUid, HashMap<u16, InboundPort>>,
    /// The ports of pods behind a Service, ready or not.
    pods: HashMap<ServiceName, Vec<(WorkloadUid, u16)>>,
    loads: HashMap<LoadKey, Arc<Load>>,
    checked: CheckedEndpoints,
}

#[derive(Debug)]
pub(super) struct KnownService {
    pub(super) is_headless: bool,
    pub(super) upstreams: BTreeMap<u16, Arc<Upstream>>,
    /// The same ports with some of the endpoints, by the name that a DestinationRule gives these.
    subsets: HashMap<Arc<str>, BTreeMap<u16, Arc<Upstream>>>,
}

/// A new pod at an old address begins with no load.
type LoadKey = (SocketAddr, Option<WorkloadUid>);

impl Services {
    pub(super) fn index(
        facts: &Facts,
        workloads: &Workloads,
        settings: &SnapshotSettings,
        previous: Option<&Self>,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let traffic = Traffic::index(facts, &settings.node, &settings.root_namespace, rejections);
        let mut by_service = group(&facts.endpoints);
        let mut eldest_first: Vec<_> = facts.services.iter().collect();
        // Whoever writes a ServiceEntry takes no address from a Service, however old the entry is.
        eldest_first.sort_by_key(|service| (service.name.is_host(), service.meta.seniority()));
        let mut indexing = Indexing {
            index: Self::default(),
            workloads,
            traffic,
            node: &settings.node,
            previous,
            rejections,
        };
        for service in eldest_first {
            indexing.add(service, &mut by_service);
        }
        for (service, orphans) in by_service {
            let why = format!("Service {service} is not known; these endpoints are not used");
            indexing.reject_orphans(orphans.into_values(), &why);
        }
        indexing.index
    }

    pub(super) fn get(&self, service: &ServiceName) -> Option<&KnownService> {
        self.by_name.get(service)
    }

    pub(super) fn upstream(&self, service: &ServiceName, port: u16) -> Option<&Arc<Upstream>> {
        self.by_name.get(service)?.upstreams.get(&port)
    }

    /// A port of a Service, or of a subset of its endpoints.
    pub(super) fn backend(
        &self,
        service: &ServiceName,
        port: u16,
        subset: Option<&str>,
    ) -> Option<&Arc<Upstream>> {
        match subset {
            None => self.upstream(service, port),
            Some(subset) => self.by_name.get(service)?.subsets.get(subset)?.get(&port),
        }
    }

    /// All, those of subsets too.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.by_name.values().flat_map(|service| {
            let of_subsets = service.subsets.values().flat_map(BTreeMap::values);
            service.upstreams.values().chain(of_subsets)
        })
    }

    /// The endpoints whose health is checked.
    pub(super) fn checked(&self) -> impl Iterator<Item = &Arc<Checked>> {
        self.checked.all()
    }

    /// The ports of one Service.
    pub(super) fn of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Upstream>> {
        let known = self.by_name.get(service).into_iter();
        known.flat_map(|service| service.upstreams.values())
    }

    /// The ports of a pod that Services tell something of, in no order.
    pub(super) fn inbound_ports(&self, uid: &WorkloadUid) -> impl Iterator<Item = u16> {
        self.inbound.get(uid).into_iter().flat_map(HashMap::keys).copied()
    }

    pub(super) fn at(&self, addr: IpAddr) -> Option<&ServiceName> {
        self.by_vip.get(&addr.to_canonical())
    }

    pub(super) fn vips(&self) -> impl ExactSizeIterator<Item = (IpAddr, &ServiceName)> {
        self.by_vip.iter().map(|(addr, service)| (*addr, service))
    }

    /// The ports of pods behind a Service, those that are not ready too; `None` when there is no such Service.
    pub(super) fn pods(&self, service: &ServiceName) -> Option<Vec<(WorkloadUid, u16)>> {
        self.by_name.get(service)?;
        Some(self.pods.get(service).cloned().unwrap_or_default())
    }

    pub(super) fn inbound(&self, uid: &WorkloadUid, port: u16) -> Option<&InboundPort> {
        self.inbound.get(uid)?.get(&port)
    }
}

/// An index that is being made.
struct Indexing<'a> {
    index: Services,
    workloads: &'a Workloads,
    traffic: Traffic<'a>,
    node: &'a str,
    previous: Option<&'a Services>,
    rejections: &'a mut Vec<Rejection>,
}

impl Indexing<'_> {
    fn add<'f>(
        &mut self,
        service: &'f Service,
        endpoints: &mut HashMap<&'f ServiceName, EndpointsOfPorts<'f>>,
    ) {
        if self.index.by_name.contains_key(&service.name) {
            self.rejections.push(
                service
                    .meta
                    .reject("metadata.name", "another Service has this name already"),
            );
            return;
        }
        self.claim_vips(service);
        let mut by_port_name = endpoints.remove(&service.name).unwrap_or_default();
        let mut upstreams = BTreeMap::new();
        let mut subsets: HashMap<_, BTreeMap<_, _>> = HashMap::new();
        for (position, port) in service.ports.iter().enumerate() {
            if upstreams.contains_key(&port.port) {
                self.rejections.push(service.meta.reject(
                    &format!("spec.ports[{position}].port"),
                    format!("port {} is declared twice; the first counts", port.port),
                ));
                continue;
            }
            let of_port = by_port_name.remove(port.name.as_ref()).unwrap_or_default();
            let candidates = self.candidates(service, port, of_port);
            for subset in self.traffic.subsets(&service.name) {
                let chosen = candidates
                    .iter()
                    .filter(|one| one.carries(&subset.labels))
                    .cloned()
                    .collect();
                let upstream = self.upstream(service, port, Some(subset), chosen);
                let of_subset = subsets.entry(Arc::clone(&subset.name)).or_default();
                of_subset.insert(port.port, Arc::new(upstream));
            }
            let whole = self.upstream(service, port, None, candidates);
            upstreams.insert(port.port, Arc::new(whole));
        }
        for (port_name, orphans) in by_port_name {
            let why = format!(
                "Service {} has no TCP port named {port_name:?}; these endpoints are not used",
                service.name
            );
            self.reject_orphans(iter::once(orphans), &why);
        }
        let known = KnownService {
            is_headless: service.is_headless,
            upstreams,
            subsets,
        };
        self.index.by_name.insert(service.name.clone(), known);
    }

    /// A ServiceEntry takes no address from a pod: it would lead the pod's traffic elsewhere.
    fn claim_vips(&mut self, service: &Service) {
        let is_host = service.name.is_host();
        for vip in &service.vips {
            let pod = self.workloads.at(*vip).filter(|_| is_host);
            let owner = match (self.index.by_vip.entry(vip.to_canonical()), pod) {
                (Entry::Occupied(elder), _) if *elder.get() == service.name => continue,
                (Entry::Occupied(elder), _) => format!("Service {}", elder.get()),
                (Entry::Vacant(_), Some(pod)) => pod.meta.object.to_string(),
                (Entry::Vacant(vacant), None) => {
                    vacant.insert(service.name.clone());
                    continue;
                }
            };
            let field = if is_host {
                "spec.addresses"
            } else {
                "spec.clusterIPs"
            };
            let reason = format!("{vip} belongs to {owner} already; traffic to it goes there");
            self.rejections.push(service.meta.reject(field, reason));
        }
    }

    /// The endpoints that may stand behind a port.
    fn candidates<'f>(
        &mut self,
        service: &Service,
        port: &ServicePort,
        endpoints: BTreeMap<SocketAddr, &'f Endpoint>,
    ) -> Vec<Candidate<'f>> {
        let mut candidates = Vec::with_capacity(endpoints.len());
        for (addr, endpoint) in endpoints {
            let workload = match self.workload_of(addr, endpoint) {
                Ok(workload) => workload,
                Err(reason) => {
                    self.rejections.push(endpoint.meta.reject("endpoints", reason));
                    continue;
                }
            };
            if let Some(workload) = &workload {
                self.learn_inbound(workload, addr.port(), service, port);
            }
            let locality = self.traffic.locality(workload.as_deref(), &endpoint.place);
            let key = (addr, workload.as_ref().map(|workload| workload.uid.clone()));
            let load = self.load(key.clone());
            let health = self.health(service, endpoint, &locality, key);
            candidates.push(Candidate {
                addr,
                condition: endpoint.condition,
                workload,
                load,
                health,
                locality,
                slice: &endpoint.place,
                labels: &endpoint.labels,
                weight: endpoint.weight,
            });
        }
        candidates
    }

    fn upstream(
        &self,
        service: &Service,
        port: &ServicePort,
        subset: Option<&Subset>,
        candidates: Vec<Candidate<'_>>,
    ) -> Upstream {
        let front = Front {
            service: &service.name,
            port,
            subset: subset.map(|subset| &subset.name),
        };
        let name = front.subset.map(AsRef::as_ref);
        let previous = self
            .previous
            .and_then(|previous| previous.backend(&service.name, port.port, name));
        let mut rng = SmallRng::seed_from_u64(seed(self.node, front));
        let spread = Spread {
            policy: self.traffic.policy(service, port, subset),
            nearest: service.traffic.nearest,
            is_local_only: service.traffic.is_local_only,
            keeps_dialled: service.traffic.keeps_dialled,
            resilience: &service.resilience,
            own: self.traffic.own(),
            checked: service.traffic.health_check.as_ref().and_then(|check| {
                let usage = self.index.checked.usage(&service.name)?;
                Some((Arc::clone(usage), check.panic_percent))
            }),
        };
        Upstream::assemble(front, spread, candidates, previous.map(AsRef::as_ref), &mut rng)
    }

    /// An endpoint that names a pod is used only if the pod is known and has the address: identity hangs on it.
    fn workload_of(&self, addr: SocketAddr, endpoint: &Endpoint) -> Result<Option<Arc<Workload>>, String> {
        let Some(uid) = &endpoint.workload else {
            return Ok(self.workloads.at(addr.ip()).cloned());
        };
        let Some(workload) = self.workloads.get(uid) else {
            return Err(format!(
                "{addr} names the Pod with uid {uid}, which is not known; the endpoint is not used"
            ));
        };
        if workload.addrs.iter().any(|own| own.to_canonical() == addr.ip()) {
            return Ok(Some(Arc::clone(workload)));
        }
        Err(format!(
            "{addr} is no address of {}, which it names; the endpoint is not used",
            workload.meta.object
        ))
    }

    fn learn_inbound(&mut self, workload: &Workload, pod_port: u16, service: &Service, port: &ServicePort) {
        let tls = self.traffic.tls(&service.name, port);
        let pods = self.index.pods.entry(service.name.clone()).or_default();
        pods.push((workload.uid.clone(), pod_port));
        let ports = self.index.inbound.entry(workload.uid.clone()).or_default();
        match ports.entry(pod_port) {
            Entry::Vacant(vacant) => {
                vacant.insert(InboundPort {
                    protocol: port.protocol,
                    service: Some(service.name.clone()),
                    tls,
                });
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if known.protocol != port.protocol {
                    known.protocol = AppProtocol::Detect;
                }
                known.tls = known.tls.take().or(tls);
                if known.service.as_ref().is_none_or(|name| service.name < *name) {
                    known.service = Some(service.name.clone());
                }
            }
        }
    }

    /// One load for an address, however many Services it stands behind.
    fn load(&mut self, key: LoadKey) -> Arc<Load> {
        let previous = self.previous.and_then(|previous| previous.loads.get(&key));
        let of_key = self.index.loads.entry(key);
        Arc::clone(of_key.or_insert_with(|| previous.cloned().unwrap_or_default()))
    }

    /// Only what may be used from here is asked, and a pod that terminates is left alone.
    fn health(
        &mut self,
        service: &Service,
        endpoint: &Endpoint,
        locality: &Locality,
        key: LoadKey,
    ) -> Option<Arc<Health>> {
        let check = service.traffic.health_check.as_ref()?;
        let is_near = !service.traffic.is_local_only || locality.node == self.traffic.own().node;
        let is_usable = is_near && endpoint.condition == EndpointCondition::Ready;
        let previous = self.previous.map(|previous| &previous.checked);
        is_usable.then(|| {
            let checked = &mut self.index.checked;
            checked.endpoint(&service.name, check, key, previous)
        })
    }

    fn reject_orphans<'e>(
        &mut self,
        orphans: impl Iterator<Item = BTreeMap<SocketAddr, &'e Endpoint>>,
        why: &str,
    ) {
        // One rejection a slice, not one an endpoint.
        let metas: HashSet<_> = orphans
            .flat_map(BTreeMap::into_values)
            .map(|endpoint| &endpoint.meta)
            .collect();
        self.rejections
            .extend(metas.into_iter().map(|meta| meta.reject("ports", why)));
    }
}

/// A round robin's start: the same for one node and port, so that building is pure, and another on other nodes.
fn seed(node: &str, front: Front<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (node, front.service, front.port.port).hash(&mut hasher);
    if let Some(subset) = front.subset {
        subset.hash(&mut hasher);
    }
    hasher.finish()
}
