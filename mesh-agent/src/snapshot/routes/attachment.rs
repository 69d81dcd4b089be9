//! Which routes count on which port of a Service, for which clients.
//!
//! Place in the walk: part of [`super::Routes`]. Must not know: rules, matches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::mesh::facts::{ObjectMeta, Rejection};
use crate::mesh::route::{
    Audience, Gate, HttpRoute, HttpRule, Mirror, RouteBackend, RouteKind, RouteParent, StreamRoute,
};
use crate::mesh::service::ServiceName;
use crate::snapshot::known::KnownService;
use crate::snapshot::services::Services;

/// A route of either sort.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route<'a> {
    /// Of requests.
    Http(&'a HttpRoute),
    /// Of connections.
    Stream(&'a StreamRoute),
}

/// The routes of a port by the namespace of the clients on which they act; `None` for all.
pub(super) type ByClients<'a> = BTreeMap<Option<&'a Arc<str>>, Vec<Route<'a>>>;

/// The routes of each port.
pub(super) type Attached<'a> = HashMap<&'a ServiceName, BTreeMap<u16, ByClients<'a>>>;

impl<'a> Route<'a> {
    pub(super) fn http(&self) -> Option<&'a HttpRoute> {
        match self {
            Self::Http(route) => Some(route),
            Self::Stream(_) => None,
        }
    }

    pub(super) fn stream(&self) -> Option<&'a StreamRoute> {
        match self {
            Self::Http(_) => None,
            Self::Stream(route) => Some(route),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one), Self::Http(other)) => std::ptr::eq(*one, *other),
            (Self::Stream(one), Self::Stream(other)) => std::ptr::eq(*one, *other),
            (Self::Http(_), Self::Stream(_)) | (Self::Stream(_), Self::Http(_)) => false,
        }
    }

    pub(super) fn meta(&self) -> &'a Arc<ObjectMeta> {
        match self {
            Self::Http(route) => &route.meta,
            Self::Stream(route) => &route.meta,
        }
    }

    pub(super) fn parents(&self) -> &'a [RouteParent] {
        match self {
            Self::Http(route) => &route.parents,
            Self::Stream(route) => &route.parents,
        }
    }

    pub(super) fn backends(&self) -> Vec<&'a RouteBackend> {
        match self {
            Self::Http(route) => route.rules.iter().flat_map(HttpRule::backends).collect(),
            Self::Stream(route) => route.rules.iter().flat_map(|rule| &rule.backends).collect(),
        }
    }

    pub(super) fn mirrors(&self) -> Vec<&'a Mirror> {
        let Self::Http(route) = self else {
            return Vec::new();
        };
        let of_rule = |rule: &'a HttpRule| {
            let backends = rule.backends().iter();
            let of_backends = backends.flat_map(|backend| &backend.filters.mirrors);
            rule.filters.mirrors.iter().chain(of_backends)
        };
        route.rules.iter().flat_map(of_rule).collect()
    }

    /// Who must let requests in.
    pub(super) fn gates(&self) -> Vec<&'a Gate> {
        let Self::Http(route) = self else {
            return Vec::new();
        };
        let of_rule = |rule: &'a HttpRule| {
            let backends = rule.backends().iter();
            let of_backends = backends.filter_map(|backend| backend.filters.gate.as_ref());
            rule.filters.gate.iter().chain(of_backends)
        };
        route.rules.iter().flat_map(of_rule).collect()
    }

    /// What becomes of what would go to a backend that cannot be.
    pub(super) const fn lost_share(&self) -> &'static str {
        match self {
            Self::Http(_) => "its share of requests is answered with 500",
            Self::Stream(_) => "its share of connections is refused",
        }
    }

    /// The field that names a Service below `field`, which a host of a VirtualService is itself.
    pub(super) fn named(&self, field: &str) -> String {
        match self.kind() {
            RouteKind::Virtual => field.to_owned(),
            RouteKind::Tcp | RouteKind::Tls | RouteKind::Http | RouteKind::Grpc => format!("{field}.name"),
        }
    }

    const fn kind(&self) -> RouteKind {
        match self {
            Self::Http(route) => route.kind,
            Self::Stream(route) => route.kind,
        }
    }

    /// The field by which it attaches to a port of a Service.
    fn attachment(&self, service: &ServiceName, port: u16) -> &'a str {
        let of_port =
            |parent: &&RouteParent| parent.service == *service && parent.port.is_none_or(|only| only == port);
        match self.kind() {
            RouteKind::Virtual => "spec.hosts",
            RouteKind::Tcp | RouteKind::Tls | RouteKind::Http | RouteKind::Grpc => {
                let parent = self.parents().iter().find(of_port);
                parent.map_or("spec.parentRefs", |parent| &parent.field)
            }
        }
    }

    /// Whether several of its kind are not merged.
    const fn is_alone(&self) -> bool {
        match self.kind() {
            // Istio merges none for sidecars; a TCPRoute has nothing by which another could be chosen.
            RouteKind::Virtual | RouteKind::Tcp => true,
            RouteKind::Tls | RouteKind::Http | RouteKind::Grpc => false,
        }
    }

    /// On whose traffic it acts where it attaches to `service`.
    fn clients(&self, service: &ServiceName) -> Vec<Option<&'a Arc<str>>> {
        let (audience, namespace) = match self {
            Self::Http(route) => (&route.audience, &route.namespace),
            Self::Stream(route) => (&route.audience, &route.namespace),
        };
        match audience {
            Audience::ByNamespace if *namespace == service.namespace => vec![None],
            Audience::ByNamespace => vec![Some(namespace)],
            Audience::Everybody => vec![None],
            Audience::Namespaces(namespaces) => namespaces.iter().map(Some).collect(),
        }
    }
}

