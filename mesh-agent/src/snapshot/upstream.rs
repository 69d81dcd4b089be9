//! A Service port with the endpoints that may be used now.
//!
//! Place in the walk: what a destination or a route's backend leads to; it picks the pod. Must not know: routes,
//! policies, how endpoints were read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use rand::RngCore;

use super::candidate::{Candidate, Front, Spread, usable};
use crate::balance::locality::{Place, Wishes, arrange};
use crate::balance::{
    Asked, Breakers, Health, Limit, Load, Member, Pick, Policy, Roster, Standing, Usage, Vitals, Watch,
};
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::service::{AppProtocol, Resilience, ServiceName};
use crate::mesh::traffic::{BalancerKind, HashKey, Locality, TrafficPolicy};
use crate::mesh::tunnel::TunnelTarget;
use crate::mesh::workload::Workload;
use crate::route::Session;

/// A port of a Service.
#[derive(Debug)]
pub struct Upstream {
    /// The Service.
    pub service: ServiceName,
    /// The Service's port.
    pub port: u16,
    /// The name of that port; may be empty.
    pub port_name: Arc<str>,
    /// Only the endpoints that a DestinationRule calls so, with counts and ejections of their own.
    pub subset: Option<Arc<str>>,
    /// What is spoken on it.
    pub protocol: AppProtocol,
    pub(super) policy: TrafficPolicy,
    endpoints: Vec<Arc<UpstreamEndpoint>>,
    pub(super) v4: Roster,
    pub(super) v6: Roster,
    breakers: Breakers,
    watch: Option<Arc<Watch>>,
    /// Where the health of its endpoints is checked.
    pub(super) usage: Option<Arc<Usage>>,
    pub(super) keeps_dialled: bool,
    pub(super) resilience: Resilience,
    pub(super) sessions: Option<Arc<Session>>,
}

/// One endpoint that may be used.
#[derive(Debug)]
pub struct UpstreamEndpoint {
    /// Where to dial.
    pub addr: SocketAddr,
    /// The pod behind it; `None` for addresses that are no pod's.
    pub workload: Option<Arc<Workload>>,
    /// Where it runs.
    pub locality: Arc<Locality>,
    pub(super) load: Arc<Load>,
    pub(super) standing: Option<Arc<Standing>>,
    pub(super) health: Option<Arc<Health>>,
}

/// What an endpoint is picked for.
#[derive(Debug, Clone, Copy)]
pub struct PickFacts<'a> {
    /// The address that the client dialled.
    pub dialled: IpAddr,
    /// The hash of what keeps it at one endpoint.
    pub hash: Option<u64>,
    /// [`Limit::Requests`] for a request, [`Limit::Connections`] for an opaque connection.
    pub of: Limit,
    /// Endpoints that have been tried for it already: another is picked where there is one.
    pub tried: &'a [SocketAddr],
    /// Whether one elsewhere is picked than where those are.
    pub leaves_localities: bool,
    /// The endpoint at which its session is kept, if it has one.
    pub kept: Option<SocketAddr>,
    /// The time.
    pub now: Instant,
}

/// A chosen endpoint, with its unit of load.
#[derive(Debug)]
pub struct Picked {
    /// Where to dial, and who must answer.
    pub endpoint: Arc<UpstreamEndpoint>,
    /// To be told the outcome, and dropped when the request or connection ends.
    pub pick: Pick,
}

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unpicked {
    /// None may be used.
    #[error("no endpoint may be used")]
    NoEndpoint,
    /// As many are under way as the policy allows.
    #[error("as many are under way as the policy allows")]
    Overflow,
}

impl Upstream {
    /// Picks an endpoint, of the family of the address that the client dialled if there is one of it.
    pub fn pick(&self, facts: &PickFacts<'_>, rng: &mut dyn RngCore) -> Result<Picked, Unpicked> {
        let slot = self.breakers.take(facts.of).ok_or(Unpicked::Overflow)?;
        // Without this one.
        let active = self.breakers.vitals().under_way(facts.of).saturating_sub(1);
        let endpoint = self.choose(facts, active, false, rng)?;
        let mut pick = Pick::holding(Arc::clone(&endpoint.load), slot);
        if let (Some(watch), Some(standing)) = (&self.watch, &endpoint.standing) {
            pick = pick.watched(watch, standing);
        }
        if self.policy.balancer == BalancerKind::PeakEwma {
            pick = pick.measured(facts.now);
        }
        Ok(Picked {
            endpoint: Arc::clone(endpoint),
            pick,
        })
    }

