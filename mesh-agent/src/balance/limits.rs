//! Circuit breakers: how much may be under way to an upstream from this node at once.
//!
//! Place in the walk: asked when a request or connection begins. Must not know: what refusing looks like.

use std::sync::Arc;

use super::Vitals;
use crate::mesh::traffic::Limits;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// HTTP requests.
    Requests,
    /// Connections: opaque ones, and those that carry HTTP, also while they are idle.
    Connections,
    /// HTTP requests that wait for a connection to be opened.
    Pending,
    /// HTTP requests that are being tried again.
    Retries,
}

impl Limit {
    /// All.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Connections, Self::Pending, Self::Retries];

    /// As metrics call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Retries => "retries",
        }
    }

    /// The written limit; without one nothing is refused.
    fn most(self, limits: &Limits, vitals: &Vitals) -> usize {
        let written = match (self, limits.retry_share) {
            (Self::Requests, _) => limits.requests,
            (Self::Connections, _) => limits.connections,
            (Self::Pending, _) => limits.pending,
            (Self::Retries, None) => limits.retries,
            (Self::Retries, Some(share)) => return share.most(vitals.under_way(Self::Requests)),
        };
        written.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// Its own of what is kept for each limit, in the order of [`Self::ALL`].
    pub(super) fn of<T>(self, [requests, connections, pending, retries]: &[T; Self::ALL.len()]) -> &T {
        match self {
            Self::Requests => requests,
            Self::Connections => connections,
            Self::Pending => pending,
            Self::Retries => retries,
        }
    }
}

/// The limits of one upstream, and its counts; clones share them.
#[derive(Debug, Clone)]
pub struct Breakers {
    vitals: Arc<Vitals>,
    limits: Limits,
}

impl Breakers {
    /// `limits` over what `vitals` count.
    pub fn new(vitals: Arc<Vitals>, limits: Limits) -> Self {
        Self { vitals, limits }
    }

    /// The counts.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// What is written.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether anything is limited.
    pub fn has_limits(&self) -> bool {
        self.limits != Limits::default()
    }

    /// Whether there is room for one more now; nothing is taken or counted.
    pub fn has_room(&self, limit: Limit) -> bool {
        self.vitals.under_way(limit) < limit.most(&self.limits, &self.vitals)
    }

    /// Room for one more; `None` when there are as many as the limits allow, which is counted.
    pub fn take(&self, limit: Limit) -> Option<Slot> {
        let most = limit.most(&self.limits, &self.vitals);
        self.vitals.begin(limit, most).then(|| Slot {
            vitals: Arc::clone(&self.vitals),
            limit,
        })
    }
}

/// Room for one request or connection, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping a slot at once gives its room back at once"]
pub struct Slot {
    vitals: Arc<Vitals>,
    limit: Limit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.vitals.end(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::traffic::RetryShare;

    fn breakers(limits: Limits) -> Breakers {
        Breakers::new(Arc::default(), limits)
    }

    #[test]
    fn a_limit_refuses_what_is_more_until_something_ends() {
        let breakers = breakers(Limits {
            requests: Some(2),
            ..Limits::default()
        });
        let take = || breakers.take(Limit::Requests);
        let (first, second) = (take(), take());
        assert!(first.is_some() && second.is_some());
        assert!(take().is_none());
        assert_eq!(breakers.vitals().overflows(Limit::Requests), 1);
        drop(first);
        assert!(take().is_some());
        assert_eq!(breakers.vitals().under_way(Limit::Requests), 1);
    }

    #[test]
    fn what_has_no_limit_is_only_counted() {
        let breakers = breakers(Limits::default());
        let slots: Vec<_> = (0..1000)
            .map(|_| breakers.take(Limit::Connections).unwrap())
            .collect();
        assert_eq!(breakers.vitals().under_way(Limit::Connections), 1000);
        drop(slots);
        assert_eq!(breakers.vitals().under_way(Limit::Connections), 0);
        assert_eq!(breakers.vitals().overflows(Limit::Connections), 0);
    }

    #[test]
    fn a_share_of_the_requests_under_way_stands_instead_of_a_number_of_retries() {
        let share = RetryShare {
            percent_milli: 50_000,
            least: 1,
        };
        let breakers = breakers(Limits {
            retries: Some(0),
            retry_share: Some(share),
            ..Limits::default()
        });
        let first = breakers.take(Limit::Retries);
        assert!(first.is_some() && breakers.take(Limit::Retries).is_none());
        let _requests: Vec<_> = (0..4).map(|_| breakers.take(Limit::Requests).unwrap()).collect();
        assert!(breakers.has_room(Limit::Retries));
        let second = breakers.take(Limit::Retries);
        assert!(second.is_some() && breakers.take(Limit::Retries).is_none());
    }

    #[test]
    fn a_limit_of_nothing_refuses_everything() {
        let limits = Limits {
            pending: Some(0),
            ..Limits::default()
        };
        assert!(breakers(limits).take(Limit::Pending).is_none());
    }
}
