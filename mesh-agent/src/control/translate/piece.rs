//! What one object says, translated: the piece that it adds to the facts.
//!
//! Place in the walk: made by [`super::store`] when an object changes, put together with the others for each reading.
//! Must not know: other objects, except those that a kind is translated with.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ca_bundles::{BundleName, CaBundles};
use super::names::Names;
use super::namespace::{self, NamespaceSays, Namespaces};
use super::object::Object;
use super::pod::Pod;
use super::{
    authorization_policy, backend_tls_policy, backend_traffic_policy, ca_bundles, destination_rule,
    endpoint_slice, http_route, mesh_config, node, peer_authentication, pod, rate_limit,
    request_authentication, service, service_entry, stream_route,
};
use crate::control::Reading;
use crate::mesh::backend_tls::BackendTlsPolicy;
use crate::mesh::facts::Rejection;
use crate::mesh::mesh_config::MeshConfig;
use crate::mesh::node::Node;
use crate::mesh::policy::PeerAuthentication;
use crate::mesh::policy::authorization::AuthorizationPolicy;
use crate::mesh::policy::rate_limit::RateLimitPolicy;
use crate::mesh::policy::request_authentication::RequestAuthentication;
use crate::mesh::route::{HttpRoute, StreamRoute};
use crate::mesh::service::{Endpoint, Service};
use crate::mesh::shared::Shared;
use crate::mesh::slice::EndpointSlice;
use crate::mesh::traffic::{BackendTrafficPolicy, DestinationRule};

/// One object's part of the facts. There may be a hundred thousand: what is large or seldom is boxed.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Nothing: what is wrong with it is among the rejections, or it takes no part.
    Nothing,
    Namespace(NamespaceSays),
    Pod(Box<Pod>),
    Node(Box<Node>),
    Service(Shared<Service>),
    ServiceEntry(Box<(Vec<Shared<Service>>, Vec<Endpoint>)>),
    Slice(Arc<EndpointSlice>),
    HttpRoute(Box<HttpRoute>),
    StreamRoute(Box<StreamRoute>),
    PeerAuthentication(Box<PeerAuthentication>),
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    RequestAuthentication(Box<RequestAuthentication>),
    RateLimitPolicy(Box<RateLimitPolicy>),
    ConfigMap(Box<ConfigMap>),
    /// Read again when certificates change that policies may name.
    DestinationRule(Box<Naming<DestinationRule>>),
    BackendTlsPolicy(Box<Naming<BackendTlsPolicy>>),
    BackendTrafficPolicy(Vec<BackendTrafficPolicy>),
    /// Names Services and others of its kind, so all are read together for each reading.
    VirtualService(Box<Object>),
}

/// What a `ConfigMap` is to the mesh: its own configuration, certificates, or neither.
#[derive(Debug, PartialEq)]
pub(super) struct ConfigMap {
    pub(super) name: BundleName,
    pub(super) config: Option<MeshConfig>,
    pub(super) bundle: Option<Arc<str>>,
}

/// A policy that may name certificates: as it was written, and what it says with those that there are.
#[derive(Debug, PartialEq)]
pub(super) struct Naming<T> {
    pub(super) object: Object,
    pub(super) policy: Option<T>,
    /// Those that it names, in place or not.
    pub(super) bundles: BTreeSet<BundleName>,
}

/// What pieces are made with besides the object itself.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) trust_domain: &'a str,
    pub(super) namespaces: &'a Namespaces,
    pub(super) bundles: &'a CaBundles,
    pub(super) names: &'a Names,
}

impl Piece {
    /// Translates an object; what is left out of it is added to `rejections`.
    pub(super) fn of(object: Object, around: &Around<'_>, rejections: &mut Vec<Rejection>) -> Self {
        match object.kind.as_str() {
            "DestinationRule" => {
                let policy = destination_rule::translate(&object, around.bundles, rejections);
                let policy = kept(policy, rejections).flatten();
                let bundles = around.bundles.asked();
                Self::DestinationRule(Box::new(Naming {
                    object,
                    policy,
                    bundles,
                }))
            }
            "BackendTLSPolicy" => {
                let policy = backend_tls_policy::translate(&object, around.bundles, rejections);
                let policy = kept(policy, rejections);
                let bundles = around.bundles.asked();
                Self::BackendTlsPolicy(Box::new(Naming {
                    object,
                    policy,
                    bundles,
                }))
            }
            "VirtualService" => Self::VirtualService(Box::new(object)),
            "ConfigMap" => {
                let config = mesh_config::translate(&object, rejections);
                Self::ConfigMap(Box::new(ConfigMap {
                    name: (Arc::clone(&object.namespace), Arc::clone(&object.name)),
                    config: kept(config, rejections).flatten(),
                    bundle: ca_bundles::held(&object),
                }))
            }
            "Namespace" => {
                let says = namespace::translate(&object, rejections);
                kept(says, rejections).map_or(Self::Nothing, Self::Namespace)
            }
            "EndpointSlice" => {
                let slice = endpoint_slice::translate(&object, around.names, rejections);
                let slice = kept(slice, rejections).flatten();
                slice.map_or(Self::Nothing, |slice| Self::Slice(slice.into()))
            }
            "Pod" => {
                let pod = pod::translate(&object, around, rejections);
                boxed(kept(pod, rejections).flatten(), Self::Pod)
            }
            _ => {
                let piece = Self::alone(&object, around.trust_domain, rejections);
                kept(piece, rejections).unwrap_or(Self::Nothing)
            }
        }
    }

