//! Gateway API's `ExternalAuth` filter (GEP-1494, experimental): who must let requests of a rule or of a backend in.
//!
//! Place in the walk: part of [`super::route_filter`]. Must not know: which Services exist, how anybody is asked.
//!
//! Whatever is wrong with it makes its rule answer 500: nothing of it is left out, and neither is the route, since what it
//! guards would be open then.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::route_rule::Rule;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::external::{
    Authorizer, AuthorizerTarget, CheckProtocol, CheckedBody, GrpcCheck, HttpCheck, NameMatch, OnError,
};
use crate::mesh::route::{BackendTarget, Gate};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    protocol: String,
    backend_ref: Value,
    grpc: Option<OverGrpc>,
    http: Option<OverHttp>,
    forward_body: Option<ForwardBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OverGrpc {
    allowed_headers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OverHttp {
    path: String,
    allowed_headers: Vec<String>,
    allowed_response_headers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ForwardBody {
    max_size: u16,
}

/// Reads `externalAuth`, found at the path `at`, into its `place`, which takes one.
pub(super) fn add(rule: &mut Rule<'_>, place: &mut Option<Gate>, at: &str, part: Option<&Value>) {
    let Some(part) = part else {
        return rule.refuse_because(at, &because("expected a mapping"));
    };
    match read(rule, at, part) {
        Ok(gate) => {
            if let Some(gate) = gate
                && place.replace(gate).is_some()
            {
                rule.refuse_because(at, &because("the filter may stand in a list once"));
            }
        }
        Err(mut rejection) => {
            rejection.reason = because(&rejection.reason);
            rule.is_refused = true;
            rule.rejections.push(rejection);
        }
    }
}

/// `None` for one that was reported, whose rule answers 500.
fn read(rule: &mut Rule<'_>, at: &str, part: &Value) -> Result<Option<Gate>, Rejection> {
    let written: Written = rule.object.parse_part(part, &format!("{}.{at}", rule.at))?;
    let body = written.forward_body.unwrap_or_default();
    let protocol = match (written.protocol.as_str(), written.grpc, written.http) {
        ("GRPC", grpc, None) => CheckProtocol::Grpc(GrpcCheck {
            request_headers: names(
                rule,
                &format!("{at}.grpc.allowedHeaders"),
                grpc.unwrap_or_default().allowed_headers,
            )?,
        }),
        ("HTTP", None, http) => CheckProtocol::Http(Box::new(over_http(
            rule,
            &format!("{at}.http"),
            http.unwrap_or_default(),
        )?)),
        ("GRPC", _, Some(_)) => return Err(rule.malformed(&format!("{at}.http"), "the protocol is GRPC")),
        ("HTTP", Some(_), _) => return Err(rule.malformed(&format!("{at}.grpc"), "the protocol is HTTP")),
        _ => return Err(rule.malformed(&format!("{at}.protocol"), "expected HTTP or GRPC")),
    };
    let at = format!("{at}.backendRef");
    let so = "requests of this rule are answered with 500";
    let BackendTarget::Service(service, port) = rule.reference(&at, &written.backend_ref, so)? else {
        rule.is_refused = true;
        return Ok(None);
    };
    Ok(Some(Gate {
        field: format!("{}.{at}", rule.at).into(),
        authorizer: Arc::new(Authorizer {
            target: AuthorizerTarget::Service(service),
            port,
            timeout: TIMEOUT,
            // "this filter MUST fail closed"; who was not decided about was not forbidden.
            on_error: OnError::Refuse(StatusCode::SERVICE_UNAVAILABLE),
            body: (body.max_size > 0).then_some(CheckedBody {
                max_bytes: body.max_size.into(),
                allow_partial: false,
                as_bytes: true,
            }),
            protocol,
        }),
    }))
}

fn over_http(rule: &Rule<'_>, at: &str, written: OverHttp) -> Result<HttpCheck, Rejection> {
    let prefix = written.path.trim_end_matches('/');
    let is_path =
        prefix.starts_with('/') && !prefix.contains(['?', '#']) && prefix.parse::<PathAndQuery>().is_ok();
    if !prefix.is_empty() && !is_path {
        return Err(rule.malformed(&format!("{at}.path"), "expected the beginning of a path"));
    }
    let copied = names(
        rule,
        &format!("{at}.allowedResponseHeaders"),
        written.allowed_response_headers,
    )?;
    Ok(HttpCheck {
        path_prefix: prefix.into(),
        request_headers: names(rule, &format!("{at}.allowedHeaders"), written.allowed_headers)?,
        // The API copies all then. What describes the authorizer's own body would falsify the request's.
        upstream_on_allow: if copied.is_empty() {
            vec![NameMatch::NotOfContent]
        } else {
            copied
        },
        ..HttpCheck::default()
    })
}

fn names(rule: &Rule<'_>, at: &str, list: Vec<String>) -> Result<Vec<NameMatch>, Rejection> {
    let read = list.into_iter().enumerate();
    read.map(|(index, text)| match HeaderName::try_from(&text) {
        Ok(name) => Ok(NameMatch::Exact(name.as_str().into())),
        Err(_invalid) => Err(rule.malformed(&format!("{at}[{index}]"), "not a header name")),
    })
    .collect()
}

fn because(reason: &str) -> String {
    format!("{reason}; requests of this rule are answered with 500")
}

/// How long a request waits for the decision, unless its own time is over before: the API names no limit.
const TIMEOUT: Duration = Duration::from_secs(10);
