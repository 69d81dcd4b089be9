//! The roots that agents are to trust, written into a `ConfigMap` that the kubelet hands to them.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{ApiError, SecretName, answered};
use crate::ca::Keys;
use crate::identity::error_chain;
use crate::lifecycle::Stop;

/// A `ConfigMap` that is there before, and the keys whose roots it has to show under [`ROOTS`].
pub struct PublishedRoots {
    api: Api<ConfigMap>,
    name: SecretName,
    keys: Arc<Keys>,
}

impl PublishedRoots {
    /// Asks nothing yet. The account needs to `get` and `patch` this `ConfigMap`, and no leave to create any.
    pub fn new(client: Client, name: SecretName, keys: Arc<Keys>) -> Self {
        Self {
            api: Api::namespaced(client, name.namespace()),
            name,
            keys,
        }
    }

    /// Writes the roots when they change, and where they were taken away, until `stop`. What else somebody writes there
    /// stays until the next change: another CA may know better. A failure is logged once and tried again; agents go on
    /// with the roots that they have.
    pub async fn follow(self, stop: Stop) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut shown, mut next, mut complaint): (Option<String>, _, _) = (None, Instant::now(), None);
        loop {
            tokio::select! {
                () = stop.requested() => return,
                _ = tick.tick() => {}
            }
            let roots = self.keys.load().bundle().to_owned();
            let is_new = shown.as_ref() != Some(&roots);
            if !is_new && Instant::now() < next {
                continue;
            }
            next = Instant::now() + AGAIN;
            match self.show(&roots, is_new).await {
                Ok(has_written) => {
                    if has_written {
                        tracing::info!(configmap = %self.name, "the roots are there for agents");
                    }
                    (shown, complaint) = (Some(roots), None);
                }
                Err(error) => {
                    let said = error_chain(&error);
                    if complaint.as_ref() != Some(&said) {
                        tracing::error!(configmap = %self.name, error = said, "cannot write the roots; tried again");
                        complaint = Some(said);
                    }
                }
            }
        }
    }

    /// Whether it had to write.
    pub(super) async fn show(&self, roots: &str, is_new: bool) -> Result<bool, ApiError> {
        if !is_new {
            let found = answered(self.api.get(self.name.name())).await?;
            if found.data.is_some_and(|data| data.contains_key(ROOTS)) {
                return Ok(false);
            }
        }
        let change = Patch::Merge(json!({ "data": { ROOTS: roots } }));
        let plainly = PatchParams::default();
        answered(self.api.patch(self.name.name(), &plainly, &change))
            .await
            .map(|_| true)
    }
}

impl Debug for PublishedRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublishedRoots({})", self.name)
    }
}

/// The key that agents mount.
pub const ROOTS: &str = "roots.pem";
/// As often as the keys themselves are looked at.
const LOOK: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_mins(1);
