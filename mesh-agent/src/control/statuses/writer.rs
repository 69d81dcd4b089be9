//! Puts our part of a status into an object, whoever else writes into it at the same time.

use std::fmt::{self, Debug};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::merge::merged;
use super::objects::Held;
use crate::ca::kubernetes::{ApiError, answered};
use crate::control::conditions::Status;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Our part is there.
    Written,
    /// It was there already.
    Unchanged,
    /// The object is gone or is another one now; the watch tells.
    Superseded,
}

/// What is asked of the API server: the seam for tests. Both are bounded in time and cancel-safe.
pub(super) trait Statuses: Send + Sync + Debug {
    /// None where it is gone.
    fn read<'a>(&'a self, object: &'a Held) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;

    /// Writes these fields of `status` if the object is still in this version. False where it is not.
    fn write<'a>(
        &'a self,
        object: &'a Held,
        version: &'a str,
        status: Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>>;
}

/// Writes what is `wanted` into the object, unless it says so already.
pub(super) async fn settle(api: &dyn Statuses, object: &Held, wanted: &Status) -> Result<Outcome, ApiError> {
    let mut value = object.value.clone();
    // Each turn that does not end saw somebody else write.
    for _ in 0..TURNS {
        let Some(status) = merged(&value, wanted) else {
            return Ok(Outcome::Unchanged);
        };
        let version = text(&value, "/metadata/resourceVersion").to_owned();
        if api.write(object, &version, status).await? {
            return Ok(Outcome::Written);
        }
        let Some(latest) = api.read(object).await? else {
            return Ok(Outcome::Superseded);
        };
        let same = |pointer: &str| latest.pointer(pointer) == value.pointer(pointer);
        // What is wanted was judged of that object and that generation.
        if !(same("/metadata/uid") && same("/metadata/generation")) {
            return Ok(Outcome::Superseded);
        }
        value = latest;
    }
    Err(ApiError::Conflict)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The real one.
pub(super) struct ClusterStatuses(Client);

impl ClusterStatuses {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    fn api(&self, object: &Held) -> Api<DynamicObject> {
        match object.metadata("namespace") {
            "" => Api::all_with(self.0.clone(), &*object.resource),
            namespace => Api::namespaced_with(self.0.clone(), namespace, &*object.resource),
        }
    }
}

impl Statuses for ClusterStatuses {
    fn read<'a>(&'a self, object: &'a Held) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        let api = self.api(object);
        Box::pin(async move {
            let found = answered(api.get_opt(object.metadata("name"))).await?;
            let value = found.and_then(|found| serde_json::to_value(found).ok());
            Ok(value.map(|value| Held::new(&Arc::clone(&object.resource), value).value))
        })
    }

    fn write<'a>(
        &'a self,
        object: &'a Held,
        version: &'a str,
        status: Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        let api = self.api(object);
        Box::pin(async move {
            let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "status": status }));
            let params = PatchParams::default();
            match answered(api.patch_status(object.metadata("name"), &params, &patch)).await {
                Ok(_) => Ok(true),
                Err(ApiError::Failed(error)) if was_first(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }
}

fn was_first(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

impl Debug for ClusterStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterStatuses")
    }
}

const TURNS: usize = 4;

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
