//! Whose turn it is to be asked.
//!
//! Place in the walk: the pure part of health checks. Must not know: who is asked, and how.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::balance::Used;
use crate::mesh::health_check::HealthCheck;

/// Things in the order in which they are due.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    queue: BTreeMap<(Instant, u64), T>,
    /// Tells apart what is due at the same time.
    added: u64,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self {
            queue: BTreeMap::new(),
            added: 0,
        }
    }
}

impl<T> Schedule<T> {
    pub(super) fn add(&mut self, due: Instant, what: T) {
        self.added += 1;
        self.queue.insert((due, self.added), what);
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((due, _), _)| *due)
    }

    /// The one that was due first.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|due| *due <= now)?;
        self.queue.pop_first().map(|(_, what)| what)
    }
}

/// What becomes of an endpoint whose interval is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is asked.
    Ask,
    /// It was asked not long ago, and few use it.
    Wait,
    /// There is nobody on whose behalf it could be asked.
    Forget,
}

/// `used` is by a pod that is still there; `asked` is when it was asked last.
pub(super) fn turn(check: &HealthCheck, used: Option<Used>, asked: Option<Instant>, now: Instant) -> Turn {
    let Some(used) = used else {
        return Turn::Forget;
    };
    let window = check.no_traffic_interval;
    let is_long_ago = asked.is_none_or(|asked| now.saturating_duration_since(asked) >= window);
    if used.is_within(window, now) || is_long_ago {
        Turn::Ask
    } else {
        Turn::Wait
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::mesh::health_check::Question;

    #[test]
    fn what_is_due_first_comes_first_and_nothing_before_its_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        for (due, what) in [(3, "c"), (1, "a"), (1, "b"), (9, "d")] {
            schedule.add(at(due), what);
        }
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.take_due(at(0)), None);
        let mut due = Vec::new();
        while let Some(what) = schedule.take_due(at(3)) {
            due.push(what);
        }
        assert_eq!(due, ["a", "b", "c"]);
        assert_eq!(schedule.next(), Some(at(9)));
    }

    #[test]
    fn who_is_used_is_asked_and_who_is_not_once_in_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let check = HealthCheck::new(Question::Tcp);
        assert_eq!(check.no_traffic_interval, Duration::from_mins(1));
        let by = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for (used, asked, now, expected) in [
            (None, None, 0, Turn::Forget),
            (None, Some(0), 10, Turn::Forget),
            (Some(0), None, 1, Turn::Ask),
            (Some(0), Some(5), 15, Turn::Ask),
            (Some(0), Some(50), 60, Turn::Ask),
            // Out of use for a minute: asked again a minute after the last time.
            (Some(0), Some(60), 70, Turn::Wait),
            (Some(0), Some(60), 119, Turn::Wait),
            (Some(0), Some(60), 120, Turn::Ask),
            (Some(119), Some(60), 119, Turn::Ask),
        ] {
            let used = used.map(|used| Used { by, at: at(used) });
            let turn = turn(&check, used, asked.map(at), at(now));
            assert_eq!(turn, expected, "{used:?} {asked:?} {now}");
        }
    }
}
