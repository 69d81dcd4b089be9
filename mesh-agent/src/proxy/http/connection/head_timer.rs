//! The time that a client has for the head of its next request.
//!
//! Place in the walk: hyper's clock for one connection with a client. hyper asks for a sleep whenever it begins to wait for
//! a head and drops it when the head is there; this hands the same one out again and sets it later only when it is over,
//! so that a request costs the runtime's timers nothing. Must not know: heads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

/// A clock whose sleeps share one timer; for one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadTimer {
    /// The timer, while no sleep has it.
    spare: Arc<Mutex<Option<Pin<Box<Sleep>>>>>,
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(HeadSleep {
            deadline: deadline.into(),
            timer: self.spare.lock().take(),
            spare: Arc::clone(&self.spare),
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// One wait.
struct HeadSleep {
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    spare: Arc<Mutex<Option<Pin<Box<Sleep>>>>>,
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It was set for an earlier wait.
            timer.as_mut().reset(deadline);
        }
    }
}

impl rt::Sleep for HeadSleep {}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        *self.spare.lock() = self.timer.take();
    }
}

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
        let timer = HeadTimer::default();
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
        let timer = HeadTimer::default();
        let mut long = timer.sleep(10 * PATIENCE);
        assert!(futures_util::poll!(&mut long).is_pending());
        drop(long);
        assert!(waited(timer.sleep(PATIENCE)).await <= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn two_waits_at_once_have_a_timer_each() {
        let timer = HeadTimer::default();
        let (one, other) = (timer.sleep(PATIENCE), timer.sleep(2 * PATIENCE));
        let began = Instant::now();
        one.await;
        assert!(began.elapsed() < 2 * PATIENCE);
        other.await;
        assert!(began.elapsed() >= 2 * PATIENCE);
    }
}
