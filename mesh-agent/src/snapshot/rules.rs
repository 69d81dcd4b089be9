//! Which DestinationRule is in force for a Service, and for whose clients.
//!
//! Place in the walk: part of what [`super::traffic`] settles. Must not know: endpoints, algorithms.
//!
//! As in Istio a rule of the client's own namespace goes before one of the Service's, and that before one of the root
//! namespace, each as far as it is exported to the client; in a namespace the more specific host goes before the others, then a
//! rule that selects the client's pod before one that does not, then the elder.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::mesh::backend_tls::WrittenTls;
use crate::mesh::export::Export;
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::service::{Service, ServiceName};
use crate::mesh::traffic::{DestinationRule, HostPattern};
use crate::mesh::workload::{Workload, WorkloadUid};

/// All rules, by the namespace they are in.
#[derive(Debug)]
pub(super) struct Rules<'f> {
    by_namespace: HashMap<&'f str, OfNamespace<'f>>,
    root_namespace: &'f str,
    /// Namespaces with a rule that does not act for everybody.
    restricted: HashSet<&'f str>,
    /// What any rule calls some endpoints of a Service.
    subsets: HashMap<&'f ServiceName, Vec<&'f DestinationRule>>,
    classes: Vec<Class>,
    /// The classes whose namespace has a rule that names the Service.
    named_by: HashMap<&'f ServiceName, Vec<usize>>,
    /// The classes whose namespace has a rule for many Services.
    wide_by: Vec<usize>,
}

#[derive(Debug, Default)]
struct OfNamespace<'f> {
    exact: HashMap<&'f ServiceName, Vec<&'f DestinationRule>>,
    /// The more specific first.
    wide: Vec<&'f DestinationRule>,
}

/// Pods of this node for whom the same rules act: of one namespace, and chosen by the same selectors.
#[derive(Debug)]
struct Class {
    example: Arc<Workload>,
    members: Vec<WorkloadUid>,
}

/// A rule that is in force for the clients of some classes, where another is for all others.
#[derive(Debug)]
pub(super) struct Apart<'f> {
    pub(super) rule: &'f DestinationRule,
    pub(super) classes: Vec<usize>,
}

/// The Services that rules may name.
type Known<'f> = HashMap<&'f ServiceName, &'f Service>;

