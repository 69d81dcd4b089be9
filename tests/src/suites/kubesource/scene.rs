//! A cluster of an API server alone, with the lab's pods, Services and endpoints in it: the part of the kubelets and of the
//! controllers.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::addresses::fabric_ipv4;
use crate::kubernetes::ControlPlane;
use crate::kubernetes::api::{TokenFor, at};
use crate::running::Running;
use crate::sandbox;

/// On which the API server runs.
const NODE: &str = "node-a";
/// Of all that the lab has, these are in the cluster.
const NAMES: [&str; 3] = ["client", "near", "far"];
const NAMESPACE: &str = "shop";

/// A lab with an API server that both nodes reach.
pub(super) struct Scene {
    pub(super) plane: ControlPlane,
}

impl Scene {
    /// Starts the API server and fills it.
    pub(super) fn make(lab: &Running) -> Result<Self> {
        let place = sandbox::observer(&lab.site, &lab.site.node_netns(NODE));
        let plane = ControlPlane::up(&dir(lab), Some(place), &lab.state.tools)?;
        let scene = Self { plane };
        let mut objects = objects(lab)?;
        scene.put_namespaces(&objects)?;
        for kind in ["Node", "Pod", "Service", "EndpointSlice"] {
            for object in objects.remove(kind).into_iter().flatten() {
                scene.put(&object)?;
            }
        }
        Ok(scene)
    }

    /// The one that an earlier claim made.
    pub(super) fn of(lab: &Running) -> Result<Self> {
        let place = sandbox::observer(&lab.site, &lab.site.node_netns(NODE));
        let plane = ControlPlane::attach(&dir(lab), Some(place))?;
        let plane = plane.context("the control plane did not come up")?;
        Ok(Self { plane })
    }

    /// What an agent is started with: a kubeconfig of a service account with the rules of an agent.
    pub(super) fn agent_arguments(&self) -> Result<Vec<(&'static str, String)>> {
        let token = self.plane.api().token(TokenFor {
            account: (SYSTEM, AGENT),
            audience: None,
            pod: None,
        })?;
        let dir = self.plane.dir();
        let token_file = dir.join("agent.token");
        fs::write(&token_file, token).context("write the agents' token")?;
        let kubeconfig = dir.join("agent.kubeconfig");
        let addr = SocketAddr::new(fabric_ipv4(1).into(), self.plane.addr().port());
        self.plane.write_kubeconfig_at(&kubeconfig, &token_file, addr)?;
        // The lab's pods say themselves where they live; nobody else makes pods here.
        Ok(vec![
            ("--kubernetes", kubeconfig.display().to_string()),
            ("--placement-annotations", "on".to_owned()),
        ])
    }

    /// Creates an object with its status.
    fn put(&self, object: &Value) -> Result<()> {
        let api = self.plane.api();
        let text = |pointer: &str| at(object, pointer).as_str().unwrap_or_default();
        let collection = match text("/kind") {
            "Node" => "/api/v1/nodes".to_owned(),
            "EndpointSlice" => format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"),
            kind => format!("/api/v1/namespaces/{NAMESPACE}/{}s", kind.to_lowercase()),
        };
        api.ensure(&collection, object)
            .with_context(|| format!("create {} {}", text("/kind"), text("/metadata/name")))?;
        let status = at(object, "/status");
        if status.is_null() {
            return Ok(());
        }
        let path = format!("{collection}/{}/status", text("/metadata/name"));
        api.patch(&path, &json!({ "status": status }))
            .with_context(|| path)
    }

    fn put_namespaces(&self, objects: &BTreeMap<String, Vec<Value>>) -> Result<()> {
        let api = self.plane.api();
        for object in objects.get("Namespace").into_iter().flatten() {
            api.ensure("/api/v1/namespaces", object)?;
        }
        let system = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM } });
        api.ensure("/api/v1/namespaces", &system)?;
        for (namespace, name) in [
            (NAMESPACE, "client"),
            (NAMESPACE, "near"),
            (NAMESPACE, "far"),
            (SYSTEM, AGENT),
        ] {
            let account =
                json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
            api.ensure(
                &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                &account,
            )?;
        }
        self.set_rules(&rules())?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": AGENT },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENT },
            "subjects": [{ "kind": "ServiceAccount", "namespace": SYSTEM, "name": AGENT }],
        });
        api.ensure("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding)
    }

    /// What agents may do.
    pub(super) fn set_rules(&self, rules: &[Value]) -> Result<()> {
        let api = self.plane.api();
        let base = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": AGENT }, "rules": rules });
        api.ensure(base, &role)?;
        api.patch(&format!("{base}/{AGENT}"), &json!({ "rules": rules }))
    }
}

/// All that an agent asks for.
pub(super) fn rules() -> Vec<Value> {
    [
        ("", vec!["namespaces", "nodes", "pods", "services", "configmaps"]),
        ("discovery.k8s.io", vec!["endpointslices"]),
        ("gateway.networking.k8s.io", vec!["*"]),
        ("gateway.networking.x-k8s.io", vec!["*"]),
        ("security.istio.io", vec!["*"]),
        ("networking.istio.io", vec!["*"]),
        ("mesh-agent.dev", vec!["*"]),
    ]
    .into_iter()
    .map(|(group, resources)| json!({ "apiGroups": [group], "resources": resources, "verbs": ["list", "watch"] }))
    .collect()
}

/// The lab's objects by kind, as somebody may create them: without what an API server or a controller gives.
fn objects(lab: &Running) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut objects: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in fs::read_dir(lab.site.manifests()).context("list the lab's manifests")? {
        let path = entry.context("list the lab's manifests")?.path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let mut object = Value::deserialize(document).with_context(|| path.display().to_string())?;
            let kind = at(&object, "/kind").as_str().unwrap_or_default().to_owned();
            if is_wanted(&object, &kind) {
                make_creatable(&mut object);
                objects.entry(kind).or_default().push(object);
            }
        }
    }
    Ok(objects)
}

fn is_wanted(object: &Value, kind: &str) -> bool {
    let text = |pointer: &str| at(object, pointer).as_str().unwrap_or_default();
    match kind {
        "Namespace" => text("/metadata/name") == NAMESPACE,
        "Node" => true,
        "Pod" | "Service" => {
            text("/metadata/namespace") == NAMESPACE && NAMES.contains(&text("/metadata/name"))
        }
        "EndpointSlice" => {
            let service = at(object, "/metadata/labels")
                .get("kubernetes.io/service-name")
                .and_then(Value::as_str);
            text("/metadata/namespace") == NAMESPACE && service.is_some_and(|name| NAMES.contains(&name))
        }
        _ => false,
    }
}

/// The API server gives uids itself.
fn make_creatable(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("uid");
        metadata.remove("creationTimestamp");
    }
    let endpoints = object.get_mut("endpoints").and_then(Value::as_array_mut);
    for endpoint in endpoints.into_iter().flatten() {
        if let Some(endpoint) = endpoint.as_object_mut() {
            endpoint.remove("targetRef");
        }
    }
}

fn dir(lab: &Running) -> PathBuf {
    lab.site.run_dir().join("kubesource")
}

const SYSTEM: &str = "mesh-system";
const AGENT: &str = "mesh-agent";
