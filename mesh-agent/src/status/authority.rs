//! The status page of `mesh-agent ca`, and its form for humans.
//!
//! Place in the walk: none; it reads what the CA knows. Must not know: how any of it came about.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::unix_seconds;
use crate::admin::Page;
use crate::ca::Keys;
use crate::control::statuses::{Unwritten, WriterStanding, WriterStatus};

/// Gathers what the page shows; clones share it.
#[derive(Debug, Clone)]
pub struct AuthorityBoard(Arc<Board>);

#[derive(Debug)]
struct Board {
    trust_domain: String,
    started: SystemTime,
    keys: Arc<Keys>,
    keys_error: Mutex<Option<String>>,
    writer: Option<WriterStanding>,
}

/// The page.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorityStatus {
    /// The trust domain that it signs for. No agent's page has this field.
    authority_of: String,
    version: String,
    started_unix_s: u64,
    /// How many roots agents are told to trust.
    roots: usize,
    /// When what signs, or one above it, expires.
    signs_until_unix_s: u64,
    /// Why newer keys are not in force.
    keys_error: Option<String>,
    /// Absent where it takes part in no election.
    writer: Option<WriterStatus>,
}

impl AuthorityBoard {
    /// A board over what the CA knows; `writer` where it may write status.
    pub fn new(trust_domain: &str, keys: &Arc<Keys>, writer: Option<WriterStanding>) -> Self {
        Self(Arc::new(Board {
            trust_domain: trust_domain.to_owned(),
            started: SystemTime::now(),
            keys: Arc::clone(keys),
            keys_error: Mutex::default(),
            writer,
        }))
    }

    /// Newer keys are in force, or why they are not.
    pub fn keys(&self, error: Option<String>) {
        *self.0.keys_error.lock() = error;
    }

    /// The page for the admin server.
    pub fn page(&self) -> Page {
        let board = self.clone();
        Arc::new(move || {
            serde_json::to_string_pretty(&board.status())
                .unwrap_or_else(|error| format!("{{\"error\":\"the status cannot be written: {error}\"}}"))
        })
    }

    fn status(&self) -> AuthorityStatus {
        let board = &*self.0;
        let keyring = board.keys.load();
        AuthorityStatus {
            authority_of: board.trust_domain.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_s: unix_seconds(board.started),
            roots: keyring.root_count(),
            signs_until_unix_s: unix_seconds(keyring.authority().not_after()),
            keys_error: board.keys_error.lock().clone(),
            writer: board.writer.as_ref().map(WriterStanding::status),
        }
    }
}

/// The page as a person wants to read it.
pub(super) fn for_humans(status: &AuthorityStatus, now: u64) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let expiry = status.signs_until_unix_s.saturating_sub(now);
    writeln!(text, "ca of {} · {}", status.authority_of, status.version)?;
    writeln!(text, "{} roots are trusted, signs for {expiry} s", status.roots)?;
    if let Some(error) = &status.keys_error {
        writeln!(text, "  ! {error}; the last keys stay in force")?;
    }
    let Some(writer) = &status.writer else {
        writeln!(text, "\nSTATUS AND EVENTS: not written by this ca")?;
        return Ok(text);
    };
    if !writer.leads {
        writeln!(text, "\nSTATUS AND EVENTS: another ca leads, or none does yet")?;
        return Ok(text);
    }
    writeln!(text, "\nSTATUS AND EVENTS: written by this ca, which leads")?;
    for (kind, error) in &writer.unheard {
        writeln!(text, "  ! {kind} cannot be watched: {error}")?;
    }
    write_unwritten(&mut text, "STATUSES", &writer.statuses)?;
    write_unwritten(&mut text, "EVENTS", &writer.events)?;
    Ok(text)
}

fn write_unwritten(text: &mut String, of: &str, unwritten: &Unwritten) -> std::fmt::Result {
    writeln!(text, "\n{of} THAT CANNOT BE WRITTEN: {}", unwritten.count)?;
    for one in &unwritten.first {
        writeln!(
            text,
            "  {}: {} (tried {} times)",
            one.object, one.error, one.times
        )?;
    }
    match unwritten.count.saturating_sub(unwritten.first.len()) {
        0 => Ok(()),
        more => writeln!(text, "  and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::statuses::UnwrittenOne;

    fn status(writer: Option<WriterStatus>) -> AuthorityStatus {
        AuthorityStatus {
            authority_of: "cluster.local".to_owned(),
            version: "1.2.3".to_owned(),
            started_unix_s: 0,
            roots: 2,
            signs_until_unix_s: 100,
            keys_error: None,
            writer,
        }
    }

    #[test]
    fn what_cannot_be_written_is_named_with_its_reason() {
        let refused = UnwrittenOne {
            object: "HTTPRoute shop/a".to_owned(),
            times: 3,
            error: "an admission policy refuses it".to_owned(),
        };
        let writer = WriterStatus {
            leads: true,
            unheard: [("Service".to_owned(), "a rbac rule is missing".to_owned())].into(),
            statuses: Unwritten {
                count: 2,
                first: vec![refused],
            },
            events: Unwritten::default(),
        };
        let page = serde_json::to_string(&status(Some(writer))).unwrap();
        let expected = "\
ca of cluster.local · 1.2.3
2 roots are trusted, signs for 60 s

STATUS AND EVENTS: written by this ca, which leads
  ! Service cannot be watched: a rbac rule is missing

STATUSES THAT CANNOT BE WRITTEN: 2
  HTTPRoute shop/a: an admission policy refuses it (tried 3 times)
  and 1 more

EVENTS THAT CANNOT BE WRITTEN: 0
";
        let read = serde_json::from_str(&page).unwrap();
        assert_eq!(for_humans(&read, 40).unwrap(), expected);
    }

    #[test]
    fn a_ca_that_writes_nothing_says_so() {
        for (writer, said) in [
            (None, "not written by this ca"),
            (Some(WriterStatus::default()), "another ca leads"),
        ] {
            let text = for_humans(&status(writer), 40).unwrap();
            assert!(text.contains(said), "{text}");
        }
    }
}
