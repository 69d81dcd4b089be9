//! What answers in a Service's place: annotation `mesh-agent.dev/fallback`.
//!
//! Place in the walk: read with the Service. Must not know: whether the Service that it names is there, and when it is
//! asked.
//!
//! An annotation that is wrong in any field is reported, and the Service has no fallback.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use super::annotation;
use super::object::Object;
use crate::mesh::facts::Rejection;
use crate::mesh::fallback::{Fallback, FallbackOn, FallbackTo, StaticAnswer};
use crate::mesh::service::ServiceName;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    on: Option<Vec<Reason>>,
    service: Option<String>,
    namespace: Option<String>,
    port: Option<u16>,
    status: Option<u16>,
    content_type: Option<String>,
    body: Option<String>,
    grpc_status: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    Unreachable,
    GatewayError,
}

/// What the annotation says; `None` without one.
pub(super) fn translate(object: &Object) -> Result<Option<Fallback>, Rejection> {
    let Some(written) = annotation::read::<Written>(object, FALLBACK)? else {
        return Ok(None);
    };
    let on = match &written.on {
        None => vec![FallbackOn::Unreachable],
        Some(reasons) if reasons.is_empty() => {
            return Err(wrong(object, "on", "no reason is none"));
        }
        Some(reasons) => reasons.iter().copied().map(FallbackOn::from).collect(),
    };
    let to = match &written.service {
        Some(service) => another(object, service, &written)?,
        None => answer(object, &written)?,
    };
    Ok(Some(Fallback { on, to }))
}

impl From<Reason> for FallbackOn {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unreachable => Self::Unreachable,
            Reason::GatewayError => Self::GatewayError,
        }
    }
}

fn another(object: &Object, service: &str, written: &Written) -> Result<FallbackTo, Rejection> {
    let of_answers = [
        ("status", written.status.is_some()),
        ("contentType", written.content_type.is_some()),
        ("body", written.body.is_some()),
        ("grpcStatus", written.grpc_status.is_some()),
    ];
    if let Some((name, _)) = of_answers.into_iter().find(|(_, is_written)| *is_written) {
        return Err(wrong(
            object,
            name,
            "another Service answers, or the agent: not both",
        ));
    }
    let namespace = written.namespace.as_deref().unwrap_or(&object.namespace);
    if namespace != &*object.namespace {
        let reason = "Services of other namespaces would need a ReferenceGrant, which is not supported";
        return Err(wrong(object, "namespace", reason));
    }
    let port = written.port.filter(|port| *port != 0);
    let port = port.ok_or_else(|| wrong(object, "port", "which port of the Service? 1 to 65535"))?;
    let service = ServiceName::new(namespace, service);
    if service.name == object.name {
        return Err(wrong(object, "service", "a Service cannot stand in for itself"));
    }
    Ok(FallbackTo::Service { service, port })
}

fn answer(object: &Object, written: &Written) -> Result<FallbackTo, Rejection> {
    for (name, is_written) in [
        ("namespace", written.namespace.is_some()),
        ("port", written.port.is_some()),
    ] {
        if is_written {
            return Err(wrong(object, name, "of which service?"));
        }
    }
    let status = written.status.filter(|status| (200..=599).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| wrong(object, "status", "a status from 200 to 599, or a service"))?;
    let content_type = written.content_type.as_deref().unwrap_or("text/plain");
    let content_type = HeaderValue::from_str(content_type)
        .map_err(|_invalid| wrong(object, "contentType", "no value of a header"))?;
    let body = written.body.clone().unwrap_or_default();
    if body.len() > StaticAnswer::MAX_BODY {
        let reason = format!("{} bytes; {} at most", body.len(), StaticAnswer::MAX_BODY);
        return Err(wrong(object, "body", &reason));
    }
    if matches!(status.as_u16(), 204 | 205 | 304) && !body.is_empty() {
        return Err(wrong(object, "body", &format!("{status} has none")));
    }
    if written.grpc_status.is_some_and(|code| !(1..=16).contains(&code)) {
        return Err(wrong(object, "grpcStatus", "an error of gRPC, 1 to 16"));
    }
    Ok(FallbackTo::Answer(Arc::new(StaticAnswer {
        status,
        content_type,
        body: Bytes::from(body),
        grpc_status: written.grpc_status,
    })))
}

fn wrong(object: &Object, name: &str, reason: &str) -> Rejection {
    let field = format!("{}.{name}", annotation::field(FALLBACK));
    object.reject(&field, format!("{reason}; the Service has no fallback"))
}

const FALLBACK: &str = "mesh-agent.dev/fallback";
