//! One rule of an HTTPRoute: its matches, backends and time limits.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: which Services exist.
//!
//! A rule that holds something that is not supported yet and that decides where requests go or what becomes of
//! them (a query or regular-expression match, a filter, an unknown field) answers every request that it would have
//! matched, or could have, with 500. Retries, session persistence and the time limit of a single attempt are
//! reported and ignored: without them a request goes to the same backends.

use std::time::Duration;

use gateway_api::httproutes::{
    HttpRouteRulesBackendRefs, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType,
    HttpRouteRulesMatchesPathType,
};
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::service::port_number;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{BackendTarget, HeaderMatch, HttpMatch, HttpRule, PathMatch, RouteBackend};
use crate::mesh::service::ServiceName;

pub(super) fn translate(
    object: &Object,
    index: usize,
    rule: &Value,
    rejections: &mut Vec<Rejection>,
) -> Result<HttpRule, Rejection> {
    let mut reading = Rule {
        object,
        at: format!("spec.rules[{index}]"),
        rejections,
        is_refused: false,
    };
    if !rule.is_object() {
        return Err(object.reject(&reading.at, "expected a mapping"));
    }
    for field in unknown_fields(rule, &["name", "matches", "backendRefs", "timeouts"]) {
        let part = rule.get(field).unwrap_or(&Value::Null);
        match field {
            "retry" | "sessionPersistence" => reading.ignore(field),
            "filters" if part.as_array().is_some_and(Vec::is_empty) => {}
            _ => reading.refuse(field),
        }
    }
    let request_timeout = reading.timeouts(rule.get("timeouts").unwrap_or(&Value::Null))?;
    let matches = reading.matches(rule.get("matches"))?;
    let mut backends = reading.backends(rule.get("backendRefs"))?;
    if reading.is_refused {
        backends.clear();
    }
    Ok(HttpRule {
        matches,
        backends,
        request_timeout,
    })
}

/// A rule that is being read.
struct Rule<'a> {
    object: &'a Object,
    /// The rule's path within the object.
    at: String,
    rejections: &'a mut Vec<Rejection>,
    /// Something in it cannot be honoured: it must answer 500.
    is_refused: bool,
}

