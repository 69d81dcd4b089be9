//! How many TLS handshakes a pod may have, and the threads that compute them.
//!
//! A handshake is half a millisecond of arithmetic in one piece: on a data thread the requests of all other pods would
//! wait for it. Place in the walk: round each handshake of [`super::tls`]. Must not know: certificates, who the pod is.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::lifecycle::Tasks;

/// The runtime on which handshakes run, away from established connections. Clones share it.
#[derive(Debug, Clone)]
pub struct Workshop {
    on: Handle,
    tasks: Tasks,
}

impl Workshop {
    /// Works on the threads of `on`; `tasks` joins what runs there.
    pub fn new(on: Handle, tasks: Tasks) -> Self {
        Self { on, tasks }
    }

    /// A place of one pod at the same threads: what several of them have to do there, they do in turns.
    #[must_use]
    pub fn fair_share(&self) -> Self {
        Self::new(self.on.clone(), self.tasks.fair_child())
    }

    /// What `work` comes to; `None` when it panicked or the runtime has ended. Cancel-safe: `work` ends too.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (mut done, outcome) = oneshot::channel();
        {
            let _there = self.on.enter();
            self.tasks.spawn("handshake", async move {
                tokio::select! {
                    () = done.closed() => {}
                    // An error says that nobody waits any more, as above.
                    value = work => drop(done.send(value)),
                }
            });
        }
        outcome.await.ok()
    }
}

/// Why a handshake does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// The pod has [`AT_ONCE`] in progress.
    #[error("too many handshakes at once")]
    AtOnce,
    /// The pod has begun as many within the last second as it may.
    #[error("too many handshakes a second")]
    PerSecond,
}

impl TooMany {
    /// As a word of a closed set, for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "at_once",
            Self::PerSecond => "per_second",
        }
    }
}

/// The handshakes of one pod in one direction: so many a second, and [`AT_ONCE`] at a time.
#[derive(Debug)]
pub struct HandshakeLimit {
    permits: Arc<Semaphore>,
    bucket: Mutex<Bucket>,
}

impl HandshakeLimit {
    /// As many a second as `rate`, and as many without a pause after a quiet second.
    pub fn new(rate: NonZeroU32, now: Instant) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            bucket: Mutex::new(Bucket::new(rate, now)),
        }
    }

    /// Lets a handshake begin at `now`; it is in progress until the permit is dropped.
    pub fn admit(&self, now: Instant) -> Result<OwnedSemaphorePermit, TooMany> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_none_left| TooMany::AtOnce)?;
        self.spend(now).map(|()| permit)
    }

    /// As [`Self::admit`], but waits for others to end, for `limit` at most: for the pod's own connections, which come
    /// in bursts when it starts. Cancel-safe.
    pub async fn admitted(&self, limit: Duration) -> Result<OwnedSemaphorePermit, TooMany> {
        let permit = timeout(limit, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or(TooMany::AtOnce)?;
        self.spend(Instant::now()).map(|()| permit)
    }

    fn spend(&self, now: Instant) -> Result<(), TooMany> {
        if self.bucket.lock().take(now) {
            Ok(())
        } else {
            Err(TooMany::PerSecond)
        }
    }
}

/// A token bucket that holds a second's worth, kept as the moment at which it will be full again.
#[derive(Debug)]
struct Bucket {
    each: Duration,
    full_at: Instant,
}

impl Bucket {
    fn new(rate: NonZeroU32, now: Instant) -> Self {
        Self {
            each: Duration::from_secs(1) / rate.get(),
            full_at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.each;
        let has_one = full_at.duration_since(now) <= Duration::from_secs(1);
        if has_one {
            self.full_at = full_at;
        }
        has_one
    }
}

/// Handshakes of one pod and direction in progress at a time: what others wait for them is bounded by that.
pub const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(a_second: u32) -> NonZeroU32 {
        NonZeroU32::new(a_second).unwrap()
    }

    #[test]
    fn a_storm_is_cut_to_the_rate_and_a_quiet_second_gives_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(100), start);
        let mut taken = |at: Duration| (0..1000).filter(|_| bucket.take(start + at)).count();
        assert_eq!(taken(Duration::ZERO), 100);
        assert_eq!(taken(Duration::from_millis(500)), 50);
        assert_eq!(taken(Duration::from_secs(10)), 100);
    }

    #[test]
    fn those_in_progress_are_bounded_and_one_that_ends_makes_room() {
        let now = Instant::now();
        let limit = HandshakeLimit::new(rate(100_000), now);
        let mut permits: Vec<_> = (0..AT_ONCE).map(|_| limit.admit(now).unwrap()).collect();
        assert_eq!(limit.admit(now).unwrap_err(), TooMany::AtOnce);
        permits.pop();
        assert!(limit.admit(now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pods_own_wait_for_room_and_not_for_ever() {
        let now = Instant::now();
        let limit = HandshakeLimit::new(rate(100_000), now);
        let mut permits: Vec<_> = (0..AT_ONCE).map(|_| limit.admit(now).unwrap()).collect();
        let patience = Duration::from_secs(5);
        assert_eq!(limit.admitted(patience).await.unwrap_err(), TooMany::AtOnce);
        let (waited, ()) = tokio::join!(limit.admitted(patience), async { drop(permits.pop()) });
        assert!(waited.is_ok());
    }

    #[tokio::test]
    async fn work_runs_on_the_threads_of_the_workshop() {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("workshop")
            .build()
            .unwrap();
        let workshop = Workshop::new(threads.handle().clone(), Tasks::new());
        let name = workshop.run(async { std::thread::current().name().map(str::to_owned) });
        assert_eq!(name.await.flatten().as_deref(), Some("workshop"));
        threads.shutdown_background();
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_and_a_panic_is_no_result() {
        let tasks = Tasks::new();
        let workshop = Workshop::new(Handle::current(), tasks.clone());
        let forever = workshop.run(std::future::pending::<()>());
        assert!(timeout(Duration::from_millis(1), forever).await.is_err());
        assert!(tasks.joined(Duration::from_secs(10)).await);
        assert_eq!(workshop.run(async { panic!("on purpose") }).await, None::<()>);
    }

    proptest! {
        #[test]
        fn no_window_of_a_second_sees_more_than_twice_the_rate(
            steps in prop::collection::vec(0_u64..50, 1..300),
            a_second in 1_u32..200,
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut taken) = (Bucket::new(rate(a_second), start), start, Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                if bucket.take(now) {
                    taken.push(now);
                }
            }
            for (index, first) in taken.iter().enumerate() {
                let window = taken[index..].iter().take_while(|at| **at - *first < Duration::from_secs(1));
                prop_assert!(window.count() <= 2 * usize::try_from(a_second).unwrap());
            }
        }
    }
}
