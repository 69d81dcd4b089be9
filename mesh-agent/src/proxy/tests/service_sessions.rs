//! Sessions of Services (GEP-1619): clients stay where no rule says anything else.

use http::header::{HeaderMap, SET_COOKIE};

use super::app::App;
use super::client::{H1, get};
use super::explain::Shop;
use super::facts::{CART, LabPod, PAY, WEB, meta, name, route, rule};
use super::lab::Lab;
use super::sessions::{by_cookie, cookie_of, keeping, pair, with};
use crate::mesh::facts::Facts;
use crate::mesh::route::{HttpRule, SessionCarrier, SessionPersistence};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::BackendTrafficPolicy;

fn by_header() -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Header("x-session".parse().unwrap()),
        lifetime: None,
    }
}

/// As a policy of Gateway API says of `service`.
fn keep(facts: &mut Facts, service: &str, session: SessionPersistence) {
    facts.backend_policies.push(BackendTrafficPolicy {
        meta: meta(format!("XBackendTrafficPolicy shop/{service}")),
        targets: vec![("spec.targetRefs[0].name".into(), name(service))],
        retries: None,
        session: Some(session),
    });
}

/// The token of a response, and the header that brings it back.
fn token_of(headers: &HeaderMap) -> Option<(&'static str, String)> {
    let repeated = headers.get("x-session");
    let repeated = repeated.map(|token| ("x-session", token.to_str().unwrap().to_owned()));
    repeated.or_else(|| Some(("cookie", cookie_of(headers)?)))
}

/// A client that brings its token back stays, and one that does not is sent about.
async fn keeps(pod: LabPod, service: &str, session: &SessionPersistence, rules: Option<&HttpRule>) {
    let lab = Lab::start().await;
    let (_one, _two, vip) = pair(&lab, pod, service).await;
    let case = format!("{service} {session:?} {rules:?}");
    lab.change(|facts| {
        keep(facts, service, session.clone());
        let routes = rules.map(|one| route(service, vec![one.clone()]));
        facts.http_routes = routes.into_iter().collect();
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    let first = client.fetch(get("/shop/a")).await;
    if let Some(set) = first.headers.get(SET_COOKIE) {
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{set}");
    }
    let (header, token) = token_of(&first.headers).expect(&case);
    for _ in 0..20 {
        let again = client.fetch(with("/shop/b", header, &token)).await;
        assert_eq!(again.text(), first.text(), "{case}");
        assert_eq!(token_of(&again.headers), None, "a session begins once");
    }
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(client.fetch(get("/shop/a")).await.text().to_owned());
    }
    assert!(others.iter().any(|other| other != first.text()), "{case}");
}

#[tokio::test]
async fn a_service_keeps_its_clients_with_and_without_a_route() {
    for (pod, service) in [(CART, "cart"), (PAY, "pay")] {
        for session in [by_cookie(None, false), by_header()] {
            let plain = rule("/shop", &[(service, 1)], None);
            for rules in [None, Some(&plain)] {
                keeps(pod, service, &session, rules).await;
            }
        }
    }
}

#[tokio::test]
async fn the_sessions_of_a_rule_go_before_those_of_its_service() {
    let lab = Lab::start().await;
    let (_one, _two, vip) = pair(&lab, CART, "cart").await;
    lab.change(|facts| {
        keep(facts, "cart", by_header());
        let own = keeping("/own", &[("cart", 1)], by_cookie(None, false));
        facts.http_routes = vec![route("cart", vec![own, rule("/", &[("cart", 1)], None)])];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    let of_service = client.fetch(get("/")).await;
    let (header, token) = token_of(&of_service.headers).unwrap();
    assert_eq!(header, "x-session");
    let mut answers = Vec::new();
    for _ in 0..20 {
        let reply = client.fetch(with("/own", "x-session", &token)).await;
        assert!(
            cookie_of(&reply.headers).is_some(),
            "a session of the rule begins"
        );
        assert_eq!(reply.headers.get("x-session"), None);
        answers.push(reply.text().to_owned());
    }
    let elsewhere = answers.iter().any(|answer| answer != of_service.text());
    assert!(elsewhere, "the token of the Service keeps nobody here");

    let of_rule = client.fetch(get("/own")).await;
    let cookie = cookie_of(&of_rule.headers).unwrap();
    for _ in 0..20 {
        let again = client.fetch(with("/own", "cookie", &cookie)).await;
        assert_eq!(again.text(), of_rule.text());
    }
}

#[tokio::test]
async fn a_client_stays_at_the_service_that_keeps_it_when_the_weight_goes_to_another() {
    let lab = Lab::start().await;
    let old = App::says(&lab, PAY, "old").await;
    let new = App::says(&lab, CART, "new").await;
    let vip = lab.service("pay", AppProtocol::Http, &[old.addr]).await;
    lab.service("cart", AppProtocol::Http, &[new.addr]).await;
    lab.change(|facts| keep(facts, "pay", by_cookie(None, false)));
    let split = |backends: &'static [(&str, u32)]| {
        lab.change(move |facts| facts.http_routes = vec![route("pay", vec![rule("/", backends, None)])]);
    };
    split(&[("pay", 1), ("cart", 0)]);
    let mut client = H1::dial(&lab, WEB, vip).await;
    let cookie = cookie_of(&client.fetch(get("/")).await.headers).unwrap();
    split(&[("pay", 0), ("cart", 1)]);
    assert_eq!(client.fetch(with("/", "cookie", &cookie)).await.text(), "old");
    // That Service keeps nobody.
    let other = client.fetch(get("/")).await;
    assert_eq!((other.text(), token_of(&other.headers)), ("new", None));

    split(&[("cart", 1)]);
    let moved = client.fetch(with("/", "cookie", &cookie)).await;
    assert_eq!(moved.text(), "new", "it is no backend of the rule any more");
    split(&[("pay", 0), ("cart", 0)]);
    assert_eq!(client.fetch(get("/")).await.status, 500, "none is drawn");
}

#[tokio::test]
async fn an_explanation_says_that_the_service_keeps_clients() {
    let lab = Lab::start().await;
    let shop = Shop::open(&lab, "cart").await;
    let is_told = || {
        let told = shop.explained(&lab, "/").ways.remove(0).changes;
        told.iter()
            .any(|change| change.contains("session persistence of the Service"))
    };
    assert!(!is_told());
    lab.change(|facts| keep(facts, "cart", by_header()));
    assert!(is_told());
    lab.change(|facts| facts.http_routes = vec![route("cart", vec![rule("/", &[("cart", 1)], None)])]);
    assert!(is_told());
    lab.change(|facts| {
        let own = keeping("/", &[("cart", 1)], by_cookie(None, false));
        facts.http_routes = vec![route("cart", vec![own])];
    });
    assert!(!is_told(), "the rule has its own");
}
