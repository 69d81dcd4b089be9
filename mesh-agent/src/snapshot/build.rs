//! Builds a snapshot from facts.
//!
//! Place in the walk: called by `control` whenever facts change, never on the data path. Must not know: sources,
//! clocks, randomness; the same facts and the same predecessor give the same snapshot.

use std::net::IpAddr;
use std::ops::Deref;

use super::leaving::leaving;
use super::mesh_settings::MeshSettings;
use super::resilience;
use super::routes::Routes;
use super::services::Services;
use super::unasked;
use super::workloads::Workloads;
use super::{Snapshot, SnapshotSettings};
use crate::dns::names::Names;
use crate::mesh::facts::{Facts, Rejection};
use crate::policy::MtlsPolicy;
use crate::policy::authentication::Authentication;
use crate::policy::authorization::{Authorization, widened};
use crate::policy::rate_limit::RateLimits;

/// The addresses of the node that the snapshot is built for.
fn own_node(facts: &Facts, settings: &SnapshotSettings) -> impl Iterator<Item = IpAddr> {
    let own = facts.nodes.iter().filter(|node| node.name == settings.node);
    own.flat_map(|node| node.addrs.iter().map(IpAddr::to_canonical))
}

impl Snapshot {
    /// Indexes `facts`, leaves out and names what contradicts itself, and takes over from `previous` what must
    /// survive: the loads of endpoints, the turn of a round robin, what is left of limits, and the identity of unchanged
    /// workloads.
    ///
    /// Of two facts that exclude one another the elder is kept (then the first by name).
    pub fn build(
        facts: &Facts,
        settings: &SnapshotSettings,
        previous: Option<&Self>,
    ) -> (Self, Vec<Rejection>) {
        let mut rejections = Vec::new();
        // Before all else that is large: mostly it is dropped at once.
        let names = Names::following(facts, previous.map(|snapshot| &snapshot.names));
        let workloads = Workloads::index(
            &facts.workloads,
            &settings.node,
            previous.map(|snapshot| &snapshot.workloads),
            &mut rejections,
        );
        let services = Services::index(
            facts,
            &workloads,
            settings,
            previous.map(|snapshot| &snapshot.services),
            &mut rejections,
        );
        rejections.extend(resilience::reports(facts, &services));
        let routes = Routes::index(facts, &services, &mut rejections);
        let (mtls, of_policies) = MtlsPolicy::compile(
            &facts.peer_authentications,
            &settings.root_namespace,
            facts.workloads.iter().map(Deref::deref),
        );
        rejections.extend(of_policies);
        let mesh_config = MeshSettings::choose(
            &facts.mesh_configs,
            &settings.root_namespace,
            &services,
            &mut rejections,
        );
        let (authorization, of_policies) = Authorization::compile(
            &widened(&facts.authorization_policies, &settings.trust_domains),
            &settings.root_namespace,
            mesh_config.authorizers.keys().cloned().collect(),
            workloads.on(&settings.node),
            |service| services.pods(service),
            previous.map(|snapshot| &snapshot.authorization),
        );
        rejections.extend(of_policies);
        rejections.extend(unasked::reports(
            workloads.on(&settings.node),
            &services,
            &mesh_config,
            &authorization,
        ));
        let (authentication, of_policies) = Authentication::compile(
            &facts.request_authentications,
            &settings.root_namespace,
            workloads.on(&settings.node),
            |service| services.pods(service),
            previous.map(|snapshot| &snapshot.authentication),
        );
        rejections.extend(of_policies);
        let (rate_limits, of_policies) = RateLimits::compile(
            &facts.rate_limit_policies,
            &settings.root_namespace,
            workloads.on(&settings.node),
            |service| services.pods(service),
            previous.map(|snapshot| &snapshot.rate_limits),
        );
        rejections.extend(of_policies);
        rejections.sort();
        rejections.dedup();
        let version = previous.map_or(1, |snapshot| snapshot.version + 1);
        (
            Self {
                version,
                workloads,
                services,
                routes,
                mtls,
                authentication,
                authorization,
                rate_limits,
                mesh_config,
                names,
                own_node: own_node(facts, settings).collect(),
                leaving: leaving(facts),
            },
            rejections,
        )
    }
}
