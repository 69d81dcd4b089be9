//! `RateLimitPolicy` (mesh-agent.dev): how many requests workloads take, and of whom.
//!
//! Place in the walk: becomes the limits of workloads. Must not know: which workloads exist, how requests are counted.
//!
//! A policy that is wrong in any field is left out whole and limits nothing: it protects availability, and a limit that
//! nobody meant could take that away. Security policies do the opposite (ADR 0013).

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
pub(super) mod tests;
mod written;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use self::written::{FailureMode, PartKind, PathKind, ValueKind};
use super::authorization_policy::{DRY_RUN, is_dry_run};
use super::mesh_config::{SERVICE_RULE, service_target};
use super::object::Object;
use super::{duration, policy_target};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::policy::rate_limit::{
    DescriptorEntry, DescriptorValue, GlobalLimit, KeyPart, LimitMatch, LimitPath, LocalLimit, RateLimit,
    RateLimitPolicy,
};
use crate::mesh::route::{Pattern, ValueMatch};

/// Nothing of a policy that cannot be read counts.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<RateLimitPolicy, Rejection> {
    read(object, rejections).map_err(|rejection| Rejection {
        reason: format!(
            "{}; until this is right, the policy limits nothing",
            rejection.reason
        ),
        ..rejection
    })
}

fn read(object: &Object, rejections: &mut Vec<Rejection>) -> Result<RateLimitPolicy, Rejection> {
    let spec: written::Spec = object.parse_part(object.spec(), "spec")?;
    let target = target(object, rejections)?;
    let is_dry_run = is_dry_run(object, rejections);
    if !(1..=MAX_LIMITS).contains(&spec.limits.len()) {
        return Err(object.reject("spec.limits", format!("expected 1 to {MAX_LIMITS} limits")));
    }
    let mut limits = Vec::with_capacity(spec.limits.len());
    for (index, limit) in spec.limits.into_iter().enumerate() {
        let at = format!("spec.limits[{index}]");
        if is_dry_run && limit.global.is_some() {
            let reason = format!("{DRY_RUN}: a service is asked in earnest or not at all; it is not asked");
            rejections.push(object.reject(&format!("{at}.global"), reason));
        }
        limits.push(Reading { object, at }.limit(limit)?);
    }
    Ok(RateLimitPolicy {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        target,
        limits,
        grpc_status: spec.grpc_status.map(Into::into).unwrap_or_default(),
        is_dry_run,
    })
}

fn target(object: &Object, rejections: &mut Vec<Rejection>) -> Result<PolicyTarget, Rejection> {
    let read = policy_target::Reading::of(object);
    if let Some((field, what)) = read.wrong.first() {
        return Err(object.reject(field, what.as_str()));
    }
    rejections.extend(read.reports);
    Ok(read.target)
}

/// A limit that is being read.
struct Reading<'a> {
    object: &'a Object,
    at: String,
}

