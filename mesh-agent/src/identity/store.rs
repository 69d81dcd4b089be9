//! The certificates of the identities of this node's pods, kept fresh.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::issue_failure::{IssueFailure, IssueFailures};
use super::news::TrustNews;
use super::renewal::{is_overdue, renewal_delay, retry_delay};
use super::source::Source;
use super::{IssueError, Issuer, Revocations, TrustRules, WorkloadTls, error_chain};
use crate::lifecycle::Tasks;
use crate::mesh::identity::SpiffeId;

/// One renewal task an identity. Clones are the same store.
///
/// A certificate is renewed at half of its life; while that fails the old one stays in use until it expires.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    issuer: Arc<dyn Issuer>,
    /// Never read itself: each renewal task has its own clone, which remembers what it has seen.
    news: TrustNews,
    tasks: Tasks,
    clock: Clock,
    kept: ArcSwap<HashMap<SpiffeId, Arc<Kept>>>,
    /// Held while `kept` is replaced.
    changing: Mutex<()>,
    issued: Notify,
    renewals: AtomicU64,
    failed: IssueFailures,
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// One identity that is wanted.
struct Kept {
    identity: SpiffeId,
    tls: ArcSwapOption<WorkloadTls>,
    progress: Mutex<Progress>,
    /// The group of its renewal task: stopped when the identity is no longer wanted.
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Progress {
    /// When the certificate in use came: its dates say less, since they begin before it was asked for.
    obtained: Option<SystemTime>,
    renewals: u64,
    failures_in_a_row: u32,
    last_error: Option<String>,
}

/// How one identity fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Whose certificate it is.
    pub identity: SpiffeId,
    /// When it expires; none while the first one is not issued.
    pub not_after: Option<SystemTime>,
    /// A quarter of its life or less is left although it is renewed at half: the alarm before it expires.
    pub is_overdue: bool,
    /// Its serial number in hexadecimal; none while the first one is not issued.
    pub serial: Option<String>,
    /// How often one was issued.
    pub renewals: u64,
    /// Why the last attempt failed; none if it did not.
    pub last_error: Option<String>,
}

/// Attempts since the start, over all identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenewalCounts {
    /// Certificates that were issued.
    pub issued: u64,
    /// Attempts that failed.
    pub failed: u64,
}

impl Certificates {
    /// Wants no identity yet. Renewal tasks run in a child group of `tasks`.
    pub fn new(issuer: Arc<dyn Issuer>, tasks: &Tasks) -> Self {
        let (_, no_rules) = watch::channel(TrustRules::default());
        Self::with_rules(issuer, tasks, no_rules)
    }

    /// As [`Certificates::new`]; `rules` hold for every handshake, and a change of them reaches live configurations.
    pub fn with_rules(issuer: Arc<dyn Issuer>, tasks: &Tasks, rules: watch::Receiver<TrustRules>) -> Self {
        Self::with_clock(issuer, tasks, rules, Arc::new(SystemTime::now))
    }

