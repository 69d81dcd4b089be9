//! Istio's DestinationRule, of which only the choice of a load-balancing algorithm is read.
//!
//! Place in the walk: becomes the balancer of a Service. Must not know: endpoints.
//!
//! A rule acts from the Service's own namespace only: the balancers of a node serve all of its pods, so that they
//! cannot differ by the client's namespace. All other fields are reported and ignored; requests go to the same
//! endpoints without them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::object::{Object, unknown_fields};
use crate::mesh::facts::{ObjectMeta, Rejection};
use crate::mesh::service::{BalancerKind, Service, ServiceName};

/// A rule that names an algorithm for a Service.
#[derive(Debug)]
pub(super) struct DestinationRule {
    meta: Arc<ObjectMeta>,
    service: ServiceName,
    balancer: BalancerKind,
}

/// networking.istio.io/v1, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    host: String,
    #[serde(default)]
    traffic_policy: Option<TrafficPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TrafficPolicy {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    simple: Option<String>,
}

/// `None` for a rule without an effect.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<DestinationRule>, Rejection> {
    let spec: Spec = object.parse_part(object.spec(), "spec")?;
    for (pointer, at, known) in SUPPORTED {
        let part = object.spec().pointer(pointer).unwrap_or(&Value::Null);
        let unknown = unknown_fields(part, known);
        rejections.extend(unknown.map(|field| object.unsupported(&format!("{at}.{field}"))));
    }
    let Some(balancer) = balancer(object, &spec, rejections) else {
        return Ok(None);
    };
    let service = service_of(&spec.host, &object.namespace).ok_or_else(|| {
        let reason = format!(
            "{:?} names no Service; use NAME or NAME.NAMESPACE.svc.cluster.local",
            spec.host
        );
        object.reject("spec.host", reason)
    })?;
    if service.namespace != object.namespace {
        let reason = format!(
            "only rules in the Service's own namespace act; put it into {}",
            service.namespace
        );
        return Err(object.reject("spec.host", reason));
    }
    Ok(Some(DestinationRule {
        meta: Arc::clone(&object.meta),
        service,
        balancer,
    }))
}

/// Gives the Services their algorithms; of two rules for one Service the elder acts.
pub(super) fn apply(
    mut rules: Vec<DestinationRule>,
    services: &mut [Service],
    rejections: &mut Vec<Rejection>,
) {
    rules.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
    let mut by_service: HashMap<ServiceName, DestinationRule> = HashMap::new();
    for rule in rules {
        match by_service.get(&rule.service) {
            Some(elder) => {
                rejections.push(rule.meta.reject(
                    "spec.host",
                    format!("the older {} acts on this Service", elder.meta.object),
                ));
            }
            None => {
                by_service.insert(rule.service.clone(), rule);
            }
        }
    }
    for service in services {
        if let Some(rule) = by_service.remove(&service.name) {
            service.balancer = rule.balancer;
        }
    }
    let orphans = by_service.into_values();
    rejections.extend(orphans.map(|rule| {
        rule.meta
            .reject("spec.host", format!("Service {} is not known", rule.service))
    }));
}

/// The algorithm that a rule names, if it names one that is supported.
fn balancer(object: &Object, spec: &Spec, rejections: &mut Vec<Rejection>) -> Option<BalancerKind> {
    let load_balancer = spec.traffic_policy.as_ref()?.load_balancer.as_ref()?;
    match load_balancer.simple.as_deref()? {
        "UNSPECIFIED" => None,
        "ROUND_ROBIN" => Some(BalancerKind::RoundRobin),
        // The older name of the same algorithm.
        "LEAST_REQUEST" | "LEAST_CONN" => Some(BalancerKind::LeastRequest),
        other => {
            let reason = format!("{other:?} is not supported yet; use ROUND_ROBIN or LEAST_REQUEST; ignored");
            rejections.push(object.reject("spec.trafficPolicy.loadBalancer.simple", reason));
            None
        }
    }
}

/// `NAME`, `NAME.NAMESPACE` and what may follow of `.svc.cluster.local`.
fn service_of(host: &str, namespace: &str) -> Option<ServiceName> {
    let (name, rest) = host
        .split_once('.')
        .map_or((host, None), |(name, rest)| (name, Some(rest)));
    let namespace = match rest.map(|rest| rest.split_once('.').unwrap_or((rest, ""))) {
        None => namespace,
        Some((namespace, "" | "svc" | "svc.cluster.local")) => namespace,
        Some(_) => return None,
    };
    let is_plain = |part: &str| !part.is_empty() && !part.contains('*');
    (is_plain(name) && is_plain(namespace)).then(|| ServiceName::new(namespace, name))
}

/// Each mapping that is read: where it is, its path, and the fields that have an effect.
const SUPPORTED: [(&str, &str, &[&str]); 3] = [
    ("", "spec", &["host", "trafficPolicy"]),
    ("/trafficPolicy", "spec.trafficPolicy", &["loadBalancer"]),
    (
        "/trafficPolicy/loadBalancer",
        "spec.trafficPolicy.loadBalancer",
        &["simple"],
    ),
];
