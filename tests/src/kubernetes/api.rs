//! The API of a control plane, by curl: objects made, changed and removed, and tokens as the kubelet asks for them.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::ControlPlane;
use crate::process;

/// What the API server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body; null where it is no JSON.
    pub body: Value,
}

/// Requests of the administrator.
#[derive(Debug, Clone, Copy)]
pub struct Api<'c> {
    plane: &'c ControlPlane,
}

/// A token as a projected volume asks for it.
#[derive(Debug, Clone, Copy)]
pub struct TokenFor<'t> {
    /// The service account, as namespace and name.
    pub account: (&'t str, &'t str),
    /// For whose ears.
    pub audience: Option<&'t str>,
    /// The pod of the account's namespace that it ends with.
    pub pod: Option<&'t str>,
}

impl<'c> Api<'c> {
    pub(super) fn new(plane: &'c ControlPlane) -> Self {
        Self { plane }
    }

    /// Reads a path.
    pub fn get(self, path: &str) -> Result<Answer> {
        self.send("GET", path, None)
    }

    /// Creates an object in the collection at `path`; returns it as the API server completed it.
    pub fn create(self, path: &str, object: &Value) -> Result<Value> {
        self.send("POST", path, Some(object))?.success()
    }

    /// Creates an object unless there is one of its name.
    pub fn ensure(self, path: &str, object: &Value) -> Result<()> {
        let answer = self.send("POST", path, Some(object))?;
        if answer.status == 409 {
            return Ok(());
        }
        answer.success().map(drop)
    }

    /// Changes some fields of the object at `path`, as a JSON merge patch.
    pub fn patch(self, path: &str, change: &Value) -> Result<()> {
        self.send("PATCH", path, Some(change))?.success().map(drop)
    }

    /// Removes the object at `path` at once, as the kubelet does when a pod has ended.
    pub fn delete(self, path: &str) -> Result<()> {
        let now = json!({ "gracePeriodSeconds": 0 });
        self.send("DELETE", path, Some(&now))?.success().map(drop)
    }

    /// Asks for the end of the object at `path`, in its own time, which a pod's grace period is.
    pub fn end(self, path: &str) -> Result<()> {
        self.send("DELETE", path, None)?.success().map(drop)
    }

    /// Creates all objects of a file of manifests. Kinds are known by where they belong.
    pub fn apply(self, manifests: &str) -> Result<()> {
        for document in serde_yaml_ng::Deserializer::from_str(manifests) {
            let object = Value::deserialize(document).context("read a manifest")?;
            if object.is_null() {
                continue;
            }
            self.ensure(&collection(&object)?, &object)
                .with_context(|| format!("create {}", at(&object, "/kind")))?;
        }
        Ok(())
    }

    /// Asks for a token of a service account.
    pub fn token(self, wanted: TokenFor<'_>) -> Result<String> {
        let (namespace, account) = wanted.account;
        let mut bound_to = Value::Null;
        if let Some(pod) = wanted.pod {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
            let found = self.get(&path)?.success()?;
            bound_to = json!({
                "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": at(&found, "/metadata/uid") });
        }
        let audiences: Vec<_> = wanted.audience.into_iter().collect();
        let spec = json!({ "expirationSeconds": 3600, "audiences": audiences, "boundObjectRef": bound_to });
        let request =
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.create(&path, &request)?;
        let token = at(&answer, "/status/token")
            .as_str()
            .context("no token in the answer")?;
        Ok(token.to_owned())
    }

    fn send(self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let token = fs::read_to_string(self.plane.admin_token()).context("the token")?;
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let mut program = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--write-out",
            "\n%{http_code}",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut add = |flag: &str, value: String| program.extend([flag.to_owned(), value]);
        add("--cacert", self.plane.root().display().to_string());
        add("--header", format!("Authorization: Bearer {}", token.trim()));
        add("--header", format!("Content-Type: {kind}"));
        add("--request", method.to_owned());
        let file = body.map(|body| self.file_with(body)).transpose()?;
        if let Some(file) = &file {
            add("--data-binary", format!("@{}", file.display()));
        }
        program.push(format!("https://{}{path}", self.plane.addr()));
        let output = process::run(&mut self.plane.command(&program)?, LIMIT);
        if let Some(file) = &file {
            fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
        }
        let output = output?.success()?;
        let (body, status) = output.stdout.rsplit_once('\n').context("curl says no status")?;
        Ok(Answer {
            status: status.parse().with_context(|| format!("status {status:?}"))?,
            // Health checks answer with plain text.
            body: serde_json::from_str(body).unwrap_or_default(),
        })
    }
}

impl Api<'_> {
    /// Not as an argument: the kernel bounds one to 128 KiB, and CRDs are longer.
    fn file_with(self, body: &Value) -> Result<PathBuf> {
        let number = BODIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("body-{}-{number}", std::process::id());
        let file = self.plane.dir().join(name);
        fs::write(&file, body.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

impl Answer {
    /// The object of an answer that says success; otherwise an error with what it says.
    pub fn success(self) -> Result<Value> {
        ensure!(
            (200..300).contains(&self.status),
            "the api server answers {}: {}",
            self.status,
            at(&self.body, "/message")
        );
        Ok(self.body)
    }
}

/// What is at a JSON pointer; null where there is nothing.
pub fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&NULL)
}

static NULL: Value = Value::Null;

/// Where objects of this kind are created.
fn collection(object: &Value) -> Result<String> {
    let text = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_str)
            .with_context(|| format!("a manifest without {field}"))
    };
    let kind = text("kind")?;
    let (plural, is_namespaced) = match kind {
        "Namespace" => ("namespaces", false),
        "Node" => ("nodes", false),
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        "ServiceAccount" => ("serviceaccounts", true),
        "Role" => ("roles", true),
        "RoleBinding" => ("rolebindings", true),
        "Pod" => ("pods", true),
        "Secret" => ("secrets", true),
        "Service" => ("services", true),
        "Deployment" => ("deployments", true),
        "PodDisruptionBudget" => ("poddisruptionbudgets", true),
        _ => bail!("it is not known here where a {kind} belongs"),
    };
    let version = text("apiVersion")?;
    let base = if version.contains('/') { "/apis" } else { "/api" };
    let namespace = at(object, "/metadata/namespace").as_str();
    Ok(match (is_namespaced, namespace) {
        (false, _) => format!("{base}/{version}/{plural}"),
        (true, Some(namespace)) => format!("{base}/{version}/namespaces/{namespace}/{plural}"),
        (true, None) => bail!("a {kind} without a namespace"),
    })
}

const LIMIT: Duration = Duration::from_secs(30);
/// Requests may be sent at once.
static BODIES: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_created_in_the_collection_of_its_kind() {
        let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "namespace": "a" } });
        assert_eq!(
            collection(&role).unwrap(),
            "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles"
        );
        let node = json!({ "apiVersion": "v1", "kind": "Node" });
        assert_eq!(collection(&node).unwrap(), "/api/v1/nodes");
        collection(&json!({ "apiVersion": "v1", "kind": "Pod" })).unwrap_err();
        collection(&json!({ "apiVersion": "v1", "kind": "Unheard" })).unwrap_err();
    }
}
