//! The pages that operators, kubelet and Prometheus read: `/livez`, `/readyz`, `/metrics`, and those it is given; and
//! probes of one agent among several.
//!
//! Place in the walk: beside it; `app` binds it and gives it pages, `mesh-agent status` and `explain` read one.
//! Must not know: what a page says. It imports no domain.

pub mod client;
mod guard;
pub mod probe;
mod server;

pub use guard::{AdminToken, TokenError};
pub use server::{AdminError, AdminServer, Answers, Page};
