//! Learns facts from a source and translates them: everything that a snapshot is built from.
//!
//! Place in the walk: beside it; a new reading becomes a new snapshot while connections go on with the old one.
//! Must not know: sockets, the kernel, the proxy.

mod bounded;
pub mod conditions;
mod copy;
mod directory;
pub mod file;
pub mod jwks;
pub mod kubernetes;
mod manifest;
pub mod statuses;
mod translate;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;

use self::directory::{Contents, Listing};
use crate::mesh::facts::{Facts, Rejection};
use crate::snapshot::{Snapshot, SnapshotSettings};

/// Where facts come from.
pub trait Source: Send + Debug {
    /// Waits until the facts differ from those of the last reading, and returns all of them; the first call
    /// returns as soon as the source can be read.
    ///
    /// After an error the last reading stays in force, and the next call waits for the source to come back; an
    /// error is returned once, not again and again. Never blocks the thread; cancel-safe: no change is lost.
    fn next_reading(&mut self) -> BoxFuture<'_, Result<Reading, SourceError>>;

    /// Called once, when this agent is the node's only one, before the next reading is waited for: until then nothing is
    /// written that another agent of the node writes, too.
    fn keep(&mut self) {}

    /// Called once, when no more readings are wanted: what must outlive the agent is written.
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// All that a source has to say at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// What is known.
    pub facts: Facts,
    /// What was left out, sorted.
    pub rejections: Vec<Rejection>,
    /// Objects that are not the mesh's business.
    pub skipped: usize,
    /// What the files said, as SHA-256 in hexadecimal digits; `None` of a source that reads none.
    pub digest: Option<String>,
}

/// Why a source as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory is missing or may not be listed.
    #[error("cannot list the manifest directory {}", dir.display())]
    Unlistable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The reading was cut short; the agent is stopping, or there is a defect.
    #[error("reading the manifest directory was cut short")]
    CutShort(#[source] tokio::task::JoinError),
}

/// Reads a directory of manifests once. Blocks.
pub fn read_dir(dir: &Path, trust_domain: &str) -> Result<Reading, SourceError> {
    let listing = Listing::of(dir).map_err(|source| SourceError::Unlistable {
        dir: dir.to_owned(),
        source,
    })?;
    let Contents {
        documents,
        mut rejections,
        digest,
    } = listing.read();
    let mut reading = translate::translate(documents, trust_domain);
    reading.digest = Some(digest);
    reading.rejections.append(&mut rejections);
    reading.rejections.sort();
    Ok(reading)
}

/// As [`read_dir`], with all rejections: of each object for itself, and of objects that contradict one another. Blocks.
pub fn check_dir(
    dir: &Path,
    trust_domain: &str,
    settings: &SnapshotSettings,
) -> Result<Reading, SourceError> {
    let mut reading = read_dir(dir, trust_domain)?;
    let (_, contradictions) = Snapshot::build(&reading.facts, settings, None);
    reading.rejections.extend(contradictions);
    reading.rejections.sort();
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checking_a_directory_names_wrong_objects_and_contradictions() {
        let dir = tempfile::tempdir().unwrap();
        let service = |name: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1}}\n"
            )
        };
        std::fs::write(dir.path().join("a.yaml"), service("a")).unwrap();
        std::fs::write(
            dir.path().join("b.yaml"),
            format!("{}---\nkind: ]\n", service("b")),
        )
        .unwrap();
        let settings = SnapshotSettings {
            node: "node-a".into(),
            root_namespace: "mesh-system".into(),
            trust_domains: std::sync::Arc::new([]),
        };
        let reading = check_dir(dir.path(), "cluster.local", &settings).unwrap();
        let named: Vec<_> = reading
            .rejections
            .iter()
            .map(|r| {
                (
                    r.origin.rsplit('/').next().unwrap(),
                    r.object.as_str(),
                    r.field.as_str(),
                )
            })
            .collect();
        assert_eq!(
            named,
            [
                ("b.yaml", "Service default/b", "spec.clusterIPs"),
                ("b.yaml", "document 2 (line 5)", "")
            ]
        );
    }
}