    fn with_clock(
        issuer: Arc<dyn Issuer>,
        tasks: &Tasks,
        rules: watch::Receiver<TrustRules>,
        clock: Clock,
    ) -> Self {
        let shared = Shared {
            news: TrustNews::new(&*issuer, rules),
            issuer,
            tasks: tasks.child(),
            clock,
            kept: ArcSwap::default(),
            changing: Mutex::new(()),
            issued: Notify::new(),
            renewals: AtomicU64::new(0),
            failed: IssueFailures::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Keeps certificates for exactly these identities from now on: starts what is new, forgets what is missing.
    ///
    /// Does not wait for the issuer. Call it within a tokio runtime.
    pub fn want(&self, ids: impl IntoIterator<Item = SpiffeId>) {
        let wanted: BTreeSet<SpiffeId> = ids.into_iter().collect();
        let _changing = self
            .shared
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.kept.load_full();
        let mut next = HashMap::with_capacity(wanted.len());
        for (identity, kept) in current.iter() {
            if wanted.contains(identity) {
                next.insert(identity.clone(), Arc::clone(kept));
            } else {
                kept.tasks.request_stop();
            }
        }
        for identity in wanted {
            next.entry(identity)
                .or_insert_with_key(|identity| self.keep(identity));
        }
        self.shared.kept.store(Arc::new(next));
        // Who waits for all may now wait for fewer.
        self.shared.issued.notify_waiters();
    }

    /// The TLS of a local identity; none if it is not wanted, not issued yet, or expired. Takes no lock.
    pub fn tls(&self, id: &SpiffeId) -> Option<Arc<WorkloadTls>> {
        let kept = self.shared.kept.load();
        let tls = kept.get(id)?.tls.load_full()?;
        (tls.not_after() > (self.shared.clock)()).then_some(tls)
    }

    /// Returns when every wanted identity has a valid certificate. Cancel-safe.
    pub async fn ready(&self) {
        loop {
            let issued = self.shared.issued.notified();
            tokio::pin!(issued);
            // Registered before looking, so that nothing is missed in between.
            issued.as_mut().enable();
            if self.shared.kept.load().keys().all(|id| self.tls(id).is_some()) {
                return;
            }
            issued.await;
        }
    }

    /// How each wanted identity fares, in order of their names.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let (kept, now) = (self.shared.kept.load(), (self.shared.clock)());
        let mut status: Vec<_> = kept.values().map(|kept| kept.status(now)).collect();
        status.sort_by(|one, other| one.identity.cmp(&other.identity));
        status
    }

    /// Attempts since the start.
    pub fn counts(&self) -> RenewalCounts {
        RenewalCounts {
            issued: self.shared.renewals.load(Ordering::Relaxed),
            failed: self.shared.failed.total(),
        }
    }

    /// Failed attempts since the start, by reason.
    pub fn failures(&self) -> Vec<(IssueFailure, u64)> {
        self.shared.failed.by_reason()
    }

    /// What is revoked, from now on: for connections that live.
    pub fn revocations(&self) -> Revocations {
        self.shared.news.revocations()
    }

    fn keep(&self, identity: &SpiffeId) -> Arc<Kept> {
        let kept = Arc::new(Kept {
            identity: identity.clone(),
            tls: ArcSwapOption::empty(),
            progress: Mutex::default(),
            tasks: self.shared.tasks.child(),
        });
        kept.tasks.spawn(
            "certificate-renewal",
            renew(Arc::clone(&self.shared), Arc::clone(&kept)),
        );
        kept
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("issuer", &self.shared.issuer)
            .field("wanted", &self.shared.kept.load().len())
            .finish_non_exhaustive()
    }
}

/// Runs until the identity is no longer wanted.
async fn renew(shared: Arc<Shared>, kept: Arc<Kept>) {
    let stop = kept.tasks.stop();
    let mut news = shared.news.clone();
    let mut source = Source::new(&shared.issuer, &kept.identity);
    loop {
        let issuing = source.issue(&mut news);
        let outcome = tokio::select! {
            () = stop.requested() => return,
            outcome = tokio::time::timeout(ISSUE_TIMEOUT, issuing) => outcome,
        };
        let pause = match outcome.unwrap_or(Err(IssueError::Timeout)) {
            Ok((tls, is_news)) => shared.install(&kept, tls, is_news),
            Err(error) => shared.put_off(&kept, &error),
        };
        if !wait(&shared, &kept, pause, (&mut news, &mut source)).await {
            return;
        }
    }
}

/// Waits until `pause` has passed by either clock: certificates expire by the wall clock, which jumps when a machine
/// wakes from sleep, and must not hold a renewal up when it is set back. False if the stop came first.
///
/// What becomes trusted or revoked meanwhile is put to use at once, and a certificate that is pushed ends the wait.
async fn wait(
    shared: &Shared,
    kept: &Kept,
    pause: Duration,
    (news, source): (&mut TrustNews, &mut Source),
) -> bool {
    let stop = kept.tasks.stop();
    let until = (shared.clock)() + pause;
    let started = Instant::now();
    loop {
        let by_wall = until.duration_since((shared.clock)()).unwrap_or(Duration::ZERO);
        let left = by_wall.min(pause.saturating_sub(started.elapsed()));
        if left.is_zero() {
            return true;
        }
        tokio::select! {
            () = stop.requested() => return false,
            () = source.superseded() => return true,
            () = news.changed() => {
                // What the new roots do not hold must be asked for anew.
                if !trust_anew(kept, news) {
                    return true;
                }
            }
            () = tokio::time::sleep(left.min(LOOK_AT_CLOCK)) => {}
        }
    }
}

/// Gives the certificate in use other roots or rules; false when it does not hold against them.
fn trust_anew(kept: &Kept, news: &mut TrustNews) -> bool {
    let (roots, rules) = news.take();
    let Some(tls) = kept.tls.load_full() else {
        return true;
    };
    match tls.trusting(&roots, &rules) {
        Ok(tls) => {
            tracing::info!(identity = %kept.identity, roots = roots.len(), revocation_lists = rules.revoked.len(), "trust changed");
            kept.tls.store(Some(Arc::new(tls)));
            true
        }
        Err(error) => {
            // Peers that have heard the news would refuse it anyway.
            tracing::error!(identity = %kept.identity, error = error_chain(&error), "the certificate does not hold any more");
            kept.tls.store(None);
            false
        }
    }
}

impl Shared {
    /// Puts a new certificate to use, or one that is known under `is_news` of whom to trust; how long until the next.
    fn install(&self, kept: &Kept, tls: WorkloadTls, is_news: bool) -> Duration {
        let remaining = tls
            .not_after()
            .duration_since((self.clock)())
            .unwrap_or(Duration::ZERO);
        // Even an issuer that hands out expired certificates is not asked without pause.
        let pause = renewal_delay(remaining, rand::random()).max(MIN_PAUSE);
        let pause = self
            .issuer
            .asked_again_within()
            .map_or(pause, |within| pause.min(within));
        kept.progress().succeed();
        let is_known = kept
            .tls
            .load()
            .as_ref()
            .is_some_and(|old| old.serial() == tls.serial());
        if is_known {
            if is_news {
                kept.tls.store(Some(Arc::new(tls)));
            }
            return pause;
        }
        tracing::info!(
            identity = %kept.identity,
            serial = tls.serial(),
            expires_in_s = remaining.as_secs(),
            "certificate issued"
        );
        kept.tls.store(Some(Arc::new(tls)));
        let mut progress = kept.progress();
        progress.renewals += 1;
        progress.obtained = Some((self.clock)());
        drop(progress);
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.issued.notify_waiters();
        pause
    }

