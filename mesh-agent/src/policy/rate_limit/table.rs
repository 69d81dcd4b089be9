//! Buckets by the value of a key: a bounded number of them, since clients make the values.
//!
//! Place in the walk: inside a limit with a key. Must not know: what the key is made of.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::bucket::Bucket;

/// Two generations of buckets. One that nobody asks for during a whole generation is full again, and is forgotten: to forget
/// it changes nothing. Values that find no room have one bucket together.
#[derive(Debug)]
pub(super) struct Table {
    young: HashMap<u64, Bucket>,
    /// Those of the generation before that nobody has asked for since.
    old: HashMap<u64, Bucket>,
    /// When the young generation began.
    since: Option<Instant>,
    generation: Duration,
    /// So many values have buckets of their own.
    most: usize,
    crowd: Option<Bucket>,
}

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// One value's.
    One,
    /// All those that found no room.
    Crowd,
}

impl Table {
    /// Buckets that fill within a `generation`, at most `most` of them. Nobody is forgotten within a second.
    pub(super) fn new(generation: Duration, most: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            since: None,
            generation: generation.max(LEAST_GENERATION),
            most,
            crowd: None,
        }
    }

    /// Forgets who has long asked nothing.
    pub(super) fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        if age < self.generation {
            return;
        }
        let young = std::mem::take(&mut self.young);
        self.old = if age < self.generation * 2 {
            young
        } else {
            HashMap::new()
        };
        self.since = Some(now);
    }

    /// How many have a bucket, `key` among them.
    pub(super) fn count_with(&self, key: u64) -> usize {
        let known = self.young.len() + self.old.len();
        let is_new = !(self.young.contains_key(&key) || self.old.contains_key(&key));
        known + usize::from(is_new)
    }

    /// The bucket of `key`, made by `fresh` where it has none.
    pub(super) fn bucket(&mut self, key: u64, fresh: impl FnOnce() -> Bucket) -> (&mut Bucket, Owner) {
        if let Some(known) = self.old.remove(&key) {
            self.young.insert(key, known);
        }
        if self.count_with(key) > self.most {
            return (self.crowd.get_or_insert_with(fresh), Owner::Crowd);
        }
        (self.young.entry(key).or_insert_with(fresh), Owner::One)
    }

    /// The bucket that `key` has used.
    pub(super) fn used(&mut self, key: u64) -> Option<&mut Bucket> {
        self.young.get_mut(&key).or(self.crowd.as_mut())
    }
}

const LEAST_GENERATION: Duration = Duration::from_secs(1);
