//! Which of our kinds an API server serves, and as which version.
//!
//! Place in the walk: before the watches, and beside them, since definitions come and go. Must not know: objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::Client;
use kube::api::ApiResource;
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::control::translate::{KINDS, KnownKind};
use crate::identity::error_chain;

/// What is served, or why nobody knows.
pub(super) type Served = Result<Vec<(&'static KnownKind, ApiResource)>, String>;

/// Asks now, whenever it is told that something may have changed, and then as seldom as this, with half as much of
/// jitter; more often after a failure. Cancel-safe.
pub(super) fn discoveries(client: Client, told: Arc<Notify>, seldom: Duration) -> BoxStream<'static, Served> {
    let asked = move |pause: Option<Duration>| {
        let (client, told) = (client.clone(), Arc::clone(&told));
        async move {
            if let Some(pause) = pause {
                tokio::select! {
                    () = sleep(jittered(pause)) => {}
                    () = told.notified() => sleep(jittered(FIRST_PAUSE)).await,
                }
            }
            let served = match timeout(ANSWER, served(&client)).await {
                Ok(served) => served.map_err(|error| error_chain(&error)),
                Err(_elapsed) => Err(format!("no answer within {ANSWER:?}")),
            };
            let next = match &served {
                Ok(_) => seldom,
                Err(_) => pause.map_or(FIRST_PAUSE, |pause| pause * 2).min(seldom),
            };
            Some((served, Some(next)))
        }
    };
    stream::unfold(None, asked).boxed()
}

/// Kinds that every API server serves are not asked for.
async fn served(client: &Client) -> kube::Result<Vec<(&'static KnownKind, ApiResource)>> {
    let groups = client.list_api_groups().await?.groups;
    let mut lists = HashMap::new();
    let mut served: Vec<_> = KINDS.iter().filter_map(built_in).collect();
    for kind in KINDS.iter().filter(|kind| built_in(kind).is_none()) {
        let group = groups.iter().find(|group| group.name == kind.group);
        for version in kind.versions.iter().filter(|version| has(group, version)) {
            let api_version = kind.api_version(version);
            if !lists.contains_key(&api_version) {
                lists.insert(api_version.clone(), plurals(client, &api_version).await?);
            }
            let plural = lists.get(&api_version).and_then(|list| list.get(kind.kind));
            if let Some(plural) = plural {
                served.push((kind, resource(kind, version, plural)));
                break;
            }
        }
    }
    Ok(served)
}

/// The kinds of one version of a group, and what their collections are called.
async fn plurals(client: &Client, api_version: &str) -> kube::Result<HashMap<String, String>> {
    match client.list_api_group_resources(api_version).await {
        // Names with a slash are parts of objects, such as `status`.
        Ok(list) => Ok(list
            .resources
            .into_iter()
            .filter(|resource| !resource.name.contains('/'))
            .map(|resource| (resource.kind, resource.name))
            .collect()),
        // Gone since the groups were listed.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(HashMap::new()),
        Err(error) => Err(error),
    }
}

/// A kind that needs no definition.
pub(super) fn built_in(kind: &'static KnownKind) -> Option<(&'static KnownKind, ApiResource)> {
    let plural = match kind.kind {
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "Pod" => "pods",
        "Service" => "services",
        "ConfigMap" => "configmaps",
        "EndpointSlice" => "endpointslices",
        _ => return None,
    };
    let version = kind.versions.first()?;
    Some((kind, resource(kind, version, plural)))
}

fn resource(kind: &KnownKind, version: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version(version),
        kind: kind.kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn has(group: Option<&APIGroup>, version: &str) -> bool {
    group.is_some_and(|group| group.versions.iter().any(|one| one.version == version))
}

/// So that agents that began together do not ask together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(10);
