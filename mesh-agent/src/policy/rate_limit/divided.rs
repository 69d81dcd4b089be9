//! One bucket for many callers, divided fairly among those who ask.
//!
//! Place in the walk: inside a limit that says `divided`. Must not know: who callers are.
//!
//! The whole bucket bounds what all take together. Besides, each caller has a share of what comes, and is never refused
//! below it: half of the burst is only for those who are within their share, newcomers among them. What they leave, the
//! other half, goes to whoever asks.

use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate};
use super::table::{Owner, Table};

/// The whole and the shares.
#[derive(Debug)]
pub(super) struct Divided {
    whole: Option<Bucket>,
    callers: Table,
}

impl Divided {
    /// A caller counts for as long as the whole bucket takes to fill, at least a second, and at most twice that.
    pub(super) fn new(rate: &Rate, most: usize) -> Self {
        Self {
            whole: None,
            callers: Table::new(rate.fills_in(), most),
        }
    }

    /// Takes a token for a caller, or says how long there will be none for it.
    pub(super) fn ask(&mut self, rate: &Rate, caller: u64, now: Instant) -> (Result<(), Duration>, Owner) {
        let whole = self.whole.get_or_insert_with(|| Bucket::full(rate, now));
        whole.refill(rate, now);
        self.callers.turn(now);
        let share = rate.share(self.callers.count_with(caller));
        let (own, owner) = self.callers.bucket(caller, || Bucket::full(&share, now));
        own.refill(&share, now);
        let result = match (whole.wait(rate), own.wait(&share)) {
            (None, None) => {
                own.take(&share);
                whole.take(rate);
                Ok(())
            }
            (None, Some(_)) if whole.is_plenty(rate) => {
                whole.take(rate);
                Ok(())
            }
            (whole, own) => Err(whole.max(own).unwrap_or_default()),
        };
        (result, owner)
    }

    /// A token that a caller took and did not use.
    pub(super) fn give_back(&mut self, rate: &Rate, caller: u64) {
        let share = rate.share(self.callers.count_with(caller));
        if let Some(own) = self.callers.used(caller) {
            own.give_back(&share);
        }
        if let Some(whole) = &mut self.whole {
            whole.give_back(rate);
        }
    }
}
