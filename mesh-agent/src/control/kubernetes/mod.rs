//! The Kubernetes source: one watch for each kind that the mesh reads, of a real API server.
//!
//! Place in the walk: one of the sources behind [`Source`]. Must not know: what any kind means.
//!
//! Each object is translated when it arrives and not kept as it was sent. What changes is gathered for 80 ms, and
//! a reading is put together from what all objects have become. A kind whose definition is not installed is absent; it
//! is looked for now and then.

mod discovery;
mod heard;
mod lean;
mod standing;
mod wanted;
mod watch;
mod watched;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _};
use kube::Client;
use kube::api::ApiResource;
use kube::client::ClientBuilder;
use kube::runtime::watcher;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use self::discovery::Served;
use self::heard::Hearing;
pub use self::standing::{SourceStatus, Standing, WatchState, WatchStatus};
use self::watch::{Event, WatchId, fault_of};
use self::watched::Watched;
use super::copy::{Copy, CopyError};
use super::manifest::Document;
use super::translate::{Store, object_name};
use super::{Reading, Source, SourceError};
use crate::ca::kubernetes::{ConnectError, configuration};
use crate::identity::error_chain;

/// Reads the objects of an API server, and every change of them.
pub struct KubernetesSource {
    client: Client,
    store: Store,
    copy: Copy,
    standing: Standing,
    news: SelectAll<BoxStream<'static, News>>,
    watches: HashMap<WatchId, Watching>,
    /// Told when a kind may have come or gone.
    rediscover: Arc<Notify>,
    origin: Arc<str>,
    /// When what has changed is put together; none while nothing has.
    due: Option<Instant>,
    has_read: bool,
    /// When the copy on disk has to do; none once that is settled.
    copy_due: Option<Instant>,
}

/// A watch that is under way.
struct Watching {
    resource: ApiResource,
    /// Ends it when dropped.
    _stop: oneshot::Sender<()>,
    /// What a list that is under way has shown so far.
    listed: Option<HashSet<Arc<str>>>,
    objects: usize,
}

/// What is learned.
enum News {
    Served(Served),
    Of(WatchId, Box<Event>),
}

impl KubernetesSource {
    /// A source by a kubeconfig, or by the service account of the pod that this is; asks for nothing before the first
    /// call of [`Source::next_reading`].
    ///
    /// In `copy` it keeps what it has learned, for an agent that begins while the API server is away.
    pub async fn connect(
        kubeconfig: Option<&Path>,
        trust_domain: &str,
        copy: PathBuf,
    ) -> Result<Self, ConnectError> {
        let mut config = configuration(kubeconfig).await?;
        config.read_timeout = Some(SILENCE);
        let standing = Standing::new();
        let failed = |error: kube::Error| ConnectError::Client(error.into());
        let builder = ClientBuilder::try_from(config).map_err(failed)?;
        let client = builder.with_layer(&Hearing(standing.clone())).build();
        Ok(Self::new(
            client,
            standing,
            trust_domain,
            Copy::at(copy),
            DISCOVERY,
        ))
    }

    /// Writes nothing before [`Source::keep`]: another agent of the node has the copy.
    #[must_use]
    pub fn standing_by(self) -> Self {
        Self {
            copy: self.copy.hold_back(),
            ..self
        }
    }

    fn new(client: Client, standing: Standing, trust_domain: &str, copy: Copy, discovery: Duration) -> Self {
        let rediscover = Arc::new(Notify::new());
        let discoveries = discovery::discoveries(client.clone(), Arc::clone(&rediscover), discovery);
        let mut news = SelectAll::new();
        news.push(discoveries.map(News::Served).boxed());
        Self {
            client,
            store: Store::new(trust_domain),
            copy,
            standing,
            news,
            watches: HashMap::new(),
            rediscover,
            origin: "api".into(),
            due: None,
            has_read: false,
            copy_due: Some(Instant::now() + PATIENCE),
        }
    }

    /// How the watches stand, now and later.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Cancel-safe: what is learned is kept before anything is waited for.
    async fn next(&mut self) -> Reading {
        loop {
            let due = self.due.filter(|_| self.may_read());
            let at = due.unwrap_or_else(Instant::now);
            let copy_at = self.copy_due.unwrap_or_else(Instant::now);
            tokio::select! {
                // Whatever has arrived belongs to this reading.
                biased;
                () = sleep_until(at), if due.is_some() => {
                    if let Some(reading) = self.read() {
                        return reading;
                    }
                }
                () = sleep_until(copy_at), if self.copy_due.is_some() => {
                    self.copy.written().await;
                    self.begin_with_copy();
                }
                () = self.copy.tend() => {}
                // What an API server tells faster than it is written would be in memory.
                news = self.news.next(), if !self.copy.is_full() => match news {
                    Some(News::Served(served)) => self.take_served(served),
                    Some(News::Of(id, event)) => self.take(&id, *event),
                    // Discovery never ends.
                    None => std::future::pending().await,
                },
            }
        }
    }