    /// Keeps what there is; how long until the next attempt.
    fn put_off(&self, kept: &Kept, error: &IssueError) -> Duration {
        self.failed.count(error.failure());
        let mut progress = kept.progress();
        progress.failures_in_a_row = progress.failures_in_a_row.saturating_add(1);
        progress.last_error = Some(error_chain(error));
        let pause = retry_delay(progress.failures_in_a_row, rand::random());
        let expires_in_s = kept.tls.load().as_ref().map(|tls| {
            let left = tls.not_after().duration_since((self.clock)());
            left.map_or(0, |left| left.as_secs())
        });
        tracing::error!(
            identity = %kept.identity,
            error = progress.last_error,
            expires_in_s,
            failures_in_a_row = progress.failures_in_a_row,
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "cannot get a certificate"
        );
        pause
    }
}

impl Progress {
    fn succeed(&mut self) {
        self.failures_in_a_row = 0;
        self.last_error = None;
    }
}

impl Kept {
    fn status(&self, now: SystemTime) -> CertificateStatus {
        let tls = self.tls.load();
        let progress = self.progress();
        CertificateStatus {
            identity: self.identity.clone(),
            not_after: tls.as_ref().map(|tls| tls.not_after()),
            is_overdue: match (&*tls, progress.obtained) {
                (Some(tls), Some(obtained)) => is_overdue(obtained, tls.not_after(), now),
                _ => true,
            },
            serial: tls.as_ref().map(|tls| tls.serial().to_owned()),
            renewals: progress.renewals,
            last_error: progress.last_error.clone(),
        }
    }

    /// No field depends on another, so a lock that a panic poisoned is still good.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An issuer that takes longer is treated as gone.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a waiting task compares its plan with the wall clock.
const LOOK_AT_CLOCK: Duration = Duration::from_mins(1);
const MIN_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
