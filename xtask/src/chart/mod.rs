//! `cargo xtask chart`: the Helm chart is linted, rendered, compared with the manifests that are kept of it, and every
//! object is shown to a real API server, which must take it.
//!
//! It must not install anything into a cluster.

mod api_server;
mod facts;
mod helm;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize as _;
use serde_json::Value;

pub(crate) use self::api_server::crds;
use self::helm::Helm;
use crate::shell::{line, step};
use crate::workspace;

/// What to do with the chart.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Write what was rendered to deploy/manifests instead of comparing it.
    #[arg(long)]
    write: bool,
    /// Do not ask an API server, whose first build takes ten minutes.
    #[arg(long)]
    offline: bool,
}

/// Lints, renders, compares or writes, and validates.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let helm = Helm::built()?;
    let rendered = step("lint and render", || rendered(&helm))?;
    if arguments.write {
        write(&rendered)?;
    }
    compare(&rendered)?;
    line("✓ deploy/manifests is what the chart renders")?;
    if arguments.offline {
        return line("- no API server was asked");
    }
    let mut sets = Vec::new();
    for set in &rendered {
        sets.push((
            set.name.clone(),
            objects(&set.text).with_context(|| set.name.clone())?,
        ));
    }
    for path in yaml_files(&workspace::root().join("deploy/example"))? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        sets.push((shown(&path), objects(&text).with_context(|| shown(&path))?));
    }
    api_server::validate(&sets)
}

/// What `cargo xtask check` can judge of the chart: all but the API server's part, where Helm was built before.
/// False: it was not.
pub(crate) fn check() -> Result<bool> {
    let Some(helm) = Helm::found()? else {
        return Ok(false);
    };
    compare(&rendered(&helm)?)?;
    Ok(true)
}

/// What came of the chart with one file of values.
struct Rendered {
    /// The name of that file.
    name: String,
    /// All its objects, CRDs included.
    text: String,
    /// Whether it is kept as a manifest.
    is_kept: bool,
}

fn rendered(helm: &Helm) -> Result<Vec<Rendered>> {
    let mut all = Vec::new();
    for values in yaml_files(&chart().join("ci"))? {
        helm.lint(&chart(), &values)?;
        let stem = values.file_stem().context("values without a name")?;
        let name = stem.to_string_lossy().into_owned();
        all.push(Rendered {
            text: helm.template(&chart(), &values)?,
            is_kept: name == KEPT,
            name,
        });
    }
    ensure!(
        all.iter().any(|set| set.is_kept),
        "there are no values {KEPT}.yaml"
    );
    Ok(all)
}

fn write(rendered: &[Rendered]) -> Result<()> {
    let kept = rendered
        .iter()
        .find(|set| set.is_kept)
        .context("nothing is kept")?;
    fs::write(manifests(), &kept.text).with_context(|| manifests().display().to_string())
}

fn compare(rendered: &[Rendered]) -> Result<()> {
    let kept = fs::read_to_string(manifests()).with_context(|| manifests().display().to_string())?;
    for set in rendered.iter().filter(|set| set.is_kept) {
        if let Some(difference) = first_difference(&kept, &set.text) {
            bail!(
                "{} is not what the chart renders, {difference}: cargo xtask chart --write",
                shown(&manifests())
            );
        }
    }
    Ok(())
}

fn first_difference(kept: &str, rendered: &str) -> Option<String> {
    let (mut kept, mut rendered) = (kept.lines(), rendered.lines());
    for number in 1.. {
        match (kept.next(), rendered.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => {
                let line = |text: Option<&str>| text.unwrap_or("(end)").trim().to_owned();
                return Some(format!(
                    "line {number}: {:?} should be {:?}",
                    line(one),
                    line(other)
                ));
            }
        }
    }
    None
}

/// The objects of a stream of YAML documents.
fn objects(text: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document).context("read a manifest")?;
        if !object.is_null() {
            all.push(object);
        }
    }
    Ok(all)
}

/// Sorted, so that every run says the same.
fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn chart() -> PathBuf {
    workspace::root().join("deploy/helm/mesh")
}

fn manifests() -> PathBuf {
    workspace::root().join("deploy/manifests/mesh.yaml")
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The values whose objects are kept for who has no Helm.
const KEPT: &str = "manifests";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_named_and_a_missing_end_too() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let said = first_difference("a\nb\n", "a\nc\n").unwrap();
        assert_eq!(said, "line 2: \"b\" should be \"c\"");
        let said = first_difference("a\n", "a\nc\n").unwrap();
        assert_eq!(said, "line 2: \"(end)\" should be \"c\"");
    }

    #[test]
    fn empty_documents_are_no_objects() {
        let found = objects("---\n# nothing\n---\nkind: A\n---\nkind: B\n").unwrap();
        assert_eq!(found.len(), 2);
    }
}
