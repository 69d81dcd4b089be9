//! Named, joined tasks, graceful stop, and what the agent waits for before it is ready.
//!
//! Place in the walk: `app` makes one [`Tasks`], every engine spawns through it, `admin` reads [`Readiness`].
//! Must not know: what any task does.

mod lane_listener;
mod lane_stream;
mod lanes;
mod readiness;
mod seldom;
mod stop;
mod task;
mod tasks;
mod turns;

pub use lane_listener::LaneListener;
pub use lane_stream::LaneStream;
pub use readiness::{Readiness, ReadyGuard};
pub use seldom::{Seldom, seldom};
pub use stop::Stop;
pub use tasks::Tasks;
pub use turns::poll_begun;

#[cfg(test)]
pub(crate) use turns::in_poll_begun;

/// How long an in-process test waits for an effect before it fails. Nothing takes that long, on a busy machine either: it
/// is there for a test that would hang.
#[cfg(test)]
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);
