//! Translates Kubernetes objects into facts; one file a kind.
//!
//! Place in the walk: the same for every source, since all sources give Kubernetes objects. Must not know: files,
//! API servers, snapshots.
//!
//! What is wrong is named by field. A malformed object is left out whole; a field that is understood but not
//! supported yet is ignored where that is harmless, and otherwise makes the rule that holds it answer 500, so that
//! no request goes where the object did not send it. Security policies are never left out: what cannot be read of them
//! refuses.

mod annotation;
mod authorization_policy;
mod authorization_rule;
mod backend_tls_policy;
mod backend_traffic_policy;
mod ca_bundles;
mod connection_pool;
mod consistent_hash;
mod destination_rule;
mod duration;
mod endpoint_slice;
mod entry_servers;
mod exclusions;
mod export;
mod external_auth;
mod fallback;
mod grpc_rule;
mod health_check;
mod hedge;
mod http_route;
mod http_rule;
mod locality_setting;
mod mesh_config;
mod names;
mod namespace;
mod node;
mod object;
mod outlier_detection;
mod peer_authentication;
mod piece;
mod pod;
mod policy_target;
mod probes;
mod protocol;
mod rate_limit;
mod request_authentication;
mod route_filter;
mod route_rule;
mod service;
mod service_entry;
mod session_persistence;
mod store;
mod stream_route;
mod tls_settings;
mod traffic_policy;
mod tunnel;
mod virtual_service;

pub(super) use self::ca_bundles::BundleName;
pub(super) use self::object::{KINDS, KnownKind, object_name};
pub(super) use self::store::Store;

use super::Reading;
use super::manifest::Document;

/// Translates all objects of a source that gives them at once.
pub(super) fn translate(documents: Vec<Document>, trust_domain: &str) -> Reading {
    let mut store = Store::new(trust_domain);
    for document in documents {
        store.declare(document);
    }
    store.reading()
}

#[cfg(test)]
mod tests;