impl Reading<'_> {
    fn limit(&self, limit: written::Limit) -> Result<RateLimit, Rejection> {
        if limit.local.is_none() && limit.global.is_none() {
            return Err(self.wrong("local", "a limit is local, global, or both"));
        }
        let parts = limit.key.unwrap_or_default();
        if limit.local.is_none() && !parts.is_empty() {
            return Err(self.wrong("key", "a key belongs to a local limit"));
        }
        if parts.len() > MAX_PARTS {
            return Err(self.wrong("key", &format!("expected at most {MAX_PARTS} parts")));
        }
        let mut key = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            key.push(self.part(&format!("key[{index}]"), part)?);
        }
        Ok(RateLimit {
            of: self.of(limit.r#match.unwrap_or_default())?,
            local: limit.local.map(|local| self.local(&local, &key)).transpose()?,
            global: limit
                .global
                .map(|global| self.global(global).map(Arc::new))
                .transpose()?,
            key,
        })
    }

    fn of(&self, written: written::Match) -> Result<LimitMatch, Rejection> {
        let path = written.path.map(|path| self.path(path)).transpose()?;
        let method = written.method.map(|method| {
            let is_token = Method::from_bytes(method.as_bytes()).is_ok() && method == method.to_uppercase();
            let wrong = || self.wrong("match.method", "expected a method in upper case");
            is_token.then(|| Arc::from(method)).ok_or_else(wrong)
        });
        let mut headers = Vec::new();
        for (index, header) in written.headers.into_iter().flatten().enumerate() {
            headers.push(self.header(&format!("match.headers[{index}]"), header)?);
        }
        Ok(LimitMatch {
            path,
            method: method.transpose()?,
            headers,
        })
    }

    fn path(&self, written: written::Path) -> Result<LimitPath, Rejection> {
        if !written.value.starts_with('/') {
            return Err(self.wrong("match.path.value", "a path begins with a slash"));
        }
        let value = Arc::from(written.value);
        Ok(match written.r#type {
            PathKind::Exact => LimitPath::Exact(value),
            PathKind::PathPrefix => LimitPath::Prefix(value),
        })
    }

    fn header(&self, at: &str, written: written::Header) -> Result<(HeaderName, ValueMatch), Rejection> {
        let name = self.header_name(&format!("{at}.name"), &written.name)?;
        let at = format!("{at}.value");
        let value = match (written.r#type, written.value) {
            (ValueKind::Present, None) => ValueMatch::Present,
            (ValueKind::Present, Some(_)) => {
                return Err(self.wrong(&at, "Present asks for no value"));
            }
            (_, None) => return Err(self.wrong(&at, "expected a value")),
            (ValueKind::Exact, Some(value)) => ValueMatch::Exact(value.into()),
            (ValueKind::Prefix, Some(value)) => ValueMatch::Prefix(value.into()),
            (ValueKind::RegularExpression, Some(value)) => {
                let pattern = Pattern::new(&value);
                ValueMatch::Regex(pattern.map_err(|error| self.wrong(&at, &error.to_string()))?)
            }
        };
        Ok((name, value))
    }

    fn local(&self, written: &written::Local, key: &[KeyPart]) -> Result<LocalLimit, Rejection> {
        let burst = written.burst.unwrap_or(written.requests);
        for (field, value) in [("requests", written.requests), ("burst", burst)] {
            if value.get() > MAX_TOKENS {
                return Err(self.wrong(
                    &format!("local.{field}"),
                    &format!("expected at most {MAX_TOKENS}"),
                ));
            }
        }
        if written.divided && key.is_empty() {
            return Err(self.wrong("local.divided", "needs a key that tells callers apart"));
        }
        if written.divided && burst.get() < LEAST_DIVIDED {
            return Err(self.wrong("local.burst", "half of it is kept for newcomers: at least 2"));
        }
        Ok(LocalLimit {
            requests: written.requests,
            unit: written.unit.into(),
            burst,
            is_divided: written.divided,
        })
    }

    fn global(&self, written: written::Global) -> Result<GlobalLimit, Rejection> {
        let target =
            service_target(&written.service).ok_or_else(|| self.wrong("global.service", SERVICE_RULE))?;
        if written.port == 0 {
            return Err(self.wrong("global.port", "a port is not 0"));
        }
        if written.domain.is_empty() {
            return Err(self.wrong("global.domain", "a domain is not empty"));
        }
        let timeout = written
            .timeout
            .as_deref()
            .map_or(Some(DEFAULT_TIMEOUT), duration::parse);
        let timeout = timeout.filter(|timeout| (LEAST_TIMEOUT..=MAX_TIMEOUT).contains(timeout));
        if !(1..=MAX_PARTS).contains(&written.descriptors.len()) {
            let rule = format!("expected 1 to {MAX_PARTS} descriptors");
            return Err(self.wrong("global.descriptors", &rule));
        }
        let mut descriptors = Vec::with_capacity(written.descriptors.len());
        for (index, descriptor) in written.descriptors.into_iter().enumerate() {
            descriptors.push(self.descriptor(&format!("global.descriptors[{index}].entries"), descriptor)?);
        }
        Ok(GlobalLimit {
            target,
            port: written.port,
            domain: written.domain.into(),
            descriptors,
            timeout: timeout.ok_or_else(|| {
                self.wrong(
                    "global.timeout",
                    "expected a duration such as \"20ms\", from 1ms to 1m",
                )
            })?,
            fails_open: written.failure_mode == FailureMode::Open,
        })
    }

    fn descriptor(&self, at: &str, written: written::Descriptor) -> Result<Vec<DescriptorEntry>, Rejection> {
        if !(1..=MAX_PARTS).contains(&written.entries.len()) {
            return Err(self.wrong(at, &format!("expected 1 to {MAX_PARTS} entries")));
        }
        let mut entries = Vec::with_capacity(written.entries.len());
        for (index, entry) in written.entries.into_iter().enumerate() {
            let at = format!("{at}[{index}]");
            if entry.key.is_empty() {
                return Err(self.wrong(&format!("{at}.key"), "a key is not empty"));
            }
            let value = match (entry.value, entry.from) {
                (Some(value), None) if !value.is_empty() => DescriptorValue::Fixed(value.into()),
                (None, Some(part)) => DescriptorValue::Of(self.part(&format!("{at}.from"), part)?),
                (_, _) => return Err(self.wrong(&at, "an entry has a value that is not empty, or a from")),
            };
            entries.push(DescriptorEntry {
                key: entry.key.into(),
                value,
            });
        }
        Ok(entries)
    }

    fn part(&self, at: &str, written: written::Part) -> Result<KeyPart, Rejection> {
        let at = format!("{at}.name");
        match (written.r#type, written.name) {
            (PartKind::Source, None) => Ok(KeyPart::Source),
            (PartKind::Path, None) => Ok(KeyPart::Path),
            (PartKind::Header, Some(name)) => Ok(KeyPart::Header(self.header_name(&at, &name)?)),
            (PartKind::Claim, Some(name)) => {
                let names: Arc<[Arc<str>]> = name.split('.').map(Arc::from).collect();
                let is_name = names.iter().all(|name| !name.is_empty());
                let wrong = || self.wrong(&at, "expected the name of a claim; a.b is one within another");
                is_name.then_some(KeyPart::Claim(names)).ok_or_else(wrong)
            }
            (PartKind::Source | PartKind::Path, Some(_)) => {
                Err(self.wrong(&at, "only Header and Claim have a name"))
            }
            (PartKind::Header | PartKind::Claim, None) => {
                Err(self.wrong(&at, "Header and Claim have a name"))
            }
        }
    }

    fn header_name(&self, at: &str, name: &str) -> Result<HeaderName, Rejection> {
        HeaderName::try_from(name).map_err(|_invalid| self.wrong(at, "is no header's name"))
    }

    fn wrong(&self, field: &str, what: &str) -> Rejection {
        self.object.reject(&format!("{}.{field}", self.at), what)
    }
}

/// Of one policy; each is asked for each request.
const MAX_LIMITS: usize = 32;
/// Of a key; descriptors of a limit, and entries of one.
const MAX_PARTS: usize = 16;
/// A bucket counts with it exactly, also by the hour.
const MAX_TOKENS: u32 = 1_000_000_000;
const LEAST_DIVIDED: u32 = 2;
/// Envoy's.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
