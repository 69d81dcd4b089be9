//! Requests in which nothing moves any more, neither way: the head of a response that does not come, a body that stands still.
//!
//! Place in the walk: beside a request until its response begins, then under the response's body. Must not know: routes,
//! what is carried, by whom.
//!
//! The waits of one connection hand their timers on to one another, each set later only when it is over, so that a request costs
//! the runtime's timers nothing.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::proxy::refusal::Refusal;

/// How long the requests of one connection may be silent.
pub(in crate::proxy::http) struct Silence {
    limit: Duration,
    /// Timers that no wait has.
    spare: Mutex<Vec<Pin<Box<Sleep>>>>,
}

/// When something of one request moved last.
#[derive(Debug)]
pub(in crate::proxy::http) struct Pulse {
    silence: Arc<Silence>,
    began: Instant,
    /// Since then.
    moved_ms: AtomicU64,
}

/// One wait for the end of a request's time.
#[derive(Debug)]
pub(in crate::proxy::http) struct Wait {
    silence: Arc<Silence>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    pub(in crate::proxy::http) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            spare: Mutex::default(),
        })
    }
}

impl Pulse {
    /// Of a request that begins now.
    pub(in crate::proxy::http) fn new(silence: &Arc<Silence>) -> Self {
        Self {
            silence: Arc::clone(silence),
            began: Instant::now(),
            moved_ms: AtomicU64::new(0),
        }
    }

    /// Of a request that begins now beside this one.
    pub(in crate::proxy::http) fn another(&self) -> Self {
        Self::new(&self.silence)
    }

    /// Something of the request moves.
    pub(in crate::proxy::http) fn beat(&self) {
        let moved = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Of two at once either is as good.
        self.moved_ms.store(moved, Ordering::Relaxed);
    }

    pub(in crate::proxy::http) fn wait(&self) -> Wait {
        Wait {
            silence: Arc::clone(&self.silence),
            timer: None,
        }
    }

    fn end(&self) -> Instant {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        self.began + moved + self.silence.limit
    }
}

impl Wait {
    /// Ready when the request of `pulse` has been silent for as long as it may. Cancel-safe.
    pub(in crate::proxy::http) fn poll(&mut self, pulse: &Pulse, cx: &mut Context<'_>) -> Poll<()> {
        let silence = &self.silence;
        let timer = self.timer.get_or_insert_with(|| {
            let spare = silence.spare.lock().pop();
            spare.unwrap_or_else(|| Box::pin(sleep_until(pulse.end())))
        });
        loop {
            ready!(timer.as_mut().poll(cx));
            // It may have been set for another request, or before something moved.
            let end = pulse.end();
            if timer.deadline() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else {
            return;
        };
        let mut spare = self.silence.spare.lock();
        if spare.len() < MOST_SPARE {
            spare.push(timer);
        }
    }
}

impl fmt::Debug for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Silence")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Gives `work` up when the request of `pulse` has been silent for too long. Cancel-safe where `work` is.
pub(in crate::proxy::http) async fn unless_silent<T>(
    pulse: &Pulse,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let mut work = pin!(work);
    let mut wait = pulse.wait();
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        wait.poll(pulse, cx).map(|()| Err(Refusal::Silent))
    })
    .await
}

/// Of one connection: as many requests as mostly are under way on one.
const MOST_SPARE: usize = 16;

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    /// How long a request is waited for that never ends, to the second.
    async fn waited(pulse: &Pulse) -> u64 {
        let began = Instant::now();
        let never = std::future::pending::<Result<(), Refusal>>();
        let ended = unless_silent(pulse, never).await;
        assert!(matches!(ended, Err(Refusal::Silent)), "{ended:?}");
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_which_nothing_moves_ends_when_its_time_is_over() {
        assert_eq!(waited(&Pulse::new(&Silence::new(LIMIT))).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_in_time_goes_on_however_long_it_takes() {
        let pulse = Pulse::new(&Silence::new(LIMIT));
        let slow = async {
            for _ in 0..100 {
                sleep(LIMIT.mul_f64(0.9)).await;
                pulse.beat();
            }
            Ok("done")
        };
        assert!(matches!(unless_silent(&pulse, slow).await, Ok("done")));
        assert_eq!(waited(&pulse).await, 60, "its time begins with what moved last");
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_of_a_connection_has_its_own_time_whatever_was_waited_for_before() {
        let silence = Silence::new(LIMIT);
        for pause in [0, 1, 59, 600] {
            let pulse = Pulse::new(&silence);
            let mut wait = pulse.wait();
            let pending = poll_fn(|cx| Poll::Ready(wait.poll(&pulse, cx).is_pending())).await;
            assert!(pending);
            drop(wait);
            assert_eq!(
                silence.spare.lock().len(),
                1,
                "the timer waits for the next request"
            );
            advance(Duration::from_secs(pause)).await;
            assert_eq!(waited(&Pulse::new(&silence)).await, 60, "after {pause} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_do_not_wait_for_one_another() {
        let silence = Silence::new(LIMIT);
        let first = Pulse::new(&silence);
        advance(Duration::from_secs(30)).await;
        let second = Pulse::new(&silence);
        let (one, other) = tokio::join!(waited(&first), waited(&second));
        assert_eq!((one, other), (30, 60));
    }
}
