//! Which of several CAs writes what only one may write: the one that holds a lease, as client-go elects.
//!
//! Place in the walk: none; all CAs sign, and `app` lets the leader alone write status. Must not know: what is written.
//!
//! Clocks of machines differ, so nobody trusts a time that somebody else wrote: a lease has expired when its record did
//! not change for its whole duration by the observer's own clock. A leader stops acting `renew_deadline` after
//! it last *asked* for a renewal that was granted, which is before anybody else may take the lease.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::kubernetes::ApiError;
use crate::identity::error_chain;
use crate::lifecycle::Stop;

/// The lease as everybody sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseRecord {
    /// Who leads; nobody where it is empty.
    pub holder: String,
    /// How long others must have seen no change before they may take it; where nobody says, as long as their own.
    pub duration: Option<Duration>,
    /// When the holder took it, by the holder's clock.
    pub acquired: Option<SystemTime>,
    /// When the holder renewed it last, by the holder's clock.
    pub renewed: Option<SystemTime>,
    /// How often it changed hands.
    pub transitions: i32,
}

/// A record with the version in which the API server keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// What it says.
    pub record: LeaseRecord,
    /// Names this state: only what is still so is replaced.
    pub version: Option<String>,
}

/// Where the lease is kept: the seam for tests. Both are bounded in time and cancel-safe.
pub trait LeaseApi: Send + Sync + Debug {
    /// None where there is no lease yet.
    fn read(&self) -> BoxFuture<'_, Result<Option<StoredLease>, ApiError>>;

    /// Creates it where `version` is none, else replaces the state that has this version. False where somebody else
    /// was first.
    fn write(&self, record: LeaseRecord, version: Option<String>) -> BoxFuture<'_, Result<bool, ApiError>>;
}

/// How long a leader leads without a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// The three times contradict one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a lease must last longer than its renewal may take, and that longer than 1.2 pauses between two tries"
)]
pub struct InvalidTerms;

impl Terms {
    /// `lease_duration` must be longer than `renew_deadline`, and that longer than `retry_period` with its jitter.
    pub fn new(
        lease_duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, InvalidTerms> {
        let longest_pause = retry_period.mul_f64(1.0 + JITTER);
        let is_sound =
            lease_duration > renew_deadline && renew_deadline > longest_pause && !retry_period.is_zero();
        is_sound
            .then_some(Self {
                lease_duration,
                renew_deadline,
                retry_period,
            })
            .ok_or(InvalidTerms)
    }
}

/// Whether this process leads. Clones see the same.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether it leads now: nobody else does then.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when it leads, at once if it does. Cancel-safe. Never returns after the end of the candidate.
    pub async fn won(&mut self) {
        self.until(Option::is_some).await;
    }

    /// Returns when it leads no longer, at once if it does not. Cancel-safe.
    pub async fn lost(&mut self) {
        self.until(Option::is_none).await;
    }

    async fn until(&mut self, holds: impl FnMut(&Option<Instant>) -> bool) {
        if self.0.wait_for(holds).await.is_err() {
            // The candidate has ended, and with it whatever waits here will soon.
            std::future::pending::<()>().await;
        }
    }
}

/// One of those who may lead.
#[derive(Debug)]
pub struct Candidate<A> {
    api: A,
    identity: String,
    terms: Terms,
    /// The record that was seen last, and since when.
    observed: Option<(LeaseRecord, Instant)>,
    /// Until when this one leads.
    leading: watch::Sender<Option<Instant>>,
}

/// What a look at the lease leads to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is another's, who may be alive.
    Wait,
    /// It is this one's own, nobody's, or a dead one's: this is to be written.
    Write(LeaseRecord),
}

impl<A: LeaseApi> Candidate<A> {
    /// `identity` must be another for each process that ever ran.
    pub fn new(api: A, identity: String, terms: Terms) -> (Self, Leadership) {
        let (leading, seen) = watch::channel(None);
        let candidate = Self {
            api,
            identity,
            terms,
            observed: None,
            leading,
        };
        (candidate, Leadership(seen))
    }

    /// Takes part until `stop`, then gives the lease back.
    pub async fn run(mut self, stop: Stop) {
        let mut complaint = None;
        loop {
            let asked = Instant::now();
            let attempt = tokio::select! {
                () = stop.requested() => break,
                attempt = self.attempt_in_time() => attempt,
            };
            match attempt {
                Ok(true) => {
                    complaint = None;
                    self.lead(asked);
                }
                Ok(false) => {
                    complaint = None;
                    self.step_down("another one holds the lease");
                }
                Err(error) => {
                    let said = error_chain(&error);
                    if complaint.as_ref() != Some(&said) {
                        tracing::error!(
                            error = said,
                            "the lease of the leader cannot be renewed or taken; tried again"
                        );
                        complaint = Some(said);
                    }
                }
            }
            tokio::select! {
                () = stop.requested() => break,
                () = self.pause() => {}
            }
        }
        self.release().await;
    }

