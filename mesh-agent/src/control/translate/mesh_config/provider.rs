//! One of `extensionProviders`: of those kinds that decide about requests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::control::translate::object::{Object, unknown_fields};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::external::{
    Authorizer, AuthorizerTarget, CheckProtocol, CheckedBody, GrpcCheck, HttpCheck, NameMatch, OnError,
};
use crate::mesh::service::ServiceName;

/// A provider that is being read.
pub(super) struct Provider<'a> {
    pub(super) object: &'a Object,
    pub(super) rejections: &'a mut Vec<Rejection>,
    pub(super) at: String,
}

/// What both kinds have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Common {
    service: String,
    port: u16,
    timeout: Option<String>,
    #[serde(default)]
    fail_open: bool,
    /// A number as text; YAML without quotes makes it a number.
    status_on_error: Option<Value>,
    include_request_body_in_check: Option<BodyCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BodyCheck {
    max_request_bytes: u32,
    #[serde(default)]
    allow_partial_message: bool,
    #[serde(default)]
    pack_as_bytes: bool,
}

/// What only those have that speak HTTP.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OverHttp {
    path_prefix: String,
    include_request_headers_in_check: Vec<String>,
    /// What it was called before.
    include_headers_in_check: Vec<String>,
    include_additional_headers_in_check: BTreeMap<String, String>,
    headers_to_upstream_on_allow: Vec<String>,
    headers_to_downstream_on_allow: Vec<String>,
    headers_to_downstream_on_deny: Vec<String>,
}

impl Provider<'_> {
    /// Its name, and what it is if it is one that decides about requests. Whatever is wrong leaves it out.
    pub(super) fn read(&mut self, declared: &Value) -> Result<(Arc<str>, Option<Authorizer>), Rejection> {
        let name = declared.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            return Err(self.wrong("name", "a provider has a name"));
        }
        let mut kinds = unknown_fields(declared, &["name"]);
        let authorizer = match (kinds.next(), kinds.next()) {
            (Some(kind @ (GRPC | HTTP)), None) => {
                Some(self.authorizer(kind, declared.get(kind).unwrap_or(&Value::Null))?)
            }
            (Some(other), None) => {
                let field = format!("{}.{}", self.at, other.escape_debug());
                self.rejections.push(
                    self.object
                        .reject(&field, "this kind of provider is not supported; ignored"),
                );
                None
            }
            (_, _) => return Err(self.wrong("", "a provider is of one kind")),
        };
        Ok((name.into(), authorizer))
    }

    fn authorizer(&mut self, kind: &str, declared: &Value) -> Result<Authorizer, Rejection> {
        let at = format!("{}.{kind}", self.at);
        let mut common = declared.clone();
        let mut over_http = Value::Object(serde_json::Map::new());
        if let (Value::Object(fields), Value::Object(own)) = (&mut common, &mut over_http) {
            for field in ["clearRouteCache"] {
                if fields
                    .remove(field)
                    .is_some_and(|value| value != Value::Bool(false))
                {
                    self.rejections
                        .push(self.object.unsupported(&format!("{at}.{field}")));
                }
            }
            if kind == HTTP {
                let taken = HTTP_FIELDS
                    .into_iter()
                    .filter_map(|field| fields.remove_entry(field));
                own.extend(taken);
            }
            fields.retain(|_, value| !value.is_null());
            own.retain(|_, value| !value.is_null());
        }
        let common: Common = self.object.parse_part(&common, &at)?;
        let over_http: OverHttp = self.object.parse_part(&over_http, &at)?;
        let named = |field: &str| format!("{kind}.{field}");
        Ok(Authorizer {
            target: service_target(&common.service)
                .ok_or_else(|| self.wrong(&named("service"), SERVICE_RULE))?,
            port: Some(common.port)
                .filter(|port| *port > 0)
                .ok_or_else(|| self.wrong(&named("port"), "a port is not 0"))?,
            timeout: match &common.timeout {
                None => DEFAULT_TIMEOUT,
                Some(text) => duration(text)
                    .ok_or_else(|| self.wrong(&named("timeout"), "expected seconds such as \"0.5s\""))?,
            },
            on_error: if common.fail_open {
                OnError::Allow
            } else {
                let status = common.status_on_error.as_ref();
                let read = status.map_or(Some(StatusCode::FORBIDDEN), error_status);
                let rule = "expected an HTTP status from 400 to 599";
                OnError::Refuse(read.ok_or_else(|| self.wrong(&named("statusOnError"), rule))?)
            },
            body: common
                .include_request_body_in_check
                .map(|body| self.body(&named("includeRequestBodyInCheck"), &body))
                .transpose()?,
            protocol: match kind {
                GRPC => CheckProtocol::Grpc(GrpcCheck::default()),
                _ => CheckProtocol::Http(Box::new(self.http(kind, over_http)?)),
            },
        })
    }

    fn body(&self, field: &str, declared: &BodyCheck) -> Result<CheckedBody, Rejection> {
        let max_bytes = usize::try_from(declared.max_request_bytes).unwrap_or(usize::MAX);
        if !(1..=MAX_BODY).contains(&max_bytes) {
            let field = format!("{field}.maxRequestBytes");
            return Err(self.wrong(&field, &format!("expected 1 to {MAX_BODY}")));
        }
        Ok(CheckedBody {
            max_bytes,
            allow_partial: declared.allow_partial_message,
            as_bytes: declared.pack_as_bytes,
        })
    }

    fn http(&self, kind: &str, declared: OverHttp) -> Result<HttpCheck, Rejection> {
        let prefix = declared.path_prefix;
        let is_path = prefix.starts_with('/') && !prefix.contains(['?', '#']);
        if !prefix.is_empty() && (!is_path || prefix.parse::<PathAndQuery>().is_err()) {
            return Err(self.wrong(&format!("{kind}.pathPrefix"), "expected the beginning of a path"));
        }
        let names = |field: &str, list: &[String]| -> Result<Vec<NameMatch>, Rejection> {
            let read = list.iter().enumerate();
            read.map(|(index, text)| {
                let rule = "expected the name of a header, `abc*`, `*abc` or `*`";
                name_match(text).ok_or_else(|| self.wrong(&format!("{kind}.{field}[{index}]"), rule))
            })
            .collect()
        };
        let mut request_headers = names(
            "includeRequestHeadersInCheck",
            &declared.include_request_headers_in_check,
        )?;
        request_headers.extend(names(
            "includeHeadersInCheck",
            &declared.include_headers_in_check,
        )?);
        let mut additional_headers = Vec::new();
        for (name, value) in &declared.include_additional_headers_in_check {
            let wrong = || self.wrong(&format!("{kind}.includeAdditionalHeadersInCheck"), "not a header");
            let name = HeaderName::try_from(name).map_err(|_invalid| wrong())?;
            additional_headers.push((name, HeaderValue::try_from(value).map_err(|_invalid| wrong())?));
        }
        Ok(HttpCheck {
            path_prefix: prefix.into(),
            request_headers,
            additional_headers,
            upstream_on_allow: names("headersToUpstreamOnAllow", &declared.headers_to_upstream_on_allow)?,
            downstream_on_allow: names(
                "headersToDownstreamOnAllow",
                &declared.headers_to_downstream_on_allow,
            )?,
            downstream_on_deny: names(
                "headersToDownstreamOnDeny",
                &declared.headers_to_downstream_on_deny,
            )?,
        })
    }

    fn wrong(&self, field: &str, what: &str) -> Rejection {
        let dot = if field.is_empty() { "" } else { "." };
        let field = format!("{}{dot}{field}", self.at);
        self.object.reject(
            &field,
            format!("{what}; the provider is left out, policies that name it refuse"),
        )
    }
}

