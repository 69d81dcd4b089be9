//! Keeps the public keys of token issuers that publish them on the web.
//!
//! Place in the walk: beside it; the keys go where the snapshot's guards look, without a new snapshot. Must not know:
//! tokens, requests.
//!
//! The last good keys stay in force whatever becomes of their server. Where keys were never fetched, tokens that need
//! them are refused.

mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use http::uri::Scheme;
use serde::{Deserialize, Serialize};

use self::schedule::Schedule;
use crate::identity::error_chain;
use crate::lifecycle::Stop;
use crate::mesh::policy::request_authentication::KeySource;
use crate::policy::authentication::{KeySet, KeySetError, WantedKeys};
use crate::snapshot::SnapshotCell;
use crate::telemetry::Telemetry;
use crate::transport::fetch::{FetchError, FetchLimits, Fetcher};

/// What is known of the keys of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The URL of the keys, or of the issuer that names it.
    pub source: String,
    /// When they were fetched last, in seconds since 1970; `None` before the first time.
    pub fetched_unix_s: Option<u64>,
    /// Why the last attempt failed; `None` after one that did not.
    pub last_error: Option<String>,
}

impl KeyStatus {
    /// One line for people; `now_unix_s` is the time in seconds since 1970.
    pub fn write(&self, to: &mut String, now_unix_s: u64) -> fmt::Result {
        match self.fetched_unix_s {
            Some(at) => write!(
                to,
                "\nKEYS of {}, {} s old",
                self.source,
                now_unix_s.saturating_sub(at)
            )?,
            None => write!(
                to,
                "\nKEYS of {} not fetched yet: its tokens are refused",
                self.source
            )?,
        }
        match &self.last_error {
            Some(error) => writeln!(to, "\n  ! {error}"),
            None => writeln!(to),
        }
    }
}

/// Fetches keys for as long as the agent runs.
pub struct KeyLoop {
    snapshots: Arc<SnapshotCell>,
    fetcher: Fetcher,
    telemetry: Telemetry,
    report: Box<dyn Fn(Vec<KeyStatus>) + Send>,
    sources: BTreeMap<KeySource, Source>,
}

/// One source, and what became of its fetches.
struct Source {
    wanted: WantedKeys,
    schedule: Schedule,
    /// The set in force, so that one that did not change replaces nothing.
    current: Option<Bytes>,
    fetched: Option<SystemTime>,
    last_error: Option<String>,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("cannot fetch the keys")]
    Keys(#[source] FetchError),
    #[error("cannot fetch the issuer's openid configuration")]
    Discovery(#[source] FetchError),
    #[error("the issuer's openid configuration names no keys of this issuer")]
    Configuration,
    #[error("what was fetched cannot be used")]
    Set(#[source] KeySetError),
}

type Fetched = (KeySource, Result<(Bytes, KeySet), KeyError>);

/// The part of an `OpenID` provider's configuration that says where its keys are (`OpenID` Connect Discovery 1.0,
/// section 3).
#[derive(Debug, Deserialize)]
struct Provider {
    issuer: String,
    jwks_uri: String,
}

impl fmt::Debug for KeyLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLoop")
            .field("sources", &self.sources.keys())
            .finish_non_exhaustive()
    }
}

impl KeyLoop {
    /// `report` is told how things stand whenever that changes.
    pub fn new(
        snapshots: Arc<SnapshotCell>,
        fetcher: Fetcher,
        telemetry: Telemetry,
        report: Box<dyn Fn(Vec<KeyStatus>) + Send>,
    ) -> Self {
        Self {
            snapshots,
            fetcher,
            telemetry,
            report,
            sources: BTreeMap::new(),
        }
    }

    /// Runs until `stop`; what is under way then is given up.
    pub async fn run(mut self, stop: Stop) {
        let snapshots = Arc::clone(&self.snapshots);
        let mut published = snapshots.subscribe();
        let mut under_way: FuturesUnordered<BoxFuture<'static, Fetched>> = FuturesUnordered::new();
        self.want();
        loop {
            self.begin_due(&mut under_way);
            let due = self.next_due().filter(|_| under_way.len() < MAX_FETCHES);
            tokio::select! {
                () = stop.requested() => return,
                _ = published.changed() => self.want(),
                () = snapshots.key_wanted() => self.hasten(),
                () = until(due) => {}
                Some(fetched) = under_way.next(), if !under_way.is_empty() => self.take(fetched),
            }
        }
    }

    /// Learns from the snapshot which keys are needed; those that are not any more are forgotten.
    fn want(&mut self) {
        let snapshot = self.snapshots.load();
        let mut known = std::mem::take(&mut self.sources);
        for wanted in snapshot.wanted_keys() {
            let key = wanted.keys.source().clone();
            // Other keys of the same source: the policy went and came again, and nothing was fetched for it.
            let source = known
                .remove(&key)
                .filter(|source| Arc::ptr_eq(&source.wanted.keys, &wanted.keys));
            let mut source = source.unwrap_or_else(|| Source {
                wanted: wanted.clone(),
                schedule: Schedule::new(Instant::now()),
                current: None,
                fetched: None,
                last_error: None,
            });
            source.wanted.timeout = wanted.timeout;
            self.sources.insert(key, source);
        }
        self.tell();
    }

