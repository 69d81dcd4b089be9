//! How each watch of the API server stands, for whoever decides what is served and for the operator.
//!
//! Place in the walk: written by the source as it learns, read by the status page and on each scrape. Must not know: what
//! objects mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::api::ApiResource;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::watch::WatchId;
use crate::control::translate::KINDS;

/// Shared by its clones.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    watches: BTreeMap<WatchId, Watch>,
    /// Set once it is known which kinds are served.
    is_discovered: bool,
    undiscovered: Option<(Instant, String)>,
    /// Of when the copy is that is served, or why there is none that can be.
    copy: Option<Result<SystemTime, String>>,
}

#[derive(Debug)]
struct Watch {
    api_version: String,
    path: String,
    state: WatchState,
    since: Instant,
    /// All objects were seen once.
    is_synced: bool,
    objects: usize,
    fault: Option<Fault>,
}

/// Why a watch does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The API server's own words, or those of the way to it.
    pub(super) said: String,
    /// The API server has judged the request, and will judge the next one in the same way.
    pub(super) is_answer: bool,
}

/// What the API server tells of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchState {
    /// Nobody has defined the kind there.
    Absent,
    /// The objects that there are, are being read.
    Listing,
    /// Changes arrive as they happen.
    Watching,
    /// It broke off, or cannot begin, and is tried again; what was known stays in force.
    Failing,
}

/// One line of the status page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// The kind, and the name where only one object is watched.
    pub watch: String,
    /// As which version; empty for a kind that is absent.
    pub api_version: String,
    /// What the API server is asked for, with the selector of a watch of one object; empty for a kind that is absent.
    #[serde(default)]
    pub path: String,
    /// How it stands.
    pub state: WatchState,
    /// For how many seconds.
    pub for_s: u64,
    /// Whether all its objects were seen once.
    pub synced: bool,
    /// Whether the agent cannot be ready without it.
    pub required: bool,
    /// How many objects there are.
    pub objects: usize,
    /// Why it fails.
    pub error: Option<String>,
}

