//! What the elected CA writes into the status of objects of a real API server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::Scene;
use crate::authority::Authority;
use crate::kubernetes::api::{Api, at};
use crate::running::Running;
use crate::suites::ask::{equal, until};

pub(super) fn of_two_cas_one_writes_and_the_other_takes_over_when_it_is_killed(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let api = scene.plane.api();
    define_routes(api)?;
    make_service(api, "web")?;
    let other = Authority::another(lab)?;
    other.launch(&scene.ca_arguments(&other)?)?;
    other.wait_ready()?;
    let (leader, waiting) = match leads(&scene.ca, &other)? {
        Leads::First => (&scene.ca, &other),
        Leads::Second => (&other, &scene.ca),
    };
    api.create(ROUTES, &route("first", "web"))?;
    until(SOON, "the leader writes", || {
        Ok(conditions(api, "first")?.is_some())
    })?;
    equal("written by who waits", written(waiting)?, 0.0)?;

    leader.kill()?;
    api.create(ROUTES, &route("second", "web"))?;
    // After a whole lease, by the clock of who waits.
    until(Duration::from_mins(1), "the other one writes", || {
        Ok(conditions(api, "second")?.is_some())
    })?;
    ensure!(written(waiting)? > 0.0, "who wrote it?");
    let lease = api.get(LEASE)?.success()?;
    ensure!(
        at(&lease, "/spec/leaseTransitions").as_u64() >= Some(1),
        "{lease}"
    );
    // As a Deployment would.
    leader.launch(&scene.ca_arguments(leader)?)?;
    leader.wait_ready()
}

pub(super) fn a_route_says_what_it_names_in_vain_and_that_it_is_mended(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let api = scene.plane.api();
    api.create(ROUTES, &route("mended", "nobody"))?;
    let says = |status: &'static str, reason: &'static str, generation: u64| {
        until(SOON, reason, || {
            let Some(conditions) = conditions(api, "mended")? else {
                return Ok(false);
            };
            let resolved = of_type(&conditions, "ResolvedRefs");
            Ok(at(resolved, "/status") == status
                && at(resolved, "/reason") == reason
                && at(resolved, "/observedGeneration").as_u64() == Some(generation)
                && at(of_type(&conditions, "Accepted"), "/status") == "True")
        })
    };
    says("False", "BackendNotFound", 1)?;
    let change = json!({ "spec": at(&route("mended", "web"), "/spec") });
    api.patch(&format!("{ROUTES}/mended"), &change)?;
    says("True", "ResolvedRefs", 2)?;
    // Mended from the other end.
    api.create(ROUTES, &route("late", "late"))?;
    until(SOON, "the backend is missing", || {
        Ok(reason(api, "late")?.as_deref() == Some("BackendNotFound"))
    })?;
    make_service(api, "late")?;
    until(SOON, "the backend is there", || {
        Ok(reason(api, "late")?.as_deref() == Some("ResolvedRefs"))
    })
    .map(drop)
}

