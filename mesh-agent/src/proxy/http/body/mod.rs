//! Bodies on their way through, both ways: passed on as they come, and no more of them kept than was promised.
//!
//! Place in the walk: from when a request is taken until the last frame of its answer is given. Must not know: routes, policy,
//! where a request goes.

pub(super) mod copied;
pub(in crate::proxy) mod held;
pub(super) mod inflow;
pub(super) mod replay;
pub(super) mod response;
pub(super) mod upload;