    /// Which endpoint; `is_rehearsal` leaves no trace.
    pub(super) fn choose(
        &self,
        facts: &PickFacts<'_>,
        active: usize,
        is_rehearsal: bool,
        rng: &mut dyn RngCore,
    ) -> Result<&Arc<UpstreamEndpoint>, Unpicked> {
        let mut asked = Asked {
            hash: facts.hash,
            attempt: 0,
            tried: facts.tried,
            leaves_localities: facts.leaves_localities,
            active,
            is_rehearsal,
            rng,
        };
        let picked = if self.keeps_dialled {
            let dialled = facts.dialled.to_canonical();
            self.endpoints.iter().position(|one| one.addr.ip() == dialled)
        } else if let Some(kept) = self.kept(facts) {
            Some(kept)
        } else {
            let mut rosters = self.rosters(facts.dialled).into_iter();
            rosters.find_map(|roster| roster.pick(&mut asked, facts.now))
        };
        picked
            .and_then(|index| self.endpoints.get(index))
            .ok_or(Unpicked::NoEndpoint)
    }

    /// That of the family of the address that the client dialled, then the other.
    pub(super) fn rosters(&self, dialled: IpAddr) -> [&Roster; 2] {
        if dialled.to_canonical().is_ipv4() {
            [&self.v4, &self.v6]
        } else {
            [&self.v6, &self.v4]
        }
    }

    /// How one of several endpoints is chosen.
    pub fn balancer(&self) -> &BalancerKind {
        &self.policy.balancer
    }

    /// What requests are sent in: as the port's protocol says, unless its policy asks for HTTP/2.
    pub fn spoken(&self) -> AppProtocol {
        if self.protocol == AppProtocol::Http && self.policy.limits.upgrades {
            AppProtocol::Http2
        } else {
            self.protocol
        }
    }

    /// What of a request decides on its endpoint.
    pub fn hash_key(&self) -> Option<&HashKey> {
        self.policy.balancer.hash_key()
    }

    /// The TLS that its endpoints outside the mesh are spoken to in; of those inside their own agents know.
    pub fn tls(&self) -> Option<&Arc<BackendTls>> {
        self.policy.tls.as_ref()
    }

    /// How its endpoints outside the mesh are told who is behind a connection.
    pub fn proxied(&self) -> Option<ProxyProtocol> {
        self.policy.proxied
    }

    /// Where its endpoints are asked to connect to for whoever speaks no HTTP.
    pub fn tunnel(&self) -> Option<&TunnelTarget> {
        self.policy.tunnel.as_ref()
    }

    /// What may be under way to it.
    pub fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    /// The endpoints that may be used, sorted by address.
    pub fn endpoints(&self) -> &[Arc<UpstreamEndpoint>] {
        &self.endpoints
    }

    /// Those of one family of which the kernel may choose at random without the agent; `None` where that would not be
    /// the same: turns and hashes, shares, counts that somebody limits or watches.
    pub fn open_to_kernel(&self, is_v4: bool) -> Option<Vec<&Arc<UpstreamEndpoint>>> {
        let is_seen = self.watch.is_some() || self.usage.is_some();
        if is_seen || self.policy.sees_connections() {
            return None;
        }
        let roster = if is_v4 { &self.v4 } else { &self.v6 };
        let members = roster.of_equals()?.iter();
        members.map(|member| self.endpoints.get(member.index)).collect()
    }

    /// Takes ejected endpoints back whose time is over, and shares the traffic anew. Called some times a second by the
    /// control thread; whether there is anything to look after.
    pub fn sweep(&self, now: Instant) -> bool {
        if self.watch.is_none() && self.usage.is_none() {
            return false;
        }
        if let Some(watch) = &self.watch {
            let standings = self.endpoints.iter().filter_map(|one| one.standing.as_deref());
            watch.sweep(standings, now);
        }
        self.v4.refresh();
        self.v6.refresh();
        true
    }