/// `[NAMESPACE/]HOST`, of which the host is a Service's, or an address. The namespace only tells Services of one name
/// apart, which a whole host name never needs.
pub(in crate::control::translate) fn service_target(text: &str) -> Option<AuthorizerTarget> {
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, text),
    };
    if let Ok(addr) = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
    {
        return Some(AuthorizerTarget::Addr(addr.to_canonical()));
    }
    let mut labels = host.trim_end_matches('.').splitn(3, '.');
    let (name, own) = (labels.next()?, labels.next());
    let is_cluster = labels
        .next()
        .is_none_or(|rest| rest == "svc" || rest.starts_with("svc."));
    let namespace = own.or(namespace)?;
    let is_label = |text: &str| {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(is_allowed)
    };
    (is_cluster && is_label(name) && is_label(namespace))
        .then(|| AuthorizerTarget::Service(ServiceName::new(namespace, name)))
}

/// Protobuf's JSON form.
fn duration(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix('s')?;
    let is_plain = seconds.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let duration = Duration::try_from_secs_f64(seconds.parse().ok().filter(|_| is_plain)?).ok()?;
    (!duration.is_zero() && duration <= MAX_TIMEOUT).then_some(duration)
}

fn error_status(declared: &Value) -> Option<StatusCode> {
    let code = match declared {
        Value::String(text) => text.parse().ok()?,
        Value::Number(number) => u16::try_from(number.as_u64()?).ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (400..600)
        .contains(&code)
        .then(|| StatusCode::from_u16(code).ok())
        .flatten()
}

fn name_match(text: &str) -> Option<NameMatch> {
    let text = text.to_ascii_lowercase();
    let is_part =
        |part: &str| part.is_empty() || HeaderName::try_from(part).is_ok_and(|_| !part.contains('*'));
    if let Some(prefix) = text.strip_suffix('*') {
        is_part(prefix).then(|| NameMatch::Prefix(prefix.into()))
    } else if let Some(suffix) = text.strip_prefix('*') {
        is_part(suffix).then(|| NameMatch::Suffix(suffix.into()))
    } else {
        (!text.is_empty() && is_part(&text)).then(|| NameMatch::Exact(text.as_str().into()))
    }
}

const GRPC: &str = "envoyExtAuthzGrpc";
const HTTP: &str = "envoyExtAuthzHttp";
const HTTP_FIELDS: [&str; 7] = [
    "pathPrefix",
    "includeRequestHeadersInCheck",
    "includeHeadersInCheck",
    "includeAdditionalHeadersInCheck",
    "headersToUpstreamOnAllow",
    "headersToDownstreamOnAllow",
    "headersToDownstreamOnDeny",
];
pub(in crate::control::translate) const SERVICE_RULE: &str =
    "expected the host of a Service, NAME.NAMESPACE.svc.cluster.local, or an address";
/// Istio's own.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(10);
const MAX_TIMEOUT: Duration = Duration::from_hours(1);
/// What one request may make the agent hold.
const MAX_BODY: usize = 1024 * 1024;