/// What the status page shows of the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// For how many seconds something may have changed unseen; 0 while every watch goes on.
    pub age_s: u64,
    /// Why it is not known which kinds are served.
    pub error: Option<String>,
    /// When the copy on disk was written that is served until the API server has told all.
    pub copy_unix_s: Option<u64>,
    /// Why a copy is not.
    pub copy_error: Option<String>,
    /// Every kind.
    pub watches: Vec<WatchStatus>,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            began: Instant::now(),
            watches: BTreeMap::new(),
            is_discovered: false,
            undiscovered: None,
            copy: None,
        })))
    }

    /// How all is now.
    pub fn status(&self) -> SourceStatus {
        let inner = self.0.lock();
        let of_watch = |(id, watch): (&WatchId, &Watch)| WatchStatus {
            watch: id.to_string(),
            api_version: watch.api_version.clone(),
            path: id.selected(&watch.path),
            state: watch.state,
            for_s: watch.since.elapsed().as_secs(),
            synced: watch.is_synced,
            required: id.is_required(),
            objects: watch.objects,
            error: watch.fault.as_ref().map(|fault| fault.said.clone()),
        };
        let mut watches: Vec<_> = inner.watches.iter().map(of_watch).collect();
        let absent = KINDS.iter().filter(|kind| {
            let mut watched = inner.watches.keys();
            !watched.any(|id| id.kind == kind.kind)
        });
        watches.extend(absent.map(|kind| WatchStatus {
            watch: kind.kind.to_owned(),
            api_version: String::new(),
            path: String::new(),
            state: WatchState::Absent,
            for_s: 0,
            synced: inner.is_discovered,
            required: false,
            objects: 0,
            error: None,
        }));
        SourceStatus {
            age_s: inner.age(Instant::now()).as_secs(),
            error: inner.undiscovered.as_ref().map(|(_, said)| said.clone()),
            copy_unix_s: inner.copy.as_ref().and_then(|copy| {
                let since = copy.as_ref().ok()?.duration_since(UNIX_EPOCH);
                Some(since.map_or(0, |since| since.as_secs()))
            }),
            copy_error: inner.copy.as_ref().and_then(|copy| copy.as_ref().err().cloned()),
            watches,
        }
    }

    /// For how long something may have changed unseen: since the first of the watches that do not go on now broke off.
    pub fn age(&self) -> Duration {
        self.0.lock().age(Instant::now())
    }

    /// A watch begins.
    pub(super) fn begin(&self, id: &WatchId, resource: &ApiResource) {
        let watch = Watch {
            api_version: resource.api_version.clone(),
            path: id.path(resource),
            state: WatchState::Listing,
            since: Instant::now(),
            is_synced: false,
            objects: 0,
            fault: None,
        };
        self.0.lock().watches.insert(id.clone(), watch);
    }

    pub(super) fn end(&self, id: &WatchId) {
        self.0.lock().watches.remove(id);
    }

    /// Its objects are about to be listed.
    pub(super) fn listing(&self, id: &WatchId) {
        self.with(id, |watch| {
            // One that fails goes on to do so until its list is complete.
            if watch.fault.is_none() {
                watch.turn(WatchState::Listing);
            }
        });
    }

    /// Its objects are all known; there are so many.
    pub(super) fn synced(&self, id: &WatchId, objects: usize) {
        self.with(id, |watch| {
            watch.is_synced = true;
            watch.objects = objects;
            watch.fault = None;
            watch.turn(WatchState::Watching);
        });
    }

    /// An object came or went.
    pub(super) fn counted(&self, id: &WatchId, objects: usize) {
        self.with(id, |watch| watch.objects = objects);
    }

    /// It broke off; whether that is news.
    pub(super) fn failed(&self, id: &WatchId, fault: Fault) -> bool {
        self.with(id, |watch| {
            let is_news = watch.fault.as_ref() != Some(&fault);
            watch.fault = Some(fault);
            watch.turn(WatchState::Failing);
            is_news
        })
        .unwrap_or_default()
    }

    /// The API server lets a watch go on: it will send what has changed since.
    pub(super) fn opened(&self, path: &str, query: &str) {
        let mut inner = self.0.lock();
        let opened = inner
            .watches
            .iter_mut()
            .filter(|(id, watch)| watch.path == path && id.is_asked_by(query));
        for (_, watch) in opened.filter(|(_, watch)| watch.is_synced) {
            watch.fault = None;
            watch.turn(WatchState::Watching);
        }
    }

    /// Whether it is known which kinds are served; whether that is news.
    pub(super) fn discovered(&self, outcome: Result<(), &str>) -> bool {
        let mut inner = self.0.lock();
        match outcome {
            Ok(()) => {
                inner.is_discovered = true;
                inner.undiscovered.take().is_some()
            }
            Err(said) => {
                let before = inner.undiscovered.take();
                let is_news = before.as_ref().is_none_or(|(_, before)| before != said);
                let since = before.map_or_else(Instant::now, |(since, _)| since);
                inner.undiscovered = Some((since, said.to_owned()));
                is_news
            }
        }
    }

    /// Whether all is known that a first reading needs. A kind that the API server refuses is waited for only where
    /// identity, addresses or security rest on it.
    pub(super) fn is_complete(&self) -> bool {
        let inner = self.0.lock();
        let mut watches = inner.watches.iter();
        inner.is_discovered
            && watches.all(|(id, watch)| {
                let is_refused = watch.fault.as_ref().is_some_and(|fault| fault.is_answer);
                watch.is_synced || (is_refused && !id.is_required())
            })
    }

    /// A copy is served, or cannot be.
    pub(super) fn copied(&self, copy: Result<SystemTime, String>) {
        self.0.lock().copy = Some(copy);
    }

    /// What is served was read from a copy, as far as the API server has not told it anew.
    pub(super) fn is_of_copy(&self) -> bool {
        matches!(self.0.lock().copy, Some(Ok(_)))
    }

    /// The API server has told all: no copy is needed any more.
    pub(super) fn complete(&self) {
        self.0.lock().copy = None;
    }

    fn with<T>(&self, id: &WatchId, change: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        self.0.lock().watches.get_mut(id).map(change)
    }
}

