//! The time that a client has for the head of its next request.
//!
//! Place in the walk: hyper's clock for one connection with a client. hyper asks for a sleep whenever it begins to wait for
//! a head and drops it when the head is there; this hands the same one out again and sets it later only when it is over,
//! so that a request costs the runtime's timers nothing. Must not know: heads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

/// A clock whose sleeps share one timer; for one connection.
#[derive(Debug, Clone)]
pub(super) struct HeadTimer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What each sleep lasts, at most.
    patience: Duration,
    /// The timer, while no sleep has it.
    spare: Mutex<Option<Pin<Box<Sleep>>>>,
    /// A sleep has lasted for [`REST`], and still does.
    is_resting: AtomicBool,
}

impl HeadTimer {
    /// For a connection whose heads may take so long.
    pub(super) fn new(patience: Duration) -> Self {
        Self(Arc::new(Shared {
            patience,
            spare: Mutex::default(),
            is_resting: AtomicBool::new(false),
        }))
    }

    /// Whether a head has been waited for for [`REST`]. Who waits is woken then.
    pub(super) fn is_resting(&self) -> bool {
        self.0.is_resting.load(Ordering::Relaxed)
    }
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        let deadline = deadline.into();
        let rest_of_patience = self.0.patience.saturating_sub(REST);
        Box::pin(HeadSleep {
            deadline,
            rest: deadline.checked_sub(rest_of_patience).unwrap_or(deadline),
            timer: self.0.spare.lock().take(),
            shared: Arc::clone(&self.0),
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// One wait.
struct HeadSleep {
    deadline: Instant,
    /// Before it.
    rest: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            deadline,
            rest,
            timer,
            shared,
        } = &mut *self;
        let next = if shared.is_resting.load(Ordering::Relaxed) {
            *deadline
        } else {
            *rest
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if timer.deadline() > next {
            timer.as_mut().reset(next);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            // It may have been set for an earlier wait.
            let passed = timer.deadline();
            if passed >= *deadline {
                return Poll::Ready(());
            }
            let is_resting = passed >= *rest;
            shared.is_resting.store(is_resting, Ordering::Relaxed);
            timer.as_mut().reset(if is_resting { *deadline } else { *rest });
        }
    }
}

impl rt::Sleep for HeadSleep {}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        self.shared.is_resting.store(false, Ordering::Relaxed);
        *self.shared.spare.lock() = self.timer.take();
    }
}

/// Far longer than what is between the requests of a busy client.
pub(super) const REST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn waited(sleep: Pin<Box<dyn rt::Sleep>>) -> Duration {
        let began = Instant::now();
        sleep.await;
        began.elapsed().saturating_sub(Duration::from_millis(2))
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_lasts_its_own_time_whatever_was_waited_for_before() {
        let timer = HeadTimer::new(PATIENCE);
        for pause in [0, 1, 9] {
            // A head that came in time.
            let mut sleep = timer.sleep(PATIENCE);
            assert!(futures_util::poll!(&mut sleep).is_pending());
            drop(sleep);
            advance(Duration::from_secs(pause)).await;
            let waited = waited(timer.sleep(PATIENCE)).await;
            assert!(
                waited <= PATIENCE && waited + Duration::from_secs(1) > PATIENCE,
                "{waited:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_wait_after_a_longer_one_is_not_too_long() {
        let timer = HeadTimer::new(PATIENCE);
        let mut long = timer.sleep(10 * PATIENCE);
        assert!(futures_util::poll!(&mut long).is_pending());
        drop(long);
        assert!(waited(timer.sleep(PATIENCE)).await <= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn two_waits_at_once_have_a_timer_each() {
        let timer = HeadTimer::new(PATIENCE);
        let (one, other) = (timer.sleep(PATIENCE), timer.sleep(2 * PATIENCE));
        let began = Instant::now();
        one.await;
        assert!(began.elapsed() < 2 * PATIENCE);
        other.await;
        assert!(began.elapsed() >= 2 * PATIENCE);
    }
}
