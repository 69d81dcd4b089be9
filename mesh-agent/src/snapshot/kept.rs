//! Whether an endpoint that a client's session names may still be used.
//!
//! Place in the walk: part of the pick of an endpoint. Must not know: who names it, and how.

use std::net::SocketAddr;
use std::sync::Arc;

use super::candidate::Front;
use super::upstream::{PickFacts, Upstream, UpstreamEndpoint};
use crate::balance::hash;
use crate::mesh::traffic::TrafficPolicy;
use crate::route::Session;

impl Upstream {
    /// The sessions of clients here, for rules that have none of their own and where no rule leads here.
    pub fn sessions(&self) -> Option<&Arc<Session>> {
        self.sessions.as_ref()
    }

    /// Whether a session can be kept at the endpoint at `addr`: it may be used, is neither ejected nor unhealthy, and is the one of that
    /// time rather than another pod with its address.
    pub fn keeps(&self, addr: SocketAddr, incarnation: u64) -> bool {
        let known = self.position(addr).and_then(|at| self.endpoints().get(at));
        known.is_some_and(|endpoint| !endpoint.is_left_out() && endpoint.incarnation() == incarnation)
    }

    /// What a session says of the endpoint at `addr`, to be given to [`Self::keeps`] with a later request. `None` where
    /// there is nothing to keep: a client reaches the address that it dialled.
    pub fn incarnation(&self, addr: SocketAddr) -> Option<u64> {
        if self.keeps_dialled {
            return None;
        }
        let at = self.position(addr)?;
        Some(self.endpoints().get(at)?.incarnation())
    }

    /// The endpoint at which the session of a request is kept, unless it has been tried already or fails.
    pub(super) fn kept(&self, facts: &PickFacts<'_>) -> Option<usize> {
        let kept = facts.kept.filter(|kept| !facts.tried.contains(kept))?;
        let at = self.position(kept)?;
        self.endpoints()
            .get(at)
            .filter(|endpoint| !endpoint.is_left_out())?;
        Some(at)
    }

    fn position(&self, addr: SocketAddr) -> Option<usize> {
        self.endpoints()
            .binary_search_by_key(&addr, |endpoint| endpoint.addr)
            .ok()
    }
}

impl Front<'_> {
    /// The sessions that the policy in force asks for.
    pub(super) fn sessions(self, policy: &TrafficPolicy) -> Option<Arc<Session>> {
        let declared = policy.session.as_ref()?;
        let sessions = Session::of_service(declared, self.service, self.port.port, self.subset);
        Some(Arc::new(sessions))
    }
}

impl UpstreamEndpoint {
    /// Tells pods that have the same address one after the other apart.
    fn incarnation(&self) -> u64 {
        let uid = self.workload.as_ref().map(|workload| workload.uid.to_string());
        hash(uid.unwrap_or_default().as_bytes())
    }
}
