//! CUSTOM policies whose provider cannot be asked about what comes: connections, by one that is only asked about requests.
//!
//! Place in the walk: used when a snapshot is built, for what the operator is told. Must not know: how providers are
//! asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mesh_settings::MeshSettings;
use super::services::Services;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::external::CheckProtocol;
use crate::mesh::service::AppProtocol;
use crate::mesh::workload::Workload;
use crate::policy::authorization::Authorization;

/// One report for each such policy, of the first port at which it refuses what nobody can be asked about.
pub(super) fn reports<'w>(
    local: impl Iterator<Item = &'w Workload>,
    services: &Services,
    settings: &MeshSettings,
    authorization: &Authorization,
) -> Vec<Rejection> {
    let mut found: BTreeMap<Arc<str>, Rejection> = BTreeMap::new();
    let speaks_http = |provider: &Arc<str>| {
        let authorizer = settings.authorizers.get(provider);
        authorizer.is_some_and(|authorizer| matches!(authorizer.protocol, CheckProtocol::Http(_)))
    };
    let mut local: Vec<&Workload> = local.collect();
    local.sort_by_key(|workload| (&workload.namespace, &workload.pod_name));
    for workload in local {
        let protection = authorization.of(workload);
        for port in opaque_ports(services, workload) {
            let policies = protection.asking_about(port);
            for policy in policies.filter(|policy| policy.provider.as_ref().is_some_and(speaks_http)) {
                let object = Arc::clone(&policy.meta.object);
                found.entry(object).or_insert_with(|| {
                    policy.meta.reject(
                        "spec.provider.name",
                        format!(
                            "port {port} of pod {}/{} carries no HTTP, and an HTTP provider cannot be asked about its \
                             connections: those that the rules match are refused; name a gRPC provider, or other ports",
                            workload.namespace, workload.pod_name
                        ),
                    )
                });
            }
        }
    }
    found.into_values().collect()
}

/// The ports that Services say carry no HTTP, in order.
fn opaque_ports(services: &Services, workload: &Workload) -> Vec<u16> {
    let is_opaque = |port: &u16| {
        let inbound = services.inbound(&workload.uid, *port);
        inbound.is_some_and(|inbound| inbound.protocol == AppProtocol::Tcp)
    };
    let mut ports: Vec<u16> = services.inbound_ports(&workload.uid).filter(is_opaque).collect();
    ports.sort_unstable();
    ports
}
