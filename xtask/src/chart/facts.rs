//! What the chart says again that stands elsewhere too, held against it.
//!
//! It must not need Helm: these are claims of the files as they are.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{chart, manifests, objects, yaml_files};
use crate::workspace;

fn text(path: &str) -> String {
    fs::read_to_string(workspace::root().join(path)).unwrap()
}

fn kept() -> Vec<Value> {
    objects(&fs::read_to_string(manifests()).unwrap()).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// What the chart decides of an agent's settings, by values of its own or since there is no choice in a cluster.
const DECIDED: [&str; 16] = [
    "admin_addr",
    "admin_token_file",
    "bpf_dir",
    "cluster_domain",
    "cni_bin_dir",
    "cni_conf_dir",
    "cni_fail_mode",
    "cni_timeout_s",
    "handover",
    "kubernetes",
    "manifests",
    "node_name",
    "probe_socket",
    "root_namespace",
    "state_dir",
    "trust_domain",
];

#[test]
fn every_setting_of_an_agent_can_be_given_to_the_chart_or_is_decided_by_it() {
    let example = text("deploy/agent.yaml");
    let settings = example.lines().filter_map(|line| {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let (name, _) = line.split_once(':')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name.then(|| name.to_owned())
    });
    let given: BTreeSet<String> = settings
        .filter(|name| !DECIDED.contains(&name.as_str()))
        .collect();
    let schema = fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let known = schema
        .pointer("/properties/agent/properties/settings/properties")
        .unwrap();
    assert!(given.len() > 20, "{given:?}");
    assert_eq!(keys(known), given);
}

#[test]
fn the_schema_knows_every_value_that_is_documented_and_no_other() {
    let values: Value =
        serde_yaml_ng::from_str(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let schema = fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    compare("", &values, &schema);
}

/// Objects with fixed keys are compared key by key; others are free.
fn compare(at: &str, values: &Value, schema: &Value) {
    let Some(properties) = schema.get("properties") else {
        return;
    };
    assert_eq!(
        schema.get("additionalProperties"),
        Some(&Value::Bool(false)),
        "{at}"
    );
    let free = ["settings", "resources"].map(|name| format!("/{name}"));
    if free.iter().any(|name| at.ends_with(name)) {
        return;
    }
    let mut known = keys(properties);
    // Helm gives it to every chart.
    known.remove("global");
    assert_eq!(keys(values), known, "{at}");
    for (key, value) in values.as_object().unwrap() {
        compare(&format!("{at}/{key}"), value, &properties[key]);
    }
}

#[test]
fn the_chart_has_the_version_of_the_workspace() {
    let of_chart: Value = serde_yaml_ng::from_str(&text("deploy/helm/mesh/Chart.yaml")).unwrap();
    for field in ["version", "appVersion"] {
        assert_eq!(of_chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}

/// `### KIND (GROUP/VERSION, ...)` of docs/config.md, as resources of a group.
fn kinds_that_agents_read() -> BTreeSet<(String, String)> {
    let config = text("docs/config.md");
    let kinds = config.lines().filter_map(|line| {
        let (kind, versions) = line.strip_prefix("### ")?.strip_suffix(')')?.split_once(" (")?;
        let group = versions
            .split(',')
            .next()?
            .rsplit_once('/')
            .map_or("", |(group, _)| group);
        let lower = kind.to_lowercase();
        let plural = match lower.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{lower}s"),
        };
        Some((group.to_owned(), plural))
    });
    kinds.collect()
}

/// What one account may do: group, resource, name of the object or `*`, verb.
type Leave = BTreeSet<[String; 4]>;

fn texts(value: &Value) -> Vec<String> {
    let texts = value.as_array().into_iter().flatten();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn leave_by(rule: &Value) -> Leave {
    let mut names = texts(&rule["resourceNames"]);
    if names.is_empty() {
        names.push("*".to_owned());
    }
    let mut leave = Leave::from([["", "", "", ""].map(str::to_owned)]);
    let parts = [
        texts(&rule["apiGroups"]),
        texts(&rule["resources"]),
        names,
        texts(&rule["verbs"]),
    ];
    for (at, part) in parts.iter().enumerate() {
        let with = |one: &[String; 4], word: &String| {
            let mut one = one.clone();
            one[at].clone_from(word);
            one
        };
        leave = leave
            .iter()
            .flat_map(|one| part.iter().map(move |word| with(one, word)))
            .collect();
    }
    leave
}

fn leave_of(account: &str, objects: &[Value]) -> Leave {
    let mut leave = Leave::new();
    for binding in objects.iter().filter(|object| {
        let subjects = object["subjects"].as_array().into_iter().flatten();
        subjects.into_iter().any(|subject| subject["name"] == account)
    }) {
        let role = objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"]
                && object["metadata"]["name"] == binding["roleRef"]["name"]
        });
        for rule in role.unwrap()["rules"].as_array().unwrap() {
            leave.extend(leave_by(rule));
        }
    }
    leave
}

#[test]
fn the_ca_may_do_what_ca_rbac_says_but_makes_no_secrets_and_shows_its_roots() {
    let of_chart = leave_of("mesh-ca", &kept());
    let said = leave_of("mesh-ca", &objects(&text("deploy/ca-rbac.yaml")).unwrap());
    let beyond = |one: &Leave, other: &Leave| -> Vec<String> {
        one.difference(other).map(|leave| leave.join(" ")).collect()
    };
    assert_eq!(beyond(&said, &of_chart), [" secrets * create"]);
    assert_eq!(
        beyond(&of_chart, &said),
        [" configmaps mesh-ca-roots get", " configmaps mesh-ca-roots patch"]
    );
}

#[test]
fn agents_may_read_every_kind_that_they_read_and_write_nothing() {
    let objects = kept();
    let mut may = BTreeSet::new();
    for [group, resource, name, verb] in leave_of("mesh-agent", &objects) {
        assert!(["get", "list", "watch"].contains(&verb.as_str()), "{verb}");
        assert_eq!(name, "*");
        may.insert((group, resource));
    }
    let reads = kinds_that_agents_read();
    assert!(reads.len() > 12, "{reads:?}");
    let missing: Vec<_> = reads.difference(&may).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn nothing_that_is_installed_is_privileged_and_root_file_systems_are_read_only() {
    let mut seen = 0;
    for object in kept() {
        let pod = &object["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            let context = &container["securityContext"];
            assert_ne!(context["privileged"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn agents_hold_the_capabilities_that_operating_md_explains() {
    let container = kept()
        .into_iter()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap()["spec"]["template"]["spec"]["containers"][0]
        .clone();
    let added: Vec<_> = container["securityContext"]["capabilities"]["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let operating = text("docs/operating.md");
    let words = format!("add: [{}]", added.join(", "));
    assert!(operating.contains(&words), "{words}");
    for name in added {
        assert!(operating.contains(&format!("| `CAP_{name}` |")), "{name}");
    }
}

#[test]
fn dashboards_ask_for_metrics_that_exist() {
    let documented = text("docs/metrics.md");
    let mut asked = 0;
    for entry in fs::read_dir(chart().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                for name in families(target["expr"].as_str().unwrap()) {
                    let family = ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|end| name.strip_suffix(end))
                        .unwrap_or(&name);
                    assert!(
                        documented.contains(&format!("`{family}`")),
                        "{}: {name}",
                        path.display()
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 20, "{asked}");
}

/// Words of an expression that begin as our families do.
fn families(expr: &str) -> Vec<String> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| {
        ["istio_", "mesh_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    ours.map(str::to_owned).collect()
}

#[test]
fn values_of_every_kind_are_rendered() {
    assert!(yaml_files(&chart().join("ci")).unwrap().len() >= 3);
}
