//! Annotations whose value is YAML or JSON of its own.
//!
//! Place in the walk: read with the object that carries them. Must not know: any annotation.

use serde::de::{DeserializeOwned, DeserializeSeed};

use super::object::Object;
use crate::control::bounded::{BoundedValue, Budget};
use crate::mesh::facts::Rejection;

/// An annotation as a type. Errors name the annotation and the field in it that does not fit.
pub(super) fn read<T: DeserializeOwned>(object: &Object, name: &str) -> Result<Option<T>, Rejection> {
    let Some(text) = object.annotation(name) else {
        return Ok(None);
    };
    let field = field(name);
    let budget = Budget::for_text(text.len());
    let value = BoundedValue(&budget)
        .deserialize(serde_yaml_ng::Deserializer::from_str(text))
        .map_err(|error| object.reject(&field, error.to_string()))?;
    object.parse_part(&value, &field).map(Some)
}

/// As reports call an annotation.
pub(super) fn field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}
