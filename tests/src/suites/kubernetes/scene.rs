//! The lab's pods as objects of a real API server, and the CA that asks it: the part of the kubelet and of an operator.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::kubernetes::ControlPlane;
use crate::kubernetes::api::{TokenFor, at};
use crate::running::Running;
use crate::sandbox;

/// The namespace and account of the agents, as deploy/ca-rbac.yaml has them.
pub(super) const AGENT: (&str, &str) = ("mesh-system", "mesh-agent");
pub(super) const AUDIENCE: Option<&str> = Some("istio-ca");

const CA: (&str, &str) = ("mesh-system", "mesh-ca");
const RBAC: &str = include_str!("../../../../deploy/ca-rbac.yaml");

/// A lab with a control plane on the node of its CA.
pub(super) struct Scene<'l> {
    pub(super) lab: &'l Running,
    pub(super) plane: ControlPlane,
    pub(super) ca: Authority<'l>,
}

impl<'l> Scene<'l> {
    /// Starts the control plane and fills it with the lab's nodes and pods, and with the rules of deploy.
    pub(super) fn make(lab: &'l Running) -> Result<Self> {
        let ca = Authority::of(lab)?;
        let place = sandbox::observer(&lab.site, &lab.site.node_netns(ca.node()));
        let plane = ControlPlane::up(&dir(lab), Some(place), &lab.state.tools)?;
        let scene = Self { lab, plane, ca };
        scene.plane.api().apply(RBAC)?;
        for node in lab.state.nodes.keys() {
            let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
            scene.plane.api().ensure("/api/v1/nodes", &object)?;
            scene.make_pod(AGENT, &agent_pod(node), node, true)?;
        }
        scene.make_pods_of_the_lab()?;
        Ok(scene)
    }

    /// The one that an earlier claim made.
    pub(super) fn of(lab: &'l Running) -> Result<Self> {
        let ca = Authority::of(lab)?;
        let place = sandbox::observer(&lab.site, &lab.site.node_netns(ca.node()));
        let plane = ControlPlane::attach(&dir(lab), Some(place))?;
        let plane = plane.context("the control plane did not come up")?;
        Ok(Self { lab, plane, ca })
    }

    /// What a CA is started with: its own token, and the Secret that the rules name.
    pub(super) fn ca_arguments(&self, ca: &Authority<'_>) -> Result<Vec<(&'static str, String)>> {
        let token = self.plane.api().token(TokenFor {
            account: CA,
            audience: None,
            pod: None,
        })?;
        let token_file = self.secret_file("ca.token", &token)?;
        let kubeconfig = self.plane.dir().join("ca.kubeconfig");
        self.plane.write_kubeconfig(&kubeconfig, &token_file)?;
        Ok(vec![
            ("--kubernetes", String::new()),
            ("--kubeconfig", kubeconfig.display().to_string()),
            ("--root-secret", "mesh-system/mesh-ca-root".to_owned()),
            ("--make-root-secret", String::new()),
            ("--bundle-file", ca.bundle().display().to_string()),
        ])
    }

    /// A pod that the scheduler has given to a node.
    pub(super) fn make_pod(
        &self,
        (namespace, account): (&str, &str),
        name: &str,
        node: &str,
        is_host_network: bool,
    ) -> Result<()> {
        let api = self.plane.api();
        let meta = |name: &str| json!({ "name": name, "namespace": namespace });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        api.ensure("/api/v1/namespaces", &object)?;
        let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(account) });
        api.ensure(
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            &object,
        )?;
        let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta(name), "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "hostNetwork": is_host_network,
            "containers": [{ "name": "main", "image": "local" }],
        }});
        api.create(&format!("/api/v1/namespaces/{namespace}/pods"), &object)
            .map(drop)
    }

    pub(super) fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.plane.api().delete(&path)
    }

    /// A new token of an agent's pod, as its projected volume would have it.
    pub(super) fn agent_token(&self, pod: &str) -> Result<String> {
        self.plane.api().token(TokenFor {
            account: AGENT,
            audience: AUDIENCE,
            pod: Some(pod),
        })
    }

    /// Puts a token where a node's agent reads it, whole, as the kubelet does.
    pub(super) fn give_token(&self, node: &str, token: &str) -> Result<()> {
        let path = self.ca.token(node);
        let dir = path.parent().context("a token lies in a directory")?;
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let aside = dir.join(format!("..{node}"));
        write_secret(&aside, token)?;
        fs::rename(&aside, &path).with_context(|| path.display().to_string())
    }

    /// A file with a token for one question.
    pub(super) fn secret_file(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.plane.dir().join(name);
        write_secret(&path, token)?;
        Ok(path)
    }

    fn make_pods_of_the_lab(&self) -> Result<()> {
        let manifests = self.lab.site.manifests();
        for entry in fs::read_dir(&manifests).context("list the lab's manifests")? {
            let path = entry.context("list the lab's manifests")?.path();
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for document in serde_yaml_ng::Deserializer::from_str(&text) {
                let object = Value::deserialize(document).with_context(|| path.display().to_string())?;
                self.make_pod_like(&object)?;
            }
        }
        Ok(())
    }

    fn make_pod_like(&self, object: &Value) -> Result<()> {
        if at(object, "/kind") != "Pod" {
            return Ok(());
        }
        let text = |pointer| at(object, pointer).as_str().map(str::to_owned);
        let name = text("/metadata/name").context("a pod without a name")?;
        let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".to_owned());
        let account = text("/spec/serviceAccountName").unwrap_or_else(|| "default".to_owned());
        let node = text("/spec/nodeName").context("a pod without a node")?;
        let is_host_network = at(object, "/spec/hostNetwork").as_bool().unwrap_or_default();
        self.make_pod((&namespace, &account), &name, &node, is_host_network)
    }
}

/// The pod of a node's agent.
pub(super) fn agent_pod(node: &str) -> String {
    format!("mesh-agent-{node}")
}

fn dir(lab: &Running) -> PathBuf {
    lab.site.run_dir().join("kubernetes")
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(|| path.display().to_string())
}
