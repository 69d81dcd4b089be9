//! HTTPRoutes by Service port and by the namespace of the client.
//!
//! Place in the walk: after the Service port is known, before a rule is chosen. Must not know: requests, endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::services::{KnownService, Services};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{BackendTarget, HttpRoute, HttpRule, RouteBackend, RouteParent};
use crate::mesh::service::ServiceName;
use crate::route::RouteTable;

#[derive(Debug, Default)]
pub(super) struct Routes {
    by_service: HashMap<ServiceName, HashMap<u16, PortRoutes>>,
}

/// GEP-1294: a client's namespace uses its own consumer routes, or all producer routes, never both.
#[derive(Debug, Default)]
struct PortRoutes {
    producers: Option<RouteTable>,
    consumers: HashMap<Arc<str>, RouteTable>,
}

/// The routes of a port by their own namespace.
type ByNamespace<'a> = BTreeMap<&'a Arc<str>, Vec<&'a HttpRoute>>;

type Attached<'a> = HashMap<&'a ServiceName, BTreeMap<u16, ByNamespace<'a>>>;

impl Routes {
    pub(super) fn index(routes: &[HttpRoute], services: &Services, rejections: &mut Vec<Rejection>) -> Self {
        let mut attached = Attached::new();
        for route in routes {
            for parent in &route.parents {
                if let Err((field, reason)) = attach(route, parent, services, &mut attached) {
                    rejections.push(route.meta.reject(&field, reason));
                }
            }
            rejections.extend(missing_backends(route, services));
        }
        let mut index = Self::default();
        for (service, mut by_port) in attached {
            for (port, group) in &mut by_port {
                keep_greatest_kind(service, *port, group, rejections);
            }
            let compiled = by_port
                .into_iter()
                .map(|(port, group)| (port, compile(service, group, services)));
            index.by_service.insert(service.clone(), compiled.collect());
        }
        index
    }

    pub(super) fn table(
        &self,
        client_namespace: &str,
        service: &ServiceName,
        port: u16,
    ) -> Option<&RouteTable> {
        let routes = self.by_service.get(service)?.get(&port)?;
        routes
            .consumers
            .get(client_namespace)
            .or(routes.producers.as_ref())
    }
}

/// GEP-1294: of several kinds of routes on one port only one counts.
fn keep_greatest_kind(
    service: &ServiceName,
    port: u16,
    group: &mut ByNamespace<'_>,
    rejections: &mut Vec<Rejection>,
) {
    let Some(greatest) = group.values().flatten().map(|route| route.kind).max() else {
        return;
    };
    group.retain(|_, routes| {
        routes.retain(|route| {
            let counts = route.kind == greatest;
            if !counts {
                rejections.push(route.meta.reject(
                    "spec.parentRefs",
                    format!(
                        "conflicts with a {} on port {port} of Service {service}, which counts there",
                        greatest.as_str()
                    ),
                ));
            }
            counts
        });
        !routes.is_empty()
    });
}

fn compile(service: &ServiceName, by_namespace: ByNamespace<'_>, services: &Services) -> PortRoutes {
    let mut compiled = PortRoutes::default();
    for (namespace, mut routes) in by_namespace {
        // Two parentRefs of one route may name the same port.
        routes.dedup_by(|a, b| std::ptr::eq(*a, *b));
        let table = RouteTable::compile(routes, |backend, port| services.upstream(backend, port).is_some());
        if *namespace == service.namespace {
            compiled.producers = Some(table);
        } else {
            compiled.consumers.insert(Arc::clone(namespace), table);
        }
    }
    compiled
}

/// Files a route under the ports that its parentRef names, or tells which field is wrong and why.
fn attach<'a>(
    route: &'a HttpRoute,
    parent: &'a RouteParent,
    services: &Services,
    attached: &mut Attached<'a>,
) -> Result<(), (String, String)> {
    let RouteParent {
        field,
        service,
        port,
        section,
    } = parent;
    let Some(KnownService {
        is_headless,
        upstreams,
    }) = services.get(service)
    else {
        return Err((
            format!("{field}.name"),
            format!("Service {service} is not known; the route does not attach"),
        ));
    };
    if *is_headless {
        return Err((
            format!("{field}.name"),
            format!("Service {service} has no cluster address; traffic to pod addresses is not routed"),
        ));
    }
    let ports: Vec<u16> = upstreams
        .values()
        .filter(|upstream| port.is_none_or(|port| port == upstream.port))
        .filter(|upstream| {
            section
                .as_ref()
                .is_none_or(|section| *section == upstream.port_name)
        })
        .map(|upstream| upstream.port)
        .collect();
    if ports.is_empty() {
        let wrong = if section.is_some() { "sectionName" } else { "port" };
        let reason = format!("Service {service} has no such TCP port; the route does not attach");
        return Err((format!("{field}.{wrong}"), reason));
    }
    let by_port = attached.entry(service).or_default();
    for port in ports {
        by_port
            .entry(port)
            .or_default()
            .entry(&route.namespace)
            .or_default()
            .push(route);
    }
    Ok(())
}

fn missing_backends(route: &HttpRoute, services: &Services) -> Vec<Rejection> {
    let mut rejections = Vec::new();
    for RouteBackend { field, target, .. } in route.rules.iter().flat_map(HttpRule::backends) {
        let BackendTarget::Service(service, port) = target else {
            continue;
        };
        match services.get(service) {
            None => rejections.push(route.meta.reject(
                &format!("{field}.name"),
                format!("Service {service} is not known; its share of requests is answered with 500"),
            )),
            Some(known) if !known.upstreams.contains_key(port) => rejections.push(route.meta.reject(
                &format!("{field}.port"),
                format!(
                    "Service {service} has no TCP port {port}; its share of requests is answered with 500"
                ),
            )),
            Some(_) => {}
        }
    }
    rejections
}