pub(super) fn entries_of_other_controllers_stay_and_ours_go_with_their_parent(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let api = scene.plane.api();
    let path = format!("{ROUTES}/shared");
    api.create(ROUTES, &route("shared", "web"))?;
    until(SOON, "ours is there", || Ok(conditions(api, "shared")?.is_some()))?;
    let theirs = json!({ "parentRef": { "name": "edge" }, "controllerName": "example.net/other", "conditions": [
        { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let mut parents = parents(&api.get(&path)?.success()?);
    parents.insert(0, theirs.clone());
    api.patch(
        &format!("{path}/status"),
        &json!({ "status": { "parents": parents } }),
    )?;
    api.patch(
        &path,
        &json!({ "spec": { "parentRefs": [
        { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" }] } }),
    )?;
    until(SOON, "only theirs is left", || {
        Ok(self::parents(&api.get(&path)?.success()?) == [theirs.clone()])
    })
    .map(drop)
}

pub(super) fn nothing_is_written_while_nothing_changes(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let (api, path) = (scene.plane.api(), format!("{ROUTES}/quiet"));
    api.create(ROUTES, &route("quiet", "web"))?;
    until(SOON, "it is written", || Ok(conditions(api, "quiet")?.is_some()))?;
    let version = || -> Result<Value> {
        let found = api.get(&path)?.success()?;
        Ok(at(&found, "/metadata/resourceVersion").clone())
    };
    let before = version()?;
    // What is judged after this was judged with `quiet` as it is.
    for name in ["after", "afterwards"] {
        api.create(ROUTES, &route(name, "web"))?;
        until(SOON, "the next one is written", || {
            Ok(conditions(api, name)?.is_some())
        })?;
    }
    equal("its version", version()?, before)
}

pub(super) fn what_is_wrong_with_an_object_is_told_by_an_event(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let api = scene.plane.api();
    api.create(ROUTES, &route("wrong", "nobody"))?;
    until(SOON, "an event", || {
        let events = api
            .get("/apis/events.k8s.io/v1/namespaces/shop/events")?
            .success()?;
        let events = at(&events, "/items").as_array().context("no list")?.clone();
        Ok(events.iter().any(|event| {
            at(event, "/regarding/name") == "wrong"
                && at(event, "/regarding/kind") == "HTTPRoute"
                && at(event, "/type") == "Warning"
                && at(event, "/note")
                    .as_str()
                    .is_some_and(|note| note.contains("Service shop/nobody is not known"))
        }))
    })
    .map(drop)
}

pub(super) fn a_policy_of_our_own_says_whether_it_has_a_target(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let api = scene.plane.api();
    let definition: Value = serde_yaml_ng::from_str(POLICIES).context("read our definition")?;
    define(api, &definition, LIMITS)?;
    let policy = json!({ "apiVersion": "mesh-agent.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": { "name": "limit" },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "unlimited" }],
            "limits": [{ "local": { "requests": 1, "unit": "second" } }] } });
    api.create(LIMITS, &policy)?;
    let says = |reason: &'static str| {
        until(SOON, reason, || {
            let found = api.get(&format!("{LIMITS}/limit"))?.success()?;
            let conditions = at(&found, "/status/conditions").as_array().cloned();
            Ok(at(of_type(&conditions.unwrap_or_default(), "Accepted"), "/reason") == reason)
        })
    };
    says("TargetNotFound")?;
    make_service(api, "unlimited")?;
    says("Accepted").map(drop)
}

/// Which of two leads.
#[derive(Debug, Clone, Copy)]
enum Leads {
    First,
    Second,
}

/// Waits until exactly one of both leads.
fn leads(first: &Authority<'_>, second: &Authority<'_>) -> Result<Leads> {
    let leads = |ca: &Authority<'_>| -> Result<bool> { Ok(ca.metrics()?.sum("mesh_ca_leader", &[]) > 0.0) };
    let mut found = None;
    until(Duration::from_mins(1), "one leads", || {
        found = match (leads(first)?, leads(second)?) {
            (true, false) => Some(Leads::First),
            (false, true) => Some(Leads::Second),
            (false, false) | (true, true) => None,
        };
        Ok(found.is_some())
    })?;
    found.context("nobody leads")
}

fn written(ca: &Authority<'_>) -> Result<f64> {
    Ok(ca
        .metrics()?
        .sum("mesh_ca_status_writes_total", &[("result", "ok")]))
}

/// The conditions that ours has written; none before.
fn conditions(api: Api<'_>, name: &str) -> Result<Option<Vec<Value>>> {
    let route = api.get(&format!("{ROUTES}/{name}"))?.success()?;
    let ours = parents(&route)
        .into_iter()
        .find(|entry| at(entry, "/controllerName") == CONTROLLER);
    Ok(ours.and_then(|entry| at(&entry, "/conditions").as_array().cloned()))
}

/// The reason of `ResolvedRefs`.
fn reason(api: Api<'_>, name: &str) -> Result<Option<String>> {
    let conditions = conditions(api, name)?.unwrap_or_default();
    let reason = at(of_type(&conditions, "ResolvedRefs"), "/reason");
    Ok(reason.as_str().map(str::to_owned))
}

fn parents(route: &Value) -> Vec<Value> {
    at(route, "/status/parents")
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn of_type<'c>(conditions: &'c [Value], of: &str) -> &'c Value {
    let mut conditions = conditions.iter();
    conditions
        .find(|one| at(one, "/type") == of)
        .unwrap_or(&Value::Null)
}

fn route(name: &str, backend: &str) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "web" }],
            "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": format!("/{name}") } }],
                "backendRefs": [{ "group": "", "kind": "Service", "name": backend, "port": 80 }] }],
        } })
}

fn make_service(api: Api<'_>, name: &str) -> Result<()> {
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "ports": [{ "port": 80 }] } });
    api.ensure("/api/v1/namespaces/shop/services", &service)
}

/// As strict about a status as Gateway API's own definition; of a spec it asks nothing.
fn define_routes(api: Api<'_>) -> Result<()> {
    let text = |longest: u32| json!({ "type": "string", "minLength": 1, "maxLength": longest });
    let condition = json!({ "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": { "type": "string", "format": "date-time" },
            "message": { "type": "string", "maxLength": 32768 },
            "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
            "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" },
            "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
            "type": text(316),
        } });
    let entry = json!({ "type": "object", "required": ["conditions", "controllerName", "parentRef"], "properties": {
        "conditions": { "type": "array", "minItems": 1, "maxItems": 8, "items": condition,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"] },
        "controllerName": text(253),
        "parentRef": { "type": "object", "required": ["name"], "x-kubernetes-preserve-unknown-fields": true,
            "properties": { "name": text(253) } },
    } });
    let schema = json!({ "type": "object", "required": ["spec"], "properties": {
        "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        "status": { "type": "object", "required": ["parents"], "properties": {
            "parents": { "type": "array", "maxItems": 32, "items": entry, "x-kubernetes-list-type": "atomic" } } },
    } });
    let definition = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "httproutes.gateway.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "unapproved, a test's" } },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "kind": "HTTPRoute", "listKind": "HTTPRouteList", "plural": "httproutes", "singular": "httproute" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": schema } }],
        } });
    define(api, &definition, ROUTES)
}

/// Makes a kind, and waits until it is served.
fn define(api: Api<'_>, definition: &Value, collection: &str) -> Result<()> {
    api.ensure(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        definition,
    )?;
    until(SOON, "the kind is served", || {
        Ok(api.get(collection)?.status == 200)
    })
    .map(drop)
}

const CONTROLLER: &str = "mesh-agent.dev/controller";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
const LIMITS: &str = "/apis/mesh-agent.dev/v1alpha1/namespaces/shop/ratelimitpolicies";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/mesh-ca";
const POLICIES: &str = include_str!("../../../../deploy/crds/ratelimitpolicies.yaml");
/// Kinds that are new are looked for every few seconds.
const SOON: Duration = Duration::from_mins(1);
