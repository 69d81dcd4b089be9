//! Certificates that `ConfigMap`s hold, for policies that name them.
//!
//! Place in the walk: read before what may name them. Must not know: who does.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::object::Object;
use crate::identity::holds_a_root;

/// The `ca.crt` of each `ConfigMap` that has one.
#[derive(Debug, Default)]
pub(super) struct CaBundles(HashMap<(Arc<str>, Arc<str>), Arc<str>>);

impl CaBundles {
    pub(super) fn of(objects: &[Object]) -> Self {
        let maps = objects.iter().filter(|object| object.kind == "ConfigMap");
        let held = maps.filter_map(|object| {
            let pem = object.at("/data")?.get(KEY).and_then(Value::as_str)?;
            let name = (Arc::clone(&object.namespace), Arc::clone(&object.name));
            Some((name, pem.into()))
        });
        Self(held.collect())
    }

    /// The certificates of one, or what is wrong.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Result<&Arc<str>, String> {
        let found = self.0.get(&(namespace.into(), name.into()));
        let pem =
            found.ok_or_else(|| format!("there is no ConfigMap {namespace}/{name} with a key {KEY:?}"))?;
        if holds_a_root(pem) {
            Ok(pem)
        } else {
            Err(format!(
                "{KEY:?} of ConfigMap {namespace}/{name} holds no certificate in PEM"
            ))
        }
    }
}

/// As Gateway API names it.
const KEY: &str = "ca.crt";
