//! Agents that learn everything from a real API server.
//!
//! The claims follow each other: the first makes the API server and starts the agents anew, the others go on with them.

mod scene;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use self::scene::{Scene, rules};
use super::ask::{equal, get, until};
use super::{Claim, claims};
use crate::kubernetes::api::at;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    agents_of_two_nodes_serve_the_pods_that_an_api_server_tells_of,
    an_object_that_changes_takes_effect,
    a_kind_whose_definition_appears_is_read,
    while_the_api_server_is_away_traffic_goes_on_and_its_age_is_told,
    what_changed_meanwhile_arrives_when_the_api_server_is_back,
    an_agent_that_starts_without_the_api_server_serves_what_an_earlier_one_knew,
    a_missing_rule_is_named_and_other_kinds_go_on,
];

const NODES: [&str; 2] = ["node-a", "node-b"];

fn agents_of_two_nodes_serve_the_pods_that_an_api_server_tells_of(lab: &Running) -> Result<()> {
    let scene = Scene::make(lab)?;
    for node in NODES {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &words(scene.agent_arguments()?))?;
    }
    for node in NODES {
        lab.wait_ready(node)?;
        let pods = watch(lab, node, "Pod")?;
        equal("the watch of pods", at(&pods, "/state"), "watching")?;
        equal("pods", at(&pods, "/objects"), 3)?;
    }
    serves(lab, "http://near/", 200)?;
    serves(lab, "http://far/", 200)
}

fn an_object_that_changes_takes_effect(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    set_ready(&scene, "far", false)?;
    serves(lab, "http://far/", 503)?;
    set_ready(&scene, "far", true)?;
    serves(lab, "http://far/", 200)
}

fn a_kind_whose_definition_appears_is_read(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    for node in NODES {
        let routes = watch(lab, node, "HTTPRoute")?;
        equal("routes before", at(&routes, "/state"), "absent")?;
    }
    let api = scene.plane.api();
    api.create(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        &definition(),
    )?;
    let routes = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
    until(Duration::from_mins(1), "the definition is established", || {
        Ok(api.get(routes)?.status == 200)
    })?;
    let redirect = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "away" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "near" }],
            "rules": [{ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "path": { "type": "ReplaceFullPath", "replaceFullPath": "/away" } } }] }],
        },
    });
    api.create(routes, &redirect)?;
    // Agents look for definitions now and then.
    until(Duration::from_mins(2), "the kind is watched", || {
        let states = NODES.map(|node| watch(lab, node, "HTTPRoute"));
        let is_watched =
            |routes: &Result<Value>| routes.as_ref().is_ok_and(|one| at(one, "/state") == "watching");
        Ok(states.iter().all(is_watched))
    })?;
    serves(lab, "http://near/", 302)?;
    api.delete(&format!("{routes}/away"))?;
    serves(lab, "http://near/", 200)
}

fn while_the_api_server_is_away_traffic_goes_on_and_its_age_is_told(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    for node in NODES {
        until(Duration::from_mins(2), "every watch goes on", || {
            Ok(age(lab, node)? == 0.0)
        })?;
    }
    scene.plane.kill_api_server()?;
    for node in NODES {
        until(Duration::from_mins(1), "the age grows", || {
            Ok(age(lab, node)? > 0.0)
        })?;
        let pods = watch(lab, node, "Pod")?;
        equal("the watch of pods", at(&pods, "/state"), "failing")?;
        ensure!(at(&pods, "/error").is_string(), "it does not say why: {pods}");
        equal("ready", lab.page(node, "/readyz")?.status, 200)?;
    }
    equal("status", get(lab, "shop/client", "http://near/")?.status, 200)?;
    equal("status", get(lab, "shop/client", "http://far/")?.status, 200)
}

fn what_changed_meanwhile_arrives_when_the_api_server_is_back(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    scene.plane.start_api_server()?;
    set_ready(&scene, "far", false)?;
    serves(lab, "http://far/", 503)?;
    set_ready(&scene, "far", true)?;
    serves(lab, "http://far/", 200)?;
    for node in NODES {
        until(Duration::from_mins(2), "every watch goes on", || {
            Ok(age(lab, node)? == 0.0)
        })?;
    }
    Ok(())
}

