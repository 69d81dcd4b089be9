//! One watch: of all objects of a kind, or of one object by its name.
//!
//! Place in the walk: from the API server to the source. Must not know: what becomes of objects.

use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::api::{ApiResource, Resource as _};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::oneshot;

use super::standing::Fault;
use super::watched::Watched;
use crate::control::translate::{BundleName, KnownKind};
use crate::identity::error_chain;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WatchId {
    pub(super) kind: &'static str,
    only: Option<Only>,
}

/// Objects of one name, in one namespace or in any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Only {
    namespace: Option<Arc<str>>,
    name: Arc<str>,
}

/// What a watch tells.
pub(super) type Event = watcher::Result<watcher::Event<Watched>>;

impl WatchId {
    pub(super) fn all(kind: &KnownKind) -> Self {
        Self {
            kind: kind.kind,
            only: None,
        }
    }

    /// `ConfigMaps` of the name that the mesh's own configuration has, wherever they are.
    pub(super) fn mesh_config() -> Self {
        Self {
            kind: CONFIG_MAP,
            only: Some(Only {
                namespace: None,
                name: "istio".into(),
            }),
        }
    }

    /// A `ConfigMap` that a policy names.
    pub(super) fn bundle((namespace, name): BundleName) -> Self {
        Self {
            kind: CONFIG_MAP,
            only: Some(Only {
                namespace: Some(namespace),
                name,
            }),
        }
    }

    pub(super) fn is_bundle(&self) -> bool {
        self.only.as_ref().is_some_and(|only| only.namespace.is_some())
    }

    /// Whether the agent cannot be ready without it: identity, addresses or security rest on it.
    pub(super) fn is_required(&self) -> bool {
        matches!(
            self.kind,
            "Namespace"
                | "Node"
                | "Pod"
                | "Service"
                | "EndpointSlice"
                | "PeerAuthentication"
                | "AuthorizationPolicy"
                | "RequestAuthentication"
                | "BackendTLSPolicy"
        )
    }

    /// Whether an object, `Kind NAMESPACE/NAME`, is among what is watched.
    pub(super) fn covers(&self, object: &str) -> bool {
        let of_kind = object
            .strip_prefix(self.kind)
            .and_then(|rest| rest.strip_prefix(' '));
        of_kind.is_some_and(|name| match &self.only {
            None => true,
            Some(only) => name.split_once('/').is_some_and(|(namespace, name)| {
                only.namespace.as_deref().is_none_or(|one| one == namespace) && *only.name == *name
            }),
        })
    }

    pub(super) fn path(&self, resource: &ApiResource) -> String {
        Watched::url_path(resource, self.namespace())
    }

    /// A path with what selects of it.
    pub(super) fn selected(&self, path: &str) -> String {
        let Some(selector) = self.selector() else {
            return path.to_owned();
        };
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("fieldSelector", &selector)
            .finish();
        format!("{path}?{query}")
    }

    /// Whether the query of a request asks for no more and no less.
    pub(super) fn is_asked_by(&self, query: &str) -> bool {
        let asked = form_urlencoded::parse(query.as_bytes());
        let selector = asked
            .filter(|(key, _)| key == "fieldSelector")
            .map(|(_, value)| value);
        selector.last().as_deref() == self.selector().as_deref()
    }

    /// Watches until `stop` is dropped. After a failure it goes on where it was, or lists anew when the API server has
    /// forgotten that point (410), with a growing pause.
    pub(super) fn follow(
        &self,
        client: Client,
        resource: &ApiResource,
        stop: oneshot::Receiver<()>,
    ) -> BoxStream<'static, Event> {
        let api: Api<Watched> = match self.namespace() {
            None => Api::all_with(client, resource),
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
        };
        let mut config = watcher::Config::default().page_size(PAGE);
        if let Some(selector) = self.selector() {
            config = config.fields(&selector);
        }
        let events = watcher(api, config).default_backoff();
        events.take_until(stop).boxed()
    }

    fn namespace(&self) -> Option<&str> {
        self.only.as_ref()?.namespace.as_deref()
    }

    fn selector(&self) -> Option<String> {
        let only = self.only.as_ref()?;
        Some(format!("metadata.name={}", only.name))
    }
}

impl fmt::Display for WatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        match &self.only {
            None => Ok(()),
            Some(Only {
                namespace: None,
                name,
            }) => write!(f, " {name}"),
            Some(Only {
                namespace: Some(namespace),
                name,
            }) => write!(f, " {namespace}/{name}"),
        }
    }
}

/// What is wrong with a watch, and whether its collection is not there at all.
pub(super) fn fault_of(error: &watcher::Error) -> (Fault, bool) {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    let answer = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
    };
    let Some(answer) = answer else {
        let fault = Fault {
            said: error_chain(error),
            is_answer: false,
        };
        return (fault, false);
    };
    let said = if answer.is_forbidden() {
        format!("a rbac rule is missing: {}", answer.message)
    } else {
        format!("{} {}: {}", answer.code, answer.reason, answer.message)
    };
    let fault = Fault {
        said,
        // Busy or starting; or forgotten how it was then.
        is_answer: !matches!(answer.code, 410 | 429 | 503 | 504),
    };
    (fault, answer.code == 404)
}

/// Objects in one answer: a page is in memory as it was sent, as JSON and as text.
const PAGE: u32 = 200;
const CONFIG_MAP: &str = "ConfigMap";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_covers_its_own_objects() {
        let istio = WatchId::mesh_config();
        let roots = WatchId::bundle(("shop".into(), "roots".into()));
        let pods = WatchId {
            kind: "Pod",
            only: None,
        };
        for (watch, object, expected) in [
            (&istio, "ConfigMap istio-system/istio", true),
            (&istio, "ConfigMap istio/other", false),
            (&roots, "ConfigMap shop/roots", true),
            (&roots, "ConfigMap other/roots", false),
            (&pods, "Pod shop/a", true),
            (&pods, "PodX shop/a", false),
        ] {
            assert_eq!(watch.covers(object), expected, "{watch} {object}");
        }
    }

    #[test]
    fn what_is_asked_for_is_a_path_and_what_selects_of_it() {
        let path = "/api/v1/configmaps";
        let of_one = "/api/v1/configmaps?fieldSelector=metadata.name%3Distio";
        assert_eq!(WatchId::mesh_config().selected(path), of_one);
        let pods = WatchId {
            kind: "Pod",
            only: None,
        };
        assert_eq!(pods.selected("/api/v1/pods"), "/api/v1/pods");
    }

    #[test]
    fn a_watch_is_told_from_another_of_the_same_collection() {
        let istio = WatchId::mesh_config();
        assert!(istio.is_asked_by("&watch=true&fieldSelector=metadata.name%3Distio&resourceVersion=0"));
        assert!(!istio.is_asked_by("&watch=true&fieldSelector=metadata.name%3Dother"));
        assert!(!istio.is_asked_by("&watch=true"));
    }
}