    /// Does with the copy on disk when the API server has not told all by now.
    fn begin_with_copy(&mut self) {
        self.copy_due = None;
        if self.has_read {
            return;
        }
        let (store, origin) = (&mut self.store, &self.origin);
        let read = self.copy.read(|name, value| {
            // What was told since is newer.
            !store.holds(name)
                && store.put(Document {
                    origin: Arc::clone(origin),
                    place: name.to_owned(),
                    value,
                })
        });
        match read {
            Ok(written) => {
                tracing::warn!("the api server has not told all yet; beginning with the copy on disk");
                self.has_read = true;
                self.standing.copied(Ok(written));
                self.touch();
            }
            Err(CopyError::Absent) => {
                tracing::warn!("the api server has not told all yet, and there is no copy on disk");
            }
            Err(error) => {
                let said = error_chain(&error);
                tracing::error!(error = said, "the copy on disk is not used");
                self.standing.copied(Err(said));
            }
        }
    }

    /// A list that is half read would take away what is in its other half, unless a copy has filled that.
    fn may_read(&self) -> bool {
        if self.standing.is_of_copy() {
            return true;
        }
        let is_listing = self.watches.values().any(|watch| watch.listed.is_some());
        (self.has_read || self.standing.is_complete()) && !is_listing
    }

    /// Puts all together; `None` when policies name what is not known yet, which is then asked for first.
    fn read(&mut self) -> Option<Reading> {
        self.watch_bundles();
        if !self.has_read && !self.standing.is_complete() {
            return None;
        }
        if self.standing.is_complete() {
            self.copy.is_whole_now();
            self.standing.complete();
        }
        self.due = None;
        self.has_read = true;
        Some(self.store.reading())
    }

    fn take(&mut self, id: &WatchId, event: Event) {
        let Some(watch) = self.watches.get_mut(id) else {
            return;
        };
        match event {
            Ok(watcher::Event::Init) => {
                watch.listed = Some(HashSet::new());
                self.standing.listing(id);
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => self.put(id, object),
            Ok(watcher::Event::Delete(object)) => {
                let name = object_name(id.kind, object.namespace(), object.name());
                if self.store.holds(&name) {
                    watch.objects = watch.objects.saturating_sub(1);
                    self.standing.counted(id, watch.objects);
                }
                self.forget(&name.into());
            }
            Ok(watcher::Event::InitDone) => {
                let listed = watch.listed.take().unwrap_or_default();
                watch.objects = listed.len();
                self.standing.synced(id, listed.len());
                let is_gone = |name: &str| id.covers(name) && !listed.contains(name);
                let gone = self.store.names(is_gone);
                tracing::debug!(watch = %id, objects = listed.len(), gone = gone.len(), "listed");
                for name in gone {
                    self.forget(&name);
                }
                self.look_again();
            }
            Err(error) => {
                watch.listed = None;
                let (fault, is_absent) = fault_of(&error);
                let said = fault.said.clone();
                if self.standing.failed(id, fault) {
                    tracing::warn!(watch = %id, error = said, "a kind cannot be watched; tried again");
                }
                if is_absent {
                    self.rediscover.notify_one();
                }
                self.look_again();
            }
        }
    }

    fn put(&mut self, id: &WatchId, object: Watched) {
        let Some(watch) = self.watches.get_mut(id) else {
            return;
        };
        let name: Arc<str> = object_name(id.kind, object.namespace(), object.name()).into();
        let is_new = !self.store.holds(&name);
        let value = object.into_value(&watch.resource);
        let text = value.to_string().into_boxed_str();
        let document = Document {
            origin: Arc::clone(&self.origin),
            place: name.as_ref().to_owned(),
            value,
        };
        let is_news = self.store.put(document);
        // There may be a hundred thousand names.
        let name = self.store.name(&name).unwrap_or(name);
        match &mut watch.listed {
            Some(listed) => {
                listed.insert(Arc::clone(&name));
            }
            None if is_new => {
                watch.objects += 1;
                self.standing.counted(id, watch.objects);
            }
            None => {}
        }
        if is_news {
            self.copy.note(&name, Some(text), is_new);
            self.touch();
        }
    }

    fn forget(&mut self, name: &Arc<str>) {
        if self.store.remove(name) {
            self.copy.note(name, None, false);
            self.touch();
        }
    }

    /// Whether all is known now is asked again, where that was waited for.
    fn look_again(&mut self) {
        if !self.has_read || self.standing.is_of_copy() {
            self.touch();
        }
    }

    /// What has changed is put together soon.
    fn touch(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SETTLING);
    }
}

impl Source for KubernetesSource {
    fn next_reading(&mut self) -> BoxFuture<'_, Result<Reading, SourceError>> {
        Box::pin(async { Ok(self.next().await) })
    }

    fn keep(&mut self) {
        self.copy.keep();
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.copy.finish())
    }
}

impl fmt::Debug for KubernetesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesSource")
            .field("watches", &self.watches.len())
            .finish_non_exhaustive()
    }
}

/// How long changes are gathered before they are put together.
const SETTLING: Duration = Duration::from_millis(80);
/// After which a connection counts as dead. The API server may say nothing for as long as it lets a watch last, and that
/// is 290 s.
const SILENCE: Duration = Duration::from_secs(310);
/// How long the API server is waited for before an agent begins with what an earlier one knew.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a new definition may go unseen; asking takes six small requests at most.
const DISCOVERY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod wire_tests;
