//! One rule of `http` of a VirtualService, or the rules of another VirtualService to which it delegates.
//!
//! Place in the walk: part of [`super`]. Must not know: endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::object::{Object, unknown_fields};
use super::super::route_rule::{Carried, Rule};
use super::text::{duration_at, part};
use super::{answer, cors, destination, fault, headers, http_match, is_absent, service_of, texts};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{HttpMatch, HttpRule, RetryPolicy, RuleAction};
use crate::mesh::service::{Service, ServiceName};

/// What the rules of one VirtualService refer to.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) services: HashMap<&'a ServiceName, &'a Service>,
    /// Hosts of ServiceEntries, those of one name by namespace.
    pub(super) hosts: BTreeMap<&'a str, Vec<&'a Service>>,
    /// VirtualServices without hosts, by namespace and name.
    pub(super) delegates: HashMap<(&'a str, &'a str), &'a Object>,
}

impl Context<'_> {
    /// The Service that a host names where `namespace` names it: that of a ServiceEntry that is exported there, of the own
    /// namespace first, or `NAME` and what may follow it.
    pub(super) fn service_of(&self, host: &str, namespace: &str) -> Option<ServiceName> {
        let host = host.to_ascii_lowercase();
        let own = ServiceName::new(namespace, &host);
        if own.is_host() && self.services.contains_key(&own) {
            return Some(own);
        }
        let mut elsewhere = self.hosts.get(host.as_str()).into_iter().flatten();
        let exported = elsewhere.find(|service| service.traffic.exported_to.reaches(namespace));
        exported
            .map(|service| service.name.clone())
            .or_else(|| service_of(&host, namespace))
    }
}

/// The rules that one rule stands for: itself, or those of its delegate.
pub(super) fn translate(
    object: &Object,
    at: &str,
    rule: &Value,
    context: &Context<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<HttpRule>, Rejection> {
    let Some(delegate) = part(rule, "delegate") else {
        return Ok(vec![one(object, at, rule, context, rejections)?]);
    };
    let mut reading = reading(object, at, rejections);
    let matches = http_match::matches(&mut reading, rule.get("match"))?;
    let found = delegated(&mut reading, rule, delegate, context);
    let Some((other, rules)) = found.filter(|_| !reading.is_refused) else {
        return Ok(vec![HttpRule {
            name: name_of(rule),
            matches,
            ..HttpRule::default()
        }]);
    };
    let mut translated = Vec::new();
    for (index, of_delegate) in rules.iter().enumerate() {
        let at = format!("spec.http[{index}]");
        let merged = merged(rule, of_delegate);
        let of_delegate = one(other, &at, &merged, context, rejections)?;
        translated.push(HttpRule {
            matches: crossed(&matches, &of_delegate.matches),
            ..of_delegate
        });
    }
    Ok(translated)
}

fn reading<'a>(object: &'a Object, at: &str, rejections: &'a mut Vec<Rejection>) -> Rule<'a> {
    Rule {
        object,
        at: at.to_owned(),
        rejections,
        is_refused: false,
        carried: Carried::Requests,
    }
}

fn name_of(rule: &Value) -> Option<Arc<str>> {
    rule.get("name").and_then(Value::as_str).map(Into::into)
}

/// The VirtualService that a rule names, and its rules; what is wrong with it is reported.
fn delegated<'a>(
    reading: &mut Rule<'_>,
    rule: &Value,
    delegate: &Value,
    context: &Context<'a>,
) -> Option<(&'a Object, &'a Vec<Value>)> {
    if ["route", "redirect", "directResponse"]
        .into_iter()
        .any(|field| !is_absent(rule.get(field)))
    {
        reading.refuse_because(
            "delegate",
            "a rule that delegates has no route, redirect or directResponse",
        );
        return None;
    }
    let name = delegate.get("name").and_then(Value::as_str).unwrap_or_default();
    let own = &*reading.object.namespace;
    let namespace = delegate.get("namespace").and_then(Value::as_str);
    let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(own);
    let Some(other) = context.delegates.get(&(namespace, name)).copied() else {
        let reason = format!(
            "there is no VirtualService {namespace}/{name} without hosts; requests of this rule are answered with 500"
        );
        reading.refuse_because("delegate", &reason);
        return None;
    };
    let exported = texts(other, other.spec(), "spec", "exportTo").ok().flatten();
    let is_exported = exported.is_none_or(|to| {
        to.is_empty() || to.contains(&"*") || to.contains(&own) || (to.contains(&".") && namespace == own)
    });
    if !is_exported {
        reading.refuse_because("delegate", "it is not exported to this namespace");
        return None;
    }
    let rules = other.spec().get("http").and_then(Value::as_array);
    if rules.is_none() {
        reading.refuse_because("delegate", "it has no http rules");
    }
    Some((other, rules?))
}

/// A delegate's rule with what it leaves open taken from the rule that delegates.
fn merged(root: &Value, of_delegate: &Value) -> Value {
    let mut merged = of_delegate.clone();
    if let Some(fields) = merged.as_object_mut() {
        for field in INHERITED {
            if fields.get(field).is_none_or(Value::is_null)
                && let Some(value) = root.get(field)
            {
                fields.insert(field.to_owned(), value.clone());
            }
        }
    }
    merged
}

