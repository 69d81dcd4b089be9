//! Waiting beside busy work for what hardly ever happens, a stop above all, without asking for it again each time the work
//! moves.
//!
//! Place in the walk: around what ends a connection from outside. Must not know: what is waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// A future that is polled only when it was woken itself, not whenever its task is.
///
/// A task that waits for requests and for a stop would otherwise ask for the stop at each of its polls, which takes locks
/// that all connections of a pod share.
pub struct Seldom<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
}

/// What the inner future wakes.
struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

/// Wraps `future`; cancel-safe where that is.
pub fn seldom<F: Future>(future: F) -> Seldom<F> {
    Seldom {
        inner: Box::pin(future),
        bell: Arc::new(Bell {
            has_rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        }),
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Before the look at the bell, so that whoever rings it in between finds the task.
        self.bell.task.register(cx.waker());
        if !self.bell.has_rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        self.inner.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> fmt::Debug for Seldom<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seldom").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt;
    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_once_however_often_its_task_is() {
        let polls = AtomicUsize::new(0);
        let mut waits = seldom(poll_fn(|_| {
            polls.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        }));
        for _ in 0..10 {
            assert!((&mut waits).now_or_never().is_none());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_there_already_is_seen_at_once() {
        assert_eq!(seldom(std::future::ready(7)).now_or_never(), Some(7));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_ring_is_missed_while_the_task_is_busy() {
        for _ in 0..1000 {
            let rings = Arc::new(Notify::new());
            let rung = Arc::clone(&rings);
            let ringing = tokio::task::spawn(async move { rung.notify_one() });
            let busy = async {
                loop {
                    yield_now().await;
                }
            };
            tokio::select! {
                () = seldom(rings.notified()) => {}
                () = busy => {}
            }
            ringing.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_ring_is_missed_while_the_task_sleeps() {
        for _ in 0..1000 {
            let rings = Arc::new(Notify::new());
            let rung = Arc::clone(&rings);
            let ringing = tokio::task::spawn(async move { rung.notify_one() });
            seldom(rings.notified()).await;
            ringing.await.unwrap();
        }
    }
}