    /// Sleeps until the next try; a leadership that ends meanwhile ends in time.
    async fn pause(&self) {
        let pause = self
            .terms
            .retry_period
            .mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
        let next = Instant::now() + pause;
        if let Some(until) = self.until()
            && until <= next
        {
            sleep_until(until).await;
            self.step_down("it was not renewed in time");
        }
        sleep_until(next).await;
    }

    /// True where the lease is this one's now.
    async fn attempt_in_time(&mut self) -> Result<bool, ApiError> {
        let Some(until) = self.until() else {
            return self.attempt().await;
        };
        match timeout_at(until, self.attempt()).await {
            Ok(attempt) => attempt,
            Err(_elapsed) => {
                self.step_down("it was not renewed in time");
                Err(ApiError::Silent(self.terms.renew_deadline))
            }
        }
    }

    async fn attempt(&mut self) -> Result<bool, ApiError> {
        let found = self.api.read().await?;
        match self.judge(found.as_ref().map(|found| &found.record), Instant::now()) {
            Verdict::Wait => Ok(false),
            Verdict::Write(record) => {
                let version = found.and_then(|found| found.version);
                let is_written = self.api.write(record.clone(), version).await?;
                if is_written {
                    self.observed = Some((record, Instant::now()));
                } else if self.until().is_some() {
                    // Somebody touched the lease; the next look tells whose it is, and until then it is this one's.
                    return Err(ApiError::Conflict);
                }
                Ok(is_written)
            }
        }
    }

    fn judge(&mut self, found: Option<&LeaseRecord>, now: Instant) -> Verdict {
        let own = |acquired, transitions| LeaseRecord {
            holder: self.identity.clone(),
            duration: Some(self.terms.lease_duration),
            acquired,
            renewed: Some(SystemTime::now()),
            transitions,
        };
        let Some(found) = found else {
            return Verdict::Write(own(Some(SystemTime::now()), 0));
        };
        let since = match &self.observed {
            Some((seen, since)) if seen == found => *since,
            _ => now,
        };
        let duration = found.duration.unwrap_or(self.terms.lease_duration);
        let verdict = if found.holder == self.identity {
            Verdict::Write(own(found.acquired, found.transitions))
        } else if found.holder.is_empty() || now >= since + duration {
            Verdict::Write(own(Some(SystemTime::now()), found.transitions.saturating_add(1)))
        } else {
            Verdict::Wait
        };
        self.observed = Some((found.clone(), since));
        verdict
    }

    fn until(&self) -> Option<Instant> {
        *self.leading.borrow()
    }

    /// `asked` is before the renewal reached the API server, so that this leadership ends before the lease does.
    fn lead(&self, asked: Instant) {
        let until = asked + self.terms.renew_deadline;
        if self.leading.send_replace(Some(until)).is_none() {
            tracing::info!(identity = self.identity, "this ca leads");
        }
    }

    fn step_down(&self, why: &str) {
        if self.leading.send_replace(None).is_some() {
            tracing::warn!(identity = self.identity, why, "this ca leads no longer");
        }
    }

    /// Whoever waits need not wait for the lease to expire.
    async fn release(&self) {
        if self.leading.send_replace(None).is_none() {
            return;
        }
        match timeout(RELEASE, self.give_back()).await {
            Ok(Ok(_)) => tracing::info!(identity = self.identity, "this ca has given the lease back"),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "the lease is not given back and must expire"
                );
            }
            Err(_elapsed) => tracing::warn!("the lease is not given back in time and must expire"),
        }
    }

    /// False where somebody else was first.
    async fn give_back(&self) -> Result<bool, ApiError> {
        match self.api.read().await? {
            Some(StoredLease { record, version }) if record.holder == self.identity => {
                let free = LeaseRecord {
                    holder: String::new(),
                    duration: Some(Duration::from_secs(1)),
                    ..record
                };
                self.api.write(free, version).await
            }
            Some(_) | None => Ok(false),
        }
    }
}

/// As client-go: pauses are up to this much longer, so that candidates do not ask all at once.
const JITTER: f64 = 0.2;
/// Less than the CA takes to end.
const RELEASE: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
