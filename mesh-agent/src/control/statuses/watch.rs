//! One watch for each kind, which survives whatever the API server does; a kind that is not installed is looked for now
//! and then.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watching};
use kube::{Api, Client};
use tokio::time::sleep;

use super::kinds::Kind;
use super::objects::{Held, Objects};
use super::standing::WriterStanding;
use crate::ca::kubernetes::{ApiError, answered, watch_error};
use crate::identity::error_chain;

/// Keeps `objects` as the API server has them, for ever. Cancel-safe.
pub(super) async fn follow(
    client: Client,
    kind: &'static Kind,
    objects: Arc<Objects>,
    standing: WriterStanding,
) {
    loop {
        match served(&client, kind).await {
            Ok(Some(resource)) => watch(&client, kind, resource, &objects, &standing).await,
            Ok(None) => {
                standing.heard(kind.name);
                objects.absent(kind);
            }
            Err(error) => complain(&standing, kind, &error_chain(&error)),
        }
        sleep(LOOK).await;
    }
}

/// The kind in the best version that is served.
async fn served(client: &Client, kind: &Kind) -> Result<Option<ApiResource>, ApiError> {
    for version in kind.versions {
        let resource = kind.resource(version);
        if kind.is_built_in {
            return Ok(Some(resource));
        }
        match answered(client.list_api_group_resources(&kind.api_version(version))).await {
            Ok(list) if list.resources.iter().any(|one| one.name == resource.plural) => {
                return Ok(Some(resource));
            }
            Ok(_) => {}
            Err(ApiError::Failed(error)) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Returns when the kind is served no longer.
async fn watch(
    client: &Client,
    kind: &Kind,
    resource: ApiResource,
    objects: &Objects,
    standing: &WriterStanding,
) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let resource = Arc::new(resource);
    let mut events = watching(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let held = |object: DynamicObject| match serde_json::to_value(object) {
            Ok(value) => Some(Held::new(&resource, value)),
            Err(error) => {
                tracing::error!(kind = kind.name, %error, "an object cannot be kept");
                None
            }
        };
        if event.is_ok() {
            standing.heard(kind.name);
        }
        match event {
            Ok(Event::Init) => objects.begin(kind),
            Ok(Event::InitApply(object)) => held(object)
                .into_iter()
                .for_each(|held| objects.listed(kind, held)),
            Ok(Event::InitDone) => objects.complete(kind),
            Ok(Event::Apply(object)) => held(object)
                .into_iter()
                .for_each(|held| objects.apply(kind, held)),
            Ok(Event::Delete(object)) => held(object).iter().for_each(|held| objects.remove(kind, held)),
            Err(error) if has_ended(&error) => return objects.absent(kind),
            Err(error) => complain(standing, kind, &watch_error(&error)),
        }
    }
}

fn complain(standing: &WriterStanding, kind: &Kind, said: &str) {
    if standing.unheard(kind.name, said) {
        tracing::error!(
            kind = kind.name,
            error = said,
            "a kind cannot be watched, so that no status is written; tried again"
        );
    }
}

/// The definition of the kind is gone.
fn has_ended(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_gone(error),
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::NoResourceVersion => false,
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What a new definition waits for at most.
const LOOK: Duration = Duration::from_secs(5);
