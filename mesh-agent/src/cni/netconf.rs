//! What a runtime gives a CNI plugin (CNI spec 1.1): a configuration on standard input, parameters in the environment.
//!
//! Must not know: the agent.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The plugin's own part of a list, as the agent writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// [`PLUGIN`](super::PLUGIN).
    #[serde(rename = "type")]
    pub kind: String,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The file with the namespaces whose pods take part.
    pub namespaces: PathBuf,
    /// What becomes of a pod that takes part while the agent is away.
    pub fail_mode: FailMode,
    /// Seconds that the agent may take.
    pub timeout_seconds: u64,
    /// Namespaces whose pods never wait.
    pub exempt_namespaces: Vec<String>,
}

/// What becomes of a pod that cannot be enrolled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// It does not start; kubelet says why in an event, and tries again.
    #[default]
    Closed,
    /// It starts unmeshed, and is enrolled by watching.
    Open,
}

/// All that a runtime says on standard input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification that the runtime speaks.
    pub cni_version: String,
    /// The plugin's own part.
    #[serde(flatten)]
    pub entry: Entry,
    /// What the plugins before this one made.
    #[serde(default)]
    pub prev_result: Option<Value>,
}

/// Which pod it is about, from `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

impl PodArgs {
    /// Reads `KEY=VALUE;...`; other keys are another's.
    pub fn parse(args: &str) -> Self {
        let mut pod = Self::default();
        for (key, value) in args.split(';').filter_map(|pair| pair.split_once('=')) {
            let field = match key {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                _ => continue,
            };
            *field = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        pod
    }
}

/// The addresses in a result: `ips[].address` with their prefix length, the first of each family.
pub fn addrs_in(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array);
    let mut addrs: Vec<IpAddr> = Vec::new();
    for ip in ips.into_iter().flatten() {
        let written = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let Ok(addr) = written.split('/').next().unwrap_or_default().parse::<IpAddr>() else {
            continue;
        };
        if addrs.iter().all(|known| known.is_ipv4() != addr.is_ipv4()) {
            addrs.push(addr);
        }
    }
    addrs
}

/// Versions of the specification whose results look alike. Those before know no chains.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pod_is_in_the_arguments_among_others() {
        let pod = PodArgs::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=9f;K8S_POD_UID=0b6d",
        );
        assert_eq!(
            (pod.namespace.as_deref(), pod.name.as_deref(), pod.uid.as_deref()),
            (Some("shop"), Some("web-0"), Some("0b6d"))
        );
        for none in ["", ";;", "K8S_POD_NAME", "K8S_POD_NAME=", "=x"] {
            assert_eq!(PodArgs::parse(none), PodArgs::default(), "{none}");
        }
    }

    #[test]
    fn one_address_of_each_family_is_taken_in_order() {
        for (result, expected) in [
            (
                json!({"ips": [{"address": "10.0.0.5/24", "version": "4"}]}),
                vec!["10.0.0.5"],
            ),
            (
                json!({"ips": [{"address": "fd00::5/64"}, {"address": "10.0.0.5/24"}, {"address": "10.1.0.5/24"}]}),
                vec!["fd00::5", "10.0.0.5"],
            ),
            (json!({"ips": [{"address": "odd"}, {}, 7]}), vec![]),
            (json!({"ips": "10.0.0.5"}), vec![]),
            (json!(null), vec![]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|addr| addr.parse().unwrap()).collect();
            assert_eq!(addrs_in(&result), expected, "{result}");
        }
    }
}
