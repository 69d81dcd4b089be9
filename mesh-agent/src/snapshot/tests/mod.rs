//! What a snapshot promises: lookups, endpoint selection, what survives a rebuild, what contradictions do.

mod authorization;
mod backends_tls;
mod contradictions;
mod direct;
mod exports;
mod health;
mod leaving;
mod lookups;
mod nodes;
mod places;
mod rebuilds;
mod resilience;
mod selected;
mod service_entries;
mod stream_routes;
mod subsets;
mod traffic;
mod unchanged;
mod virtual_services;

use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use super::*;
use crate::balance::Limit;
use crate::mesh::facts::{Facts, ObjectMeta, Rejection};
use crate::mesh::route::{
    Audience, BackendTarget, Filters, HttpRoute, HttpRule, RouteBackend, RouteKind, RouteParent, RuleAction,
};
use crate::mesh::service::{Endpoint, EndpointCondition, Resilience, Service, ServicePort};
use crate::mesh::shared::Shared;
use crate::mesh::traffic::{BalancerKind, EndpointPlace, Locality, ServiceTraffic};
use crate::mesh::workload::fixture::pod;
use crate::mesh::workload::{Membership, Placement};
use crate::route::{CompiledAction, Dialled, RequestFacts};

use EndpointCondition::{NotServing, Ready, ServingTerminating};

fn meta(object: &str, age: u64) -> Arc<ObjectMeta> {
    let created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(age));
    Arc::new(ObjectMeta {
        origin: "test".into(),
        object: object.into(),
        created,
    })
}

fn pod_at(name: &str, addrs: &[&str]) -> Workload {
    Workload {
        addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
        ..pod("shop", name)
    }
}

/// A pod that dials, for which no rule of its own acts.
fn client() -> Workload {
    pod("shop", "client")
}

fn placed(name: &str, addr: &str) -> Workload {
    let placement = Placement {
        netns: format!("/run/netns/{name}").into(),
        cgroup: format!("/cg/{name}").into(),
    };
    Workload {
        placement: Some(placement.into()),
        ..pod_at(name, &[addr])
    }
}

fn service(name: &str, vips: &[&str], protocol: AppProtocol) -> Service {
    Service {
        name: ServiceName::new("shop", name),
        meta: meta(&format!("Service shop/{name}"), 0),
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        is_headless: vips.is_empty(),
        ports: vec![ServicePort {
            name: "main".into(),
            port: 80,
            protocol,
        }],
        traffic: ServiceTraffic {
            balancer: Some(BalancerKind::RoundRobin),
            ..ServiceTraffic::default()
        },
        resilience: Resilience::default(),
    }
}

fn endpoint(service: &str, addr: &str, condition: EndpointCondition) -> Endpoint {
    Endpoint {
        service: ServiceName::new("shop", service),
        meta: meta(&format!("EndpointSlice shop/{service}"), 0),
        port_name: "main".into(),
        addr: addr.parse().unwrap(),
        condition,
        workload: None,
        hostname: None,
        place: EndpointPlace::default(),
        labels: std::collections::BTreeMap::new(),
        weight: 1,
    }
}

fn route(namespace: &str, name: &str, parent: RouteParent, backend: (&str, u16)) -> HttpRoute {
    let target = BackendTarget::Service(ServiceName::new("shop", backend.0), backend.1);
    HttpRoute {
        kind: RouteKind::Http,
        namespace: namespace.into(),
        name: name.into(),
        meta: meta(&format!("HTTPRoute {namespace}/{name}"), 0),
        audience: Audience::ByNamespace,
        parents: vec![parent],
        rules: vec![HttpRule {
            action: RuleAction::Forward(vec![RouteBackend {
                field: "spec.rules[0].backendRefs[0]".into(),
                target,
                weight: 1,
                filters: Filters::default(),
            }]),
            ..HttpRule::default()
        }],
    }
}

fn parent(service: &str) -> RouteParent {
    RouteParent {
        field: "spec.parentRefs[0]".into(),
        service: ServiceName::new("shop", service),
        port: None,
        section: None,
    }
}

fn settings() -> SnapshotSettings {
    SnapshotSettings {
        node: "node-a".into(),
        root_namespace: "mesh-system".into(),
        trust_domains: Arc::new([]),
    }
}

fn build(facts: &Facts) -> (Snapshot, Vec<Rejection>) {
    Snapshot::build(facts, &settings(), None)
}

/// Two pods behind Service `web`.
fn web() -> Facts {
    Facts {
        workloads: vec![
            placed("web-1", "10.0.0.1").into(),
            placed("web-2", "10.0.0.2").into(),
        ],
        services: vec![service("web", &["10.96.0.1"], AppProtocol::Http).into()],
        endpoints: vec![
            endpoint("web", "10.0.0.1:8080", Ready),
            endpoint("web", "10.0.0.2:8080", Ready),
        ],
        ..Facts::default()
    }
}

fn fields(rejections: &[Rejection]) -> Vec<(&str, &str)> {
    rejections
        .iter()
        .map(|rejection| (rejection.object.as_str(), rejection.field.as_str()))
        .collect()
}

fn usable(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let upstream = snapshot
        .upstream(&client(), &ServiceName::new("shop", service), 80)
        .unwrap();
    upstream
        .endpoints()
        .iter()
        .map(|endpoint| endpoint.addr.to_string())
        .collect()
}

/// The backend that a client of a namespace reaches through a route to Service `web`.
fn routed(snapshot: &Snapshot, client_namespace: &str) -> Option<String> {
    let upstream = snapshot
        .upstream(&client(), &ServiceName::new("shop", "web"), 80)
        .unwrap();
    let request = RequestFacts {
        method: "GET",
        path: "/",
        query: None,
        headers: &HeaderMap::new(),
        dialled: Dialled::default(),
    };
    let table = snapshot.routes(client_namespace, upstream)?;
    let rule = table.decide(&request).unwrap().rule;
    let CompiledAction::Forward(shares) = &rule.action else {
        panic!("{rule:?}");
    };
    Some(shares.choose(&mut rand::rng()).map_or_else(
        || "invalid".to_owned(),
        |backend| format!("{}:{}", backend.service.name, backend.port),
    ))
}

/// A request to an address, without a hash.
fn request_to(dialled: IpAddr) -> PickFacts<'static> {
    PickFacts {
        dialled,
        hash: None,
        of: Limit::Requests,
        tried: &[],
        leaves_localities: false,
        kept: None,
        now: Instant::now(),
    }
}
