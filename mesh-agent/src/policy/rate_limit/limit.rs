//! One limit: which requests it counts, and their buckets.
//!
//! Place in the walk: asked by [`super::Limits`]. Must not know: other limits, snapshots.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::asked::Asked;
use super::bucket::{Bucket, Rate};
use super::divided::Divided;
use super::table::{Owner, Table};
use crate::mesh::policy::rate_limit::RateLimit;

/// A declared limit and what is left of it; lives as long as it is declared in these words.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) declared: RateLimit,
    local: Option<Local>,
}

#[derive(Debug)]
struct Local {
    rate: Rate,
    buckets: Buckets,
    /// Seeded, so that nobody can make two values meet.
    hasher: RandomState,
}

#[derive(Debug)]
enum Buckets {
    /// One for all requests.
    One(Mutex<Option<Bucket>>),
    /// One for each value of the key.
    Each(Mutex<Table>),
    /// One for all values of the key.
    Divided(Mutex<Divided>),
}

impl Limit {
    pub(super) fn new(declared: &RateLimit) -> Self {
        let local = declared.local.as_ref().map(|local| {
            let rate = Rate::new(local);
            Local {
                buckets: if declared.key.is_empty() {
                    Buckets::One(Mutex::default())
                } else if local.is_divided {
                    Buckets::Divided(Mutex::new(Divided::new(&rate, MAX_KEYS)))
                } else {
                    Buckets::Each(Mutex::new(Table::new(rate.fills_in(), MAX_KEYS)))
                },
                rate,
                hasher: RandomState::new(),
            }
        });
        Self {
            declared: declared.clone(),
            local,
        }
    }

    /// Takes a token of this node for a request, or says how long there will be none; and whether its key found no room.
    pub(super) fn ask(&self, asked: &Asked<'_>, now: Instant) -> (Result<(), Duration>, Owner) {
        let Some(local) = &self.local else {
            return (Ok(()), Owner::One);
        };
        let rate = &local.rate;
        match &local.buckets {
            Buckets::One(bucket) => {
                let mut bucket = locked(bucket);
                let bucket = bucket.get_or_insert_with(|| Bucket::full(rate, now));
                (bucket.ask(rate, now), Owner::One)
            }
            Buckets::Each(table) => {
                let mut table = locked(table);
                table.turn(now);
                let (bucket, owner) = table.bucket(self.key(local, asked), || Bucket::full(rate, now));
                (bucket.ask(rate, now), owner)
            }
            Buckets::Divided(divided) => locked(divided).ask(rate, self.key(local, asked), now),
        }
    }

    /// The token that was taken for a request is not used: another limit refuses it.
    pub(super) fn give_back(&self, asked: &Asked<'_>) {
        let Some(local) = &self.local else { return };
        let rate = &local.rate;
        match &local.buckets {
            Buckets::One(bucket) => {
                if let Some(bucket) = locked(bucket).as_mut() {
                    bucket.give_back(rate);
                }
            }
            Buckets::Each(table) => {
                if let Some(bucket) = locked(table).used(self.key(local, asked)) {
                    bucket.give_back(rate);
                }
            }
            Buckets::Divided(divided) => locked(divided).give_back(rate, self.key(local, asked)),
        }
    }

    /// The values of the key's parts as one number: no client makes the agent keep its text.
    fn key(&self, local: &Local, asked: &Asked<'_>) -> u64 {
        let mut hasher = local.hasher.build_hasher();
        for part in &self.declared.key {
            asked.feed(part, &mut hasher);
        }
        hasher.finish()
    }
}

/// Nothing that is done under the lock can panic halfway.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values of one limit's key with buckets of their own: about one megabyte.
pub(super) const MAX_KEYS: usize = 16_384;
