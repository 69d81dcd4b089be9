//! The names of known Services, indexed for questions.
//!
//! Must not know: messages.

use std::collections::btree_map::Entry as Turn;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::mesh::export::Export;
use crate::mesh::facts::Facts;
use crate::mesh::service::{Endpoint, EndpointCondition, Service, ServiceName};
use crate::mesh::slice::Behind;

/// Every Service that a question may be about.
#[derive(Debug, Default, PartialEq)]
pub struct Names {
    by_namespace: HashMap<Arc<str>, HashMap<Arc<str>, Seen>>,
    by_addr: HashMap<IpAddr, Vec<Owner>>,
    /// Hosts of ServiceEntries: for each name the namespaces that declare it, the elder first.
    hosts: HashMap<Arc<str>, Vec<(Arc<str>, Seen)>>,
}

/// What is known of a Service, and by whose questions.
#[derive(Debug, PartialEq)]
struct Seen {
    known: Known,
    by: Export,
}

impl Seen {
    fn from(&self, client: &str) -> Option<&Known> {
        self.by.reaches(client).then_some(&self.known)
    }
}

/// What is known of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It has addresses of its own.
    Cluster {
        /// `clusterIPs`.
        addrs: Vec<IpAddr>,
        /// Its TCP ports: name and number.
        ports: Vec<(Arc<str>, u16)>,
    },
    /// Its addresses are those of its endpoints.
    Headless(Vec<Member>),
}

/// One address behind a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is called below the Service: its hostname, as pods of a `StatefulSet` have one, else its address with dashes.
    pub label: Arc<str>,
    /// Its address.
    pub addr: IpAddr,
    /// Its TCP ports: the Service port's name, and its own number.
    pub ports: Vec<(Arc<str>, u16)>,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The Service.
    pub service: ServiceName,
    /// The member of it; `None` for the Service itself.
    pub member: Option<Arc<str>>,
}

impl Names {
    /// Indexes the Services of `facts`. Of two with one name, or one address, the elder counts.
    ///
    /// A Service without an address yet is not known, and neither is a headless one without TCP ports: the facts hold no
    /// endpoints of others.
    pub fn index(facts: &Facts) -> Self {
        let mut eldest_first: Vec<&Service> = facts.services.iter().map(Deref::deref).collect();
        eldest_first.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        let mut endpoints = Behind::by_service(facts, []);
        let mut names = Self::default();
        for service in eldest_first {
            if let Some(known) = known(service, &mut endpoints) {
                let by = service.traffic.exported_to.clone();
                names.add(&service.name, Seen { known, by });
            }
        }
        names
    }

    /// [`Self::index`]; `previous` itself where it says the same.
    pub fn following(facts: &Facts, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let made = Self::index(facts);
        let same = previous.filter(|previous| ***previous == made);
        same.map_or_else(|| Arc::new(made), Arc::clone)
    }

    /// The Service of this name, in lower case, if it is exported to the namespace of `client`.
    pub fn service(&self, client: &str, namespace: &str, name: &str) -> Option<&Known> {
        self.by_namespace.get(namespace)?.get(name)?.from(client)
    }

    /// The host of a ServiceEntry, in lower case and without a dot at its end: that of the client's own namespace, else
    /// the eldest that is exported to it.
    pub fn host(&self, client: &str, name: &str) -> Option<&Known> {
        let declared = self.hosts.get(name)?;
        let own = declared.iter().find(|(namespace, _)| **namespace == *client);
        let mut all = own.into_iter().chain(declared);
        all.find_map(|(_, seen)| seen.from(client))
    }

    /// Whose an address is, as far as the client may know.
    pub fn owners(&self, client: &str, addr: IpAddr) -> Vec<&Owner> {
        let owners = self.by_addr.get(&addr).into_iter().flatten();
        let is_seen =
            |service: &ServiceName| self.service(client, &service.namespace, &service.name).is_some();
        owners.filter(|owner| is_seen(&owner.service)).collect()
    }

    fn add(&mut self, name: &ServiceName, seen: Seen) {
        if name.is_host() {
            let declared = self.hosts.entry(Arc::clone(&name.name)).or_default();
            declared.push((Arc::clone(&name.namespace), seen));
            return;
        }
        let services = self.by_namespace.entry(Arc::clone(&name.namespace)).or_default();
        let Entry::Vacant(vacant) = services.entry(Arc::clone(&name.name)) else {
            return;
        };
        let owner = |member| Owner {
            service: name.clone(),
            member,
        };
        match &vacant.insert(seen).known {
            Known::Cluster { addrs, .. } => {
                for addr in addrs {
                    self.by_addr.entry(*addr).or_insert_with(|| vec![owner(None)]);
                }
            }
            Known::Headless(members) => {
                for member in members {
                    let owners = self.by_addr.entry(member.addr).or_default();
                    // A cluster address has one owner.
                    if owners.iter().all(|owner| owner.member.is_some()) {
                        owners.push(owner(Some(Arc::clone(&member.label))));
                    }
                }
            }
        }
    }
}

fn known(service: &Service, endpoints: &mut HashMap<&ServiceName, Behind<'_>>) -> Option<Known> {
    let ports = service.ports.iter();
    if !service.is_headless {
        return (!service.vips.is_empty()).then(|| Known::Cluster {
            addrs: service.vips.iter().map(IpAddr::to_canonical).collect(),
            ports: ports.map(|port| (Arc::clone(&port.name), port.port)).collect(),
        });
    }
    let endpoints = endpoints.remove(&service.name).unwrap_or_default();
    (!service.ports.is_empty()).then(|| Known::Headless(members(&endpoints.endpoints())))
}

/// The ready endpoints, or where none is, those that end but still serve: the ones that connections would be sent to.
fn members(endpoints: &[Endpoint]) -> Vec<Member> {
    let of = |condition| {
        endpoints
            .iter()
            .filter(move |endpoint| endpoint.condition == condition)
    };
    let condition = match of(EndpointCondition::Ready).next() {
        Some(_) => EndpointCondition::Ready,
        None => EndpointCondition::ServingTerminating,
    };
    let mut members: BTreeMap<IpAddr, Member> = BTreeMap::new();
    for endpoint in of(condition) {
        let addr = endpoint.addr.ip();
        let port = (Arc::clone(&endpoint.port_name), endpoint.addr.port());
        match members.entry(addr) {
            Turn::Vacant(vacant) => {
                vacant.insert(Member {
                    label: label(endpoint),
                    addr,
                    ports: vec![port],
                });
            }
            Turn::Occupied(mut known) => {
                let ports = &mut known.get_mut().ports;
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
        }
    }
    members.into_values().collect()
}

fn label(endpoint: &Endpoint) -> Arc<str> {
    match &endpoint.hostname {
        Some(hostname) => Arc::clone(hostname),
        None => endpoint.addr.ip().to_string().replace(['.', ':'], "-").into(),
    }
}