impl<'f> Rules<'f> {
    /// `local` are the pods of this node: nobody else's clients matter here.
    pub(super) fn index(
        facts: &'f Facts,
        local: &[Arc<Workload>],
        known: &Known<'f>,
        root_namespace: &'f str,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let mut rules = Self {
            by_namespace: HashMap::new(),
            root_namespace,
            restricted: HashSet::new(),
            subsets: HashMap::new(),
            classes: Vec::new(),
            named_by: HashMap::new(),
            wide_by: Vec::new(),
        };
        let mut eldest_first: Vec<_> = facts.destination_rules.iter().collect();
        eldest_first.sort_by_key(|rule| (rule.clients.is_none(), rule.meta.seniority()));
        let hosts = hosts(facts);
        for rule in eldest_first {
            let host = match &rule.host {
                HostPattern::Service(host) => Some(host),
                HostPattern::Namespace(_) | HostPattern::All => None,
            };
            let named = host.and_then(|host| found(host, rule, known, &hosts));
            if let (Some(host), None) = (host, named) {
                let reason = format!("Service {host} is not known");
                rejections.push(rule.meta.reject("spec.host", reason));
                continue;
            }
            rejections.extend(rules.add(rule, named));
        }
        for of_namespace in rules.by_namespace.values_mut() {
            of_namespace.wide.sort_by(|a, b| a.host.cmp(&b.host));
        }
        rules.classify(local);
        rules
    }

    /// The class of each pod of this node that is in one.
    pub(super) fn classes(&self) -> HashMap<WorkloadUid, usize> {
        let classes = self.classes.iter().enumerate();
        classes
            .flat_map(|(number, class)| class.members.iter().map(move |uid| (uid.clone(), number)))
            .collect()
    }

    /// The rule for all clients but those of [`Self::apart`].
    pub(super) fn common(&self, service: &ServiceName) -> Option<&'f DestinationRule> {
        self.first([&service.namespace, self.root_namespace], service, |rule| {
            rule.acts_for(None)
        })
    }

    /// The rule that says what the pods of a Service speak themselves: the one for clients next to them.
    pub(super) fn of_neighbours(&self, service: &ServiceName) -> Option<&'f DestinationRule> {
        self.first([&service.namespace, self.root_namespace], service, |rule| {
            rule.clients.is_none() && rule.export.reaches(&service.namespace)
        })
    }

    /// The clients for whom another rule acts than for the others.
    pub(super) fn apart(&self, service: &ServiceName) -> Vec<Apart<'f>> {
        let common = self.common(service);
        let is_common = |rule: &DestinationRule| common.is_some_and(|common| std::ptr::eq(common, rule));
        let mut apart: Vec<Apart<'f>> = Vec::new();
        for number in self.concerned(service) {
            let Some(class) = self.classes.get(number) else {
                continue;
            };
            let client = &*class.example;
            let namespaces = [&*client.namespace, &service.namespace, self.root_namespace];
            let rule = self.first(namespaces, service, |rule| rule.acts_for(Some(client)));
            let Some(rule) = rule.filter(|rule| !is_common(rule)) else {
                continue;
            };
            match apart.iter_mut().find(|one| std::ptr::eq(one.rule, rule)) {
                Some(known) => known.classes.push(number),
                None => apart.push(Apart {
                    rule,
                    classes: vec![number],
                }),
            }
        }
        apart
    }

    /// The names of all subsets that a rule about the Service has, for whomever it acts.
    pub(super) fn subsets(&self, service: &ServiceName) -> BTreeSet<&'f Arc<str>> {
        let wide = self.by_namespace.values().flat_map(|rules| &rules.wide);
        let wide = wide.filter(|rule| !rule.subsets.is_empty() && rule.host.matches(service));
        let named = self.subsets.get(service).into_iter().flatten();
        let rules = named.chain(wide);
        rules
            .flat_map(|rule| &rule.subsets)
            .map(|subset| &subset.name)
            .collect()
    }

    /// The classes for which the rule may be another than the common one.
    fn concerned(&self, service: &ServiceName) -> BTreeSet<usize> {
        let is_restricted = |namespace: &str| self.restricted.contains(namespace);
        if is_restricted(&service.namespace) || is_restricted(self.root_namespace) {
            return (0..self.classes.len()).collect();
        }
        let named = self.named_by.get(service).into_iter().flatten();
        named.chain(&self.wide_by).copied().collect()
    }

    /// The first rule that `acts`, in the order of these namespaces.
    fn first<const N: usize>(
        &self,
        namespaces: [&str; N],
        service: &ServiceName,
        acts: impl Fn(&DestinationRule) -> bool,
    ) -> Option<&'f DestinationRule> {
        namespaces
            .into_iter()
            .filter_map(|namespace| self.by_namespace.get(namespace))
            .find_map(|rules| rules.of(service, &acts))
    }

    /// Adds a rule, unless an elder one acts on the same host for some of the same clients; what is to be said of it.
    fn add(&mut self, rule: &'f DestinationRule, named: Option<&'f ServiceName>) -> Option<Rejection> {
        let of_namespace = self.by_namespace.entry(&rule.namespace).or_default();
        let elders: &mut Vec<_> = match named {
            Some(service) => of_namespace.exact.entry(service).or_default(),
            None => &mut of_namespace.wide,
        };
        let is_rival = |elder: &&DestinationRule| {
            let is_same_host = named.is_some() || elder.host == rule.host;
            is_same_host && elder.clients == rule.clients && elder.export.overlaps(&rule.export)
        };
        if let Some(elder) = elders.iter().copied().find(is_rival) {
            let reason = format!("the older {} acts on this host", elder.meta.object);
            return Some(rule.meta.reject("spec.host", reason));
        }
        elders.push(rule);
        if rule.clients.is_some() || rule.export != Export::Everybody {
            self.restricted.insert(&rule.namespace);
        }
        let service = named?;
        if !rule.subsets.is_empty() {
            self.subsets.entry(service).or_default().push(rule);
        }
        let is_foreign = rule.namespace != service.namespace && *rule.namespace != *self.root_namespace;
        let is_in_vain =
            is_foreign && !service.is_host() && matches!(rule.policy.tls, Some(WrittenTls::Begun(_)));
        is_in_vain.then(|| {
            let reason = "what applications in the mesh speak is said by rules of their own namespace; ignored for them";
            rule.meta.reject("spec.trafficPolicy.tls", reason)
        })
    }

    fn classify(&mut self, local: &[Arc<Workload>]) {
        let mut by_kind: BTreeMap<(&str, Vec<usize>), usize> = BTreeMap::new();
        let mut classes: Vec<Class> = Vec::new();
        for workload in local {
            let own = self.by_namespace.get(&*workload.namespace);
            let selecting = own.into_iter().flat_map(OfNamespace::all).enumerate();
            let selecting =
                selecting.filter(|(_, rule)| rule.clients.is_some() && rule.acts_for(Some(workload)));
            let kind = (&*workload.namespace, selecting.map(|(at, _)| at).collect());
            let number = *by_kind.entry(kind).or_insert_with(|| {
                classes.push(Class {
                    example: Arc::clone(workload),
                    members: Vec::new(),
                });
                classes.len() - 1
            });
            if let Some(class) = classes.get_mut(number) {
                class.members.push(workload.uid.clone());
            }
        }
        for (number, class) in classes.iter().enumerate() {
            let Some(own) = self.by_namespace.get(&*class.example.namespace) else {
                continue;
            };
            for service in own.exact.keys() {
                self.named_by.entry(service).or_default().push(number);
            }
            if !own.wide.is_empty() {
                self.wide_by.push(number);
            }
        }
        self.classes = classes;
    }
}