    /// `candidates` hold no address twice. Counts and turns of `previous` go on.
    pub(super) fn assemble(
        front: Front<'_>,
        spread: Spread<'_>,
        candidates: Vec<Candidate<'_>>,
        previous: Option<&Self>,
        rng: &mut dyn RngCore,
    ) -> Self {
        let usable = usable(candidates, &spread);
        let Spread {
            policy,
            nearest,
            own,
            keeps_dialled,
            resilience,
            checked,
            ..
        } = spread;
        let needs_standing = policy.outliers.is_some() || policy.warmup.is_some();
        let endpoints: Vec<_> = usable
            .iter()
            .map(|candidate| {
                Arc::new(UpstreamEndpoint {
                    addr: candidate.addr,
                    workload: candidate.workload.clone(),
                    locality: Arc::clone(&candidate.locality),
                    load: Arc::clone(&candidate.load),
                    standing: needs_standing.then(|| standing(candidate, previous)),
                    health: candidate.health.clone(),
                })
            })
            .collect();
        let vitals = previous.map_or_else(Arc::<Vitals>::default, |previous| {
            Arc::clone(previous.breakers.vitals())
        });
        let wishes = Wishes {
            policy: &policy.locality,
            nearest,
            has_outliers: policy.outliers.is_some(),
        };
        let (usage, panic_percent) = checked.unzip();
        let mut roster = |is_v4: bool, previous: Option<&Roster>| {
            let groups = grouped(&usable, &endpoints, is_v4, own, wishes);
            Roster::new(groups, roster_policy(&policy, panic_percent), previous, rng)
        };
        let Front {
            service,
            port,
            subset,
        } = front;
        Self {
            service: service.clone(),
            port: port.port,
            port_name: Arc::clone(&port.name),
            subset: subset.cloned(),
            protocol: port.protocol,
            v4: roster(true, previous.map(|upstream| &upstream.v4)),
            v6: roster(false, previous.map(|upstream| &upstream.v6)),
            watch: policy
                .outliers
                .map(|outliers| Arc::new(Watch::new(outliers, Arc::clone(&vitals), endpoints.len()))),
            breakers: Breakers::new(vitals, policy.limits),
            usage,
            keeps_dialled,
            resilience: resilience.clone(),
            sessions: front.sessions(&policy),
            endpoints,
            policy,
        }
    }
}

impl UpstreamEndpoint {
    /// Requests and connections of this node that are under way to it.
    pub fn active(&self) -> usize {
        self.load.active()
    }

    /// Whether it is left out, for its failures or for its answers to health checks.
    pub(super) fn is_left_out(&self) -> bool {
        self.is_ejected() || self.is_unhealthy()
    }

    /// Whether it is left out for its failures.
    pub fn is_ejected(&self) -> bool {
        self.standing
            .as_ref()
            .is_some_and(|standing| standing.is_ejected())
    }
}

/// Of the two that say when to use all endpoints, the one that does so earlier.
fn roster_policy(policy: &TrafficPolicy, of_checks: Option<u32>) -> Policy {
    let of_outliers = policy.outliers.map(|outliers| outliers.min_health_percent);
    Policy {
        balancer: policy.balancer.clone(),
        warmup: policy.warmup,
        panic_percent: of_outliers.max(of_checks).unwrap_or_default(),
    }
}

/// The endpoints of one family in groups by where they run.
fn grouped(
    usable: &[Candidate<'_>],
    endpoints: &[Arc<UpstreamEndpoint>],
    is_v4: bool,
    own: &Locality,
    wishes: Wishes<'_>,
) -> Vec<(Vec<Member>, Option<u32>)> {
    let (members, places): (Vec<_>, Vec<_>) = usable
        .iter()
        .zip(endpoints)
        .enumerate()
        .filter(|(_, (candidate, _))| candidate.addr.is_ipv4() == is_v4)
        .map(|(index, (candidate, endpoint))| {
            let member = Member {
                index,
                name: endpoint.addr,
                weight: candidate.weight,
                load: Arc::clone(&endpoint.load),
                standing: endpoint.standing.clone(),
                health: endpoint.health.clone(),
            };
            let (locality, slice) = (&candidate.locality, candidate.slice);
            (member, Place { locality, slice })
        })
        .unzip();
    let arrangement = arrange(own, &places, wishes);
    let weights = arrangement.weights.unwrap_or_default();
    let groups = arrangement.groups.into_iter().enumerate();
    groups
        .map(|(position, group)| {
            let group = group.into_iter().filter_map(|at| members.get(at).cloned());
            (group.collect(), weights.get(position).copied())
        })
        .collect()
}

/// The endpoint's record goes on as long as the same pod stands behind the address.
fn standing(candidate: &Candidate<'_>, previous: Option<&Upstream>) -> Arc<Standing> {
    let known = previous.and_then(|previous| {
        let at = previous
            .endpoints
            .binary_search_by_key(&candidate.addr, |endpoint| endpoint.addr);
        previous.endpoints.get(at.ok()?)
    });
    let uid = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|workload| workload.uid.clone());
    known
        .filter(|known| uid(&known.workload) == uid(&candidate.workload))
        .and_then(|known| known.standing.clone())
        .unwrap_or_default()
}
