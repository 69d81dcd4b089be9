//! The only place that starts tasks: each has a name, is counted, and is waited for.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Stop;
use super::lanes::{Lanes, Share};
use super::task::NamedTask;

/// A group of tasks that are stopped and joined together.
///
/// Stopping a group stops its [`child`](Tasks::child) groups, and joining it waits for theirs too.
#[derive(Clone)]
pub struct Tasks {
    group: Arc<Group>,
}

struct Group {
    parent: Option<Arc<Group>>,
    tracker: TaskTracker,
    token: CancellationToken,
    panics: Arc<AtomicU64>,
    heavy: Arc<AtomicU64>,
    lanes: Arc<Lanes>,
    share: Option<Arc<Share>>,
}

impl Tasks {
    /// A group with no tasks and no parent.
    pub fn new() -> Self {
        Self {
            group: Arc::new(Group {
                parent: None,
                tracker: TaskTracker::new(),
                token: CancellationToken::new(),
                panics: Arc::default(),
                heavy: Arc::default(),
                lanes: Arc::new(Lanes::one()),
                share: None,
            }),
        }
    }

    /// A group with a stop of its own that the parent's stop triggers too: for instance one for each pod.
    #[must_use]
    pub fn child(&self) -> Self {
        self.child_with(&self.group.lanes, self.group.share.clone())
    }

    /// The same, whose tasks together get no larger share of the runtime's threads than those of any other such group.
    #[must_use]
    pub fn fair_child(&self) -> Self {
        let lanes = &self.group.lanes;
        self.child_with(lanes, Some(Arc::new(Share::new(lanes))))
    }

    /// A child for tasks of another runtime: its fair children share that one's threads, and no others.
    #[must_use]
    pub fn elsewhere(&self) -> Self {
        self.child_with(&Arc::new(Lanes::one()), None)
    }

    /// A child whose fair children run on `ordinary` while they want little, and on `bulk` when they want much: there the kernel
    /// lets the threads of the one interrupt those of the other.
    #[must_use]
    pub fn divided(&self, ordinary: Handle, bulk: Handle) -> Self {
        let heavy = Arc::clone(&self.group.heavy);
        self.child_with(&Arc::new(Lanes::two(ordinary, bulk, heavy)), None)
    }

    fn child_with(&self, lanes: &Arc<Lanes>, share: Option<Arc<Share>>) -> Self {
        let parent = &self.group;
        Self {
            group: Arc::new(Group {
                parent: Some(Arc::clone(parent)),
                tracker: TaskTracker::new(),
                token: parent.token.child_token(),
                panics: Arc::clone(&parent.panics),
                heavy: Arc::clone(&parent.heavy),
                lanes: Arc::clone(lanes),
                share,
            }),
        }
    }

    /// Starts a task on the current runtime, or where its group runs; panics outside of one, as tokio does.
    ///
    /// A panic inside the task ends that task only: it is logged under `name` and counted.
    /// The task is never aborted; it ends by itself, or when the runtime is dropped.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns for who shares nothing"
    )]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // An `async` block has room for what is moved into it and again for each place that it is moved to in there: at once
        // on the heap, a task is held once.
        let panics = Arc::clone(&self.group.panics);
        let task = NamedTask::new(name, Box::pin(task), panics, self.group.membership());
        match &self.group.share {
            Some(share) => Arc::clone(share).start(task),
            // The group joins its tasks by count; a handle of each would only grow.
            None => drop(tokio::spawn(task)),
        }
    }

    /// The signal that tasks of this group select on.
    pub fn stop(&self) -> Stop {
        Stop::new(self.group.token.clone())
    }

    /// Asks the tasks of this group and of its children to end. Does not wait.
    pub fn request_stop(&self) {
        self.group.token.cancel();
    }

    /// Waits until no task of this group or its children is left; false if some are when `deadline` has passed.
    ///
    /// Cancel-safe. Tasks that are spawned while it waits are waited for too.
    pub async fn joined(&self, deadline: Duration) -> bool {
        self.group.tracker.close();
        tokio::time::timeout(deadline, self.group.tracker.wait())
            .await
            .is_ok()
    }

    /// How many tasks of this group and its children are running.
    pub fn active(&self) -> usize {
        self.group.tracker.len()
    }

    /// How many groups want much now and run on the bulk threads, over all that descend from the same first one.
    pub fn heavy(&self) -> u64 {
        self.group.heavy.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn share(&self) -> Option<&Share> {
        self.group.share.as_deref()
    }

    /// How many tasks panicked, over all groups that descend from the same first one.
    pub fn panics(&self) -> u64 {
        self.group.panics.load(Ordering::Relaxed)
    }
}

impl Group {
    /// One token of this group and of each group above it, so that each counts the task.
    fn membership(&self) -> Vec<TaskTrackerToken> {
        let mut tokens = vec![self.tracker.token()];
        let mut above = self.parent.as_deref();
        while let Some(group) = above {
            tokens.push(group.tracker.token());
            above = group.parent.as_deref();
        }
        tokens
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("active", &self.active())
            .field("stop_requested", &self.group.token.is_cancelled())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    async fn until_stopped(stop: Stop) {
        stop.requested().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_its_task_only_and_is_counted() {
        let tasks = Tasks::new();
        let neighbour = tasks.stop();
        tasks.spawn("neighbour", until_stopped(neighbour));
        tasks.spawn("broken", async { panic!("on purpose") });

        assert!(!tasks.joined(LONG).await);
        assert_eq!((tasks.active(), tasks.panics()), (1, 1));

        tasks.request_stop();
        assert!(tasks.joined(LONG).await);
        assert_eq!(tasks.panics(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn joining_gives_up_at_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        assert!(!tasks.joined(LONG).await);
        assert_eq!(tasks.active(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_a_child_leaves_the_parent_and_its_sibling_running() {
        let parent = Tasks::new();
        let (pod, sibling) = (parent.child(), parent.child());
        for tasks in [&parent, &pod, &sibling] {
            tasks.spawn("idle", until_stopped(tasks.stop()));
        }
        assert_eq!(parent.active(), 3);

        pod.request_stop();
        assert!(pod.joined(LONG).await);
        assert!(!parent.stop().is_requested() && !sibling.stop().is_requested());
        assert_eq!((parent.active(), sibling.active()), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_the_parent_stops_and_joins_grandchildren() {
        let parent = Tasks::new();
        let grandchild = parent.child().child();
        grandchild.spawn("idle", until_stopped(grandchild.stop()));

        parent.request_stop();
        assert!(parent.joined(LONG).await);
        assert_eq!(grandchild.active(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_child_is_counted_by_the_parent() {
        let parent = Tasks::new();
        let child = parent.child();
        child.spawn("broken", async { panic!("{}", String::from("formatted")) });
        assert!(parent.joined(LONG).await);
        assert_eq!(parent.panics(), 1);
    }
}
