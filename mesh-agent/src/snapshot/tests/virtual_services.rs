//! VirtualServices beside one another and beside Gateway API's routes.

use super::*;

/// A VirtualService of namespace `far` for Service `web`.
fn written(name: &str, age: u64, audience: Audience, backend: &str) -> HttpRoute {
    HttpRoute {
        kind: RouteKind::Virtual,
        meta: meta(&format!("VirtualService far/{name}"), age),
        audience,
        ..route(
            "far",
            name,
            RouteParent {
                field: "spec.hosts[0]".into(),
                ..parent("web")
            },
            (backend, 80),
        )
    }
}

fn facts(http_routes: Vec<HttpRoute>) -> Facts {
    let mut facts = Facts { http_routes, ..web() };
    for (name, vip) in [("v1", "10.96.0.2"), ("v2", "10.96.0.3")] {
        facts
            .services
            .push(service(name, &[vip], AppProtocol::Http).into());
    }
    facts
}

#[test]
fn it_acts_on_the_clients_that_it_is_exported_to() {
    let for_far = Audience::Namespaces(vec!["far".into()]);
    let all = written("all", 0, Audience::Everybody, "v1");
    let own = written("own", 0, for_far, "v2");
    let (snapshot, rejections) = build(&facts(vec![all, own]));
    assert_eq!(rejections, []);
    assert_eq!(routed(&snapshot, "shop").as_deref(), Some("v1:80"));
    assert_eq!(routed(&snapshot, "far").as_deref(), Some("v2:80"));
}

#[test]
fn of_several_for_one_host_the_eldest_counts() {
    let ages = [("young", 9, "v2"), ("old", 1, "v1")];
    let routes = ages.map(|(name, age, backend)| written(name, age, Audience::Everybody, backend));
    let (snapshot, rejections) = build(&facts(routes.into()));
    assert_eq!(fields(&rejections), [("VirtualService far/young", "spec.hosts")]);
    assert_eq!(routed(&snapshot, "shop").as_deref(), Some("v1:80"));
}

#[test]
fn routes_of_gateway_api_go_before_it() {
    let of_gateway_api = route("shop", "r", parent("web"), ("v2", 80));
    let (snapshot, rejections) = build(&facts(vec![
        written("v", 0, Audience::Everybody, "v1"),
        of_gateway_api,
    ]));
    assert_eq!(fields(&rejections), [("VirtualService far/v", "spec.hosts")]);
    assert_eq!(routed(&snapshot, "shop").as_deref(), Some("v2:80"));
}

#[test]
fn an_unknown_host_is_named() {
    let mut astray = written("v", 0, Audience::Everybody, "v1");
    astray.parents = vec![RouteParent {
        field: "spec.hosts[0]".into(),
        ..parent("nobody")
    }];
    let (_, rejections) = build(&facts(vec![astray]));
    assert_eq!(fields(&rejections), [("VirtualService far/v", "spec.hosts[0]")]);
}
