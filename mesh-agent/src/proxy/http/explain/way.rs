//! One way of a request: the endpoint that would be picked, how it is reached, and what its policies say.
//!
//! Place in the walk: what `plan` decides for an attempt, without taking anything. Must not know: which rule led here.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use http::uri::Authority;

use super::report::{EndpointLine, Transport, TransportKind, Verdict, Way};
use super::{Trip, bounded, pod_name};
use crate::balance::Limit;
use crate::mesh::backend_tls::{BackendTls, TrustedRoots};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::BalancerKind;
use crate::mesh::workload::Workload;
use crate::proxy::backend;
use crate::proxy::hop::Hop;
use crate::proxy::http::choose::pick_facts;
use crate::proxy::http::decide::Target;
use crate::proxy::http::plan::wire_for;
use crate::proxy::http::routed::Applied;
use crate::proxy::refusal::Refusal;
use crate::snapshot::{PickFacts, Upstream};
use crate::transport::DialError;
use crate::transport::pool::Wire;

/// What stands at the end of a way.
#[derive(Debug)]
pub(super) struct End {
    pub(super) addr: SocketAddr,
    pub(super) workload: Option<Arc<Workload>>,
    /// The TLS that it is spoken to in where it is outside of the mesh.
    pub(super) tls: Option<Arc<BackendTls>>,
}

impl Trip<'_> {
    /// The way to `target`, with the changes that a route makes on it.
    pub(super) fn way(
        &self,
        target: &Target,
        request: Request<()>,
        authority: Authority,
        route: Option<&Applied>,
    ) -> Way {
        let mut way = Way {
            share_percent: 100.0,
            ..Way::default()
        };
        let judged = self.attempt(target, request, authority, route, &mut way);
        way.verdict = judged.unwrap_or_else(|refusal| {
            let fallen_back = self.fallen_back(target, &refusal);
            fallen_back.unwrap_or_else(|| self.refused(&refusal))
        });
        way
    }

    fn attempt(
        &self,
        target: &Target,
        mut request: Request<()>,
        mut authority: Authority,
        route: Option<&Applied>,
        way: &mut Way,
    ) -> Result<Verdict, Refusal> {
        if let Some(route) = route {
            route.edit_request(&mut request, &mut authority, self.snapshot.path_form())?;
        }
        way.sent_as = Some(format!("{} {authority}{}", request.method(), request.uri()));
        let (end, protocol) = match target {
            Target::Upstream(upstream, keeping) => {
                if keeping.as_ref().is_some_and(|keeping| keeping.is_of(upstream)) {
                    way.changes.push(KEPT_BY_SERVICE.to_owned());
                }
                self.tell_resilience(target, request.method(), way);
                let (mut facts, _cookie) = pick_facts(upstream, self.ends, &request, &[]);
                facts.kept = target.kept();
                (endpoint(upstream, &facts, way)?, upstream.spoken())
            }
            Target::Workload {
                workload, protocol, ..
            } => {
                let end = End {
                    addr: self.ends.original,
                    workload: Some(Arc::clone(workload)),
                    tls: None,
                };
                (end, *protocol)
            }
        };
        let hop = Hop::decide(self.mesh, self.snapshot, end.workload.as_ref(), end.addr.port())?;
        let tls = backend::tls_behind(&hop, end.addr.port(), self.snapshot, end.tls.as_ref());
        let speaks = speaks(&hop, protocol, &request);
        way.transport = Some(transport(&hop, &end, speaks, tls.as_deref()));
        self.has_certificate(&hop)?;
        self.let_in_request(&hop, &end, request, &authority, way)
    }

    /// Whether the source can prove who it is, where it must.
    pub(super) fn has_certificate(&self, hop: &Hop) -> Result<(), Refusal> {
        let own = &self.source.pod.workload.identity;
        match hop {
            Hop::OtherNode { .. } if self.mesh.certificates.tls(own).is_none() => {
                Err(DialError::NoCertificate.into())
            }
            Hop::OtherNode { .. } | Hop::SameNode(_) | Hop::Plain { .. } => Ok(()),
        }
    }
}

/// The endpoint of `upstream` that would be picked now.
pub(super) fn endpoint(upstream: &Upstream, facts: &PickFacts<'_>, way: &mut Way) -> Result<End, Refusal> {
    let foreseen = upstream.foresee(facts, &mut rand::rng());
    let picked = foreseen.as_ref().ok().map(|endpoint| endpoint.addr);
    way.backend = Some(format!("{}:{}", upstream.service, upstream.port));
    way.balancer = Some(balancer(upstream.balancer()).to_owned());
    way.under_way = Some(upstream.breakers().vitals().under_way(facts.of));
    (way.endpoints, way.endpoints_left_out) = endpoints(upstream, facts, picked);
    let endpoint = foreseen?;
    Ok(End {
        addr: endpoint.addr,
        workload: endpoint.workload.clone(),
        tls: upstream.tls().cloned(),
    })
}