impl Inner {
    fn age(&self, now: Instant) -> Duration {
        let unknown = (!self.is_discovered).then_some(self.began);
        let unsynced = self.watches.values().filter(|watch| !watch.is_synced);
        let failing = self.watches.values().filter(|watch| watch.fault.is_some());
        let since = unsynced.map(|watch| watch.since);
        let since = since.chain(failing.map(|watch| watch.since));
        let undiscovered = self.undiscovered.as_ref().map(|(since, _)| *since);
        let since = since.chain(unknown).chain(undiscovered).min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

impl Watch {
    fn turn(&mut self, state: WatchState) {
        if self.state != state {
            self.state = state;
            self.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kubernetes::discovery::built_in;

    fn watched(kind: &str) -> (WatchId, ApiResource) {
        let known = KINDS.iter().find(|known| known.kind == kind).unwrap();
        let resource = built_in(known).map_or_else(
            || ApiResource {
                group: known.group.to_owned(),
                version: "v1".to_owned(),
                api_version: known.api_version("v1"),
                kind: kind.to_owned(),
                plural: format!("{}s", kind.to_lowercase()),
            },
            |(_, resource)| resource,
        );
        (WatchId::all(known), resource)
    }

    fn refused() -> Fault {
        Fault {
            said: "forbidden".to_owned(),
            is_answer: true,
        }
    }

    fn unreachable() -> Fault {
        Fault {
            said: "refused".to_owned(),
            is_answer: false,
        }
    }

    #[test]
    fn a_refused_kind_is_waited_for_where_security_rests_on_it() {
        for (kind, fault, is_complete) in [
            ("HTTPRoute", refused(), true),
            ("HTTPRoute", unreachable(), false),
            ("AuthorizationPolicy", refused(), false),
            ("Pod", refused(), false),
        ] {
            let standing = Standing::new();
            let (id, resource) = watched(kind);
            standing.discovered(Ok(()));
            standing.begin(&id, &resource);
            assert!(!standing.is_complete(), "{kind} is listed still");
            standing.failed(&id, fault);
            assert_eq!(standing.is_complete(), is_complete, "{kind}");
            standing.synced(&id, 0);
            assert!(standing.is_complete(), "{kind}");
        }
    }

    #[test]
    fn nothing_is_complete_before_it_is_known_what_is_served() {
        let standing = Standing::new();
        assert!(!standing.is_complete());
        standing.discovered(Err("no"));
        assert!(!standing.is_complete());
        standing.discovered(Ok(()));
        assert!(standing.is_complete());
    }

    #[test]
    fn a_watch_that_is_opened_again_is_well_and_its_age_nothing() {
        let standing = Standing::new();
        let (id, resource) = watched("Pod");
        standing.discovered(Ok(()));
        standing.begin(&id, &resource);
        standing.synced(&id, 3);
        assert_eq!(standing.age(), Duration::ZERO);
        assert!(standing.failed(&id, unreachable()));
        assert!(!standing.failed(&id, unreachable()), "said already");
        let before = standing.age();
        assert!(before > Duration::ZERO);
        standing.opened("/api/v1/services", "&watch=true");
        assert!(standing.age() >= before, "another kind's");
        standing.opened("/api/v1/pods", "&watch=true");
        assert_eq!(standing.age(), Duration::ZERO);
        let pods = standing.status().watches.remove(0);
        assert_eq!(
            (pods.state, pods.objects, pods.error),
            (WatchState::Watching, 3, None)
        );
    }
}
