//! All that a connection needs to know, in one immutable value that is loaded once and asked often.
//!
//! Place in the walk: `control` builds it, `proxy` asks it at every step, `kernel` mirrors it into maps.
//! Must not know: where facts come from, sockets, or who asks.

mod addresses;
mod attempts;
mod backends_tls;
mod build;
mod candidate;
mod cell;
mod checked;
mod direct;
mod ejected;
mod kept;
mod known;
mod leaving;
mod loads;
mod mesh_settings;
mod outlook;
mod resilience;
mod routes;
mod rules;
mod selected;
mod services;
mod slices;
mod traffic;
mod unasked;
mod unchanged;
mod upstream;
mod workloads;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use self::cell::SnapshotCell;
pub use self::checked::{Checked, Unhealthy};
pub use self::direct::{DirectLimits, DirectVerdict, DirectVerdicts, Passage};
pub use self::ejected::Ejected;
use self::mesh_settings::MeshSettings;
pub use self::outlook::GroupStanding;
use self::routes::{Routes, Tables};
use self::services::Services;
pub use self::upstream::{PickFacts, Picked, Unpicked, Upstream, UpstreamEndpoint};
use self::workloads::Workloads;
use crate::dns::names::Names;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::identity::SpiffeId;
use crate::mesh::leaving::Leaving;
use crate::mesh::mesh_config::PathForm;
use crate::mesh::policy::MtlsMode;
use crate::mesh::policy::external::Authorizer;
use crate::mesh::policy::request_authentication::RequestAuthentication;
use crate::mesh::route::BackendTarget;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::policy::MtlsPolicy;
use crate::policy::authentication::{Authentication, Guard, WantedKeys};
use crate::policy::authorization::{Authorization, Connection, Judgement, Protection, Verdict};
use crate::policy::rate_limit::{Limits, RateLimits};
use crate::route::{Backend, RouteTable, StreamTable};
use crate::telemetry::PeerLabels;

/// What a snapshot is built for.
#[derive(Debug, Clone)]
pub struct SnapshotSettings {
    /// The node of this agent, as `spec.nodeName` of its pods says it.
    pub node: Arc<str>,
    /// The namespace whose policies without selector hold for the whole mesh.
    pub root_namespace: Arc<str>,
    /// The mesh's own trust domain, then its aliases: policies that name one mean all.
    pub trust_domains: Arc<[Arc<str>]>,
}

/// The mesh at one moment, indexed for the walk.
#[derive(Debug)]
pub struct Snapshot {
    version: u64,
    workloads: Workloads,
    services: Services,
    routes: Routes,
    mtls: MtlsPolicy,
    authentication: Authentication,
    authorization: Authorization,
    rate_limits: RateLimits,
    mesh_config: MeshSettings,
    names: Arc<Names>,
    /// Addresses of the node that this agent serves.
    own_node: HashSet<IpAddr>,
    leaving: Leaving,
}

/// What stands behind an address that a pod dials.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A cluster address of a Service and one of its ports.
    Service(Arc<Upstream>),
    /// A pod's own address: headless Services and direct calls.
    Workload {
        /// The pod.
        workload: Arc<Workload>,
        /// What is known to be spoken on the port.
        protocol: AppProtocol,
        /// The Service whose endpoint it is, if any.
        service: Option<ServiceName>,
    },
    /// A cluster address of this Service, but none of its ports.
    NoSuchPort(ServiceName),
    /// Nothing that the mesh knows.
    Unknown,
}

/// What is known of a pod's port from the Services that select it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// The protocol that all these Services agree on; `Detect` when they differ.
    pub protocol: AppProtocol,
    /// The first of them by name.
    pub service: Option<ServiceName>,
    /// The TLS that the application speaks itself, as a policy of one of them says.
    pub tls: Option<Arc<BackendTls>>,
}

impl Snapshot {
    /// Greater than that of the snapshot it was built from.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The enrolled pods of this node, also those that have no place or address yet; sorted by namespace and name.
    pub fn local(&self) -> &[Arc<Workload>] {
        self.workloads.local()
    }

