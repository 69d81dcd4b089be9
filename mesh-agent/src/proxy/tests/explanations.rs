//! What an explanation shows, and who gets none.

use super::authorization::{from, policy, set, to};
use super::explain::{Shop, routes};
use super::facts::{BANK, PAY, WEB, mesh_wide, route, rule};
use super::lab::Lab;
use super::limits;
use super::stream_routes;
use crate::mesh::policy::MtlsMode;
use crate::mesh::policy::authorization::{PolicyAction, TextAttribute};
use crate::mesh::route::RouteKind;
use crate::mesh::workload::{Membership, WorkloadUid};
use crate::proxy::explain::report::{Explanation, Outcome, TransportKind};
use crate::proxy::explain::{Question, Unexplained};

use PolicyAction::{Allow, Deny};

#[tokio::test]
async fn each_backend_is_a_way_with_its_share() {
    let lab = Lab::start().await;
    let shops = [Shop::open(&lab, "cart").await, Shop::open(&lab, "pay").await];
    lab.change(|facts| {
        let backends = [("cart", 6), ("pay", 3), ("nobody", 1)];
        facts.http_routes = vec![route("cart", vec![rule("/", &backends, None)])];
        facts.peer_authentications = vec![mesh_wide(MtlsMode::Strict)];
    });
    let explanation = shops[0].explained(&lab, "/x");
    assert_eq!(explanation.verdict.outcome, Outcome::Varies);
    let told: Vec<_> = explanation
        .ways
        .iter()
        .map(|way| {
            let transport = way.transport.as_ref();
            let policies = way.policies.as_ref();
            (
                way.backend.as_deref(),
                way.share_percent,
                transport.map(|transport| (transport.kind, transport.peer_identity.clone())),
                policies.map(|policies| (policies.decided_on.as_str(), policies.is_decided_here)),
                way.verdict.status,
            )
        })
        .collect();
    let bank = PAY.identity().to_string();
    assert_eq!(
        told,
        [
            (
                Some("shop/cart:80"),
                60.0,
                Some((TransportKind::SameNode, None)),
                Some(("node-a", true)),
                None
            ),
            (
                Some("shop/pay:80"),
                30.0,
                Some((TransportKind::MutualTls, Some(bank))),
                Some(("node-b", false)),
                None
            ),
            (None, 10.0, None, None, Some(500)),
        ]
    );
}

#[tokio::test]
async fn each_backend_of_a_tcp_route_is_a_way_with_its_share() {
    let lab = Lab::start().await;
    let _shops = [Shop::open(&lab, "cart").await, Shop::open(&lab, "pay").await];
    let explained = |backends: &[(&str, u32)]| {
        let backends = backends.iter();
        let backends =
            backends.map(|(name, weight)| stream_routes::to(stream_routes::service(name), *weight));
        let rules = vec![(stream_routes::anything(), backends.collect())];
        lab.change(|facts| {
            facts.stream_routes = vec![stream_routes::route(RouteKind::Tcp, "cart", rules.clone())];
        });
        let question = Question::new("shop/web", "tcp://cart:80", None, &[""; 0]).unwrap();
        lab.a.mesh.explain(&question).unwrap()
    };
    let told = explained(&[("cart", 6), ("pay", 3), ("nobody", 1), ("pay", 0)]);
    assert_eq!(told.verdict.outcome, Outcome::Varies);
    let ways: Vec<_> = told
        .ways
        .iter()
        .map(|way| {
            let transport = way.transport.as_ref();
            let names_route = transport
                .is_some_and(|transport| transport.notes.iter().any(|note| note.contains("shop/route")));
            (
                way.backend.as_deref(),
                way.share_percent,
                names_route,
                way.verdict.outcome,
            )
        })
        .collect();
    assert_eq!(
        ways,
        [
            (Some("shop/cart:80"), 60.0, true, Outcome::Sent),
            (Some("shop/pay:80"), 30.0, true, Outcome::Sent),
            (None, 10.0, false, Outcome::Refused),
        ]
    );
    let none = explained(&[("cart", 0)]);
    assert_eq!((none.verdict.outcome, none.ways.len()), (Outcome::Refused, 1));
}

#[tokio::test]
async fn why_others_do_not_match_is_said() {
    let lab = Lab::start().await;
    let shop = Shop::open(&lab, "cart").await;
    lab.change(|facts| {
        facts.http_routes = vec![route("cart", routes("cart"))];
        set(vec![policy(
            Deny,
            vec![from(BANK), to(TextAttribute::Method, "PUT")],
        )])(facts);
    });
    let explanation = shop.explained(&lab, "/open/x");
    let routes = explanation.routes.unwrap();
    let lines: Vec<_> = routes
        .matches
        .iter()
        .map(|line| (line.rule, line.mismatch.as_deref()))
        .collect();
    let other_paths = [1, 3, 4, 5, 6, 7, 8].map(|rule| (rule, Some("path")));
    assert!(other_paths.iter().all(|line| lines.contains(line)), "{lines:?}");
    assert!(lines.contains(&(2, Some("header"))), "{lines:?}");
    let chosen = routes.chosen.unwrap();
    assert_eq!((chosen.rule, lines[chosen.position.unwrap()]), (0, (0, None)));

    let policies = explanation.ways[0].policies.as_ref().unwrap();
    let line = &policies.authorization[0];
    assert_eq!(
        (line.action.as_str(), line.policy.as_str(), line.matches),
        ("DENY", "shop/p", false)
    );
    let why: Vec<_> = line.rules.iter().map(|rule| rule.why_not.concat()).collect();
    assert_eq!(
        why,
        [
            "from[0]: not so: principals is one of cluster.local/ns/shop/sa/bank, old.local/ns/shop/sa/bank",
            "to[0]: not so: methods is one of PUT"
        ]
    );
}