impl<'f> OfNamespace<'f> {
    fn of(
        &self,
        service: &ServiceName,
        acts: &impl Fn(&DestinationRule) -> bool,
    ) -> Option<&'f DestinationRule> {
        let exact = self.exact.get(service).into_iter().flatten();
        let wide = self.wide.iter().filter(|rule| rule.host.matches(service));
        exact.chain(wide).copied().find(|rule| acts(rule))
    }

    /// In the same order as long as nothing is added.
    fn all(&self) -> impl Iterator<Item = &'f DestinationRule> {
        self.exact.values().flatten().chain(&self.wide).copied()
    }
}

/// Hosts of ServiceEntries, those of one name by namespace.
fn hosts(facts: &Facts) -> HashMap<&str, Vec<&Service>> {
    let mut hosts: HashMap<_, Vec<&Service>> = HashMap::new();
    for service in facts.services.iter().filter(|service| service.name.is_host()) {
        hosts.entry(&*service.name.name).or_default().push(service);
    }
    for of_name in hosts.values_mut() {
        of_name.sort_by(|a, b| a.name.cmp(&b.name));
    }
    hosts
}

/// The Service that a rule's host names: `NAME.NAMESPACE`, or the host of a ServiceEntry of the rule's namespace, else of
/// one that is exported there.
fn found<'f>(
    host: &ServiceName,
    rule: &DestinationRule,
    services: &Known<'f>,
    hosts: &HashMap<&str, Vec<&'f Service>>,
) -> Option<&'f ServiceName> {
    let declared = |name: &ServiceName| services.get_key_value(name).map(|(name, _)| *name);
    let written = if host.is_host() {
        host.name.as_ref().to_owned()
    } else {
        format!("{}.{}", host.name, host.namespace)
    };
    let elsewhere = || {
        let mut all = hosts.get(written.as_str()).into_iter().flatten();
        let exported = all.find(|service| service.traffic.exported_to.reaches(&rule.namespace));
        exported.map(|service| &service.name)
    };
    declared(host)
        .or_else(|| declared(&ServiceName::new(&rule.namespace, &written)))
        .or_else(elsewhere)
}
