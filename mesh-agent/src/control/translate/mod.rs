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
mod namespace;
mod node;
mod object;
mod outlier_detection;
mod peer_authentication;
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
mod stream_route;
mod tls_settings;
mod traffic_policy;
mod virtual_service;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use self::ca_bundles::CaBundles;
use self::namespace::Namespaces;
use self::object::Object;
use super::Reading;
use super::manifest::Document;
use crate::mesh::facts::Rejection;

/// Translates all objects of a source.
pub(super) fn translate(documents: Vec<Document>, trust_domain: &str) -> Reading {
    let mut translation = Translation::default();
    let objects = translation.sort_out(documents);
    // Whether a pod is enrolled depends on its namespace, so namespaces come first.
    for object in objects.iter().filter(|object| object.kind == "Namespace") {
        translation
            .namespaces
            .learn(object, &mut translation.reading.rejections);
    }
    // Policies of any kind may name them.
    translation.bundles = CaBundles::of(&objects);
    for object in &objects {
        if let Err(rejection) = translation.add(object, trust_domain) {
            translation.reading.rejections.push(rejection);
        }
    }
    let mut reading = translation.reading;
    service_entry::give_addresses(&mut reading.facts);
    virtual_service::translate_all(objects.iter(), &mut reading);
    reading
}

/// A translation under way.
#[derive(Debug, Default)]
struct Translation {
    reading: Reading,
    namespaces: Namespaces,
    bundles: CaBundles,
}

impl Translation {
    /// The objects of kinds that matter, each name once.
    fn sort_out(&mut self, documents: Vec<Document>) -> Vec<Object> {
        let mut first_origins: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let mut objects = Vec::new();
        for document in documents {
            let object = match Object::read(document) {
                Ok(Some(object)) => object,
                Ok(None) => {
                    self.reading.skipped += 1;
                    continue;
                }
                Err(rejection) => {
                    self.reading.rejections.push(rejection);
                    continue;
                }
            };
            match first_origins.entry(Arc::clone(&object.meta.object)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Arc::clone(&object.meta.origin));
                    objects.push(object);
                }
                Entry::Occupied(first) => self.reading.rejections.push(object.reject(
                    "metadata.name",
                    format!("declared in {} already; that one counts", first.get()),
                )),
            }
        }
        objects
    }

    fn add(&mut self, object: &Object, trust_domain: &str) -> Result<(), Rejection> {
        let Reading {
            facts,
            rejections,
            skipped,
        } = &mut self.reading;
        match object.kind.as_str() {
            "Pod" => facts.workloads.extend(pod::translate(
                object,
                &self.namespaces,
                trust_domain,
                rejections,
            )?),
            "Node" => facts.nodes.push(node::translate(object, rejections)?),
            "Service" => facts.services.extend(service::translate(object, rejections)?),
            "ServiceEntry" => {
                let (services, endpoints) = service_entry::translate(object, rejections)?;
                facts.services.extend(services);
                facts.endpoints.extend(endpoints);
            }
            "EndpointSlice" => facts
                .endpoints
                .extend(endpoint_slice::translate(object, rejections)?),
            "HTTPRoute" | "GRPCRoute" => facts
                .http_routes
                .extend(http_route::translate(object, rejections)?),
            "TCPRoute" | "TLSRoute" => facts
                .stream_routes
                .extend(stream_route::translate(object, rejections)?),
            "PeerAuthentication" => {
                facts
                    .peer_authentications
                    .push(peer_authentication::translate(object, rejections));
            }
            "AuthorizationPolicy" => {
                facts.authorization_policies.push(authorization_policy::translate(
                    object,
                    trust_domain,
                    rejections,
                ));
            }
            "RequestAuthentication" => facts
                .request_authentications
                .push(request_authentication::translate(object, rejections)),
            "RateLimitPolicy" => facts
                .rate_limit_policies
                .push(rate_limit::translate(object, rejections)?),
            "ConfigMap" => match mesh_config::translate(object, rejections)? {
                Some(config) => facts.mesh_configs.push(config),
                None => *skipped += 1,
            },
            "DestinationRule" => {
                facts.destination_rules.extend(destination_rule::translate(
                    object,
                    &self.bundles,
                    rejections,
                )?);
            }
            "BackendTLSPolicy" => facts.backend_tls_policies.push(backend_tls_policy::translate(
                object,
                &self.bundles,
                rejections,
            )?),
            "XBackendTrafficPolicy" => {
                facts
                    .backend_policies
                    .extend(backend_traffic_policy::translate(object, rejections)?);
            }
            // VirtualServices name Services and one another: they come last.
            "Namespace" | "VirtualService" => {}
            _ => *skipped += 1,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
