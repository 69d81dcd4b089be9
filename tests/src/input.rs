//! What the user wrote: a directory of Kubernetes manifests and one `lab.yaml` beside them.
//!
//! It must not complete or judge manifests: a broken one is handed on as it is, since the agent has to name it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file that says what of the manifests runs where.
pub const LAB_FILE: &str = "lab.yaml";

/// `lab.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabFile {
    /// `lab.mesh-agent.dev/v1alpha1`, so that `mesh-agent check` can tell that the file is no manifest.
    #[serde(default, rename = "apiVersion")]
    pub api_version: Option<String>,
    /// `Lab`.
    #[serde(default)]
    pub kind: Option<String>,
    /// The nodes, each with an agent; the first has subnet 1.
    pub nodes: Vec<String>,
    /// Arguments of every agent, beside those that the lab gives it.
    #[serde(default)]
    pub agent: Vec<String>,
    /// What runs in which pod. A pod of the manifests that is not named here only idles.
    #[serde(default)]
    pub pods: Vec<Program>,
}

/// The program of one pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The pod, as `namespace/name`.
    pub pod: PodName,
    /// The program and its arguments; none means that the pod idles.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment beside the lab's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, relative to the directory of `lab.yaml`, which is the default.
    #[serde(default)]
    pub cwd: PathBuf,
    /// When the program counts as up.
    pub ready: Option<Ready>,
}

/// When a program counts as up.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Something in the pod listens on this port.
    pub tcp: u16,
}

/// A pod by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PodName {
    /// `namespace_name`, which no other pod has: underscores are not allowed in either.
    pub fn underscored(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PodName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((namespace, name)) = text.split_once('/') else {
            bail!("a pod is named namespace/name: {text:?} is not");
        };
        for part in [namespace, name] {
            ensure!(
                !part.is_empty()
                    && part
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{part:?} in {text:?} is no Kubernetes name"
            );
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl TryFrom<String> for PodName {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PodName> for String {
    fn from(pod: PodName) -> Self {
        pod.to_string()
    }
}

/// One manifest file.
#[derive(Debug, Clone)]
pub struct ManifestFile {
    /// Its name without directory.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// The content of a manifest file.
#[derive(Debug, Clone)]
pub enum Content {
    /// Documents that are well-formed YAML or JSON, whatever they mean.
    Documents(Vec<Value>),
    /// Text that is neither.
    Malformed(String),
}

/// The input of a lab.
#[derive(Debug, Clone)]
pub struct Input {
    /// Where it was read.
    pub dir: PathBuf,
    /// `lab.yaml`.
    pub lab: LabFile,
    /// All other `.yaml`, `.yml` and `.json` files, by name.
    pub manifests: Vec<ManifestFile>,
}

impl Input {
    /// Reads a directory.
    pub fn read(dir: &Path) -> Result<Self> {
        let dir = fs::canonicalize(dir).with_context(|| format!("the lab's directory {}", dir.display()))?;
        let lab_file = dir.join(LAB_FILE);
        let text = fs::read_to_string(&lab_file).with_context(|| {
            format!(
                "{}: a lab needs this file, which names nodes and programs",
                lab_file.display()
            )
        })?;
        let lab: LabFile = serde_yaml_ng::from_str(&text).with_context(|| lab_file.display().to_string())?;
        ensure!(!lab.nodes.is_empty(), "{}: no nodes", lab_file.display());
        ensure!(
            lab.nodes.len() < 200,
            "{}: more than 200 nodes",
            lab_file.display()
        );
        let mut manifests = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry.with_context(|| dir.display().to_string())?.path();
            let is_manifest = path
                .extension()
                .is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known));
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && is_manifest
                && name != LAB_FILE
            {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                manifests.push(ManifestFile {
                    name: name.to_owned(),
                    content: parse(text),
                });
            }
        }
        manifests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { dir, lab, manifests })
    }
}

/// Multi-document YAML, of which JSON is a part.
pub fn parse(text: String) -> Content {
    let documents: Result<Vec<Value>, _> = serde_yaml_ng::Deserializer::from_str(&text)
        .map(Value::deserialize)
        .collect();
    match documents {
        Ok(documents) => Content::Documents(
            documents
                .into_iter()
                .filter(|document| !document.is_null())
                .collect(),
        ),
        Err(_) => Content::Malformed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_malformed_file_as_it_is() {
        let text = "kind: Pod\n  metadata: [".to_owned();
        assert!(matches!(parse(text.clone()), Content::Malformed(kept) if kept == text));
    }

    #[test]
    fn reads_several_documents_and_skips_empty_ones() {
        let Content::Documents(documents) = parse("kind: A\n---\n---\nkind: B\n".to_owned()) else {
            panic!("malformed");
        };
        assert_eq!(documents.len(), 2);
    }

    #[test]
    fn refuses_a_pod_name_that_would_leave_its_directory() {
        for name in [
            "shop",
            "shop/",
            "/web",
            "../web",
            "shop/../x",
            "Shop/web",
            "a/b/c",
        ] {
            assert!(name.parse::<PodName>().is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn refuses_an_unknown_field_in_the_lab_file() {
        let error = serde_yaml_ng::from_str::<LabFile>("nodes: [a]\npod: []\n").unwrap_err();
        assert!(error.to_string().contains("unknown field `pod`"), "{error}");
    }
}
