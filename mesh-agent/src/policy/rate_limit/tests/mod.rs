//! Tokens, keys, shares, and which limits a workload has.

mod buckets;
mod sharing;
mod workloads;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::policy::rate_limit::{KeyPart, LimitMatch, LimitPath, LimitUnit, LocalLimit, RateLimit};

/// So many requests a second, and so many at once.
fn local(requests: u32, burst: u32) -> LocalLimit {
    LocalLimit {
        requests: NonZeroU32::new(requests).unwrap(),
        unit: LimitUnit::Second,
        burst: NonZeroU32::new(burst).unwrap(),
        is_divided: false,
    }
}

fn limit(local: LocalLimit, key: Vec<KeyPart>) -> RateLimit {
    RateLimit {
        of: LimitMatch::default(),
        key,
        local: Some(local),
        global: None,
    }
}

fn below(prefix: &str) -> LimitMatch {
    LimitMatch {
        path: Some(LimitPath::Prefix(prefix.into())),
        ..LimitMatch::default()
    }
}

/// For all pods of its namespace.
fn policy(namespace: &str, name: &str, limits: Vec<RateLimit>) -> RateLimitPolicy {
    RateLimitPolicy {
        namespace: namespace.into(),
        name: name.into(),
        meta: Arc::new(ObjectMeta::default()),
        target: PolicyTarget::Selector(std::collections::BTreeMap::new()),
        limits,
        grpc_status: GrpcRefusal::default(),
        is_dry_run: false,
    }
}

/// The limits that policies give one pod of `shop`.
fn limits(policies: &[RateLimitPolicy], previous: Option<&RateLimits>) -> (RateLimits, Arc<Limits>) {
    let pod = crate::mesh::workload::fixture::pod("shop", "cart");
    let pods = |_: &ServiceName| None;
    let (compiled, rejections) =
        RateLimits::compile(policies, "mesh-system", std::iter::once(&pod), pods, previous);
    assert_eq!(rejections, []);
    let limits = compiled.of(&pod).unwrap();
    (compiled, limits)
}

/// A request of `user`, as the header `x-user` says.
struct Request {
    source: Option<SpiffeId>,
    method: &'static str,
    path: &'static str,
    headers: HeaderMap,
}

impl Request {
    fn new(path: &'static str) -> Self {
        Self {
            source: None,
            method: "GET",
            path,
            headers: HeaderMap::new(),
        }
    }

    fn of(user: &str) -> Self {
        Self::new("/").with("x-user", user)
    }

    fn from(account: &str) -> Self {
        Self {
            source: Some(SpiffeId::new("cluster.local", "shop", account).unwrap()),
            ..Self::new("/")
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            port: 8080,
            source: self.source.as_ref(),
            method: self.method,
            path: self.path,
            other_readings: Vec::new(),
            headers: &self.headers,
            token: None,
        }
    }

    /// Whether it is let in.
    fn passes(&self, limits: &Limits, now: Instant) -> bool {
        limits.count(&self.asked(), now).exceeded.is_none()
    }
}

fn user() -> Vec<KeyPart> {
    vec![KeyPart::Header(HeaderName::from_static("x-user"))]
}

/// How many of `asked` requests pass at once.
fn passing(limits: &Limits, request: &Request, asked: usize, now: Instant) -> usize {
    (0..asked).filter(|_| request.passes(limits, now)).count()
}

const SECOND: Duration = Duration::from_secs(1);
