//! Services, one after the other, with what stands behind their ports.
//!
//! Place in the walk: part of [`super::Services::index`]. Must not know: routes, policies.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Services;
use crate::balance::Health;
use crate::mesh::facts::Rejection;
use crate::mesh::service::{AppProtocol, Endpoint, EndpointCondition, Service, ServiceName, ServicePort};
use crate::mesh::traffic::{DestinationRule, Locality, Subset};
use crate::mesh::workload::Workload;
use crate::snapshot::candidate::{Candidate, Front, Spread};
use crate::snapshot::known::{KnownService, Ports, View};
use crate::snapshot::loads::{LoadKey, Loads};
use crate::snapshot::rules::Apart;
use crate::snapshot::slices::{EndpointsOfPorts, by_port};
use crate::snapshot::traffic::Traffic;
use crate::snapshot::upstream::Upstream;
use crate::snapshot::workloads::Workloads;
use crate::snapshot::{InboundPort, SnapshotSettings};

/// An index that is being made.
pub(super) struct Indexing<'a> {
    pub(super) index: Services,
    workloads: &'a Workloads,
    traffic: Traffic<'a>,
    node: &'a str,
    previous: Option<&'a Services>,
    places: HashSet<Arc<Locality>>,
    /// Those that were made.
    views: usize,
    rejections: &'a mut Vec<Rejection>,
}

/// The ports of a Service, each with what may stand behind it.
type Open<'f> = Vec<(&'f ServicePort, Vec<Candidate<'f>>)>;

impl<'a> Indexing<'a> {
    pub(super) fn new(
        workloads: &'a Workloads,
        traffic: Traffic<'a>,
        settings: &'a SnapshotSettings,
        previous: Option<&'a Services>,
        rejections: &'a mut Vec<Rejection>,
    ) -> Self {
        let loads = previous.map_or_else(Loads::default, |previous| previous.loads.clone());
        loads.forget_unused();
        Self {
            index: Services {
                classes: traffic.rules.classes(),
                // They are large, and would be larger while they grow.
                by_name: HashMap::with_capacity(previous.map_or(0, |previous| previous.by_name.len())),
                inbound: HashMap::with_capacity(previous.map_or(0, |previous| previous.inbound.len())),
                loads,
                ..Services::default()
            },
            workloads,
            traffic,
            node: &settings.node,
            previous,
            places: HashSet::new(),
            views: 0,
            rejections,
        }
    }

    pub(super) fn add(&mut self, service: &Service, endpoints: &[Endpoint]) {
        if self.index.by_name.contains_key(&service.name) {
            self.rejections.push(
                service
                    .meta
                    .reject("metadata.name", "another Service has this name already"),
            );
            return;
        }
        let Services {
            addresses, by_name, ..
        } = &mut self.index;
        let exported_to = |owner: &ServiceName| by_name.get(owner).map(|known| &known.exported_to);
        let refused = addresses.claim(service, self.workloads, exported_to);
        self.rejections.extend(refused);
        let open = self.open(service, by_port(endpoints));
        let made = KnownService {
            is_headless: service.is_headless,
            exported_to: service.traffic.exported_to.clone(),
            views: self.views(service, &open),
            common: self.common(service, open),
            subset_names: self
                .traffic
                .rules
                .subsets(&service.name)
                .into_iter()
                .cloned()
                .collect(),
        };
        let previous = self
            .previous
            .and_then(|previous| previous.by_name.get(&service.name));
        let same = previous.filter(|previous| previous.is_as(&made));
        let known = same.map_or_else(|| Arc::new(made), Arc::clone);
        self.index.by_name.insert(service.name.clone(), known);
    }

    fn open<'f>(&mut self, service: &'f Service, mut by_port_name: EndpointsOfPorts<'f>) -> Open<'f> {
        let mut open: Open<'f> = Vec::new();
        for (position, port) in service.ports.iter().enumerate() {
            if open.iter().any(|(known, _)| known.port == port.port) {
                self.rejections.push(service.meta.reject(
                    &format!("spec.ports[{position}].port"),
                    format!("port {} is declared twice; the first counts", port.port),
                ));
                continue;
            }
            let of_port = by_port_name.remove(port.name.as_ref()).unwrap_or_default();
            let candidates = self.candidates(service, port, of_port);
            open.push((port, candidates));
        }
        for (port_name, orphans) in by_port_name {
            let why = format!(
                "Service {} has no TCP port named {port_name:?}; these endpoints are not used",
                service.name
            );
            self.reject_orphans(orphans.into_values(), &why);
        }
        open
    }

    fn common(&self, service: &Service, open: Open<'_>) -> Ports {
        let previous = self.previous.and_then(|previous| previous.get(&service.name));
        let rule = self.traffic.rules.common(&service.name);
        self.ports(service, open, rule, previous.map(|known| &known.common))
    }

    /// What clients use for whom another rule acts.
    fn views(&mut self, service: &Service, open: &Open<'_>) -> Vec<View> {
        let mut views = Vec::new();
        for Apart { rule, classes } in self.traffic.rules.apart(&service.name) {
            if self.views >= MOST_VIEWS {
                self.rejections
                    .push(rule.meta.reject("spec.host", TOO_MANY_VIEWS));
                continue;
            }
            self.views += 1;
            let known = self.previous.and_then(|previous| previous.get(&service.name));
            let previous = known.and_then(|known| known.view(&rule.meta.object));
            views.push(View {
                rule: Arc::clone(&rule.meta.object),
                classes,
                ports: self.ports(service, open.clone(), Some(rule), previous),
            });
        }
        views
    }

