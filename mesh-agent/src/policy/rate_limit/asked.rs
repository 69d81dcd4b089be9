//! What a limit is asked about, and what its match and its key see of it.
//!
//! Place in the walk: made by the walk from a request. Must not know: buckets.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::rate_limit::{KeyPart, LimitMatch, LimitPath};
use crate::policy::authentication::Claims;

/// One HTTP request that is let in as far as all other policies are concerned.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The port of the workload.
    pub port: u16,
    /// Who sends it, if that is proven.
    pub source: Option<&'a SpiffeId>,
    /// Its method.
    pub method: &'a str,
    /// Its path in its normal form, without its query.
    pub path: &'a str,
    /// How else an application may read that path.
    pub other_readings: Vec<Cow<'a, str>>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What its verified token claims.
    pub token: Option<&'a Claims>,
}

impl Asked<'_> {
    /// Whether a limit counts it; by its path, if any reading of that is meant.
    pub(super) fn is_meant(&self, of: &LimitMatch) -> bool {
        of.method.as_deref().is_none_or(|method| method == self.method)
            && of.path.as_ref().is_none_or(|path| {
                is_path(path, self.path) || self.other_readings.iter().any(|other| is_path(path, other))
            })
            && of
                .headers
                .iter()
                .all(|(name, wanted)| self.header(name).is_some_and(|value| wanted.holds(&value)))
    }

    /// Adds what a part of a key sees to `hasher`. What is absent is a value of its own: to leave a header out is no way round
    /// a limit.
    pub(super) fn feed(&self, part: &KeyPart, hasher: &mut impl Hasher) {
        match part {
            KeyPart::Source => self.source.hash(hasher),
            KeyPart::Header(name) => self.header(name).hash(hasher),
            KeyPart::Path => self.path.hash(hasher),
            KeyPart::Claim(claim) => self.claim(claim).hash(hasher),
        }
    }

    /// What a part sees, as text; `None` where there is nothing.
    pub(super) fn text(&self, part: &KeyPart) -> Option<String> {
        let text = match part {
            KeyPart::Source => self.source?.to_string(),
            KeyPart::Header(name) => String::from_utf8_lossy(&self.header(name)?).into_owned(),
            KeyPart::Path => self.path.to_owned(),
            KeyPart::Claim(claim) => self.claim(claim)?,
        };
        Some(text).filter(|text| !text.is_empty())
    }

    fn claim(&self, claim: &[Arc<str>]) -> Option<String> {
        self.token?.scalar(claim)
    }

    /// The lines of one field, joined as RFC 9110 section 5.3 does.
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        let mut lines = self.headers.get_all(name).iter();
        let first = Cow::Borrowed(lines.next()?.as_bytes());
        Some(lines.fold(first, |joined, line| {
            Cow::Owned([&*joined, b",", line.as_bytes()].concat())
        }))
    }
}

fn is_path(wanted: &LimitPath, path: &str) -> bool {
    match wanted {
        LimitPath::Exact(whole) => path == whole.as_ref(),
        LimitPath::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
        }
    }
}
