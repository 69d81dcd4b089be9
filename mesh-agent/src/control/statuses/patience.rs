//! When something that could not be written is tried again: soon at first, then ever later, and each on its own.
//!
//! What is refused for good then costs the API server little, and holds nothing else up. Must not know what is written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// What could not be written, by name.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failed: HashMap<Arc<str>, Failed>,
}

#[derive(Debug)]
struct Failed {
    /// What was to be written about; another version is tried at once.
    version: Option<i64>,
    said: String,
    times: u32,
    due: Instant,
}

impl Patience {
    /// Whether it may be tried now.
    pub(super) fn is_due(&self, name: &str, version: Option<i64>, now: Instant) -> bool {
        let failed = self.failed.get(name);
        failed.is_none_or(|failed| failed.version != version || failed.due <= now)
    }

    /// Whether it failed when it was last tried.
    pub(super) fn has_failed(&self, name: &str) -> bool {
        self.failed.contains_key(name)
    }

    /// How often it failed, and why when it was last tried.
    pub(super) fn failure(&self, name: &str) -> Option<(u32, &str)> {
        let failed = self.failed.get(name)?;
        Some((failed.times, &failed.said))
    }

    /// Puts it off; true where it was not put off for this reason before, which is worth a line in the log.
    pub(super) fn failed(&mut self, name: &Arc<str>, version: Option<i64>, said: &str, now: Instant) -> bool {
        let before = self.failed.get(name).filter(|before| before.version == version);
        let times = before.map_or(0, |before| before.times);
        let is_news = before.is_none_or(|before| before.said != said);
        let failed = Failed {
            version,
            said: said.to_owned(),
            times: times.saturating_add(1),
            due: now + FIRST.saturating_mul(1 << times.min(DOUBLINGS)).min(LAST),
        };
        self.failed.insert(Arc::clone(name), failed);
        is_news
    }

    /// It is written, or nothing is to be written.
    pub(super) fn succeeded(&mut self, name: &str) {
        self.failed.remove(name);
    }

    /// Forgets all that is not wanted any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.failed.retain(|name, _| is_wanted(name));
    }

    /// When the first of them is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.due).min()
    }
}

const FIRST: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_mins(1);
const DOUBLINGS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_minute_and_start_anew_after_a_success() {
        let mut patience = Patience::default();
        let name: Arc<str> = "a".into();
        let now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            patience.failed(&name, None, "no", now);
            pauses.push((patience.next().unwrap() - now).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        patience.succeeded(&name);
        assert_eq!(patience.next(), None);
        patience.failed(&name, None, "no", now);
        assert_eq!(patience.next(), Some(now + FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_holds_neither_another_nor_its_next_version_up() {
        let mut patience = Patience::default();
        let now = Instant::now();
        patience.failed(&"a".into(), Some(1), "no", now);
        assert!(!patience.is_due("a", Some(1), now));
        assert!(patience.is_due("a", Some(1), now + FIRST));
        assert!(patience.is_due("a", Some(2), now));
        assert!(patience.is_due("b", Some(1), now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_news_once() {
        let mut patience = Patience::default();
        let name: Arc<str> = "a".into();
        let now = Instant::now();
        let news = ["no", "no", "never", "never"].map(|said| patience.failed(&name, None, said, now));
        assert_eq!(news, [true, false, true, false]);
        patience.retain(|_| false);
        assert!(patience.failed(&name, None, "never", now));
    }
}
