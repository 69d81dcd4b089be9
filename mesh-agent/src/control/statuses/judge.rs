//! What is to be said of each object, by the same translation and the same snapshot that agents have.

use std::sync::Arc;

use super::objects::Held;
use crate::control::conditions::{Seen, Status, message};
use crate::control::manifest::Document;
use crate::control::translate::translate;
use crate::snapshot::{Snapshot, SnapshotSettings};

/// An object that has a status, or of which something is wrong.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) object: Arc<Held>,
    /// None where its status is nobody's, or another controller's.
    pub(super) status: Option<Status>,
    /// What is wrong; empty where nothing is.
    pub(super) wrong: String,
}

/// Takes as long as an agent takes for a new snapshot; blocks.
pub(super) fn judge(objects: &[Arc<Held>], settings: &SnapshotSettings) -> Vec<Finding> {
    let documents = objects.iter().map(|held| Document {
        origin: "api".into(),
        place: held.name.to_string(),
        value: held.value.clone(),
    });
    let trust_domain = settings.trust_domains.first().map_or("", AsRef::as_ref);
    let mut reading = translate(documents.collect(), trust_domain);
    let (_, contradictions) = Snapshot::build(&reading.facts, settings, None);
    reading.rejections.extend(contradictions);
    reading.rejections.sort();
    reading.rejections.dedup();
    let seen = Seen::of(&reading);
    let findings = objects.iter().map(|held| Finding {
        object: Arc::clone(held),
        status: seen.status(&held.name, &held.value),
        wrong: message(seen.rejections(&held.name)),
    });
    findings
        .filter(|finding| finding.status.is_some() || !finding.wrong.is_empty())
        .collect()
}
