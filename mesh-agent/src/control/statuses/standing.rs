//! How the writing of status stands, for the operator.
//!
//! Place in the walk: noted by the writer and its watches, read by the status page of the CA. Must not know: what is
//! written.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::patience::Patience;

/// Shared by its clones.
#[derive(Debug, Clone, Default)]
pub struct WriterStanding(Arc<Mutex<WriterStatus>>);

/// What the status page of a CA shows of it; of a CA that does not lead nothing but that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterStatus {
    /// Whether this CA is the one that writes.
    pub leads: bool,
    /// Kinds that cannot be watched, and why. Nothing is written before each was listed once.
    pub unheard: BTreeMap<String, String>,
    /// Statuses that could not be written.
    pub statuses: Unwritten,
    /// Events that could not be written.
    pub events: Unwritten,
}

/// What could not be written, and is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwritten {
    /// How many there are.
    pub count: usize,
    /// The first of them by name, a hundred at most.
    pub first: Vec<UnwrittenOne>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnwrittenOne {
    /// `Kind NAMESPACE/NAME` of the object that it is about.
    pub object: String,
    /// How often it was tried.
    pub times: u32,
    /// The API server's own words, or those of the way to it.
    pub error: String,
}

impl WriterStanding {
    /// How all is now.
    pub fn status(&self) -> WriterStatus {
        self.0.lock().clone()
    }

    /// A time of leading begins, or is over.
    pub(super) fn leads(&self, leads: bool) {
        *self.0.lock() = WriterStatus {
            leads,
            ..WriterStatus::default()
        };
    }

    /// A kind cannot be watched; whether that is news.
    pub(super) fn unheard(&self, kind: &str, said: &str) -> bool {
        let before = self.0.lock().unheard.insert(kind.to_owned(), said.to_owned());
        before.is_none_or(|before| before != said)
    }

    /// A kind is watched.
    pub(super) fn heard(&self, kind: &str) {
        self.0.lock().unheard.remove(kind);
    }

    pub(super) fn statuses(&self, unwritten: Unwritten) {
        self.0.lock().statuses = unwritten;
    }

    pub(super) fn events(&self, unwritten: Unwritten) {
        self.0.lock().events = unwritten;
    }
}

impl Unwritten {
    /// Those of `wanted`, each the name by which it is put off and the object that it is about, that failed.
    pub(super) fn of<'n>(patience: &Patience, wanted: impl Iterator<Item = (&'n str, &'n str)>) -> Self {
        let mut all: Vec<UnwrittenOne> = wanted
            .filter_map(|(name, object)| {
                let (times, error) = patience.failure(name)?;
                Some(UnwrittenOne {
                    object: object.to_owned(),
                    times,
                    error: error.to_owned(),
                })
            })
            .collect();
        all.sort();
        let count = all.len();
        all.truncate(MOST_SHOWN);
        Self { count, first: all }
    }
}

/// Where a rule is missing every object may be among them.
const MOST_SHOWN: usize = 100;

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn what_failed_is_shown_with_its_object_the_first_hundred_of_many() {
        let mut patience = Patience::default();
        let now = Instant::now();
        let names: Vec<String> = (0..300).map(|number| format!("event-{number:03}")).collect();
        for name in names.iter().rev().step_by(2).chain(&names[1..2]) {
            patience.failed(&name.as_str().into(), None, "no", now);
        }
        let wanted = names.iter().map(|name| (name.as_str(), &name[6..]));
        let unwritten = Unwritten::of(&patience, wanted);
        assert_eq!((unwritten.count, unwritten.first.len()), (150, 100));
        let expected = UnwrittenOne {
            object: "001".to_owned(),
            times: 2,
            error: "no".to_owned(),
        };
        assert_eq!(unwritten.first[0], expected);
        assert_eq!(unwritten.first[1].object, "003");
    }

    #[test]
    fn nothing_of_a_term_is_left_after_it() {
        let standing = WriterStanding::default();
        standing.leads(true);
        let news = ["no", "no", "never"].map(|said| standing.unheard("HTTPRoute", said));
        assert_eq!(news, [true, false, true]);
        standing.heard("HTTPRoute");
        assert!(standing.unheard("HTTPRoute", "never"), "it was heard in between");
        standing.leads(false);
        assert_eq!(standing.status(), WriterStatus::default());
    }
}