#[tokio::test]
async fn limits_that_would_count_are_named_and_give_no_token() {
    let lab = Lab::start().await;
    lab.change(limits::set(limits::policy(vec![limits::hourly(1, vec![])])));
    let shop = Shop::open(&lab, "cart").await;
    for _ in 0..3 {
        let explanation = shop.explained(&lab, "/");
        let lines = &explanation.ways[0].policies.as_ref().unwrap().rate_limits;
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.policy.as_str(), line.local.as_deref()))
            .collect();
        assert_eq!(told, [("shop/p", Some("1 in 3600s, 1 at once"))]);
    }
    assert_eq!(shop.sent(&lab, "/").await, (200, 1), "the only token is there");
    assert_eq!(shop.sent(&lab, "/").await, (429, 0));
}

#[tokio::test]
async fn names_are_found_as_a_resolver_finds_them() {
    let lab = Lab::start().await;
    let shop = Shop::open(&lab, "cart").await;
    let explained = |host: &str| {
        let question = Question::new("shop/web", &format!("http://{host}/"), None, &[""; 0]).unwrap();
        lab.a.mesh.explain(&question)
    };
    for host in [
        "cart",
        "Cart.shop",
        "cart.shop.svc",
        "cart.shop.svc.cluster.local",
        "cart.shop.svc.cluster.local.",
    ] {
        let destination = explained(host).unwrap().destination;
        assert_eq!(
            (destination.name.as_deref(), destination.addr),
            (Some("shop/cart"), Some(shop.vip)),
            "{host}"
        );
    }
    for host in ["crat", "cart.other.svc", "crat.shop.svc.cluster.local"] {
        assert!(
            matches!(explained(host), Err(Unexplained::NoService(_))),
            "{host}"
        );
    }
    let outside = explained("example.org").unwrap();
    assert_eq!(
        (outside.destination.addr, outside.verdict.outcome),
        (None, Outcome::Sent)
    );
    let own = explained(&WEB.ip.to_string()).unwrap();
    assert_eq!(own.verdict.outcome, Outcome::NotCaptured);
}

#[tokio::test]
async fn who_asks_for_the_wrong_pod_is_told_the_way_out() {
    let lab = Lab::start().await;
    lab.a.change(|facts| {
        let mut stranger = WEB.workload();
        stranger.uid = WorkloadUid::new("stranger");
        (stranger.pod_name, stranger.membership) = ("stranger".into(), Membership::Outside);
        stranger.addrs.clear();
        facts.workloads.push(stranger.into());
    });
    for (pod, status, says) in [
        ("shop/wep", 404, "is shop/web meant?"),
        ("else/where", 404, "no pod else/where"),
        ("shop/pay", 421, "node-b: ask the agent there"),
        ("shop/stranger", 409, "mesh-agent.dev/dataplane"),
        ("shop/late", 409, "mesh-agent status"),
    ] {
        let question = Question::new(pod, "http://cart/", None, &[""; 0]).unwrap();
        let error = lab.a.mesh.explain(&question).unwrap_err();
        assert_eq!(error.status(), status, "{pod}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn an_explanation_keeps_its_keys() {
    let lab = Lab::start().await;
    let shop = Shop::open(&lab, "pay").await;
    lab.change(|facts| {
        facts.http_routes = vec![route("pay", vec![rule("/a", &[("pay", 1)], None)])];
        set(vec![policy(Allow, vec![from(BANK)])])(facts);
    });
    let explanation = shop.explained(&lab, "/a");
    let page = serde_json::to_value(&explanation).unwrap();
    assert_eq!(
        serde_json::from_value::<Explanation>(page.clone()).unwrap(),
        explanation
    );
    for pointer in [
        "/node",
        "/snapshot_version",
        "/source/identity",
        "/destination/kind",
        "/routes/matches/0/mismatch",
        "/routes/chosen/position",
        "/ways/0/backend",
        "/ways/0/share_percent",
        "/ways/0/endpoints/0/is_ejected",
        "/ways/0/transport/peer_identity",
        "/ways/0/policies/authorization/0/rules/0/why_not",
        "/ways/0/verdict/details",
        "/verdict/outcome",
        "/verdict/status",
    ] {
        assert!(page.pointer(pointer).is_some(), "{pointer}: {page}");
    }
    assert_eq!(
        (&page["verdict"]["outcome"], &page["verdict"]["status"]),
        (&"refused".into(), &403.into())
    );
    assert_eq!(page["ways"][0]["transport"]["kind"], "mutual_tls");
}