/// GEP-1294: of several kinds of routes on one port only one counts.
pub(super) fn keep_greatest_kind(
    service: &ServiceName,
    port: u16,
    group: &mut ByClients<'_>,
    rejections: &mut Vec<Rejection>,
) {
    let Some(greatest) = group.values().flatten().map(Route::kind).max() else {
        return;
    };
    group.retain(|_, routes| {
        routes.retain(|route| {
            let counts = route.kind() == greatest;
            if !counts {
                rejections.push(route.meta().reject(
                    route.attachment(service, port),
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

/// Of several routes of a kind that is not merged the eldest counts: of VirtualServices apart for what is HTTP and for
/// what is not.
pub(super) fn keep_elder(
    service: &ServiceName,
    port: u16,
    group: &mut ByClients<'_>,
    rejections: &mut Vec<Rejection>,
) {
    for routes in group.values_mut() {
        for is_stream in [false, true] {
            let is_rival = |route: &Route<'_>| route.is_alone() && route.stream().is_some() == is_stream;
            let rivals = routes.iter().filter(|route| is_rival(route));
            let Some(eldest) = rivals.min_by_key(|route| route.meta().seniority()).copied() else {
                continue;
            };
            routes.retain(|route| {
                let counts = !is_rival(route) || route.is_same(&eldest);
                if !counts {
                    let elder = &eldest.meta().object;
                    let reason = format!("the older {elder} counts on port {port} of Service {service}");
                    rejections.push(route.meta().reject(route.attachment(service, port), reason));
                }
                counts
            });
        }
    }
}

/// Files a route under the ports that its parentRef names, or tells which field is wrong and why.
pub(super) fn attach<'a>(
    route: Route<'a>,
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
        is_headless, common, ..
    }) = services.get(service)
    else {
        return Err((
            route.named(field),
            format!("Service {service} is not known; the route does not attach"),
        ));
    };
    if *is_headless {
        return Err((
            route.named(field),
            format!("Service {service} has no cluster address; traffic to pod addresses is not routed"),
        ));
    }
    let ports: Vec<u16> = common
        .whole
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
        for clients in route.clients(service) {
            by_clients.entry(clients).or_default().push(route);
        }
    }
    Ok(())
}
