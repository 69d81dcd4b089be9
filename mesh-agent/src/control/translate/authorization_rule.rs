//! One rule of an AuthorizationPolicy: its sources, operations and conditions.
//!
//! Place in the walk: part of [`super::authorization_policy`]. Must not know: workloads, Services.
//!
//! A field that is wrong or not supported becomes [`Condition::Unknowable`]: no part of a rule is ever dropped so that
//! an ALLOW rule would let more in, or a DENY rule less out.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use super::object::{Object, unknown_fields};
use crate::mesh::exclusions::Cidr;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::{
    AddressAttribute, Condition, PolicyAction, PolicyRule, Segment, TextAttribute, TextMatch, Values,
};

/// A policy whose rules are being read.
pub(super) struct Reading<'a> {
    pub(super) object: &'a Object,
    /// Of this mesh; `cluster.local` in a principal means it, as in Istio.
    pub(super) trust_domain: &'a str,
    pub(super) action: PolicyAction,
    pub(super) rejections: &'a mut Vec<Rejection>,
}

/// What is asked for under a field.
#[derive(Debug, Clone)]
enum Asks {
    Text(TextAttribute),
    Address(AddressAttribute),
    Port,
}

impl Reading<'_> {
    pub(super) fn rule(&mut self, at: &str, rule: &Value) -> PolicyRule {
        let mut read = PolicyRule::default();
        if !rule.is_object() {
            read.when.push(self.wrong(at, "expected a mapping"));
            return read;
        }
        for field in unknown_fields(rule, &["from", "to", "when"]) {
            read.when
                .push(self.wrong(&format!("{at}.{field}"), "is not a field of a rule"));
        }
        read.from = self.alternatives(&format!("{at}.from"), rule.get("from"), "source", &SOURCE);
        read.to = self.alternatives(&format!("{at}.to"), rule.get("to"), "operation", &OPERATION);
        let conditions = self.list(&format!("{at}.when"), rule.get("when"));
        match conditions {
            Ok(conditions) => {
                for (index, condition) in conditions.iter().enumerate() {
                    let read_condition = self.when(&format!("{at}.when[{index}]"), condition);
                    read.when.push(read_condition);
                }
            }
            Err(unknowable) => read.when.push(unknowable),
        }
        read
    }

    /// `from` or `to`: each item wraps one mapping of fields.
    fn alternatives(
        &mut self,
        at: &str,
        list: Option<&Value>,
        wrapper: &str,
        known: &[(&str, &str, Asks)],
    ) -> Vec<Vec<Condition>> {
        let items = match self.list(at, list) {
            Ok(items) => items,
            Err(unknowable) => return vec![vec![unknowable]],
        };
        let mut alternatives = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let mut conditions = Vec::new();
            for field in unknown_fields(item, &[wrapper]) {
                conditions.push(self.wrong(&format!("{at}.{field}"), &format!("write {wrapper}")));
            }
            let at = format!("{at}.{wrapper}");
            match item.get(wrapper) {
                Some(Value::Object(fields)) if !fields.is_empty() => {
                    let part = item.get(wrapper).unwrap_or(&Value::Null);
                    conditions.append(&mut self.conditions(&at, part, known));
                }
                Some(_) | None => conditions.push(self.wrong(&at, "must not be empty")),
            }
            alternatives.push(conditions);
        }
        alternatives
    }

    fn conditions(&mut self, at: &str, part: &Value, known: &[(&str, &str, Asks)]) -> Vec<Condition> {
        let names: Vec<&str> = known.iter().flat_map(|(any, none, _)| [*any, *none]).collect();
        let mut conditions = Vec::new();
        for field in unknown_fields(part, &names) {
            conditions.push(self.wrong(&format!("{at}.{field}"), "is not supported"));
        }
        for (any, none, asks) in known {
            if part.get(any).is_some() || part.get(none).is_some() {
                conditions.push(self.condition(at, part, [any, none], asks));
            }
        }
        let has = |field: &str| part.get(field).is_some();
        if has("serviceAccounts") && (has("principals") || has("namespaces")) {
            conditions.push(self.wrong(
                &format!("{at}.serviceAccounts"),
                "cannot be combined with principals or namespaces",
            ));
        }
        conditions
    }

    fn when(&mut self, at: &str, part: &Value) -> Condition {
        if let Some(field) = unknown_fields(part, &["key", "values", "notValues"]).next() {
            return self.wrong(&format!("{at}.{field}"), "is not a field of a condition");
        }
        let Some(key) = part.get("key").and_then(Value::as_str) else {
            return self.wrong(&format!("{at}.key"), "expected a key");
        };
        if part.get("values").is_none() && part.get("notValues").is_none() {
            return self.wrong(at, "needs values or notValues");
        }
        match asked_by(key) {
            Some(asks) => self.condition(at, part, ["values", "notValues"], &asks),
            None => self.wrong(&format!("{at}.key"), "is not supported"),
        }
    }

    fn condition(&mut self, at: &str, part: &Value, fields: [&str; 2], asks: &Asks) -> Condition {
        let mut lists = [Vec::new(), Vec::new()];
        for (field, list) in fields.into_iter().zip(&mut lists) {
            let at = format!("{at}.{field}");
            match self.list(&at, part.get(field)) {
                Ok(items) => {
                    for (index, item) in items.iter().enumerate() {
                        match item.as_str().filter(|text| !text.is_empty()) {
                            Some(text) => list.push((format!("{at}[{index}]"), text)),
                            None => return self.wrong(&format!("{at}[{index}]"), "expected a text"),
                        }
                    }
                }
                Err(unknowable) => return unknowable,
            }
        }
        let lists = lists.each_ref().map(Vec::as_slice);
        let read = match asks {
            Asks::Port => values(lists, port).map(Condition::Port),
            Asks::Address(of) => values(lists, block).map(|values| Condition::Address { of: *of, values }),
            Asks::Text(of) => values(lists, |text| self.text(of, text)).map(|values| Condition::Text {
                of: of.clone(),
                values,
            }),
        };
        read.unwrap_or_else(|(at, reason)| self.wrong(&at, &reason))
    }

    fn text(&self, of: &TextAttribute, text: &str) -> Result<TextMatch, String> {
        match of {
            TextAttribute::Principal => {
                let text = text.strip_prefix("spiffe://").unwrap_or(text);
                Ok(match text.strip_prefix("cluster.local/") {
                    Some(path) => matching(&format!("{}/{path}", self.trust_domain)),
                    None => matching(text),
                })
            }
            TextAttribute::Host => Ok(matching(&text.trim_end_matches('.').to_ascii_lowercase())),
            TextAttribute::Path if text.contains("{*}") || text.contains("{**}") => template(text),
            TextAttribute::ServiceAccount => service_account(&self.object.namespace, text),
            TextAttribute::Path
            | TextAttribute::Method
            | TextAttribute::Namespace
            | TextAttribute::TrustDomain
            | TextAttribute::Header(_)
            | TextAttribute::RequestPrincipal
            | TextAttribute::Audience
            | TextAttribute::Presenter
            | TextAttribute::Claim(_) => Ok(matching(text)),
        }
    }

    /// A list that is absent, or holds something: an empty one would widen what its author meant to narrow.
    fn list<'v>(&mut self, at: &str, list: Option<&'v Value>) -> Result<&'v [Value], Condition> {
        match list {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(items)) if !items.is_empty() => Ok(items),
            Some(_) => Err(self.wrong(at, "expected a list that is not empty")),
        }
    }

    fn wrong(&mut self, field: &str, reason: &str) -> Condition {
        let effect = match self.action {
            PolicyAction::Allow => "the rule never matches",
            PolicyAction::Custom | PolicyAction::Deny | PolicyAction::Audit => {
                "the rule matches as if it did not ask for it"
            }
        };
        self.rejections
            .push(self.object.reject(field, format!("{reason}; {effect}")));
        Condition::Unknowable
    }
}