impl Rule<'_> {
    /// Reports a field without which requests still go where they should.
    fn ignore(&mut self, field: &str) {
        self.rejections
            .push(self.object.unsupported(&format!("{}.{field}", self.at)));
    }

    /// Reports a field without which requests would go astray.
    fn refuse(&mut self, field: &str) {
        self.is_refused = true;
        let field = format!("{}.{field}", self.at);
        self.rejections.push(self.object.reject(
            &field,
            "not supported yet; requests of this rule are answered with 500",
        ));
    }

    fn list<'v>(&self, field: &str, list: Option<&'v Value>) -> Result<&'v [Value], Rejection> {
        match list {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.malformed(field, "expected a list")),
        }
    }

    fn malformed(&self, field: &str, reason: impl Into<String>) -> Rejection {
        self.object.reject(&format!("{}.{field}", self.at), reason)
    }

    fn timeouts(&mut self, part: &Value) -> Result<Option<Duration>, Rejection> {
        for field in unknown_fields(part, &["request"]) {
            self.ignore(&format!("timeouts.{field}"));
        }
        let Some(request) = part.get("request").filter(|request| !request.is_null()) else {
            return Ok(None);
        };
        let invalid = |reason: String| self.malformed("timeouts.request", reason);
        let text = request
            .as_str()
            .ok_or_else(|| invalid("expected a duration such as \"1s500ms\"".to_owned()))?;
        let duration = text.parse::<gateway_api::Duration>().map_err(invalid)?;
        Ok(Some(Duration::new(duration.as_secs(), duration.subsec_nanos())))
    }

    fn matches(&mut self, list: Option<&Value>) -> Result<Vec<HttpMatch>, Rejection> {
        let list = self.list("matches", list)?;
        if list.is_empty() {
            return Ok(vec![HttpMatch {
                path: PathMatch::Prefix("/".into()),
                headers: Vec::new(),
                method: None,
            }]);
        }
        list.iter()
            .enumerate()
            .map(|(index, part)| self.one_match(index, part))
            .collect()
    }

    fn one_match(&mut self, index: usize, part: &Value) -> Result<HttpMatch, Rejection> {
        let at = format!("matches[{index}]");
        let declared: HttpRouteRulesMatches = self.object.parse_part(part, &format!("{}.{at}", self.at))?;
        for field in unknown_fields(part, &["path", "headers", "method", "queryParams"]) {
            self.refuse(&format!("{at}.{field}"));
        }
        if declared.query_params.is_some_and(|params| !params.is_empty()) {
            self.refuse(&format!("{at}.queryParams"));
        }
        let path = declared.path.unwrap_or_default();
        let value = path.value.unwrap_or_else(|| "/".to_owned());
        let path = match path.r#type.unwrap_or(HttpRouteRulesMatchesPathType::PathPrefix) {
            // Whatever the expression matches, this does too: the rule refuses rather than lets pass.
            HttpRouteRulesMatchesPathType::RegularExpression => {
                self.refuse(&format!("{at}.path.type"));
                PathMatch::Prefix("/".into())
            }
            _ if !value.starts_with('/') => {
                return Err(self.malformed(&format!("{at}.path.value"), "a path begins with '/'"));
            }
            HttpRouteRulesMatchesPathType::Exact => PathMatch::Exact(value.into()),
            HttpRouteRulesMatchesPathType::PathPrefix => PathMatch::Prefix(value.into()),
        };
        let mut headers = Vec::new();
        for (index, header) in declared.headers.into_iter().flatten().enumerate() {
            let at = format!("{at}.headers[{index}]");
            if matches!(
                header.r#type,
                Some(HttpRouteRulesMatchesHeadersType::RegularExpression)
            ) {
                self.refuse(&format!("{at}.type"));
                continue;
            }
            let name = HeaderName::try_from(&header.name)
                .map_err(|_| self.malformed(&format!("{at}.name"), "not a header name"))?;
            if HeaderValue::try_from(&header.value).is_err() {
                return Err(self.malformed(
                    &format!("{at}.value"),
                    "holds characters that no header can carry",
                ));
            }
            headers.push(HeaderMatch {
                name: name.as_str().into(),
                value: header.value.into(),
            });
        }
        let method = part.get("method").and_then(Value::as_str).map(Into::into);
        Ok(HttpMatch {
            path,
            headers,
            method,
        })
    }

    fn backends(&mut self, list: Option<&Value>) -> Result<Vec<RouteBackend>, Rejection> {
        let list = self.list("backendRefs", list)?;
        list.iter()
            .enumerate()
            .map(|(index, part)| self.backend(index, part))
            .collect()
    }

    fn backend(&mut self, index: usize, part: &Value) -> Result<RouteBackend, Rejection> {
        let at = format!("backendRefs[{index}]");
        for field in unknown_fields(part, &["group", "kind", "name", "namespace", "port", "weight"]) {
            let is_empty = part
                .get(field)
                .and_then(Value::as_array)
                .is_some_and(Vec::is_empty);
            if !is_empty {
                self.refuse(&format!("{at}.{field}"));
            }
        }
        let mut known = part.clone();
        if let Value::Object(fields) = &mut known {
            // Refused above; filters of kinds that the types do not know must not spoil the route.
            fields.remove("filters");
        }
        let field = format!("{}.{at}", self.at);
        let declared: HttpRouteRulesBackendRefs = self.object.parse_part(&known, &field)?;
        let weight = u32::try_from(declared.weight.unwrap_or(1))
            .map_err(|_| self.malformed(&format!("{at}.weight"), "a weight is not negative"))?;
        let target = self.target(&at, &declared)?;
        Ok(RouteBackend {
            field: field.into(),
            target,
            weight,
        })
    }

    fn target(&mut self, at: &str, declared: &HttpRouteRulesBackendRefs) -> Result<BackendTarget, Rejection> {
        let is_service = declared.kind.as_deref().unwrap_or("Service") == "Service"
            && declared.group.as_deref().unwrap_or_default().is_empty();
        let wrong = if !is_service {
            (
                "kind",
                "only Services can be backends; its share of requests is answered with 500",
            )
        } else if let Some(port) = declared.port {
            let port = port_number(self.object, &format!("{}.{at}.port", self.at), port)?;
            let namespace = declared.namespace.as_deref().unwrap_or(&self.object.namespace);
            return Ok(BackendTarget::Service(
                ServiceName::new(namespace, &declared.name),
                port,
            ));
        } else {
            (
                "port",
                "a Service needs a port; its share of requests is answered with 500",
            )
        };
        self.rejections
            .push(self.malformed(&format!("{at}.{}", wrong.0), wrong.1));
        Ok(BackendTarget::Invalid)
    }
}
