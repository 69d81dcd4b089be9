//! Istio's `VirtualService`: which Services it is about, whose requests, and what it delegates to others.
//!
//! Place in the walk: becomes tables of rules for each Service port, tried as they are written. Must not know:
//! endpoints.
//!
//! Only what sidecars of Istio would do is read: a VirtualService for gateways alone has no effect and is not reported.

mod answer;
mod cors;
mod destination;
mod fault;
mod headers;
mod http_match;
mod http_route;
mod stream_rule;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use self::http_route::Context;
use super::export;
use super::object::{Object, unknown_fields};
use crate::control::Reading;
use crate::mesh::export::Export;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{Audience, HttpRoute, HttpRule, RouteKind, RouteParent, StreamRoute};
use crate::mesh::service::{Service, ServiceName};
use crate::mesh::shared::Shared;

/// Translates all VirtualServices with all Services.
pub(super) fn translate_all<'a>(
    objects: impl Iterator<Item = &'a Object>,
    services: &[Shared<Service>],
) -> Reading {
    let objects: Vec<_> = objects.collect();
    let context = Context {
        services: by_name(services),
        hosts: hosts(services),
        delegates: objects
            .iter()
            .filter(|object| is_absent(object.spec().get("hosts")))
            .map(|object| ((&*object.namespace, &*object.name), *object))
            .collect(),
    };
    let mut reading = Reading::default();
    for object in objects {
        match translate(object, &context, &mut reading.rejections) {
            Ok((http, stream)) => {
                reading.facts.http_routes.extend(http);
                reading.facts.stream_routes.extend(stream);
            }
            Err(rejection) => reading.rejections.push(rejection),
        }
    }
    reading
}

/// What acts on requests and what on other connections; neither of one that does nothing between pods, or that waits to
/// be delegated to.
fn translate(
    object: &Object,
    context: &Context<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<(Option<HttpRoute>, Option<StreamRoute>), Rejection> {
    let spec = object.spec();
    let has = |part: &&str| !is_absent(spec.get(*part));
    if is_absent(spec.get("hosts")) {
        let reason = "a VirtualService without hosts is delegated nothing but http; no effect";
        let unused = ["tcp", "tls"].into_iter().filter(has);
        rejections.extend(unused.map(|part| object.reject(&format!("spec.{part}"), reason)));
        return Ok((None, None));
    }
    if !acts_in_mesh(texts(object, spec, "spec", "gateways")?.as_deref()) {
        return Ok((None, None));
    }
    let known = ["hosts", "gateways", "exportTo", "http", "tcp", "tls"];
    rejections.extend(unknown_fields(spec, &known).map(|field| object.unsupported(&format!("spec.{field}"))));
    if !["http", "tcp", "tls"].iter().any(has) {
        return Ok((None, None));
    }
    let audience = audience(object, rejections)?;
    let parents = parents(object, context, rejections)?;
    if parents.is_empty() {
        return Ok((None, None));
    }
    let http = http_rules(object, context, rejections)?.map(|rules| HttpRoute {
        kind: RouteKind::Virtual,
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        audience: audience.clone(),
        parents: parents.clone(),
        rules,
    });
    let rules = stream_rule::rules(object, context, rejections)?;
    let stream = (!rules.is_empty()).then(|| StreamRoute {
        kind: RouteKind::Virtual,
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        audience,
        parents,
        rules,
    });
    Ok((http, stream))
}

/// `http`; `None` without it.
fn http_rules(
    object: &Object,
    context: &Context<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<Vec<HttpRule>>, Rejection> {
    let Some(rules) = object.spec().get("http").filter(|rules| !is_absent(Some(rules))) else {
        return Ok(None);
    };
    let rules = rules
        .as_array()
        .ok_or_else(|| object.reject("spec.http", "expected a list"))?;
    let mut translated = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("spec.http[{index}]");
        translated.extend(http_route::translate(object, &at, rule, context, rejections)?);
    }
    Ok(Some(translated))
}

/// Without `gateways` it is about the mesh; Gateways are others' business.
fn acts_in_mesh(gateways: Option<&[&str]>) -> bool {
    gateways.is_none_or(|gateways| gateways.is_empty() || gateways.contains(&"mesh"))
}

fn audience(object: &Object, rejections: &mut Vec<Rejection>) -> Result<Audience, Rejection> {
    let written = texts(object, object.spec(), "spec", "exportTo")?.unwrap_or_default();
    Ok(match export::read(object, "spec.exportTo", written, rejections) {
        Export::Everybody => Audience::Everybody,
        Export::Namespaces(namespaces) => Audience::Namespaces(namespaces.to_vec()),
    })
}

/// The Services that `hosts` name, each once.
fn parents(
    object: &Object,
    context: &Context<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<RouteParent>, Rejection> {
    let mut parents: Vec<RouteParent> = Vec::new();
    let hosts = texts(object, object.spec(), "spec", "hosts")?.unwrap_or_default();
    for (index, host) in hosts.into_iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        let Some(service) = context.service_of(host, &object.namespace) else {
            rejections.push(object.reject(&field, NO_SERVICE));
            continue;
        };
        if parents.iter().all(|parent| parent.service != service) {
            parents.push(RouteParent {
                service,
                port: None,
                section: None,
                field: field.into(),
            });
        }
    }
    Ok(parents)
}

/// `NAME` in the object's own namespace, `NAME.NAMESPACE` and what may follow of `.svc.cluster.local`.
fn service_of(host: &str, namespace: &str) -> Option<ServiceName> {
    let mut parts = host.splitn(3, '.');
    let name = parts.next()?;
    let namespace = parts.next().unwrap_or(namespace);
    let is_ours = matches!(parts.next(), None | Some("svc" | "svc.cluster.local"));
    let is_plain = |part: &str| !part.is_empty() && !part.contains('*');
    (is_ours && is_plain(name) && is_plain(namespace)).then(|| ServiceName::new(namespace, name))
}

fn by_name(services: &[Shared<Service>]) -> HashMap<&ServiceName, &Service> {
    services
        .iter()
        .map(|service| (&service.name, &**service))
        .collect()
}

fn hosts(services: &[Shared<Service>]) -> BTreeMap<&str, Vec<&Service>> {
    let mut hosts: BTreeMap<_, Vec<&Service>> = BTreeMap::new();
    for service in services.iter().filter(|service| service.name.is_host()) {
        hosts.entry(&*service.name.name).or_default().push(service);
    }
    for of_name in hosts.values_mut() {
        of_name.sort_by(|a, b| a.name.cmp(&b.name));
    }
    hosts
}

fn is_absent(part: Option<&Value>) -> bool {
    part.is_none_or(|part| part.is_null() || part.as_array().is_some_and(Vec::is_empty))
}

/// A list of texts that may be absent.
fn texts<'v>(
    object: &Object,
    part: &'v Value,
    at: &str,
    field: &str,
) -> Result<Option<Vec<&'v str>>, Rejection> {
    let Some(list) = part.get(field).filter(|list| !list.is_null()) else {
        return Ok(None);
    };
    let texts = list
        .as_array()
        .and_then(|list| list.iter().map(Value::as_str).collect::<Option<_>>());
    match texts {
        Some(texts) => Ok(Some(texts)),
        None => Err(object.reject(&format!("{at}.{field}"), "expected a list of texts")),
    }
}

const NO_SERVICE: &str = "names no Service and no host of a ServiceEntry; use NAME or NAME.NAMESPACE.svc.cluster.local: wildcards have no effect yet";
