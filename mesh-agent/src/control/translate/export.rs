//! `exportTo` of whatever kind has it.
//!
//! Place in the walk: read with the object. Must not know: any kind's other fields.

use std::sync::Arc;

use super::object::Object;
use crate::mesh::export::Export;
use crate::mesh::facts::Rejection;

/// What `exportTo` at `field` says: `*` (also without a word), `.` for the own namespace, `~` for none, and names. A word
/// that can be no namespace is reported and names none: the object is seen by fewer then, never by more.
pub(super) fn read<'w>(
    object: &Object,
    field: &str,
    words: impl IntoIterator<Item = &'w str>,
    rejections: &mut Vec<Rejection>,
) -> Export {
    let mut words = words.into_iter().peekable();
    if words.peek().is_none() {
        return Export::Everybody;
    }
    let mut is_for_all = false;
    let mut namespaces: Vec<Arc<str>> = Vec::new();
    for word in words {
        let namespace = match word {
            "*" => {
                is_for_all = true;
                continue;
            }
            "~" => continue,
            "." => Arc::clone(&object.namespace),
            name if is_namespace(name) => name.into(),
            other => {
                let reason = format!("{other:?} is no namespace; use \"*\", \".\", \"~\" or names; ignored");
                rejections.push(object.reject(field, reason));
                continue;
            }
        };
        if !namespaces.contains(&namespace) {
            namespaces.push(namespace);
        }
    }
    if is_for_all {
        return Export::Everybody;
    }
    Export::Namespaces(namespaces.into())
}

/// A DNS label (RFC 1123).
fn is_namespace(name: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=63).contains(&name.len())
        && name.bytes().all(is_allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