/// `tls` is what this agent begins with the application there.
pub(super) fn transport(hop: &Hop, end: &End, speaks: &str, tls: Option<&BackendTls>) -> Transport {
    let mut notes = Vec::new();
    if let Some(tls) = tls {
        let name = tls.name.as_deref().unwrap_or_default();
        notes.push(match tls.roots {
            TrustedRoots::Nobody => {
                "the policy of its TLS cannot be honoured: requests are refused".to_owned()
            }
            TrustedRoots::System | TrustedRoots::Pem(_) | TrustedRoots::File(_) => {
                format!("the application speaks TLS itself and is asked for {name}")
            }
            TrustedRoots::Anybody => {
                format!("the application speaks TLS itself, is asked for {name} and believed whoever it is")
            }
        });
        if tls.shown.is_some() {
            notes.push("it is shown the certificate that its policy names".to_owned());
        }
    }
    let (kind, peer_identity) = match hop {
        Hop::SameNode(_) => (TransportKind::SameNode, None),
        Hop::OtherNode { expected, .. } => (TransportKind::MutualTls, Some(expected.to_string())),
        Hop::Plain { .. } if tls.is_some() => (TransportKind::Tls, None),
        Hop::Plain { .. } => (TransportKind::Plaintext, None),
    };
    if let (Hop::Plain { .. }, Some(workload)) = (hop, &end.workload) {
        notes.push(if !workload.is_enrolled() {
            "the pod is not in the mesh".to_owned()
        } else if workload.is_meshed_at(end.addr.port()) {
            "PeerAuthentication says DISABLE there".to_owned()
        } else {
            "the pod's annotation exclude-inbound-ports names the port".to_owned()
        });
    }
    if let (Hop::Plain { .. }, None) = (hop, &end.workload) {
        notes.push("no pod that the mesh knows has this address".to_owned());
    }
    Transport {
        kind,
        addr: end.addr,
        peer_identity,
        speaks: speaks.to_owned(),
        notes,
    }
}

fn endpoints(
    upstream: &Upstream,
    facts: &PickFacts<'_>,
    picked: Option<SocketAddr>,
) -> (Vec<EndpointLine>, usize) {
    let groups = upstream.standings(facts.dialled).into_iter().enumerate();
    let all = groups.flat_map(|(position, group)| {
        let share = group.share_percent;
        let endpoints = group.endpoints.into_iter();
        endpoints.map(move |endpoint| (position, share, endpoint))
    });
    // Whatever is left out, the one that is picked is shown.
    let (first, others): (Vec<_>, Vec<_>) = all.partition(|(.., endpoint)| Some(endpoint.addr) == picked);
    bounded(first.into_iter().chain(others), |(group, share, endpoint)| {
        let place = &endpoint.locality;
        let own_node = endpoint.workload.as_ref().map(|pod| &pod.node);
        let text = |part: Option<&Arc<str>>| part.map(ToString::to_string);
        EndpointLine {
            addr: endpoint.addr,
            pod: endpoint.workload.as_deref().map(pod_name),
            node: text(place.node.as_ref().or(own_node)),
            zone: text(place.zone.as_ref()),
            region: text(place.region.as_ref()),
            under_way: endpoint.active(),
            is_ejected: endpoint.is_ejected(),
            is_unhealthy: endpoint.is_unhealthy(),
            group,
            group_share_percent: share,
            is_picked: Some(endpoint.addr) == picked,
        }
    })
}

fn balancer(kind: &BalancerKind) -> &'static str {
    match kind {
        BalancerKind::LeastRequest => "least_request",
        BalancerKind::RoundRobin => "round_robin",
        BalancerKind::Random => "random",
        BalancerKind::PeakEwma => "peak_ewma",
        BalancerKind::ConsistentHash(_) => "consistent_hash",
    }
}

fn speaks(hop: &Hop, protocol: AppProtocol, request: &Request<()>) -> &'static str {
    let to_application = wire_for(protocol, request.version());
    match (hop, to_application) {
        (Hop::OtherNode { .. }, _) | (_, Wire::H2) => "http/2",
        (Hop::SameNode(_) | Hop::Plain { .. }, Wire::H1) => "http/1.1",
    }
}

/// What a connection of opaque bytes is picked by.
pub(super) const OF_BYTES: Limit = Limit::Connections;

const KEPT_BY_SERVICE: &str =
    "keeps a client at the endpoint of its first request (session persistence of the Service)";