    /// All pods, in no order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.all()
    }

    /// The pod of this uid.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The pod that owns an address; never one of the host network. An IPv4-mapped address is IPv4.
    pub fn workload_at(&self, addr: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.at(addr)
    }

    /// What metrics call a pod; worked out once for each pod of this snapshot.
    pub fn labels(&self, workload: &Workload) -> Arc<PeerLabels> {
        self.workloads.labels(workload)
    }

    /// Whether an address is the own one of the node that this agent serves; never that of a pod. An IPv4-mapped
    /// address is IPv4.
    pub fn is_own_node(&self, addr: IpAddr) -> bool {
        self.own_node.contains(&addr.to_canonical()) && self.workload_at(addr).is_none()
    }

    /// The addresses that Node objects give the node that this agent serves, unmapped, in no order.
    pub fn own_node(&self) -> impl Iterator<Item = IpAddr> {
        self.own_node.iter().copied()
    }

    /// Whether plaintext from `client` to a port of `workload`, a pod of this node, is its kubelet's probe: let in
    /// whatever PeerAuthentication says.
    pub fn is_probe(&self, workload: &Workload, client: IpAddr, port: u16) -> bool {
        workload.probe_ports.contains(&port) && self.is_own_node(client)
    }

    /// What stands behind an address and port for a pod that dials it: only what is exported to its namespace.
    pub fn destination(&self, client: &Workload, addr: SocketAddr) -> Destination {
        if let Some((name, service)) = self.services.at(client, addr.ip()) {
            return match self.services.used_by(client, service).get(addr.port(), None) {
                Some(upstream) => Destination::Service(Arc::clone(upstream)),
                None => Destination::NoSuchPort(name.clone()),
            };
        }
        let Some(workload) = self.workload_at(addr.ip()) else {
            return Destination::Unknown;
        };
        let InboundPort {
            protocol, service, ..
        } = self.inbound(workload, addr.port());
        Destination::Workload {
            workload: Arc::clone(workload),
            protocol,
            service,
        }
    }

    /// The routes that apply to clients of one namespace: its consumer routes if it has any, else the producer's
    /// (GEP-1294); `None` means plain forwarding.
    pub fn routes(&self, client_namespace: &str, upstream: &Upstream) -> Option<&RouteTable> {
        self.tables(client_namespace, upstream)?.http.as_ref()
    }

    /// The routes that apply to connections of clients of one namespace that are no HTTP, as [`Self::routes`].
    pub fn stream_routes(&self, client_namespace: &str, upstream: &Upstream) -> Option<&StreamTable> {
        self.tables(client_namespace, upstream)?.stream.as_ref()
    }

    fn tables(&self, client_namespace: &str, upstream: &Upstream) -> Option<&Tables> {
        self.routes
            .tables(client_namespace, &upstream.service, upstream.port)
    }

    /// A port of a Service as `client` uses it, to whomever it is exported: somebody else than the client named it.
    pub fn upstream(&self, client: &Workload, service: &ServiceName, port: u16) -> Option<&Arc<Upstream>> {
        let known = self.services.get(service)?;
        self.services.used_by(client, known).get(port, None)
    }

    /// The port of a Service, as `client` uses it, that has this endpoint.
    pub fn port_with(
        &self,
        client: &Workload,
        service: &ServiceName,
        addr: SocketAddr,
    ) -> Option<&Arc<Upstream>> {
        let known = self.services.get(service)?;
        let mut ports = self.services.used_by(client, known).whole.values();
        let has_it = |port: &&Arc<Upstream>| port.endpoints().iter().any(|one| one.addr == addr);
        ports.find(has_it)
    }

    /// Where a backend of a route leads for `client`.
    pub fn backend(&self, client: &Workload, backend: &Backend) -> Option<&Arc<Upstream>> {
        let ports = self.services.seen_by(client, &backend.service)?;
        ports.get(backend.port, backend.subset.as_deref())
    }

    /// The endpoints of what a route names, for `client`.
    pub fn target(&self, client: &Workload, target: &BackendTarget) -> Option<&Arc<Upstream>> {
        let (service, port, subset) = target.named()?;
        let ports = self.services.seen_by(client, service)?;
        ports.get(port, subset.map(AsRef::as_ref))
    }

    /// What DNS answers about Services.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// All ports of all Services and of their subsets, in no order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.services.upstreams()
    }

    /// The cluster addresses of all Services, in no order.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, &ServiceName)> {
        self.services.vips()
    }

    /// What a pod accepts on one of its ports.
    pub fn mtls_mode(&self, workload: &Workload, port: u16) -> MtlsMode {
        self.mtls.mode(workload, port)
    }

    /// The `RequestAuthentication` policies that look at the tokens of requests to a pod.
    pub fn guard(&self, workload: &Workload) -> Arc<Guard> {
        self.authentication.of(workload)
    }

    /// Those policies, for a port of the pod.
    pub fn request_authentications(&self, workload: &Workload, port: u16) -> Vec<&RequestAuthentication> {
        self.authentication.policies_of(workload, port)
    }

    /// The public keys that tokens for pods of this node need and that are published elsewhere.
    pub fn wanted_keys(&self) -> impl Iterator<Item = &WantedKeys> {
        self.authentication.wanted_keys()
    }

    /// Who policies see behind a connection to a pod's own port, of the one who is known to be there.
    pub fn proven<'p>(
        &self,
        peer: Option<&'p SpiffeId>,
        workload: &Workload,
        port: u16,
    ) -> Option<&'p SpiffeId> {
        self.mtls.proven(peer, workload, port)
    }

    /// The AuthorizationPolicies that protect a pod.
    pub fn protection(&self, workload: &Workload) -> Arc<Protection> {
        self.authorization.of(workload)
    }

    /// How many requests a pod takes; `None` where nobody limits them.
    pub fn rate_limits(&self, workload: &Workload) -> Option<Arc<Limits>> {
        self.rate_limits.of(workload)
    }

    /// The external service that CUSTOM policies call by this name.
    pub fn authorizer(&self, provider: &str) -> Option<&Arc<Authorizer>> {
        self.mesh_config.authorizers.get(provider)
    }

    /// The form in which paths are routed, judged and sent on.
    pub fn path_form(&self) -> PathForm {
        self.mesh_config.path_form
    }

    /// What AuthorizationPolicy says of a connection to a pod's own port before a byte of it is read: allowed or denied
    /// whatever it carries, or to be brought before the agent, which asks for each request, or has something to record.
    ///
    /// `source` is who is known to be at the other end, `None` for plaintext; `source_ip` is the client's own address.
    pub fn l4_verdict(
        &self,
        source: Option<&SpiffeId>,
        source_ip: IpAddr,
        destination: &Workload,
        port: u16,
    ) -> Verdict {
        let protection = self.protection(destination);
        if protection.is_none() {
            return Verdict::Allowed;
        }
        let source = self.proven(source, destination, port);
        let verdict = protection.of_connection(&connection(source, source_ip, destination, port));
        if verdict == Verdict::Allowed && protection.records() {
            return Verdict::NeedsRequests;
        }
        verdict
    }

    /// Whether AuthorizationPolicy lets bytes that are no HTTP into a pod's own port, and nobody need be asked about them;
    /// as [`Self::l4_verdict`].
    pub fn lets_bytes_in(
        &self,
        source: Option<&SpiffeId>,
        source_ip: IpAddr,
        destination: &Workload,
        port: u16,
    ) -> bool {
        let source = self.proven(source, destination, port);
        let connection = connection(source, source_ip, destination, port);
        matches!(
            self.protection(destination).of_bytes(&connection, None),
            Ok(Judgement::Allowed)
        )
    }

    /// What is known of a pod's port.
    pub fn inbound(&self, workload: &Workload, port: u16) -> InboundPort {
        self.services
            .inbound(&workload.uid, port)
            .cloned()
            .unwrap_or_else(|| InboundPort {
                protocol: AppProtocol::of_port(port),
                service: None,
                tls: None,
            })
    }
}

/// A connection to the address of `destination` that is of the client's family.
fn connection<'a>(
    source: Option<&'a SpiffeId>,
    source_ip: IpAddr,
    destination: &Workload,
    port: u16,
) -> Connection<'a> {
    let is_v4 = source_ip.to_canonical().is_ipv4();
    let mut own = destination.addrs.iter().map(IpAddr::to_canonical);
    let like = own.clone().find(|addr| addr.is_ipv4() == is_v4);
    let destination_ip = like.or_else(|| own.next()).unwrap_or(source_ip);
    Connection::new(source, source_ip, destination_ip, port)
}

#[cfg(test)]
mod tests;