fn an_agent_that_starts_without_the_api_server_serves_what_an_earlier_one_knew(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let arguments = words(scene.agent_arguments()?);
    scene.plane.kill_api_server()?;
    for node in NODES {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &arguments)?;
    }
    let of_copy =
        |node: &str| Ok::<_, anyhow::Error>(at(&lab.status(node)?, "/api_server/copy_unix_s").clone());
    for node in NODES {
        lab.wait_ready(node)?;
        ensure!(of_copy(node)?.is_u64(), "{node} does not say of when its copy is");
    }
    serves(lab, "http://near/", 200)?;
    serves(lab, "http://far/", 200)?;
    scene.plane.start_api_server()?;
    for node in NODES {
        until(Duration::from_mins(2), "the copy is not needed any more", || {
            Ok(of_copy(node)?.is_null())
        })?;
    }
    set_ready(&scene, "far", false)?;
    serves(lab, "http://far/", 503)?;
    set_ready(&scene, "far", true)?;
    serves(lab, "http://far/", 200)
}

fn a_missing_rule_is_named_and_other_kinds_go_on(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let without = |resource: &str| -> Vec<Value> {
        let mut rules = rules();
        for rule in &mut rules {
            if let Some(resources) = rule.get_mut("resources").and_then(Value::as_array_mut) {
                resources.retain(|one| one != resource);
            }
        }
        rules
    };
    scene.set_rules(&without("configmaps"))?;
    let node = "node-b";
    lab.end_agent(node, Signal::SIGTERM)?;
    lab.start_agent_with(node, &words(scene.agent_arguments()?))?;
    lab.wait_ready(node)?;
    until(Duration::from_mins(1), "the missing rule is named", || {
        let maps = watch(lab, node, "ConfigMap istio")?;
        let said = at(&maps, "/error").as_str().unwrap_or_default();
        Ok(said.contains("rbac") && said.contains("cannot list resource \"configmaps\""))
    })?;
    serves(lab, "http://far/", 200)?;
    // Without the pods nobody knows who anybody is.
    scene.set_rules(&without("pods"))?;
    lab.end_agent(node, Signal::SIGTERM)?;
    lab.start_agent_with(node, &words(scene.agent_arguments()?))?;
    until(Duration::from_mins(1), "the missing rule is named", || {
        // It may not answer yet.
        let pods = watch(lab, node, "Pod").unwrap_or_default();
        Ok(at(&pods, "/error")
            .as_str()
            .is_some_and(|said| said.contains("rbac")))
    })?;
    equal("ready without pods", lab.page(node, "/readyz")?.status, 503)?;
    scene.set_rules(&rules())?;
    lab.wait_ready(node)?;
    serves(lab, "http://far/", 200)
}

/// Until a client is answered so; changes take their time.
fn serves(lab: &Running, url: &str, status: u16) -> Result<()> {
    let what = format!("{url} answers {status}");
    until(Duration::from_mins(1), &what, || {
        Ok(get(lab, "shop/client", url)?.status == status)
    })
    .map(drop)
}

/// All endpoints of a Service are ready, or none is.
fn set_ready(scene: &Scene, service: &str, is_ready: bool) -> Result<()> {
    let api = scene.plane.api();
    let slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
    let found = api
        .get(&format!(
            "{slices}?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
        ))?
        .success()?;
    let items = at(&found, "/items").as_array().context("a list of slices")?;
    ensure!(!items.is_empty(), "there is no slice of {service}");
    for slice in items {
        let mut endpoints = at(slice, "/endpoints").clone();
        for endpoint in endpoints.as_array_mut().into_iter().flatten() {
            if let Some(endpoint) = endpoint.as_object_mut() {
                let conditions = json!({ "ready": is_ready, "serving": is_ready, "terminating": false });
                endpoint.insert("conditions".to_owned(), conditions);
            }
        }
        let name = at(slice, "/metadata/name").as_str().unwrap_or_default();
        api.patch(&format!("{slices}/{name}"), &json!({ "endpoints": endpoints }))?;
    }
    Ok(())
}

/// What the status page says of a watch.
fn watch(lab: &Running, node: &str, name: &str) -> Result<Value> {
    let status = lab.status(node)?;
    let watches = at(&status, "/api_server/watches")
        .as_array()
        .context("no watches in status")?;
    let found = watches.iter().find(|watch| at(watch, "/watch") == name);
    found.cloned().with_context(|| format!("no watch {name}"))
}

fn age(lab: &Running, node: &str) -> Result<f64> {
    Ok(lab.metrics(node)?.sum("mesh_config_age_seconds", &[]))
}

/// As much of the definition of an HTTPRoute as an API server needs to store one.
fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/3328" },
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "kind": "HTTPRoute", "listKind": "HTTPRouteList", "plural": "httproutes", "singular": "httproute" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    })
}

fn words(arguments: Vec<(&'static str, String)>) -> Vec<String> {
    arguments
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}
