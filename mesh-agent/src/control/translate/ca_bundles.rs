//! Certificates that `ConfigMap`s hold, for policies that name them.
//!
//! Place in the walk: read before what may name them. Must not know: who does.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::object::Object;
use crate::identity::holds_a_root;

/// Namespace and name of a `ConfigMap`.
pub(in crate::control) type BundleName = (Arc<str>, Arc<str>);

/// The `ca.crt` of each `ConfigMap` that has one.
#[derive(Debug, Default)]
pub(super) struct CaBundles {
    held: HashMap<BundleName, Arc<str>>,
    /// Who reads a policy need not say which it names.
    asked: RefCell<BTreeSet<BundleName>>,
}

/// What a `ConfigMap` holds, certificate or not.
pub(super) fn held(map: &Object) -> Option<Arc<str>> {
    map.at("/data")?.get(KEY).and_then(Value::as_str).map(Into::into)
}

impl CaBundles {
    /// A `ConfigMap` holds this now; whether it held something else.
    pub(super) fn learn(&mut self, name: &BundleName, bundle: Option<&Arc<str>>) -> bool {
        let before = match bundle {
            Some(bundle) => self.held.insert(name.clone(), Arc::clone(bundle)),
            None => self.held.remove(name),
        };
        before.as_ref() != bundle
    }

    /// The certificates of one, or what is wrong.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Result<&Arc<str>, String> {
        let asked = (namespace.into(), name.into());
        let found = self.held.get(&asked);
        self.asked.borrow_mut().insert(asked);
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

    /// Those that were looked for since this was asked last.
    pub(super) fn asked(&self) -> BTreeSet<BundleName> {
        self.asked.take()
    }
}

/// As Gateway API names it.
const KEY: &str = "ca.crt";
