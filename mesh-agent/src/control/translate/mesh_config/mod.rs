//! Istio's `MeshConfig`: the text under `mesh` in the `ConfigMap` `istio`.
//!
//! Place in the walk: becomes the providers of CUSTOM policies and the form of paths. Must not know: which namespace is
//! the root one, policies, Services.
//!
//! What is not read is named; a provider that is wrong is left out whole, so that policies which need it refuse.

mod provider;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use self::provider::Provider;
pub(super) use self::provider::{SERVICE_RULE, service_target};
use super::object::{Object, unknown_fields};
use crate::control::manifest;
use crate::mesh::facts::Rejection;
use crate::mesh::mesh_config::{MeshConfig, PathForm};
use crate::mesh::policy::external::Authorizer;

/// `None` for a `ConfigMap` that is another one.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<MeshConfig>, Rejection> {
    if object.name.as_ref() != NAME {
        return Ok(None);
    }
    let Some(declared) = object.at("/data/mesh").filter(|text| !text.is_null()) else {
        return Ok(None);
    };
    let text = declared
        .as_str()
        .ok_or_else(|| object.reject(ROOT, "expected a text"))?;
    let config = read(object, text)?;
    for field in unknown_fields(&config, &["extensionProviders", "pathNormalization"]) {
        rejections.push(object.reject(
            &format!("{ROOT}.{}", field.escape_debug()),
            "not read here; ignored",
        ));
    }
    Ok(Some(MeshConfig {
        namespace: Arc::clone(&object.namespace),
        meta: Arc::clone(&object.meta),
        authorizers: authorizers(object, &config, rejections),
        path_form: path_form(object, &config, rejections),
    }))
}

fn read(object: &Object, text: &str) -> Result<Value, Rejection> {
    let (mut documents, wrong) = manifest::documents(&object.meta.origin, text, false);
    if let Some(wrong) = wrong.into_iter().next() {
        return Err(object.reject(ROOT, wrong.reason));
    }
    match (documents.pop(), documents.is_empty()) {
        (None, _) => Ok(Value::Object(serde_json::Map::new())),
        (Some(document), true) if document.value.is_object() => Ok(document.value),
        (Some(_), _) => Err(object.reject(ROOT, "expected one mapping")),
    }
}

fn authorizers(
    object: &Object,
    config: &Value,
    rejections: &mut Vec<Rejection>,
) -> BTreeMap<Arc<str>, Arc<Authorizer>> {
    let at = format!("{ROOT}.extensionProviders");
    let declared = match config.get("extensionProviders") {
        None | Some(Value::Null) => return BTreeMap::new(),
        Some(Value::Array(declared)) => declared,
        Some(_) => {
            rejections.push(object.reject(&at, "expected a list"));
            return BTreeMap::new();
        }
    };
    let mut authorizers = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for (index, declared) in declared.iter().enumerate() {
        let mut reading = Provider {
            object,
            rejections,
            at: format!("{at}[{index}]"),
        };
        match reading.read(declared) {
            Ok((name, authorizer)) => {
                if !seen.insert(Arc::clone(&name)) {
                    rejections.push(object.reject(
                        &format!("{at}[{index}].name"),
                        "another provider has this name; policies that name it refuse",
                    ));
                    authorizers.remove(&name);
                } else if let Some(authorizer) = authorizer {
                    authorizers.insert(name, Arc::new(authorizer));
                }
            }
            Err(rejection) => rejections.push(rejection),
        }
    }
    authorizers
}

fn path_form(object: &Object, config: &Value, rejections: &mut Vec<Rejection>) -> PathForm {
    let at = format!("{ROOT}.pathNormalization");
    let declared = match config.get("pathNormalization") {
        None | Some(Value::Null) => return PathForm::Base,
        Some(declared) => declared,
    };
    for field in unknown_fields(declared, &["normalization"]) {
        rejections.push(object.reject(
            &format!("{at}.{}", field.escape_debug()),
            "not read here; ignored",
        ));
    }
    match declared.get("normalization").map(Value::as_str) {
        None | Some(Some("DEFAULT" | "BASE")) if declared.is_object() => PathForm::Base,
        Some(Some("NONE")) => PathForm::AsSent,
        Some(Some("MERGE_SLASHES")) => PathForm::MergeSlashes,
        Some(Some("DECODE_AND_MERGE_SLASHES")) => PathForm::DecodeAndMergeSlashes,
        _ => {
            rejections.push(object.reject(
                &format!("{at}.normalization"),
                "write NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES; BASE is in force",
            ));
            PathForm::Base
        }
    }
}

const NAME: &str = "istio";
const ROOT: &str = "data.mesh";

#[cfg(test)]
mod tests;
