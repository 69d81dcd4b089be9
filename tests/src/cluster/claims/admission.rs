//! A cluster whose admission refuses what the mesh says of some objects.
//!
//! It must not know which of the CAs writes, nor how it tries again.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Claim, claims, seen};
use crate::cluster::Cluster;
use crate::kubernetes::api::at;

pub(super) const CLAIMS: &[Claim] = claims![a_status_that_admission_refuses_is_named_and_holds_no_other_up];

const MANIFESTS: &str = include_str!("../../../lab/cluster/admission.yaml");
const NAMESPACE: &str = "admission";
const POLICY: &str = "no-status.example.com";

fn a_status_that_admission_refuses_is_named_and_holds_no_other_up(cluster: &Cluster) -> Result<()> {
    cluster.apply_text(MANIFESTS)?;
    let refused = is_refused(cluster);
    // Whatever was seen: it is not for the claims after this one.
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster.kubectl(&["delete", kind, POLICY])?;
    }
    refused?;
    seen::until("the status is written that was refused", || {
        is_written(cluster, "refused")
    })?;
    cluster
        .kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])
        .map(drop)
}

fn is_refused(cluster: &Cluster) -> Result<()> {
    // One that nobody writes about, for it is no route of the mesh.
    route(cluster, "refused-to-anybody", &json!([]))?;
    seen::until("the rule is in force", || {
        let path = format!("{}/status?dryRun=All", path("refused-to-anybody"));
        let empty = json!({ "status": { "parents": [] } });
        let tried = cluster.plane().api().patch(&path, &empty);
        Ok(tried.is_err_and(|error| error.to_string().contains(POLICY)))
    })?;
    let service = json!([{ "group": "", "kind": "Service", "name": "web" }]);
    // In this order, so that the one would wait for the other.
    for name in ["refused", "written"] {
        route(cluster, name, &service)?;
    }
    seen::until("the other status is written", || is_written(cluster, "written"))?;
    seen::until("the CA's status says why one is not", || is_in_status(cluster))?;
    seen::until("the CA's log says why one is not", || {
        let said = [
            "logs",
            "--namespace=mesh-system",
            "--selector=app.kubernetes.io/name=mesh-ca",
            "--tail=-1",
        ];
        let said = cluster.kubectl(&said)?;
        Ok(said.lines().any(|line| {
            line.contains("a status cannot be written")
                && line.contains("admission/refused")
                && line.contains("an admission policy or webhook of the cluster refuses it")
                && line.contains(POLICY)
        }))
    })?;
    ensure!(!is_written(cluster, "refused")?, "it is written all the same");
    Ok(())
}

/// Of the CA that leads: the others write nothing.
fn is_in_status(cluster: &Cluster) -> Result<bool> {
    for ca in cluster.pods("mesh-system", "app.kubernetes.io/name=mesh-ca")? {
        let said = cluster.exec("mesh-system", &ca.name, &["mesh-agent", "status"])?;
        let mut lines = said
            .lines()
            .skip_while(|line| !line.starts_with("STATUSES THAT CANNOT BE WRITTEN: 1"));
        let named = lines.nth(1);
        if named
            .is_some_and(|line| line.starts_with("  HTTPRoute admission/refused: ") && line.contains(POLICY))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn route(cluster: &Cluster, name: &str, parents: &Value) -> Result<()> {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "parentRefs": parents, "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] },
    });
    let made = cluster.plane().api().create(&routes(), &route);
    made.map(drop).with_context(|| format!("make the route {name}"))
}

fn is_written(cluster: &Cluster, name: &str) -> Result<bool> {
    let route = cluster.plane().api().get(&path(name))?.success()?;
    Ok(at(&route, "/status/parents/0/conditions/0").is_object())
}

fn routes() -> String {
    format!("/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes")
}

fn path(name: &str) -> String {
    format!("{}/{name}", routes())
}
