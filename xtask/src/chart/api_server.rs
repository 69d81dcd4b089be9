//! What a real API server says to objects: each is created as a dry run, with unknown fields refused.
//!
//! It must not know where the objects come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::kubernetes::ControlPlane;
use mesh_tests::kubernetes::api::Api;
use mesh_tests::process;
use serde_json::{Value, json};

use super::{objects, shown};
use crate::shell::{command, line, read, step};
use crate::{kube, setup, workspace};

/// Starts an API server that knows the CRDs, and shows it every object of the sets, which have names.
pub(super) fn validate(sets: &[(String, Vec<Value>)]) -> Result<()> {
    let programs = kube::programs(&mesh_tests::kubernetes::PROGRAMS)?;
    let crds = step("CRDs of others, and our own", crds)?;
    let dir = workspace::target().join("chart-plane");
    if let Some(left) = ControlPlane::attach(&dir, None)? {
        left.down()?;
    }
    let plane = step("an API server", || ControlPlane::up(&dir, None, &[programs]))?;
    let judged = judge(plane.api(), sets, &crds);
    plane.down()?;
    judged
}

fn judge(api: Api<'_>, sets: &[(String, Vec<Value>)], crds: &[Value]) -> Result<()> {
    for crd in crds {
        api.create(DEFINITIONS, crd).context("create a CRD")?;
    }
    let all = sets.iter().flat_map(|(_, objects)| objects);
    for namespace in all.clone().filter_map(namespace).collect::<BTreeSet<_>>() {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        api.ensure("/api/v1/namespaces", &object)?;
    }
    let kinds = known_kinds(api, all)?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for (set, objects) in sets {
        for object in objects {
            if let Err(error) = dry_run(api, &kinds, object) {
                wrong.push(format!("{set}: {}: {error:#}", title(object)));
            }
            count += 1;
        }
    }
    ensure!(wrong.is_empty(), "the API server refuses\n{}", wrong.join("\n"));
    ensure!(count > 0, "there was nothing to show to the API server");
    line(&format!("✓ the API server takes all {count} objects"))
}

/// What stands there already would be a conflict, so that one is sent under another name.
fn dry_run(api: Api<'_>, kinds: &Kinds, object: &Value) -> Result<()> {
    let kind = key(object);
    let (base, is_namespaced) = kinds
        .get(&kind)
        .with_context(|| format!("no {} {}", kind.0, kind.1))?;
    let mut object = object.clone();
    let path = match (is_namespaced, namespace(&object)) {
        (true, Some(namespace)) => base.replace(NAMESPACED, &namespace),
        (true, None) => bail!("it has no namespace"),
        (false, _) => base.clone(),
    };
    let metadata = object.get_mut("metadata").context("it has no metadata")?;
    if kind.1 == "Namespace" {
        *metadata = json!({ "generateName": "x-", "labels": metadata.get("labels") });
    }
    let path = format!("{path}?dryRun=All&fieldValidation=Strict");
    let found = api.create(&path, &object);
    match found {
        // A CRD has to be called after its kind.
        Err(error)
            if kind.1 == "CustomResourceDefinition" && format!("{error:#}").contains("already exists") =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Version and kind.
type Key = (String, String);
/// Where objects of each kind are created, with [`NAMESPACED`] for the namespace; whether they are in one.
type Kinds = BTreeMap<Key, (String, bool)>;

fn known_kinds<'o>(api: Api<'_>, all: impl Iterator<Item = &'o Value>) -> Result<Kinds> {
    let versions: BTreeSet<String> = all.map(|object| key(object).0).collect();
    let mut kinds = Kinds::new();
    for version in versions {
        let base = if version.contains('/') { "/apis" } else { "/api" };
        // The kinds of a CRD are served a moment after it was created.
        let found = process::wait_until(PATIENCE, || {
            let answer = api.get(&format!("{base}/{version}"))?;
            Ok((answer.status == 200).then_some(answer.body))
        })?;
        let found = found.with_context(|| format!("the API server does not serve {version}"))?;
        let resources = found.get("resources").and_then(Value::as_array);
        for resource in resources.into_iter().flatten() {
            let text = |field: &str| resource.get(field).and_then(Value::as_str).unwrap_or_default();
            if text("name").contains('/') {
                continue;
            }
            let is_namespaced = resource.get("namespaced").and_then(Value::as_bool) == Some(true);
            let within = if is_namespaced {
                format!("namespaces/{NAMESPACED}/")
            } else {
                String::new()
            };
            let path = format!("{base}/{version}/{within}{}", text("name"));
            kinds.insert((version.clone(), text("kind").to_owned()), (path, is_namespaced));
        }
    }
    Ok(kinds)
}

fn key(object: &Value) -> Key {
    let text = |field: &str| {
        let text = object.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    (text("apiVersion"), text("kind"))
}

fn namespace(object: &Value) -> Option<String> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    namespace.map(str::to_owned)
}

fn title(object: &Value) -> String {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    format!("{} {}", key(object).1, name.unwrap_or("without a name"))
}

/// From the Go modules that publish them, and our own.
pub(crate) fn crds() -> Result<Vec<Value>> {
    let gateway = module(GATEWAY_API)?;
    let monitors = "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml";
    let mut files = vec![
        module(ISTIO)?.join("kubernetes/customresourcedefinitions.gen.yaml"),
        module(PROMETHEUS_OPERATOR)?.join(monitors),
    ];
    files.extend(super::yaml_files(&gateway.join("config/crd/experimental"))?);
    files.extend(super::yaml_files(&workspace::root().join("deploy/crds"))?);
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let all = objects(&text).with_context(|| shown(&file))?;
        found.extend(
            all.into_iter()
                .filter(|object| key(object).1 == "CustomResourceDefinition"),
        );
    }
    Ok(found)
}

/// Where Go keeps the source of a module; Go checks every byte of it.
fn module(module: &str) -> Result<PathBuf> {
    let go = setup::go()?.display().to_string();
    let mut download = command(&go, &["mod", "download", "-json", module]);
    // Outside of every module, or Go would ask what this version is to that module.
    download.current_dir(Path::new("/"));
    let said: Value =
        serde_json::from_str(&read(&mut download, DOWNLOAD)?).context("go says no JSON of the module")?;
    let dir = said.get("Dir").and_then(Value::as_str);
    Ok(dir
        .with_context(|| format!("go does not say where {module} is"))?
        .into())
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAMESPACED: &str = "{namespace}";
const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.6.1";
const ISTIO: &str = "istio.io/api@v1.31.1";
const PROMETHEUS_OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
const DOWNLOAD: Duration = Duration::from_mins(10);
const PATIENCE: Duration = Duration::from_mins(1);