    /// Of an object that can be read by itself.
    fn alone(
        object: &Object,
        trust_domain: &str,
        rejections: &mut Vec<Rejection>,
    ) -> Result<Self, Rejection> {
        Ok(match object.kind.as_str() {
            "Node" => Self::Node(node::translate(object, rejections)?.into()),
            "Service" => {
                let service = service::translate(object, rejections)?;
                service.map_or(Self::Nothing, |service| Self::Service(service.into()))
            }
            "ServiceEntry" => {
                let (services, endpoints) = service_entry::translate(object, rejections)?;
                let services = services.into_iter().map(Shared::from).collect();
                Self::ServiceEntry(Box::new((services, endpoints)))
            }
            "HTTPRoute" | "GRPCRoute" => boxed(http_route::translate(object, rejections)?, Self::HttpRoute),
            "TCPRoute" | "TLSRoute" => boxed(stream_route::translate(object, rejections)?, Self::StreamRoute),
            "PeerAuthentication" => {
                Self::PeerAuthentication(peer_authentication::translate(object, rejections).into())
            }
            "AuthorizationPolicy" => Self::AuthorizationPolicy(
                authorization_policy::translate(object, trust_domain, rejections).into(),
            ),
            "RequestAuthentication" => {
                Self::RequestAuthentication(request_authentication::translate(object, rejections).into())
            }
            "RateLimitPolicy" => Self::RateLimitPolicy(rate_limit::translate(object, rejections)?.into()),
            "XBackendTrafficPolicy" => Self::BackendTrafficPolicy(
                backend_traffic_policy::translate(object, rejections)?
                    .into_iter()
                    .collect(),
            ),
            _ => Self::Nothing,
        })
    }

    /// The certificates that it names, and itself as it was written.
    pub(super) fn names_bundles(&self) -> Option<(&Object, &BTreeSet<BundleName>)> {
        match self {
            Self::DestinationRule(naming) => Some((&naming.object, &naming.bundles)),
            Self::BackendTlsPolicy(naming) => Some((&naming.object, &naming.bundles)),
            Self::Nothing
            | Self::Namespace(_)
            | Self::Pod(_)
            | Self::Node(_)
            | Self::Service(_)
            | Self::ServiceEntry(_)
            | Self::Slice(_)
            | Self::HttpRoute(_)
            | Self::StreamRoute(_)
            | Self::PeerAuthentication(_)
            | Self::AuthorizationPolicy(_)
            | Self::RequestAuthentication(_)
            | Self::RateLimitPolicy(_)
            | Self::ConfigMap(_)
            | Self::BackendTrafficPolicy(_)
            | Self::VirtualService(_) => None,
        }
    }

    pub(super) fn virtual_service(&self) -> Option<&Object> {
        if let Self::VirtualService(object) = self {
            Some(object)
        } else {
            None
        }
    }

    /// Whether VirtualServices must be read again when it comes, changes or goes.
    pub(super) fn concerns_virtual_services(&self) -> bool {
        matches!(
            self,
            Self::Service(_) | Self::ServiceEntry(_) | Self::VirtualService(_)
        )
    }

    /// Adds what it says to a reading.
    pub(super) fn add_to(&self, reading: &mut Reading) {
        let Reading { facts, skipped, .. } = reading;
        match self {
            // All of them are translated together.
            Self::Nothing | Self::Namespace(_) | Self::VirtualService(_) => {}
            Self::Pod(pod) => facts.workloads.push(pod.workload.clone()),
            Self::Node(node) => facts.nodes.push(node.as_ref().clone()),
            Self::Service(service) => facts.services.push(service.clone()),
            Self::ServiceEntry(entry) => {
                facts.services.extend_from_slice(&entry.0);
                facts.endpoints.extend_from_slice(&entry.1);
            }
            Self::Slice(slice) => facts.slices.push(Arc::clone(slice)),
            Self::HttpRoute(route) => facts.http_routes.push(route.as_ref().clone()),
            Self::StreamRoute(route) => facts.stream_routes.push(route.as_ref().clone()),
            Self::PeerAuthentication(policy) => facts.peer_authentications.push(policy.as_ref().clone()),
            Self::AuthorizationPolicy(policy) => facts.authorization_policies.push(policy.as_ref().clone()),
            Self::RequestAuthentication(policy) => {
                facts.request_authentications.push(policy.as_ref().clone());
            }
            Self::RateLimitPolicy(policy) => facts.rate_limit_policies.push(policy.as_ref().clone()),
            Self::ConfigMap(map) => match &map.config {
                Some(config) => facts.mesh_configs.push(config.clone()),
                None => *skipped += 1,
            },
            Self::DestinationRule(rule) => facts.destination_rules.extend(rule.policy.clone()),
            Self::BackendTlsPolicy(policy) => facts.backend_tls_policies.extend(policy.policy.clone()),
            Self::BackendTrafficPolicy(policies) => facts.backend_policies.extend_from_slice(policies),
        }
    }
}

fn boxed<T>(said: Option<T>, piece: fn(Box<T>) -> Piece) -> Piece {
    said.map_or(Piece::Nothing, |said| piece(Box::new(said)))
}

/// What is there without what is wrong.
fn kept<T>(translated: Result<T, Rejection>, rejections: &mut Vec<Rejection>) -> Option<T> {
    translated.map_err(|rejection| rejections.push(rejection)).ok()
}