    fn ports(
        &self,
        service: &Service,
        open: Open<'_>,
        rule: Option<&DestinationRule>,
        previous: Option<&Ports>,
    ) -> Ports {
        let mut ports = Ports::default();
        let subsets = rule.map_or(&[][..], |rule| &rule.subsets);
        for (port, candidates) in open {
            let previous = |subset| previous.and_then(|previous| previous.get(port.port, subset));
            for subset in subsets {
                let carrying = candidates.iter().filter(|one| one.carries(&subset.labels));
                let carrying = carrying.cloned().collect();
                let facing = Facing {
                    service,
                    port,
                    rule,
                    subset: Some(subset),
                };
                let upstream = self.upstream(facing, carrying, previous(Some(&*subset.name)));
                let of_subset = ports.subsets.entry(Arc::clone(&subset.name)).or_default();
                of_subset.insert(port.port, upstream);
            }
            let facing = Facing {
                service,
                port,
                rule,
                subset: None,
            };
            let upstream = self.upstream(facing, candidates, previous(None));
            ports.whole.insert(port.port, upstream);
        }
        ports
    }

    /// The endpoints that may stand behind a port.
    fn candidates<'f>(
        &mut self,
        service: &Service,
        port: &ServicePort,
        endpoints: BTreeMap<SocketAddr, &'f Endpoint>,
    ) -> Vec<Candidate<'f>> {
        let mut candidates = Vec::with_capacity(endpoints.len());
        let said = Arc::new(InboundPort {
            protocol: port.protocol,
            service: Some(service.name.clone()),
            tls: self.traffic.tls(service, port),
        });
        for (addr, endpoint) in endpoints {
            let workload = match self.workload_of(addr, endpoint) {
                Ok(workload) => workload,
                Err(reason) => {
                    self.rejections.push(endpoint.meta.reject("endpoints", reason));
                    continue;
                }
            };
            if let Some(workload) = &workload {
                self.learn_inbound(workload, addr.port(), service, &said);
            }
            let locality = self.traffic.locality(workload.as_deref(), &endpoint.place);
            let locality = self.place(locality);
            let key = (addr, workload.as_ref().map(|workload| workload.uid.clone()));
            let load = self.index.loads.of(key.clone());
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
        facing: Facing<'_>,
        candidates: Vec<Candidate<'_>>,
        previous: Option<&Arc<Upstream>>,
    ) -> Arc<Upstream> {
        let Facing {
            service,
            port,
            rule,
            subset,
        } = facing;
        let front = Front {
            service: &service.name,
            port,
            subset: subset.map(|subset| &subset.name),
        };
        let mut rng = SmallRng::seed_from_u64(seed(self.node, front));
        let spread = Spread {
            policy: self.traffic.policy(service, port, rule, subset),
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
        let made = Upstream::assemble(front, spread, candidates, previous.map(AsRef::as_ref), &mut rng);
        // A change is one of few Services: the others go on in the memory that they have.
        let same = previous.filter(|previous| previous.is_as(&made));
        same.map_or_else(|| Arc::new(made), Arc::clone)
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

    fn learn_inbound(
        &mut self,
        workload: &Workload,
        pod_port: u16,
        service: &Service,
        said: &Arc<InboundPort>,
    ) {
        let pods = self.index.pods.entry(service.name.clone()).or_default();
        pods.push((workload.uid.clone(), pod_port));
        // Mostly it has one.
        let ports = self.index.inbound.entry(workload.uid.clone());
        let ports = ports.or_insert_with(|| Vec::with_capacity(1));
        let Some((_, known)) = ports.iter_mut().find(|(port, _)| *port == pod_port) else {
            ports.push((pod_port, Arc::clone(said)));
            return;
        };
        let known = Arc::make_mut(known);
        if known.protocol != said.protocol {
            known.protocol = AppProtocol::Detect;
        }
        known.tls = known.tls.take().or_else(|| said.tls.clone());
        if known.service.as_ref().is_none_or(|name| service.name < *name) {
            known.service = Some(service.name.clone());
        }
    }

    /// One in memory for all that stands there.
    fn place(&mut self, locality: Locality) -> Arc<Locality> {
        if let Some(known) = self.places.get(&locality) {
            return Arc::clone(known);
        }
        let place = Arc::new(locality);
        self.places.insert(Arc::clone(&place));
        place
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

    pub(super) fn reject_orphans<'e>(&mut self, orphans: impl Iterator<Item = &'e Endpoint>, why: &str) {
        // One rejection a slice, not one an endpoint.
        let metas: HashSet<_> = orphans.map(|endpoint| &endpoint.meta).collect();
        self.rejections
            .extend(metas.into_iter().map(|meta| meta.reject("ports", why)));
    }
}

/// What an upstream stands for.
#[derive(Debug, Clone, Copy)]
struct Facing<'f> {
    service: &'f Service,
    port: &'f ServicePort,
    rule: Option<&'f DestinationRule>,
    subset: Option<&'f Subset>,
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

/// Of one snapshot. Each costs as much memory as the Service's endpoints once more.
const MOST_VIEWS: usize = 10_000;
const TOO_MANY_VIEWS: &str =
    "rules act for single clients on more than 10000 Services; for some the common rule acts instead";
