//! Routes by Service port and by the namespace of the client.
//!
//! Place in the walk: after the Service port is known, before a rule is chosen. Must not know: requests, first bytes,
//! endpoints.

mod attachment;

use std::collections::HashMap;
use std::sync::Arc;

use self::attachment::{Attached, ByClients, Route, attach, keep_elder, keep_greatest_kind};
use super::services::Services;
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::policy::external::AuthorizerTarget;
use crate::mesh::route::{BackendTarget, Gate, Mirror, RouteBackend};
use crate::mesh::service::ServiceName;
use crate::route::{RouteTable, StreamTable};

#[derive(Debug, Default)]
pub(super) struct Routes {
    by_service: HashMap<ServiceName, HashMap<u16, PortRoutes>>,
}

/// GEP-1294: a client's namespace uses its own consumer routes, or all producer routes, never both.
#[derive(Debug, Default)]
struct PortRoutes {
    producers: Option<Tables>,
    consumers: HashMap<Arc<str>, Tables>,
}

/// What acts on one group of clients.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// On HTTP requests.
    pub(super) http: Option<RouteTable>,
    /// On connections that are no HTTP.
    pub(super) stream: Option<StreamTable>,
}

impl Routes {
    pub(super) fn index(facts: &Facts, services: &Services, rejections: &mut Vec<Rejection>) -> Self {
        let mut attached = Attached::new();
        let of_requests = facts.http_routes.iter().map(Route::Http);
        for route in of_requests.chain(facts.stream_routes.iter().map(Route::Stream)) {
            for parent in route.parents() {
                if let Err((field, reason)) = attach(route, parent, services, &mut attached) {
                    rejections.push(route.meta().reject(&field, reason));
                }
            }
            rejections.extend(missing_backends(route, services));
        }
        let mut index = Self::default();
        for (service, mut by_port) in attached {
            for (port, group) in &mut by_port {
                keep_greatest_kind(service, *port, group, rejections);
                keep_elder(service, *port, group, rejections);
            }
            let compiled = by_port
                .into_iter()
                .map(|(port, group)| (port, compile(group, services)));
            index.by_service.insert(service.clone(), compiled.collect());
        }
        index
    }

    pub(super) fn tables(&self, client_namespace: &str, service: &ServiceName, port: u16) -> Option<&Tables> {
        let routes = self.by_service.get(service)?.get(&port)?;
        routes
            .consumers
            .get(client_namespace)
            .or(routes.producers.as_ref())
    }
}

fn compile(by_clients: ByClients<'_>, services: &Services) -> PortRoutes {
    let mut compiled = PortRoutes::default();
    let exists = |target: &BackendTarget| exists(target, services);
    for (namespace, mut routes) in by_clients {
        // Two parentRefs of one route may name the same port.
        routes.dedup_by(|a, b| a.is_same(b));
        let of_requests: Vec<_> = routes.iter().filter_map(Route::http).collect();
        let tables = Tables {
            http: (!of_requests.is_empty()).then(|| RouteTable::compile(of_requests, exists)),
            stream: StreamTable::compile(routes.iter().filter_map(Route::stream), exists),
        };
        match namespace {
            None => compiled.producers = Some(tables),
            Some(namespace) => {
                compiled.consumers.insert(Arc::clone(namespace), tables);
            }
        }
    }
    compiled
}

fn missing_backends(route: Route<'_>, services: &Services) -> Vec<Rejection> {
    let mut rejections = Vec::new();
    let mut look = |field: &Arc<str>, target: &BackendTarget, lost: &str| {
        let Some((service, port, subset)) = target.named() else {
            return;
        };
        match services.get(service) {
            None => rejections.push(route.meta().reject(
                &route.named(field),
                format!("Service {service} is not known; {lost}"),
            )),
            Some(known) if !known.common.whole.contains_key(&port) => rejections.push(route.meta().reject(
                &format!("{field}.port"),
                format!("Service {service} has no TCP port {port}; {lost}"),
            )),
            Some(_) if !exists(target, services) => rejections.push(route.meta().reject(
                &format!("{field}.subset"),
                format!(
                    "no DestinationRule in force for Service {service} has a subset {:?}; {lost}",
                    subset.map(AsRef::as_ref).unwrap_or_default(),
                ),
            )),
            Some(_) => {}
        }
    };
    for Mirror { field, target, .. } in route.mirrors() {
        look(field, target, "it gets no copies");
    }
    for Gate { field, authorizer } in route.gates() {
        if let AuthorizerTarget::Service(service) = &authorizer.target {
            let target = BackendTarget::Service(service.clone(), authorizer.port);
            look(field, &target, "requests that it must let in are refused");
        }
    }
    for RouteBackend { field, target, .. } in route.backends() {
        look(field, target, route.lost_share());
    }
    rejections
}

/// Whether it is there, for whomever: a subset that only some clients have is found out for each of them.
fn exists(target: &BackendTarget, services: &Services) -> bool {
    target.named().is_some_and(|(service, port, subset)| {
        let known = services.get(service);
        known.is_some_and(|known| {
            let has_subset = |name: &Arc<str>| known.subset_names.contains(name);
            known.common.whole.contains_key(&port) && subset.is_none_or(has_subset)
        })
    })
}
