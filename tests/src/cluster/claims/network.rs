//! A node that loses its network: the runtime's configurations and plugins are gone, and another CNI comes.
//!
//! It must not know what an agent writes into a configuration but the name of its plugin.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Claim, claims, seen};
use crate::cluster::Cluster;
use crate::kubernetes::api::at;

pub(super) const CLAIMS: &[Claim] = claims![no_pod_begins_unmeshed_on_a_node_whose_cni_is_lost_and_replaced];

const POD: &str = include_str!("../../../lab/cluster/lost.yaml");
const NAMESPACE: &str = "lost";
const NODE: &str = "node-b";
const PLUGIN: &str = "mesh-agent-cni";
/// Sorts before what was there.
const OTHER: &str = "/etc/cni/net.d/05-other.conflist";
const LIMIT: Duration = Duration::from_mins(1);

fn no_pod_begins_unmeshed_on_a_node_whose_cni_is_lost_and_replaced(cluster: &Cluster) -> Result<()> {
    let (before, _) = standing(cluster)?;
    let list = on_node(cluster, &["cat", &before.context("the plugin is in no list")?])?;
    on_node(cluster, &["sh", "-c", "rm -rf /etc/cni/net.d/* /opt/cni/bin/*"])?;
    let lost = without_network(cluster);
    // Whatever was seen: the claims after this one need a network.
    another_cni(cluster, &without_plugin(&list)?)?;
    lost?;
    seen::until("the plugin is in the other list", || {
        Ok(standing(cluster)? == (Some(OTHER.to_owned()), None))
    })?;
    let list = on_node(cluster, &["cat", OTHER])?;
    ensure!(list.contains(PLUGIN), "it is not: {list}");
    // The one that waited may have begun between the other CNI's list and the plugin in it.
    is_enrolled(cluster, "waits")?;
    cluster.apply_text(&POD.replace("POD", "next"))?;
    let learned = is_enrolled(cluster, "next")?;
    ensure!(
        learned == "announced",
        "the pod after it began unasked: {learned}"
    );
    Ok(())
}

fn without_network(cluster: &Cluster) -> Result<()> {
    seen::until("the agent says that there is no network", || {
        let (list, error) = standing(cluster)?;
        Ok(list.is_none() && error.is_some())
    })?;
    cluster.apply_text(&POD.replace("POD", "waits"))?;
    seen::until("the kubelet says why the pod does not begin", || {
        let reasons = in_namespace(
            cluster,
            &["get", "events", "--output=jsonpath={.items[*].reason}"],
        )?;
        Ok(reasons.contains("FailedCreatePodSandBox") || reasons.contains("NetworkNotReady"))
    })?;
    let phase = in_namespace(
        cluster,
        &["get", "pod", "waits", "--output=jsonpath={.status.phase}"],
    )?;
    ensure!(phase == "Pending", "the pod is {phase}");
    Ok(())
}

/// Plugins and a list as another CNI brings them.
fn another_cni(cluster: &Cluster, list: &str) -> Result<()> {
    let script = format!(
        "cd /opt/kubernetes && cp bridge host-local loopback portmap /opt/cni/bin/ && \
         printf %s \"$1\" > {OTHER}.new && mv {OTHER}.new {OTHER}"
    );
    on_node(cluster, &["sh", "-c", &script, "sh", list]).map(drop)
}

/// Waits until a pod is ready and captured; how the agent learned where it lives.
fn is_enrolled(cluster: &Cluster, name: &str) -> Result<String> {
    let pod = format!("pod/{name}");
    in_namespace(
        cluster,
        &["wait", "--for=condition=Ready", &pod, "--timeout=120s"],
    )?;
    let own = || -> Result<Option<Value>> {
        let status = seen::status(cluster, NODE)?;
        let pods = at(&status, "/enrolment/pods")
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(pods.into_iter().find(|pod| {
            at(pod, "/namespace") == NAMESPACE && at(pod, "/pod") == name && at(pod, "/present") == true
        }))
    };
    seen::until(&format!("{name} is captured"), || Ok(own()?.is_some()))?;
    let own = own()?.with_context(|| format!("{name} is captured no more"))?;
    Ok(at(&own, "/learned").as_str().unwrap_or_default().to_owned())
}

/// The list that the plugin is in, and why it is in none.
fn standing(cluster: &Cluster) -> Result<(Option<String>, Option<String>)> {
    let status = seen::status(cluster, NODE)?;
    let text = |pointer| at(&status, pointer).as_str().map(str::to_owned);
    Ok((text("/cni/list"), text("/cni/error")))
}

/// A list as it is before an agent has seen it.
fn without_plugin(list: &str) -> Result<String> {
    let mut list: Value = serde_json::from_str(list).context("the list of plugins")?;
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins.context("a list without plugins")?;
    let all = plugins.len();
    plugins.retain(|plugin| at(plugin, "/type") != PLUGIN);
    ensure!(
        plugins.len() + 1 == all,
        "the plugin is not once in the list: {list}"
    );
    Ok(list.to_string())
}

fn on_node(cluster: &Cluster, program: &[&str]) -> Result<String> {
    Ok(cluster.run_on(NODE, program, LIMIT)?.success()?.stdout)
}

fn in_namespace(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_loses_our_plugin_alone() {
        let list = r#"{"name":"x","plugins":[{"type":"bridge"},{"type":"mesh-agent-cni"}]}"#;
        assert_eq!(
            without_plugin(list).unwrap(),
            r#"{"name":"x","plugins":[{"type":"bridge"}]}"#
        );
        assert!(without_plugin(r#"{"plugins":[{"type":"bridge"}]}"#).is_err());
    }
}
