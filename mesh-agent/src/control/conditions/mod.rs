//! What the `status` of an object says: conditions as Gateway API's routes and policies have them.
//!
//! Place in the walk: beside it; worked out from a reading and what the snapshot of it left out. Must not know: who writes it
//! to an API server, or when it changed.
//!
//! Reasons follow from what an object names and what is known, never from the words of a report.

mod istio;
mod mesh;
mod policy;
mod rate_limit;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::rate_limit::of_rate_limits;
use super::Reading;
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::route::{HttpRoute, StreamRoute};
use crate::mesh::service::{Service, ServiceName};

/// Names this project in the status of objects that several controllers write.
pub const CONTROLLER: &str = "mesh-agent.dev/controller";

/// One object, and what its status says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectConditions {
    /// `Kind NAMESPACE/NAME`.
    pub object: String,
    /// Where it was read: a file path, or `api` for an API server.
    pub origin: String,
    /// `status.conditions`, but for the times, which are its writer's.
    pub conditions: Vec<Condition>,
}

/// One of `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, or `PartiallyInvalid`, which is there only where it holds.
    pub r#type: String,
    /// `True` or `False`.
    pub status: String,
    /// One word, of those that the kind's API names.
    pub reason: String,
    /// For people: each field with what is wrong and the way out.
    pub message: String,
}

/// What this controller has to say in the status of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// `status.parents` of a route: one entry for each parent that is this mesh's business.
    Parents(Vec<Entry>),
    /// `status.ancestors` of a policy: one entry for each Service that it is about.
    Ancestors(Vec<Entry>),
    /// `status.conditions`.
    Conditions {
        /// Those that are to be there.
        conditions: Vec<Condition>,
        /// Types that are this controller's: one of these that is not to be there is removed.
        owned: &'static [&'static str],
        /// `status.supportedFeatures`, sorted; none where the kind has no such field.
        features: Option<&'static [&'static str]>,
    },
}

/// One entry of `status.parents` or `status.ancestors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `parentRef` or `ancestorRef`, as the spec has it.
    pub reference: Value,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// A reading, what the snapshot of it left out too, and where to find of what.
#[derive(Debug)]
pub struct Seen<'r> {
    facts: &'r Facts,
    services: HashMap<&'r ServiceName, &'r Service>,
    /// Objects of which something counts.
    counted: HashSet<&'r str>,
    http_routes: HashMap<&'r str, &'r HttpRoute>,
    stream_routes: HashMap<&'r str, &'r StreamRoute>,
    rejections: BTreeMap<&'r str, Vec<&'r Rejection>>,
}

impl<'r> Seen<'r> {
    /// `reading` with the rejections of its snapshot among its own.
    pub fn of(reading: &'r Reading) -> Self {
        let facts = &reading.facts;
        let mut rejections: BTreeMap<&str, Vec<&Rejection>> = BTreeMap::new();
        for one in &reading.rejections {
            rejections.entry(&one.object).or_default().push(one);
        }
        let of_services = facts.services.iter().map(|one| &one.meta);
        let of_rules = facts.destination_rules.iter().map(|one| &one.meta);
        let of_routes = facts.http_routes.iter().map(|one| &one.meta);
        let of_streams = facts.stream_routes.iter().map(|one| &one.meta);
        let of_tls = facts.backend_tls_policies.iter().map(|one| &one.meta);
        let of_backends = facts.backend_policies.iter().map(|one| &one.meta);
        let metas = of_services.chain(of_rules).chain(of_routes);
        let metas = metas.chain(of_streams).chain(of_tls).chain(of_backends);
        Self {
            facts,
            services: facts.services.iter().map(|one| (&one.name, &**one)).collect(),
            counted: metas.map(|meta| meta.object.as_ref()).collect(),
            http_routes: facts
                .http_routes
                .iter()
                .map(|one| (one.meta.object.as_ref(), one))
                .collect(),
            stream_routes: facts
                .stream_routes
                .iter()
                .map(|one| (one.meta.object.as_ref(), one))
                .collect(),
            rejections,
        }
    }

    /// What is to be said of an object that is called `Kind NAMESPACE/NAME`; none where it is another controller's.
    pub fn status(&self, object: &str, value: &Value) -> Option<Status> {
        let kind = object.split(' ').next().unwrap_or_default();
        match kind {
            "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute" => {
                Some(Status::Parents(route::entries(self, object, value)))
            }
            "BackendTLSPolicy" | "XBackendTrafficPolicy" => {
                Some(Status::Ancestors(policy::entries(self, object, value)))
            }
            "RateLimitPolicy" => Some(rate_limit::status(self, object)),
            "GatewayClass" | "XMesh" => mesh::status(value),
            _ => istio::status(self, object, kind),
        }
    }

    /// All reports of an object, sorted by field.
    pub fn rejections(&self, object: &str) -> &[&'r Rejection] {
        self.rejections.get(object).map_or(&[], Vec::as_slice)
    }
}

/// The fields with what is wrong, one a line, no longer than the API machinery takes.
pub fn message(wrong: &[&Rejection]) -> String {
    let lines: Vec<_> = wrong
        .iter()
        .map(|one| match one.field.as_str() {
            "" => one.reason.clone(),
            field => format!("{field}: {}", one.reason),
        })
        .collect();
    shortened(lines.join("\n"), LONGEST_MESSAGE)
}

/// At most so many characters of a text.
pub fn shortened(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
    text
}

fn condition(of: &str, holds: bool, reason: &str, message: String) -> Condition {
    Condition {
        r#type: of.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
    }
}

/// Whether `field` is `part`, or lies in it.
fn is_within(field: &str, part: &str) -> bool {
    field
        .strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Namespace and name of an object that is called `Kind NAMESPACE/NAME`.
fn namespace_of(object: &str) -> &str {
    let name = object.split(' ').nth(1).unwrap_or_default();
    name.split_once('/').map_or("", |(namespace, _)| namespace)
}

const ACCEPTED: &str = "Accepted";
const RESOLVED_REFS: &str = "ResolvedRefs";
const PARTIALLY_INVALID: &str = "PartiallyInvalid";
const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
const CONFLICTED: &str = "Conflicted";
/// What the API machinery takes of a condition's message.
const LONGEST_MESSAGE: usize = 32_768;
