//! Named, joined tasks, graceful stop, and what the agent waits for before it is ready.
//!
//! Place in the walk: `app` makes one [`Tasks`], every engine spawns through it, `admin` reads [`Readiness`].
//! Must not know: what any task does.

mod readiness;
mod seldom;
mod stop;
mod tasks;
mod turns;

pub use readiness::{Readiness, ReadyGuard};
pub use seldom::{Seldom, seldom};
pub use stop::Stop;
pub use tasks::Tasks;
pub use turns::poll_begun;

#[cfg(test)]
pub(crate) use turns::in_poll_begun;
