//! Chooses one of several endpoints, counts the work that each has been given, and leaves out those that fail.
//!
//! Place in the walk: after routing has named a Service port, before transport dials.
//! Must not know: pods, protocols, how a snapshot is built. The address of a member is no more than its name here.
//!
//! A pick takes no lock and allocates nothing, and looks at a handful of members however many there are. What is
//! worth a look at all of them is found by [`Roster::refresh`], which the control thread calls.

mod bounded;
pub mod budget;
mod health;
mod latency;
mod least_request;
mod limits;
mod load;
pub mod locality;
mod maglev;
mod members;
mod outlier;
mod peak_ewma;
mod pick;
mod priority;
mod random;
mod ring_hash;
mod roster;
mod round_robin;
mod schedule;
mod slow_start;
mod standing;
mod usage;
mod vitals;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::RngCore;

use self::bounded::Bounded;
pub use self::health::{Change, Finding, Health, Thresholds};
pub use self::latency::Latency;
use self::least_request::LeastRequest;
pub use self::limits::{Breakers, Limit, Slot};
pub use self::load::Load;
use self::maglev::Maglev;
pub use self::members::{Member, Members};
pub use self::outlier::{Cause, Outcome, Watch};
use self::peak_ewma::PeakEwma;
pub use self::pick::Pick;
use self::random::Random;
use self::ring_hash::RingHash;
pub use self::roster::{Policy, Roster};
use self::round_robin::{RoundRobin, Turn};
pub use self::standing::Standing;
pub use self::usage::{Usage, Used};
pub use self::vitals::Vitals;
use crate::mesh::traffic::{BalancerKind, HashTable};

/// One load-balancing algorithm with its own state, made for certain members.
///
/// Called once a request on the data path, from many threads at once: it must neither block nor allocate.
pub trait Balancer: Send + Sync + Debug {
    /// The index of the chosen member; `None` only when there are no members.
    fn pick(&self, members: &Members, asked: &mut Asked<'_>) -> Option<usize>;
}

/// What is known of the request or connection that an endpoint is picked for.
pub struct Asked<'a> {
    /// The hash of what keeps it at one endpoint.
    pub hash: Option<u64>,
    /// How often a pick for it was passed over.
    pub attempt: u32,
    /// Members, by their names, that have been tried for it already.
    pub tried: &'a [SocketAddr],
    /// Whether groups that have one of those come last.
    pub leaves_localities: bool,
    /// Requests that are under way to all members.
    pub active: usize,
    /// Whether it is only asked what would be picked: no turn is taken, and no time begins.
    pub is_rehearsal: bool,
    /// Where chance comes from.
    pub rng: &'a mut dyn RngCore,
}

impl Debug for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked")
            .field("hash", &self.hash)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// The algorithm of a kind for `members`; `turn` is kept from one set of members to the next.
fn new(kind: &BalancerKind, members: &Members, turn: &Arc<Turn>) -> Box<dyn Balancer> {
    match kind {
        BalancerKind::LeastRequest => Box::new(LeastRequest),
        BalancerKind::RoundRobin => Box::new(RoundRobin::new(Arc::clone(turn))),
        BalancerKind::Random => Box::new(Random),
        BalancerKind::PeakEwma => Box::new(PeakEwma),
        BalancerKind::ConsistentHash(hash) => {
            let table: Box<dyn Balancer> = match hash.table {
                HashTable::Ring(least) => Box::new(RingHash::of(members, least)),
                HashTable::Maglev(size) => Box::new(Maglev::of(members, size)),
            };
            match hash.balance_factor {
                Some(factor) => Box::new(Bounded::new(table, factor)),
                None => table,
            }
        }
    }
}

/// The hash that Envoy takes of a request's value and of an endpoint's name.
pub fn hash(bytes: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, bytes)
}

#[cfg(test)]
mod tests;
