//! Which watches there are: begun and ended as kinds are defined and policies name `ConfigMaps`.
//!
//! Place in the walk: a part of the source. Must not know: what any kind means.

use std::collections::{HashMap, HashSet};

use futures_util::stream::StreamExt as _;
use kube::api::ApiResource;
use tokio::sync::oneshot;

use super::discovery::{self, Served};
use super::watch::WatchId;
use super::{KubernetesSource, News, Watching};
use crate::control::translate::KINDS;

impl KubernetesSource {
    /// Begins and ends watches by what is served now.
    pub(super) fn take_served(&mut self, served: Served) {
        let served = match served {
            Ok(served) => served,
            Err(said) => {
                if self.standing.discovered(Err(&said)) {
                    tracing::error!(
                        error = said,
                        "it is not known which kinds the api server serves; tried again"
                    );
                }
                return;
            }
        };
        let mut wanted: HashMap<WatchId, ApiResource> = HashMap::new();
        for (kind, resource) in served {
            let id = match kind.kind {
                "ConfigMap" => WatchId::mesh_config(),
                _ => WatchId::all(kind),
            };
            wanted.insert(id, resource);
        }
        let watched: Vec<_> = self.watches.keys().cloned().collect();
        for id in watched.iter().filter(|id| !id.is_bundle()) {
            let is_same = |watch: &Watching| wanted.get(id) == Some(&watch.resource);
            if !self.watches.get(id).is_some_and(is_same) {
                self.end(id);
            }
        }
        for (id, resource) in wanted {
            if !self.watches.contains_key(&id) {
                self.begin(id, resource);
            }
        }
        self.standing.discovered(Ok(()));
        self.look_again();
    }

    /// Watches those `ConfigMaps` that policies name, and no others.
    pub(super) fn watch_bundles(&mut self) {
        let mut wanted: HashSet<_> = self.store.wanted_bundles().into_iter().collect();
        if wanted.len() > MAX_BUNDLES {
            tracing::error!(
                wanted = wanted.len(),
                MAX_BUNDLES,
                "policies name too many ConfigMaps; some are not read"
            );
        }
        let watched: Vec<_> = self.watches.keys().filter(|id| id.is_bundle()).cloned().collect();
        for id in &watched {
            if !wanted.iter().any(|name| WatchId::bundle(name.clone()) == *id) {
                self.end(id);
            }
        }
        let Some((_, resource)) = KINDS
            .iter()
            .filter_map(discovery::built_in)
            .find(|(kind, _)| kind.kind == "ConfigMap")
        else {
            return;
        };
        for name in wanted.drain().take(MAX_BUNDLES) {
            let id = WatchId::bundle(name);
            if !self.watches.contains_key(&id) {
                self.begin(id, resource.clone());
            }
        }
    }

    fn begin(&mut self, id: WatchId, resource: ApiResource) {
        let (stop, stopped) = oneshot::channel();
        self.standing.begin(&id, &resource);
        let events = id.follow(self.client.clone(), &resource, stopped);
        let of = id.clone();
        self.news.push(
            events
                .map(move |event| News::Of(of.clone(), Box::new(event)))
                .boxed(),
        );
        let watching = Watching {
            resource,
            _stop: stop,
            listed: None,
            objects: 0,
        };
        self.watches.insert(id, watching);
    }

    /// Ends a watch and forgets its objects, but for those that another watch shows too.
    fn end(&mut self, id: &WatchId) {
        self.watches.remove(id);
        self.standing.end(id);
        let others = &self.watches;
        let is_gone = |name: &str| id.covers(name) && !others.keys().any(|other| other.covers(name));
        for name in self.store.names(is_gone) {
            self.forget(&name);
        }
    }
}

/// Each is a watch of its own.
const MAX_BUNDLES: usize = 128;
