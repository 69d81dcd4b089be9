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
    for (at, known) in [
        ("", &["host", "trafficPolicy"]),
        ("trafficPolicy", &["loadBalancer", "loadBalancer"]),
        ("trafficPolicy/loadBalancer", &["simple", "simple"]),
    ] {
        let part = object.spec().pointer(&if at.is_empty() {
            String::new()
        } else {
            format!("/{at}")
        });
        for field in unknown_fields(part.unwrap_or(&Value::Null), known) {
            let at = if at.is_empty() {
                String::new()
            } else {
                format!("{}.", at.replace('/', "."))
            };
            rejections.push(object.unsupported(&format!("spec.{at}{field}")));
        }
    }
    let simple = spec
        .traffic_policy
        .and_then(|policy| policy.load_balancer)
        .and_then(|balancer| balancer.simple);
    let balancer = match simple.as_deref() {
        None | Some("UNSPECIFIED") => return Ok(None),
        Some("ROUND_ROBIN") => BalancerKind::RoundRobin,
        Some("LEAST_REQUEST" | "LEAST_CONN") => BalancerKind::LeastRequest,
        Some(other) => {
            let reason = format!("{other:?} is not supported yet; use ROUND_ROBIN or LEAST_REQUEST; ignored");
            rejections.push(object.reject("spec.trafficPolicy.loadBalancer.simple", reason));
            return Ok(None);
        }
    };
    let service = service_of(&spec.host, &object.namespace).ok_or_else(|| {
        object.reject(
            "spec.host",
            format!(
                "{:?} names no Service; use NAME or NAME.NAMESPACE.svc.cluster.local",
                spec.host
            ),
        )
    })?;
    if service.namespace != object.namespace {
        return Err(object.reject(
            "spec.host",
            format!(
                "only rules in the Service's own namespace act; put it into {}",
                service.namespace
            ),
        ));
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
