//! Those of whom one is picked.
//!
//! Place in the walk: a roster makes them of endpoints, balancers look at them. Must not know: any algorithm.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::{Rng, RngCore};

use super::schedule;
use super::{Health, Load, Standing};

/// One endpoint as a balancer sees it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its place among all endpoints of the upstream.
    pub index: usize,
    /// What consistent hashing calls it.
    pub name: SocketAddr,
    /// Its share of the traffic against that of others; at least 1.
    pub weight: u32,
    /// What it is doing.
    pub load: Arc<Load>,
    /// How it has behaved, where a policy asks.
    pub standing: Option<Arc<Standing>>,
    /// What it answers its health checks, where there are any.
    pub health: Option<Arc<Health>>,
}

/// Members in a fixed order.
#[derive(Debug, Default)]
pub struct Members {
    all: Box<[Member]>,
    /// Positions in the order of a weighted round; absent when all weigh the same.
    round: Option<Box<[usize]>>,
}

impl Members {
    /// Lays out the round that unequal weights need.
    pub fn new(all: Vec<Member>) -> Self {
        let mut weights = all.iter().map(|member| member.weight);
        let first = weights.next();
        let round = weights
            .any(|weight| Some(weight) != first)
            .then(|| schedule::lay_out(&all.iter().map(|member| member.weight).collect::<Vec<_>>()));
        Self {
            all: all.into(),
            round,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The member at a position.
    pub fn get(&self, position: usize) -> Option<&Member> {
        #[cfg(test)]
        looks::note(1);
        self.all.get(position)
    }

    /// Whether one is called so; they must be in the order of their names.
    pub(super) fn has(&self, name: SocketAddr) -> bool {
        self.all.binary_search_by_key(&name, |member| member.name).is_ok()
    }

    /// All, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        #[cfg(test)]
        looks::note(self.all.len());
        self.all.iter()
    }

    /// A position at random, each as often as its weight says.
    pub(super) fn at_random(&self, rng: &mut dyn RngCore) -> Option<usize> {
        let drawn = |count: usize, rng: &mut dyn RngCore| (count > 0).then(|| rng.random_range(0..count));
        match &self.round {
            Some(round) => round.get(drawn(round.len(), rng)?).copied(),
            None => drawn(self.all.len(), rng),
        }
    }

    /// The position whose turn it is, each as often as its weight says and spread over the round.
    pub(super) fn in_turn(&self, turn: usize) -> Option<usize> {
        match &self.round {
            Some(round) => round.get(turn.checked_rem(round.len())?).copied(),
            None => turn.checked_rem(self.all.len()),
        }
    }

    pub(super) fn weigh_alike(&self) -> bool {
        self.round.is_none()
    }

    /// Whether a table that was made for `other` is right for these.
    pub(super) fn are_named_as(&self, other: &Self) -> bool {
        let name = |one: &Member| (one.name, one.weight);
        self.all.iter().map(name).eq(other.all.iter().map(name))
    }
}

/// How many members a test has looked at, so that it can claim that few are.
#[cfg(test)]
pub(super) mod looks {
    use std::cell::Cell;

    thread_local! {
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn note(count: usize) {
        LOOKS.with(|looks| looks.set(looks.get() + count));
    }

    /// How many `work` looks at.
    pub(in crate::balance) fn of<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let before = LOOKS.with(Cell::get);
        let done = work();
        (done, LOOKS.with(Cell::get) - before)
    }
}
