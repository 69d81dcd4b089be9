//! What is cut off an object before anything is made of it: all that no translation reads, and what may be secret.
//!
//! Place in the walk: between the wire and the store. Must not know: what is made of the rest.

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Forgets who wrote which field: a third of an object, that no page of a list needs to hold.
pub(super) fn forget_writers(object: &mut Object) {
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        meta.remove("managedFields");
    }
}

/// Cuts an object of a kind down. Pods carry most that is cut: what their containers are told is nobody's business here.
pub(super) fn cut(kind: &str, object: &mut Object) {
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        for field in ["resourceVersion", "generation", "selfLink"] {
            meta.remove(field);
        }
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            if matches!(kind, "Pod" | "Node") {
                annotations.retain(|name, _| name.starts_with("mesh-agent.dev/") || name == STATIC_HASH);
            }
        }
    }
    match kind {
        "Pod" => cut_pod(object),
        "Node" => {
            keep_of(object, "status", &["addresses"]);
            object.remove("spec");
        }
        "ConfigMap" => {
            keep_of(object, "data", &["mesh", "ca.crt"]);
            object.remove("binaryData");
        }
        _ => {
            object.remove("status");
        }
    }
}

fn cut_pod(pod: &mut Object) {
    keep_of(pod, "status", &["phase", "podIP", "podIPs", "conditions"]);
    keep_readiness(pod);
    let kept = [
        "nodeName",
        "serviceAccountName",
        "hostNetwork",
        "containers",
        "initContainers",
    ];
    keep_of(pod, "spec", &kept);
    let Some(Value::Object(spec)) = pod.get_mut("spec") else {
        return;
    };
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Value::Object(container) = container {
                cut_container(container);
            }
        }
    }
}

/// Of conditions only whether it is ready: the others change without need, and each change is a new fact.
fn keep_readiness(pod: &mut Object) {
    let status = pod.get_mut("status").and_then(Value::as_object_mut);
    let Some(Value::Array(conditions)) = status.and_then(|status| status.get_mut("conditions")) else {
        return;
    };
    conditions.retain(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        condition.retain(|field, _| matches!(field.as_str(), "type" | "status"));
    }
}

/// Of probes only where they go: their headers may hold passwords.
fn cut_container(container: &mut Object) {
    let hooks = ["livenessProbe", "readinessProbe", "startupProbe"];
    container.retain(|field, _| {
        hooks.contains(&field.as_str())
            || matches!(field.as_str(), "name" | "ports" | "restartPolicy" | "lifecycle")
    });
    for hook in hooks {
        cut_hook(container, hook);
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            cut_hook(lifecycle, hook);
        }
    }
}

fn cut_hook(object: &mut Object, hook: &str) {
    let Some(Value::Object(hook)) = object.get_mut(hook) else {
        return;
    };
    let ways = ["httpGet", "tcpSocket", "grpc"];
    hook.retain(|way, _| ways.contains(&way.as_str()));
    for way in ways {
        keep_of(hook, way, &["host", "port"]);
    }
}

fn keep_of(object: &mut Object, part: &str, fields: &[&str]) {
    if let Some(Value::Object(part)) = object.get_mut(part) {
        part.retain(|field, _| fields.contains(&field.as_str()));
    }
}

/// The uid by which a kubelet, its cgroups and its runtime know a static pod; only its mirror says it.
const STATIC_HASH: &str = "kubernetes.io/config.mirror";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cut(kind: &str, object: Value) -> Value {
        let Value::Object(mut object) = object else {
            panic!("no object")
        };
        super::cut(kind, &mut object);
        object.into()
    }

    #[test]
    fn of_a_pod_nothing_is_kept_that_may_be_secret() {
        let probe = json!({ "httpGet": { "port": 80, "path": "/", "httpHeaders": [{ "name": "authorization", "value": "secret" }] } });
        let exec = json!({ "exec": { "command": ["secret"] } });
        let kept = cut(
            "Pod",
            json!({
                "metadata": {
                    "name": "a", "labels": { "app": "a" }, "resourceVersion": "1",
                    "annotations": { "mesh-agent.dev/fail-mode": "open", "other": "secret" },
                },
                "spec": {
                    "nodeName": "n", "volumes": [{ "name": "secret" }], "hostNetwork": true,
                    "containers": [{
                        "name": "c", "image": "i", "env": [{ "name": "A", "value": "secret" }], "args": ["secret"],
                        "ports": [{ "containerPort": 80 }], "readinessProbe": probe, "livenessProbe": exec,
                        "lifecycle": { "preStop": exec, "postStart": probe },
                    }],
                },
                "status": { "phase": "Running", "podIP": "10.0.0.1", "message": "secret", "conditions": [
                    { "type": "Initialized", "status": "True" },
                    { "type": "Ready", "status": "False", "lastTransitionTime": "now", "message": "secret" },
                ] },
            }),
        );
        let kept_probe = json!({ "httpGet": { "port": 80 } });
        assert_eq!(
            kept,
            json!({
                "metadata": {
                    "name": "a", "labels": { "app": "a" }, "annotations": { "mesh-agent.dev/fail-mode": "open" } },
                "spec": {
                    "nodeName": "n", "hostNetwork": true,
                    "containers": [{
                        "name": "c", "ports": [{ "containerPort": 80 }], "readinessProbe": kept_probe,
                        "livenessProbe": {}, "lifecycle": { "preStop": {}, "postStart": kept_probe } }],
                },
                "status": {
                    "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "False" }] },
            })
        );
    }

    #[test]
    fn a_static_pod_keeps_what_its_kubelet_knows_it_by() {
        let hash = json!({ "kubernetes.io/config.mirror": "402e9b06488795949b52763f8d1692f0" });
        let mut annotations = hash.clone();
        annotations["kubernetes.io/config.seen"] = "2026-11-22T06:37:06Z".into();
        let kept = cut(
            "Pod",
            json!({ "metadata": { "name": "a", "annotations": annotations } }),
        );
        assert_eq!(kept, json!({ "metadata": { "name": "a", "annotations": hash } }));
    }

    #[test]
    fn of_other_kinds_status_and_what_only_grows_is_cut() {
        for (kind, object, kept) in [
            (
                "Service",
                json!({ "metadata": { "annotations": { "a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}" } },
                    "spec": {}, "status": {} }),
                json!({ "metadata": { "annotations": { "a": "b" } }, "spec": {} }),
            ),
            (
                "Node",
                json!({ "spec": { "taints": [] }, "status": { "addresses": [], "images": [] } }),
                json!({ "status": { "addresses": [] } }),
            ),
            (
                "ConfigMap",
                json!({ "data": { "mesh": "", "ca.crt": "", "password": "" }, "binaryData": {} }),
                json!({ "data": { "mesh": "", "ca.crt": "" } }),
            ),
        ] {
            assert_eq!(cut(kind, object), kept, "{kind}");
        }
    }
}