    /// Tokens asked for keys that are not here.
    fn hasten(&mut self) {
        let now = Instant::now();
        for source in self.sources.values_mut() {
            if source.wanted.keys.take_missed() {
                source.schedule.missed(now);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.sources
            .values()
            .filter_map(|source| source.schedule.due())
            .min()
    }

    fn begin_due(&mut self, under_way: &mut FuturesUnordered<BoxFuture<'static, Fetched>>) {
        let now = Instant::now();
        for (key, source) in &mut self.sources {
            if under_way.len() >= MAX_FETCHES {
                return;
            }
            if source.schedule.due().is_some_and(|due| due <= now) {
                source.schedule.begins(now);
                let (fetcher, key) = (self.fetcher.clone(), key.clone());
                let limits = FetchLimits {
                    time: source.wanted.timeout,
                    bytes: KeySet::MAX_BYTES,
                };
                under_way.push(Box::pin(async move {
                    let fetched = keys_of(&fetcher, &key, limits).await;
                    (key, fetched)
                }));
            }
        }
    }

    fn take(&mut self, (key, fetched): Fetched) {
        self.telemetry.mesh().keys_fetched(fetched.is_ok());
        // Nobody wants it any more.
        let Some(source) = self.sources.get_mut(&key) else {
            return;
        };
        let (now, jitter) = (Instant::now(), rand::random());
        match fetched {
            Ok((text, keys)) => {
                source.schedule.succeeded(now, jitter);
                source.fetched = Some(SystemTime::now());
                source.last_error = None;
                if source.current.as_ref() != Some(&text) {
                    tracing::info!(source = name(&key), "new public keys of a token issuer");
                    source.wanted.keys.replace(keys);
                    source.current = Some(text);
                }
            }
            Err(error) => {
                source.schedule.failed(now, jitter);
                let error = error_chain(&error);
                if source.last_error.as_ref() != Some(&error) {
                    let has_keys = source.current.is_some();
                    tracing::warn!(
                        source = name(&key),
                        error,
                        has_keys,
                        "public keys cannot be fetched; tried again"
                    );
                }
                source.last_error = Some(error);
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let sources = self.sources.iter();
        let missing = sources.clone().filter(|(_, source)| source.current.is_none());
        self.telemetry.mesh().keys_missing(missing.count());
        let status = sources.map(|(key, source)| KeyStatus {
            source: name(key).to_owned(),
            fetched_unix_s: source
                .fetched
                .map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            last_error: source.last_error.clone(),
        });
        (self.report)(status.collect());
    }
}

/// Waits for a moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn keys_of(
    fetcher: &Fetcher,
    source: &KeySource,
    limits: FetchLimits,
) -> Result<(Bytes, KeySet), KeyError> {
    let url = match source {
        KeySource::Uri(url) => web_url(url).ok_or(KeyError::Keys(FetchError::Url))?,
        KeySource::Issuer(issuer) => discovered(fetcher, issuer, limits).await?,
        KeySource::Inline(_) | KeySource::Unreadable => return Err(KeyError::Keys(FetchError::Url)),
    };
    let text = fetcher.fetch(&url, limits).await.map_err(KeyError::Keys)?;
    let keys = KeySet::read(&text).map_err(KeyError::Set)?;
    Ok((text, keys))
}

/// Where an issuer says that its keys are. Who is asked over TLS may not answer with an address that anybody can spoof.
async fn discovered(fetcher: &Fetcher, issuer: &str, limits: FetchLimits) -> Result<Uri, KeyError> {
    let url = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let url = web_url(&url).ok_or(KeyError::Discovery(FetchError::Url))?;
    let text = fetcher.fetch(&url, limits).await.map_err(KeyError::Discovery)?;
    let provider: Provider = serde_json::from_slice(&text).map_err(|_malformed| KeyError::Configuration)?;
    named_by(&url, issuer, &provider).ok_or(KeyError::Configuration)
}

fn named_by(asked: &Uri, issuer: &str, provider: &Provider) -> Option<Uri> {
    let keys = web_url(&provider.jwks_uri).filter(|_| provider.issuer == issuer)?;
    let is_weaker = asked.scheme() == Some(&Scheme::HTTPS) && keys.scheme() != Some(&Scheme::HTTPS);
    (!is_weaker).then_some(keys)
}

/// An `http` or `https` URL that names a server and no user.
pub(super) fn web_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let is_web = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&url.scheme());
    let has_user = url.authority()?.as_str().contains('@');
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    (is_web && has_host && !has_user).then_some(url)
}

fn name(source: &KeySource) -> &str {
    match source {
        KeySource::Uri(url) | KeySource::Issuer(url) => url,
        KeySource::Inline(_) => "inline",
        KeySource::Unreadable => "unreadable",
    }
}

/// Fetches at a time.
const MAX_FETCHES: usize = 8;