/// Each match of a delegate together with each of its root's: both must hold.
fn crossed(root: &[HttpMatch], of_delegate: &[HttpMatch]) -> Vec<HttpMatch> {
    let pairs = root
        .iter()
        .flat_map(|root| of_delegate.iter().map(move |delegate| (root, delegate)));
    pairs
        .map(|(root, delegate)| {
            let mut further = delegate.further.as_deref().cloned().unwrap_or_default();
            further.root = Some(root.clone());
            HttpMatch {
                further: Some(Arc::new(further)),
                ..delegate.clone()
            }
        })
        .collect()
}

/// A rule that does not delegate.
fn one(
    object: &Object,
    at: &str,
    rule: &Value,
    context: &Context<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<HttpRule, Rejection> {
    let mut reading = reading(object, at, rejections);
    let reading = &mut reading;
    if !rule.is_object() {
        return Err(object.reject(at, "expected a mapping"));
    }
    for field in unknown_fields(rule, &KNOWN) {
        reading.refuse(field);
    }
    if part(rule, "delegate").is_some() {
        reading.refuse_because("delegate", "a delegate cannot delegate");
    }
    let matches = http_match::matches(reading, rule.get("match"))?;
    let mut filters = headers::filters(reading, "headers", part(rule, "headers"))?;
    if let Some(rewrite) = part(rule, "rewrite") {
        answer::rewrite(reading, rewrite, &mut filters.rewrite)?;
    }
    filters.mirrors = destination::mirrors(reading, rule, context)?;
    let action = action(reading, rule, context)?;
    let (retry, attempt_timeout) = retries(reading, part(rule, "retries"))?;
    let mut translated = HttpRule {
        name: name_of(rule),
        matches,
        filters,
        cors: cors::cors(reading, part(rule, "corsPolicy"))?,
        fault: fault::fault(reading, part(rule, "fault"))?,
        action,
        request_timeout: duration_at(reading, "timeout", part(rule, "timeout"))?,
        retry,
        session: None,
        attempt_timeout,
    };
    if reading.is_refused {
        translated.action = RuleAction::Forward(Vec::new());
        translated.cors = None;
    }
    Ok(translated)
}

/// One of `redirect`, `directResponse` and `route`.
fn action(reading: &mut Rule<'_>, rule: &Value, context: &Context<'_>) -> Result<RuleAction, Rejection> {
    let written = ["redirect", "directResponse", "route"].map(|field| !is_absent(rule.get(field)));
    let [redirects, responds, _] = written;
    if written.into_iter().filter(|is_there| *is_there).count() != 1 {
        reading.refuse_because(
            "route",
            "a rule has one of route, redirect, directResponse and delegate",
        );
        return Ok(RuleAction::Forward(Vec::new()));
    }
    let of = |field| rule.get(field).unwrap_or(&Value::Null);
    Ok(if redirects {
        RuleAction::Redirect(answer::redirect(reading, of("redirect"))?)
    } else if responds {
        RuleAction::Respond(answer::direct_response(reading, of("directResponse"))?)
    } else {
        RuleAction::Forward(destination::routes(reading, rule.get("route"), context)?)
    })
}

/// `retries`, and the limit of each attempt. Without the field nothing is tried again: Istio's two attempts by default
/// are the mesh's setting there, not the object's.
fn retries(
    rule: &mut Rule<'_>,
    written: Option<&Value>,
) -> Result<(Option<RetryPolicy>, Option<Duration>), Rejection> {
    let Some(written) = written else {
        return Ok((None, None));
    };
    for field in unknown_fields(written, &RETRIES) {
        rule.ignore(&format!("retries.{field}"));
    }
    let attempts = match part(written, "attempts") {
        None => 0,
        Some(attempts) => attempts
            .as_u64()
            .and_then(|attempts| u32::try_from(attempts).ok())
            .ok_or_else(|| rule.malformed("retries.attempts", "expected a number from 0 on"))?,
    };
    let limit = duration_at(rule, "retries.perTryTimeout", part(written, "perTryTimeout"))?;
    let backoff = duration_at(rule, "retries.backoff", part(written, "backoff"))?;
    if attempts == 0 {
        return Ok((None, limit));
    }
    let words = part(written, "retryOn")
        .and_then(Value::as_str)
        .filter(|words| !words.is_empty());
    let (on, unknown) = RetryPolicy::read_words(words.unwrap_or(DEFAULT_RETRY_ON));
    for word in unknown {
        let reason = format!("{word:?} is no reason that is known; ignored");
        let rejection = rule.malformed("retries.retryOn", reason);
        rule.rejections.push(rejection);
    }
    let is = |field| part(written, field).and_then(Value::as_bool);
    let policy = RetryPolicy {
        attempts,
        on,
        backoff: backoff.unwrap_or(DEFAULT_BACKOFF),
        least_pause: Duration::ZERO,
        avoids_previous: is("retryIgnorePreviousHosts").unwrap_or(true),
        leaves_localities: is("retryRemoteLocalities").unwrap_or(false),
    };
    Ok((Some(policy), limit))
}

const KNOWN: [&str; 15] = [
    "name",
    "match",
    "route",
    "redirect",
    "directResponse",
    "delegate",
    "rewrite",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirrorPercentage",
    "corsPolicy",
    "headers",
];
/// What a delegate's rule takes from its root where it says nothing itself.
const INHERITED: [&str; 9] = [
    "rewrite",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirrorPercentage",
    "corsPolicy",
    "headers",
];
const RETRIES: [&str; 6] = [
    "attempts",
    "perTryTimeout",
    "retryOn",
    "backoff",
    "retryIgnorePreviousHosts",
    "retryRemoteLocalities",
];
/// Istio's, for a policy that names no reasons.
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// Istio's.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
