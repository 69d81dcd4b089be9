//! One task: its name, who counts it, and what becomes of a panic.
//!
//! Place in the walk: what [`Tasks`](super::Tasks) starts, wherever it runs. Must not know: what the task does.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, CatchUnwind};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Ends when the task does, also by a panic, which is logged under its name and counted.
pub(super) struct NamedTask {
    name: &'static str,
    task: CatchUnwind<AssertUnwindSafe<BoxFuture<'static, ()>>>,
    panics: Arc<AtomicU64>,
    /// Held until the very end, so that who waits for the group waits for the line in the log, too.
    _membership: Vec<TaskTrackerToken>,
}

impl NamedTask {
    pub(super) fn new(
        name: &'static str,
        task: BoxFuture<'static, ()>,
        panics: Arc<AtomicU64>,
        membership: Vec<TaskTrackerToken>,
    ) -> Self {
        Self {
            name,
            task: AssertUnwindSafe(task).catch_unwind(),
            panics,
            _membership: membership,
        }
    }
}

impl Future for NamedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(payload) = ready!(self.task.poll_unpin(cx)) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                task = self.name,
                panic = panic_message(payload.as_ref()),
                "task panicked"
            );
        }
        Poll::Ready(())
    }
}

/// `panic!` carries `&str` or `String`; anything else came from `panic_any` and has no text.
fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a string")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_found_in_both_its_forms() {
        assert_eq!(panic_message(&"plain"), "plain");
        assert_eq!(panic_message(&String::from("formatted")), "formatted");
        assert_eq!(panic_message(&7_u8), "not a string");
    }
}
