//! `HTTPRoute` and `GRPCRoute`: which Services a route attaches to.
//!
//! Place in the walk: becomes a table of rules for each Service port. Must not know: which Services exist.

use std::sync::Arc;

use gateway_api::httproutes::HttpRouteParentRefs;
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::service::port_number;
use super::{grpc_rule, http_rule};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{Audience, HttpRoute, RouteKind, RouteParent};
use crate::mesh::service::ServiceName;

/// `None` for a route that attaches to no Service, which is a Gateway's business.
///
/// `hostnames` have no effect in a mesh (GEP-1294) and are not reported.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<HttpRoute>, Rejection> {
    let spec = object.spec();
    let parents = parents(object, spec, rejections)?;
    if parents.is_empty() {
        return Ok(None);
    }
    for field in unknown_fields(spec, &["parentRefs", "rules", "hostnames"]) {
        rejections.push(object.unsupported(&format!("spec.{field}")));
    }
    // The API's default is one rule that matches everything and has no backend.
    let default = Value::Array(vec![Value::Object(serde_json::Map::new())]);
    let rules = spec
        .get("rules")
        .filter(|rules| !rules.is_null())
        .unwrap_or(&default);
    let Some(rules) = rules.as_array() else {
        return Err(object.reject("spec.rules", "expected a list"));
    };
    let rules = rules.iter().enumerate();
    let is_grpc = object.kind == "GRPCRoute";
    let kind = if is_grpc { RouteKind::Grpc } else { RouteKind::Http };
    let translate = if is_grpc {
        grpc_rule::translate
    } else {
        http_rule::translate
    };
    let rules = rules.map(|(index, rule)| translate(object, index, rule, rejections));
    Ok(Some(HttpRoute {
        kind,
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        audience: Audience::ByNamespace,
        parents,
        rules: rules.collect::<Result<_, _>>()?,
    }))
}

/// The Services that `parentRefs` names.
pub(super) fn parents(
    object: &Object,
    spec: &Value,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<RouteParent>, Rejection> {
    let none = Vec::new();
    let written = match spec.get("parentRefs") {
        None | Some(Value::Null) => &none,
        Some(Value::Array(written)) => written,
        Some(_) => return Err(object.reject("spec.parentRefs", "expected a list")),
    };
    let mut parents = Vec::new();
    for (index, part) in written.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let parent: HttpRouteParentRefs = object.parse_part(part, &field)?;
        if parent.kind.as_deref() == Some("ServiceEntry") {
            let reason = "not supported yet; use a VirtualService for the entry's host; the route does not attach to it";
            rejections.push(object.reject(&format!("{field}.kind"), reason));
        }
        if parent.kind.as_deref() != Some("Service") {
            continue;
        }
        if parent.group.as_deref() != Some("") {
            let group = format!("{field}.group");
            rejections.push(object.reject(
                &group,
                "a Service is of group \"\"; the route does not attach to it",
            ));
            continue;
        }
        let known = ["group", "kind", "name", "namespace", "port", "sectionName"];
        for unknown in unknown_fields(part, &known) {
            rejections.push(object.unsupported(&format!("{field}.{unknown}")));
        }
        let port = parent
            .port
            .map(|port| port_number(object, &format!("{field}.port"), port))
            .transpose()?;
        let namespace = parent.namespace.as_deref().unwrap_or(&object.namespace);
        parents.push(RouteParent {
            service: ServiceName::new(namespace, &parent.name),
            port,
            section: parent.section_name.as_deref().map(Into::into),
            field: field.into(),
        });
    }
    Ok(parents)
}
