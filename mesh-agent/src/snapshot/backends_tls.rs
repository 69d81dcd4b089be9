//! Which `BackendTLSPolicy` is in force for a port of a Service.
//!
//! Place in the walk: part of what [`super::traffic`] settles. Must not know: endpoints, certificates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Snapshot;
use crate::mesh::backend_tls::{BackendTls, BackendTlsPolicy};
use crate::mesh::facts::Rejection;
use crate::mesh::service::{Service, ServiceName};

/// By Service and name of the port; of several for one the eldest counts.
#[derive(Debug)]
pub(super) struct BackendsTls<'f>(HashMap<(&'f ServiceName, Option<&'f str>), &'f BackendTlsPolicy>);

impl<'f> BackendsTls<'f> {
    pub(super) fn index(
        policies: &'f [BackendTlsPolicy],
        known: &HashMap<&ServiceName, &Service>,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let mut eldest_first: Vec<_> = policies.iter().collect();
        eldest_first.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        let mut index: HashMap<_, &BackendTlsPolicy> = HashMap::new();
        for policy in eldest_first {
            for target in &policy.targets {
                let section = target.section.as_deref();
                let wrong = match known.get(&target.service) {
                    None => ("name", format!("Service {} is not known", target.service)),
                    Some(service) if !has_port(service, section) => {
                        let reason = format!("Service {} has no such TCP port", target.service);
                        ("sectionName", reason)
                    }
                    Some(_) => match index.entry((&target.service, section)) {
                        Entry::Vacant(vacant) => {
                            vacant.insert(policy);
                            continue;
                        }
                        Entry::Occupied(elder) => (
                            "name",
                            format!("the older {} acts there", elder.get().meta.object),
                        ),
                    },
                };
                let (field, reason) = wrong;
                let field = format!("{}.{field}", target.field);
                rejections.push(policy.meta.reject(&field, reason));
            }
        }
        Self(index)
    }

    /// What is said of the port itself goes before what is said of the whole Service.
    pub(super) fn of(&self, service: &ServiceName, port_name: &str) -> Option<&'f Arc<BackendTls>> {
        let of_port = self.0.get(&(service, Some(port_name)));
        of_port
            .or_else(|| self.0.get(&(service, None)))
            .map(|policy| &policy.tls)
    }
}

impl Snapshot {
    /// Whether applications behind any port are spoken to so.
    pub fn speaks(&self, tls: &BackendTls) -> bool {
        let mut spoken = self.upstreams().filter_map(|upstream| upstream.tls());
        spoken.any(|spoken| **spoken == *tls)
    }
}

fn has_port(service: &Service, section: Option<&str>) -> bool {
    section.is_none_or(|section| service.ports.iter().any(|port| *port.name == *section))
}
