//! Routes of HTTP requests by Service port and by the namespace of the client.
//!
//! Place in the walk: after the Service port is known, before a rule is chosen. Must not know: requests, endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::services::{KnownService, Services};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{
    Audience, BackendTarget, HttpRoute, HttpRule, RouteBackend, RouteKind, RouteParent,
};
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

/// The routes of a port by the namespace of the clients on which they act; `None` for all.
type ByClients<'a> = BTreeMap<Option<&'a Arc<str>>, Vec<&'a HttpRoute>>;

type Attached<'a> = HashMap<&'a ServiceName, BTreeMap<u16, ByClients<'a>>>;

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
                keep_elder_virtual_service(service, *port, group, rejections);
            }
            let compiled = by_port
                .into_iter()
                .map(|(port, group)| (port, compile(group, services)));
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
    group: &mut ByClients<'_>,
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
                    attachment_of(route),
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

/// Istio does not merge VirtualServices: of several for one host the eldest counts.
fn keep_elder_virtual_service(
    service: &ServiceName,
    port: u16,
    group: &mut ByClients<'_>,
    rejections: &mut Vec<Rejection>,
) {
    for routes in group.values_mut() {
        let of_virtual = routes.iter().filter(|route| route.kind == RouteKind::Virtual);
        let Some(eldest) = of_virtual.min_by_key(|route| route.meta.seniority()).copied() else {
            continue;
        };
        routes.retain(|route| {
            let counts = std::ptr::eq(*route, eldest);
            if !counts {
                let elder = &eldest.meta.object;
                let reason = format!("the older {elder} counts on port {port} of Service {service}");
                rejections.push(route.meta.reject(attachment_of(route), reason));
            }
            counts
        });
    }
}

/// The field that says to which Services a route attaches.
fn attachment_of(route: &HttpRoute) -> &'static str {
    match route.kind {
        RouteKind::Virtual => "spec.hosts",
        RouteKind::Http | RouteKind::Grpc => "spec.parentRefs",
    }
}

fn compile(by_clients: ByClients<'_>, services: &Services) -> PortRoutes {
    let mut compiled = PortRoutes::default();
    for (namespace, mut routes) in by_clients {
        // Two parentRefs of one route may name the same port.
        routes.dedup_by(|a, b| std::ptr::eq(*a, *b));
        let table = RouteTable::compile(routes, |target| exists(target, services));
        match namespace {
            None => compiled.producers = Some(table),
            Some(namespace) => {
                compiled.consumers.insert(Arc::clone(namespace), table);
            }
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
            named(route, field),
            format!("Service {service} is not known; the route does not attach"),
        ));
    };
    if *is_headless {
        return Err((
            named(route, field),
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
        let by_clients = by_port.entry(port).or_default();
        for clients in clients_of(route, service) {
            by_clients.entry(clients).or_default().push(route);
        }
    }
    Ok(())
}

/// On whose requests a route acts where it attaches to `service`.
fn clients_of<'a>(route: &'a HttpRoute, service: &ServiceName) -> Vec<Option<&'a Arc<str>>> {
    match &route.audience {
        Audience::ByNamespace if route.namespace == service.namespace => vec![None],
        Audience::ByNamespace => vec![Some(&route.namespace)],
        Audience::Everybody => vec![None],
        Audience::Namespaces(namespaces) => namespaces.iter().map(Some).collect(),
    }
}

/// The field that names a Service below `field`, which a host of a VirtualService is itself.
fn named(route: &HttpRoute, field: &str) -> String {
    match route.kind {
        RouteKind::Virtual => field.to_owned(),
        RouteKind::Http | RouteKind::Grpc => format!("{field}.name"),
    }
}

fn missing_backends(route: &HttpRoute, services: &Services) -> Vec<Rejection> {
    let mut rejections = Vec::new();
    for RouteBackend { field, target, .. } in route.rules.iter().flat_map(HttpRule::backends) {
        let Some((service, port, subset)) = target.named() else {
            continue;
        };
        match services.get(service) {
            None => rejections.push(route.meta.reject(
                &named(route, field),
                format!("Service {service} is not known; its share of requests is answered with 500"),
            )),
            Some(known) if !known.upstreams.contains_key(&port) => rejections.push(route.meta.reject(
                &format!("{field}.port"),
                format!(
                    "Service {service} has no TCP port {port}; its share of requests is answered with 500"
                ),
            )),
            Some(_) if !exists(target, services) => rejections.push(route.meta.reject(
                &format!("{field}.subset"),
                format!(
                    "no DestinationRule in force for Service {service} has the subset {:?}; its share of requests is \
                     answered with 500",
                    subset.map(AsRef::as_ref).unwrap_or_default(),
                ),
            )),
            Some(_) => {}
        }
    }
    rejections
}

fn exists(target: &BackendTarget, services: &Services) -> bool {
    target.named().is_some_and(|(service, port, subset)| {
        services
            .backend(service, port, subset.map(AsRef::as_ref))
            .is_some()
    })
}
