//! What the rules of all kinds of routes have in common: backends, and what becomes of what cannot be honoured.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: which Services exist, how requests are matched.
//!
//! A rule that holds something that is not supported yet and that decides where requests go or what becomes of them
//! answers every request that it would have matched, or could have, with 500. What changes nothing of where requests
//! go is reported and ignored.

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::route_filter;
use super::service::port_number;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{BackendTarget, FieldMatch, InvalidPattern, Pattern, RouteBackend, ValueMatch};
use crate::mesh::service::ServiceName;

/// A rule that is being read.
pub(super) struct Rule<'a> {
    pub(super) object: &'a Object,
    /// The rule's path within the object.
    pub(super) at: String,
    pub(super) rejections: &'a mut Vec<Rejection>,
    /// Something in it cannot be honoured: it must answer 500.
    pub(super) is_refused: bool,
    /// What it sends on.
    pub(super) carried: Carried,
}

/// What a rule sends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// HTTP requests.
    Requests,
    /// Connections, whatever they carry.
    Connections,
}

impl Carried {
    /// What becomes of what a rule matches that cannot be honoured.
    const fn refused(self) -> &'static str {
        match self {
            Self::Requests => "requests of this rule are answered with 500",
            Self::Connections => "connections of this rule are refused",
        }
    }

    /// What becomes of what would go to a backend that cannot be.
    pub(super) const fn lost_share(self) -> &'static str {
        match self {
            Self::Requests => "its share of requests is answered with 500",
            Self::Connections => "its share of connections is refused",
        }
    }
}

/// The part of a `backendRef` that names a Service.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackendRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
    weight: Option<i64>,
}

impl Rule<'_> {
    /// Reports a field without which requests still go where they should.
    pub(super) fn ignore(&mut self, field: &str) {
        self.rejections
            .push(self.object.unsupported(&format!("{}.{field}", self.at)));
    }

    /// Reports a field without which requests would go astray.
    pub(super) fn refuse(&mut self, field: &str) {
        let reason = format!("not supported yet; {}", self.carried.refused());
        self.refuse_because(field, &reason);
    }

    /// Reports a field that makes the whole rule unusable.
    pub(super) fn refuse_because(&mut self, field: &str, reason: &str) {
        self.is_refused = true;
        let rejection = self.malformed(field, reason);
        self.rejections.push(rejection);
    }

    /// A list that may be absent.
    pub(super) fn list<'v>(&self, field: &str, list: Option<&'v Value>) -> Result<&'v [Value], Rejection> {
        match list {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.malformed(field, "expected a list")),
        }
    }

    /// A field that makes the whole route unusable.
    pub(super) fn malformed(&self, field: &str, reason: impl Into<String>) -> Rejection {
        self.object.reject(&format!("{}.{field}", self.at), reason)
    }

    /// An expression, or a report of what is wrong with it.
    pub(super) fn pattern(&self, field: &str, written: &str) -> Result<Pattern, Rejection> {
        Pattern::new(written).map_err(|error: InvalidPattern| self.malformed(field, error.to_string()))
    }

    /// A header match, in which the name has lower case.
    pub(super) fn header(
        &self,
        at: &str,
        name: &str,
        value: &str,
        is_regex: bool,
    ) -> Result<FieldMatch, Rejection> {
        let name = HeaderName::try_from(name)
            .map_err(|_| self.malformed(&format!("{at}.name"), "not a header name"))?;
        if !is_regex && HeaderValue::try_from(value).is_err() {
            return Err(self.malformed(
                &format!("{at}.value"),
                "holds characters that no header can carry",
            ));
        }
        Ok(FieldMatch {
            name: name.as_str().into(),
            value: self.value(at, value, is_regex)?,
        })
    }

    /// What a value must be.
    pub(super) fn value(&self, at: &str, value: &str, is_regex: bool) -> Result<ValueMatch, Rejection> {
        if is_regex {
            Ok(ValueMatch::Regex(self.pattern(&format!("{at}.value"), value)?))
        } else {
            Ok(ValueMatch::Exact(value.into()))
        }
    }

    pub(super) fn backends(&mut self, list: Option<&Value>) -> Result<Vec<RouteBackend>, Rejection> {
        let list = self.list("backendRefs", list)?;
        list.iter()
            .enumerate()
            .map(|(index, part)| self.backend(index, part))
            .collect()
    }

    fn backend(&mut self, index: usize, part: &Value) -> Result<RouteBackend, Rejection> {
        let at = format!("backendRefs[{index}]");
        let known = ["group", "kind", "name", "namespace", "port", "weight", "filters"];
        for field in unknown_fields(part, &known) {
            self.refuse(&format!("{at}.{field}"));
        }
        let field = format!("{}.{at}", self.at);
        let declared: BackendRef = self.object.parse_part(part, &field)?;
        let weight = u32::try_from(declared.weight.unwrap_or(1))
            .map_err(|_| self.malformed(&format!("{at}.weight"), "a weight is not negative"))?;
        let target = self.target(&at, &declared, self.carried.lost_share())?;
        let filters = route_filter::of_backend(self, &at, part.get("filters"))?;
        Ok(RouteBackend {
            field: field.into(),
            target,
            weight,
            filters,
        })
    }

    /// The target of a reference at `at`, which has been read as far as a type goes; one that cannot be is reported with
    /// its consequence.
    fn target(&mut self, at: &str, declared: &BackendRef, so: &str) -> Result<BackendTarget, Rejection> {
        let is_service = declared.kind.as_deref().unwrap_or("Service") == "Service"
            && declared.group.as_deref().unwrap_or_default().is_empty();
        let wrong = if !is_service {
            ("kind", "only Services can be backends")
        } else if let Some(port) = declared.port {
            let port = port_number(self.object, &format!("{}.{at}.port", self.at), port)?;
            let namespace = declared.namespace.as_deref().unwrap_or(&self.object.namespace);
            return Ok(BackendTarget::Service(
                ServiceName::new(namespace, &declared.name),
                port,
            ));
        } else {
            ("port", "a Service needs a port")
        };
        self.rejections
            .push(self.malformed(&format!("{at}.{}", wrong.0), format!("{}; {so}", wrong.1)));
        Ok(BackendTarget::Invalid)
    }

    /// The target of a reference that is no backend, a mirror's for instance; `so` is what becomes of one that cannot be.
    pub(super) fn reference(&mut self, at: &str, part: &Value, so: &str) -> Result<BackendTarget, Rejection> {
        let declared: BackendRef = self.object.parse_part(part, &format!("{}.{at}", self.at))?;
        self.target(at, &declared, so)
    }
}
