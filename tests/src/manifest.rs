//! Kubernetes objects as they are written: names, fields by pointer, and back to text.
//!
//! It must not know what any kind of object means.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Several documents as one YAML text.
pub fn to_yaml(documents: &[Value]) -> Result<String> {
    let mut text = String::new();
    for document in documents {
        write!(
            text,
            "---\n{}",
            serde_yaml_ng::to_string(document).context("write a manifest")?
        )?;
    }
    Ok(text)
}

/// The string at a JSON pointer.
pub fn text_at<'v>(object: &'v Value, pointer: &str) -> Option<&'v str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// Namespace and name of an object; the namespace is `default` when it has none.
pub fn name_of(object: &Value) -> Option<(&str, &str)> {
    let name = text_at(object, "/metadata/name")?;
    Some((text_at(object, "/metadata/namespace").unwrap_or("default"), name))
}

/// Changes the object under `key`, which is made where there is none.
pub fn change(object: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut inner = if let Some(Value::Object(inner)) = object.remove(key) {
        inner
    } else {
        Map::new()
    };
    change(&mut inner);
    object.insert(key.to_owned(), Value::Object(inner));
}

/// The entries of an object that are strings.
pub fn string_map(value: Option<&Value>) -> BTreeMap<String, String> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
