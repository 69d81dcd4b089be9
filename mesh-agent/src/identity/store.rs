//! The certificates of the identities of this node's pods, kept fresh.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::renewal::{renewal_delay, retry_delay};
use super::{IssueError, Issuer, WorkloadTls};
use crate::lifecycle::{Stop, Tasks};
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
    tasks: Tasks,
    clock: Clock,
    kept: ArcSwap<HashMap<SpiffeId, Arc<Kept>>>,
    /// Held while `kept` is replaced.
    changing: Mutex<()>,
    issued: Notify,
    renewals: AtomicU64,
    failed: AtomicU64,
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
        Self::with_clock(issuer, tasks, Arc::new(SystemTime::now))
    }

    fn with_clock(issuer: Arc<dyn Issuer>, tasks: &Tasks, clock: Clock) -> Self {
        let shared = Shared {
            issuer,
            tasks: tasks.child(),
            clock,
            kept: ArcSwap::default(),
            changing: Mutex::new(()),
            issued: Notify::new(),
            renewals: AtomicU64::new(0),
            failed: AtomicU64::new(0),
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
        let mut status: Vec<_> = self
            .shared
            .kept
            .load()
            .values()
            .map(|kept| kept.status())
            .collect();
        status.sort_by(|one, other| one.identity.cmp(&other.identity));
        status
    }

    /// Attempts since the start.
    pub fn counts(&self) -> RenewalCounts {
        RenewalCounts {
            issued: self.shared.renewals.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
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
    loop {
        let outcome = tokio::select! {
            () = stop.requested() => return,
            outcome = tokio::time::timeout(ISSUE_TIMEOUT, issue(shared.issuer.as_ref(), &kept.identity)) => outcome,
        };
        let pause = match outcome.unwrap_or(Err(IssueError::Timeout)) {
            Ok(tls) => shared.install(&kept, tls),
            Err(error) => shared.put_off(&kept, &error),
        };
        if !wait(&shared, pause, &stop).await {
            return;
        }
    }
}

/// Waits until `pause` has passed by either clock: certificates expire by the wall clock, which jumps when a machine
/// wakes from sleep, and must not hold a renewal up when it is set back. False if the stop came first.
async fn wait(shared: &Shared, pause: Duration, stop: &Stop) -> bool {
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
            () = tokio::time::sleep(left.min(LOOK_AT_CLOCK)) => {}
        }
    }
}

async fn issue(issuer: &dyn Issuer, identity: &SpiffeId) -> Result<WorkloadTls, IssueError> {
    let svid = issuer.issue(identity).await?;
    if svid.identity() != identity {
        return Err(IssueError::OtherIdentity(svid.identity().clone()));
    }
    Ok(WorkloadTls::new(&svid, &issuer.roots())?)
}

impl Shared {
    /// Puts a new certificate to use; how long until the next.
    fn install(&self, kept: &Kept, tls: WorkloadTls) -> Duration {
        let remaining = tls
            .not_after()
            .duration_since((self.clock)())
            .unwrap_or(Duration::ZERO);
        tracing::info!(
            identity = %kept.identity,
            serial = tls.serial(),
            expires_in_s = remaining.as_secs(),
            "certificate issued"
        );
        kept.tls.store(Some(Arc::new(tls)));
        let mut progress = kept.progress();
        progress.renewals += 1;
        progress.failures_in_a_row = 0;
        progress.last_error = None;
        drop(progress);
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.issued.notify_waiters();
        // Even an issuer that hands out expired certificates is not asked without pause.
        renewal_delay(remaining, rand::random()).max(MIN_PAUSE)
    }

    /// Keeps what there is; how long until the next attempt.
    fn put_off(&self, kept: &Kept, error: &IssueError) -> Duration {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut progress = kept.progress();
        progress.failures_in_a_row = progress.failures_in_a_row.saturating_add(1);
        progress.last_error = Some(chain(error));
        let pause = retry_delay(progress.failures_in_a_row, rand::random());
        tracing::error!(
            identity = %kept.identity,
            error = progress.last_error,
            failures_in_a_row = progress.failures_in_a_row,
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "cannot get a certificate"
        );
        pause
    }
}

impl Kept {
    fn status(&self) -> CertificateStatus {
        let tls = self.tls.load();
        let progress = self.progress();
        CertificateStatus {
            identity: self.identity.clone(),
            not_after: tls.as_ref().map(|tls| tls.not_after()),
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

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// An issuer that takes longer is treated as gone.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a waiting task compares its plan with the wall clock.
const LOOK_AT_CLOCK: Duration = Duration::from_mins(1);

const MIN_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