type Wrong = (String, String);

fn values<T>(
    [any, none]: [&[(String, &str)]; 2],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Values<T>, Wrong> {
    let all = |list: &[(String, &str)]| {
        let read_one = |(at, text): &(String, &str)| read(text).map_err(|reason| (at.clone(), reason));
        list.iter().map(read_one).collect::<Result<Vec<T>, Wrong>>()
    };
    Ok(Values {
        any: all(any)?,
        none: all(none)?,
    })
}

fn matching(text: &str) -> TextMatch {
    if text == "*" {
        TextMatch::Present
    } else if let Some(suffix) = text.strip_prefix('*') {
        TextMatch::Suffix(suffix.into())
    } else if let Some(prefix) = text.strip_suffix('*') {
        TextMatch::Prefix(prefix.into())
    } else {
        TextMatch::Exact(text.into())
    }
}

fn template(text: &str) -> Result<TextMatch, String> {
    let segments: Vec<Segment> = text
        .split('/')
        .map(|part| match part {
            "{*}" => Ok(Segment::One),
            "{**}" => Ok(Segment::Rest),
            literal if literal.contains(['{', '}', '*']) => Err(
                "{*} and {**} stand for whole segments, and no other wildcard may stand beside them"
                    .to_owned(),
            ),
            literal => Ok(Segment::Literal(literal.into())),
        })
        .collect::<Result<_, _>>()?;
    if segments
        .iter()
        .filter(|segment| **segment == Segment::Rest)
        .count()
        > 1
    {
        return Err("{**} may stand once".to_owned());
    }
    if !text.starts_with('/') {
        return Err("a path begins with '/'".to_owned());
    }
    Ok(TextMatch::Template(segments.into()))
}

/// `NAME` is one of the policy's own namespace.
fn service_account(namespace: &str, text: &str) -> Result<TextMatch, String> {
    if text.contains('*') {
        return Err("a service account is named in full".to_owned());
    }
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [name] => Ok(TextMatch::Exact(format!("{namespace}/{name}").into())),
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => Ok(TextMatch::Exact(text.into())),
        _ => Err("write NAMESPACE/NAME or NAME".to_owned()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| *port != 0 && is_number);
    port.ok_or_else(|| "not a port between 1 and 65535".to_owned())
}

/// One address or a block; as in Envoy bits behind the prefix do not count.
pub(super) fn block(text: &str) -> Result<Cidr, String> {
    let wrong = || "write ADDRESS or ADDRESS/BITS".to_owned();
    match text.split_once('/') {
        None => text
            .parse::<IpAddr>()
            .map(Cidr::of_host)
            .map_err(|_invalid| wrong()),
        Some((addr, bits)) => {
            let addr: IpAddr = addr.parse().map_err(|_invalid| wrong())?;
            let bits: u8 = bits.parse().map_err(|_invalid| wrong())?;
            Cidr::round(addr, bits).ok_or_else(wrong)
        }
    }
}

/// What a key of `when` asks for; `None` when this agent cannot tell.
fn asked_by(key: &str) -> Option<Asks> {
    let asks = match key {
        "source.ip" => Asks::Address(AddressAttribute::Source),
        "remote.ip" => Asks::Address(AddressAttribute::Remote),
        "destination.ip" => Asks::Address(AddressAttribute::Destination),
        "destination.port" => Asks::Port,
        "source.principal" => Asks::Text(TextAttribute::Principal),
        "source.namespace" => Asks::Text(TextAttribute::Namespace),
        "source.serviceAccount" => Asks::Text(TextAttribute::ServiceAccount),
        "source.trustDomain" => Asks::Text(TextAttribute::TrustDomain),
        "request.auth.principal" => Asks::Text(TextAttribute::RequestPrincipal),
        "request.auth.audiences" => Asks::Text(TextAttribute::Audience),
        "request.auth.presenter" => Asks::Text(TextAttribute::Presenter),
        _ => Asks::Text(header(key).or_else(|| claim(key))?),
    };
    Some(asks)
}

/// `request.auth.claims[outer][inner]`.
fn claim(key: &str) -> Option<TextAttribute> {
    let path = key.strip_prefix("request.auth.claims[")?.strip_suffix(']')?;
    let names = path.split("][").map(|name| {
        let is_name = !name.is_empty() && !name.contains(['[', ']']);
        is_name.then(|| Arc::from(name))
    });
    names
        .collect::<Option<Vec<_>>>()
        .map(|names| TextAttribute::Claim(names.into()))
}

fn header(key: &str) -> Option<TextAttribute> {
    let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?;
    match name.to_ascii_lowercase().as_str() {
        ":authority" | "host" => Some(TextAttribute::Host),
        ":method" => Some(TextAttribute::Method),
        name => {
            let name = HeaderName::try_from(name).ok()?;
            Some(TextAttribute::Header(Arc::from(name.as_str())))
        }
    }
}

const SOURCE: [(&str, &str, Asks); 7] = [
    (
        "principals",
        "notPrincipals",
        Asks::Text(TextAttribute::Principal),
    ),
    (
        "requestPrincipals",
        "notRequestPrincipals",
        Asks::Text(TextAttribute::RequestPrincipal),
    ),
    (
        "namespaces",
        "notNamespaces",
        Asks::Text(TextAttribute::Namespace),
    ),
    (
        "serviceAccounts",
        "notServiceAccounts",
        Asks::Text(TextAttribute::ServiceAccount),
    ),
    (
        "trustDomains",
        "notTrustDomains",
        Asks::Text(TextAttribute::TrustDomain),
    ),
    ("ipBlocks", "notIpBlocks", Asks::Address(AddressAttribute::Source)),
    (
        "remoteIpBlocks",
        "notRemoteIpBlocks",
        Asks::Address(AddressAttribute::Remote),
    ),
];

const OPERATION: [(&str, &str, Asks); 4] = [
    ("hosts", "notHosts", Asks::Text(TextAttribute::Host)),
    ("ports", "notPorts", Asks::Port),
    ("methods", "notMethods", Asks::Text(TextAttribute::Method)),
    ("paths", "notPaths", Asks::Text(TextAttribute::Path)),
];
