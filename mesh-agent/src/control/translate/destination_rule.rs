//! Istio's DestinationRule: which Services it is about, and for which of their ports.
//!
//! Place in the walk: becomes the traffic policy of Services when a snapshot is built. Must not know: which Services
//! there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::ca_bundles::CaBundles;
use super::object::{Object, unknown_fields};
use super::{export, traffic_policy};
use crate::mesh::facts::Rejection;
use crate::mesh::route::NamePattern;
use crate::mesh::service::ServiceName;
use crate::mesh::traffic::{DestinationRule, HostPattern, Subset, WrittenPolicy};

/// networking.istio.io/v1, as far as it is read; all else is reported.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    host: String,
    #[serde(default)]
    export_to: Option<Vec<String>>,
    #[serde(default)]
    subsets: Option<Vec<Value>>,
    #[serde(default)]
    workload_selector: Option<WorkloadSelector>,
}

/// What cannot be read of it leaves the rule out: it would act for others than it says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WorkloadSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct WrittenSubset {
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TrafficPolicy {
    port_level_settings: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct PortLevel {
    port: PortSelector,
}

#[derive(Debug, Deserialize)]
struct PortSelector {
    number: u16,
}

/// `None` for a rule without an effect.
pub(super) fn translate(
    object: &Object,
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<DestinationRule>, Rejection> {
    let spec: Spec = object.parse_part(object.spec(), "spec")?;
    rejections.extend(
        unknown_fields(object.spec(), &KNOWN).map(|field| object.unsupported(&format!("spec.{field}"))),
    );
    let words = spec.export_to.iter().flatten().map(String::as_str);
    let export = export::read(object, "spec.exportTo", words, rejections);
    let (policy, ports) = policy(object, (object.spec(), "spec"), bundles, rejections)?;
    let subsets = spec.subsets.unwrap_or_default();
    let subsets = self::subsets(object, &subsets, bundles, rejections)?;
    if policy == WrittenPolicy::default() && ports.is_empty() && subsets.is_empty() {
        return Ok(None);
    }
    let host = host_of(&spec.host, &object.namespace).ok_or_else(|| {
        let reason = format!(
            "{:?} names no Service; use NAME, NAME.NAMESPACE.svc.cluster.local or *.NAMESPACE.svc.cluster.local",
            spec.host
        );
        object.reject("spec.host", reason)
    })?;
    Ok(Some(DestinationRule {
        meta: Arc::clone(&object.meta),
        namespace: Arc::clone(&object.namespace),
        host,
        policy,
        ports,
        subsets,
        export,
        clients: spec.workload_selector.map(|selector| selector.match_labels),
    }))
}

/// Subsets, of which one without a policy of its own is the rule's. A second one of a name is left out.
fn subsets(
    object: &Object,
    list: &[Value],
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<Subset>, Rejection> {
    let mut subsets: Vec<Subset> = Vec::new();
    for (index, part) in list.iter().enumerate() {
        let at = format!("spec.subsets[{index}]");
        let WrittenSubset { name, labels } = object.parse_part(part, &at)?;
        let unknown = unknown_fields(part, &["name", "labels", "trafficPolicy"]);
        rejections.extend(unknown.map(|field| object.unsupported(&format!("{at}.{field}"))));
        if name.is_empty() || subsets.iter().any(|subset| *subset.name == *name) {
            let reason = format!("{name:?} is no name of its own; the subset is left out");
            rejections.push(object.reject(&format!("{at}.name"), reason));
            continue;
        }
        let (policy, ports) = policy(object, (part, &at), bundles, rejections)?;
        subsets.push(Subset {
            name: name.into(),
            labels: labels.unwrap_or_default(),
            policy,
            ports,
        });
    }
    Ok(subsets)
}

/// `trafficPolicy` of `part`, found at the path `at`, and what it says of single ports.
fn policy(
    object: &Object,
    (part, at): (&Value, &str),
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> Result<(WrittenPolicy, Vec<(u16, WrittenPolicy)>), Rejection> {
    let part = part.get("trafficPolicy").unwrap_or(&Value::Null);
    if part.is_null() {
        return Ok((WrittenPolicy::default(), Vec::new()));
    }
    let at = format!("{at}.trafficPolicy");
    let policy = traffic_policy::translate(object, (part, &at), "portLevelSettings", bundles, rejections)?;
    Ok((policy, ports(object, (part, &at), bundles, rejections)?))
}

fn ports(
    object: &Object,
    (part, at): (&Value, &str),
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<(u16, WrittenPolicy)>, Rejection> {
    let TrafficPolicy { port_level_settings } = object.parse_part(part, at)?;
    let mut ports = Vec::new();
    for (index, part) in port_level_settings.iter().flatten().enumerate() {
        let at = format!("{at}.portLevelSettings[{index}]");
        let PortLevel { port } = object.parse_part(part, &at)?;
        let policy =
            traffic_policy::translate(object, (part, &at), traffic_policy::OF_PORTS, bundles, rejections)?;
        ports.push((port.number, policy));
    }
    Ok(ports)
}

/// `NAME`, `NAME.NAMESPACE` and what may follow of `.svc.cluster.local`; `*` in front of these.
fn host_of(host: &str, namespace: &str) -> Option<HostPattern> {
    if matches!(host, "*" | "*.local" | "*.cluster.local" | "*.svc.cluster.local") {
        return Some(HostPattern::All);
    }
    let (name, rest) = host
        .split_once('.')
        .map_or((host, None), |(name, rest)| (name, Some(rest)));
    let namespace = match rest.map(|rest| rest.split_once('.').unwrap_or((rest, ""))) {
        None => namespace,
        Some((namespace, "" | "svc" | "svc.cluster.local")) => namespace,
        // The host of a ServiceEntry.
        Some(_) => {
            let is_host = matches!(NamePattern::read(host), Some(NamePattern::Exact(_)));
            return is_host.then(|| HostPattern::Service(ServiceName::new(namespace, host)));
        }
    };
    let is_plain = |part: &str| !part.is_empty() && !part.contains('*');
    match name {
        "*" if is_plain(namespace) => Some(HostPattern::Namespace(namespace.into())),
        name if is_plain(name) && is_plain(namespace) => {
            Some(HostPattern::Service(ServiceName::new(namespace, name)))
        }
        _ => None,
    }
}

const KNOWN: [&str; 5] = ["host", "trafficPolicy", "exportTo", "subsets", "workloadSelector"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_istio_reads_them() {
        let service = |namespace, name| Some(HostPattern::Service(ServiceName::new(namespace, name)));
        for (host, expected) in [
            ("web", service("shop", "web")),
            ("web.other", service("other", "web")),
            ("web.other.svc", service("other", "web")),
            ("web.other.svc.cluster.local", service("other", "web")),
            (
                "*.other.svc.cluster.local",
                Some(HostPattern::Namespace("other".into())),
            ),
            ("*.local", Some(HostPattern::All)),
            ("*", Some(HostPattern::All)),
            ("*.svc.cluster.local", Some(HostPattern::All)),
            ("a.example.com", service("shop", "a.example.com")),
            ("*.example.com", None),
            ("w*b", None),
            ("web.*", None),
            ("", None),
        ] {
            assert_eq!(host_of(host, "shop"), expected, "{host}");
        }
    }
}
