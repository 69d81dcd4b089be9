//! One unit of an endpoint's load, and what became of it.
//!
//! Place in the walk: taken with the choice of an endpoint, told the outcome, dropped when the request or connection
//! ends. Must not know: what was sent.

use std::sync::Arc;
use std::time::Instant;

use crate::mesh::traffic::ErrorCodes;

use super::{Load, Outcome, Slot, Standing, Watch};

/// One unit of an endpoint's load, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping a pick at once gives its load back at once"]
pub struct Pick {
    load: Arc<Load>,
    /// When it began, where somebody wants to know how long an answer takes.
    began: Option<Instant>,
    /// Held for its drop.
    _slot: Option<Slot>,
    watched: Option<(Arc<Watch>, Arc<Standing>)>,
}

impl Pick {
    /// Takes one unit of `load`.
    pub fn new(load: Arc<Load>) -> Self {
        Self::of(load, None)
    }

    /// Takes one unit of `load`, and keeps `slot` as long.
    pub fn holding(load: Arc<Load>, slot: Slot) -> Self {
        Self::of(load, Some(slot))
    }

    fn of(load: Arc<Load>, slot: Option<Slot>) -> Self {
        load.begin();
        Self {
            load,
            began: None,
            _slot: slot,
            watched: None,
        }
    }

    /// Has the time to the answer measured from `now` on.
    pub fn measured(mut self, now: Instant) -> Self {
        self.began = Some(now);
        self
    }

    /// Has the outcome judged by `watch`.
    pub fn watched(mut self, watch: &Arc<Watch>, standing: &Arc<Standing>) -> Self {
        self.watched = Some((Arc::clone(watch), Arc::clone(standing)));
        self
    }

    /// The endpoint began to answer.
    pub fn answered(&self, now: Instant) {
        if let Some(began) = self.began {
            self.load.answered(now.saturating_duration_since(began), now);
        }
    }

    /// Which answers are errors, where that is another than usual.
    pub fn errors(&self) -> Option<&ErrorCodes> {
        self.watched.as_ref().and_then(|(watch, _)| watch.errors())
    }

    /// What became of it; of several outcomes the first counts.
    pub fn done(&mut self, outcome: Outcome, now: Instant) {
        if let Some((watch, standing)) = self.watched.take() {
            watch.saw(&standing, outcome, now);
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.load.end();
    }
}
