//! TLS with applications that does not come about: since when and why, for whoever looks at the agent.
//!
//! Place in the walk: none; who begins a handshake tells how it ended, the status page asks. Must not know: what is looked at
//! in a handshake.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::error_chain;

/// A policy by which no TLS comes about with an application, or not as it is now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FailingTls {
    /// `Kind NAMESPACE/NAME` of the policy.
    pub policy: String,
    /// The name that the application is asked for.
    pub name: String,
    /// Why.
    pub error: String,
    /// Whether what was read before serves on.
    pub goes_on: bool,
    /// Since when nothing else happened, in seconds since 1970.
    pub since_unix_s: u64,
}

impl FailingTls {
    /// Whether it says the same of the same policy.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.policy, &self.name, &self.error) == (&other.policy, &other.name, &other.error)
    }

    /// One line for people; `now_unix_s` is the time in seconds since 1970.
    pub fn write(&self, to: &mut String, now_unix_s: u64) -> fmt::Result {
        let age = now_unix_s.saturating_sub(self.since_unix_s);
        let effect = if self.goes_on {
            "what was read before serves on"
        } else {
            "refused"
        };
        let (policy, name, error) = (&self.policy, &self.name, &self.error);
        writeln!(to, "  {policy}, with {name}, for {age} s: {error}; {effect}")
    }
}

/// How the handshakes of one configuration end; the last one counts.
#[derive(Debug, Default)]
pub struct Handshakes(Mutex<Option<Failure>>);

/// Something that fails, until it does not.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) since_unix_s: u64,
    /// The latest reason.
    pub(super) why: String,
}

impl Handshakes {
    /// The application proved what was asked for.
    pub fn succeeded(&self) {
        *self.0.lock() = None;
    }

    /// It did not.
    pub fn failed(&self, error: &dyn Error) {
        let mut failure = self.0.lock();
        *failure = Some(Failure::after(failure.take(), error));
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.0.lock().clone()
    }
}

impl Failure {
    /// It has failed since `former` did, if it did.
    pub(super) fn after(former: Option<Self>, error: &dyn Error) -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH);
        let since_unix_s = former.map_or_else(
            || now().map_or(0, |since| since.as_secs()),
            |former| former.since_unix_s,
        );
        Self {
            since_unix_s,
            why: error_chain(error),
        }
    }
}
