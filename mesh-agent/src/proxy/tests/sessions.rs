//! Sessions of routes (GEP-1619): a client stays at the endpoint of its first request, as long as that can be.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, SET_COOKIE};
use http::{Request, Response, StatusCode};

use super::app::{App, full, grpc};
use super::client::{H1, H2, call, get, get2};
use super::facts::{BANK, CART, LabPod, PAY, WEB, route, rule};
use super::lab::Lab;
use super::retries::again;
use crate::mesh::route::{HttpRule, SessionCarrier, SessionPersistence};
use crate::mesh::service::AppProtocol;
use crate::transport::http::Body;

pub(super) fn by_cookie(lifetime: Option<Duration>, is_permanent: bool) -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Cookie {
            name: Some("s".into()),
            is_permanent,
        },
        lifetime,
    }
}

fn session_cookie() -> SessionPersistence {
    by_cookie(None, false)
}

pub(super) fn keeping(prefix: &str, backends: &[(&str, u32)], session: SessionPersistence) -> HttpRule {
    HttpRule {
        session: Some(session),
        ..rule(prefix, backends, None)
    }
}

/// The cookie that a response sets, as a client sends it back.
pub(super) fn cookie_of(headers: &HeaderMap) -> Option<String> {
    let set = headers.get(SET_COOKIE)?.to_str().unwrap();
    Some(set.split(';').next().unwrap().to_owned())
}

pub(super) fn with(path: &str, header: &str, value: &str) -> Request<Body> {
    let mut request = get(path);
    request.headers_mut().insert(
        http::HeaderName::try_from(header).unwrap(),
        value.parse().unwrap(),
    );
    request
}

pub(super) async fn pair(lab: &Lab, pod: LabPod, service: &str) -> (App, App, SocketAddr) {
    let (one, two) = (App::says(lab, pod, "one").await, App::says(lab, pod, "two").await);
    let vip = lab
        .service(service, AppProtocol::Http, &[one.addr, two.addr])
        .await;
    (one, two, vip)
}

#[tokio::test]
async fn a_client_with_its_cookie_stays_at_one_endpoint_on_either_node() {
    let lab = Lab::start().await;
    for (pod, service) in [(CART, "cart"), (PAY, "pay")] {
        let (_one, _two, vip) = pair(&lab, pod, service).await;
        lab.change(|facts| {
            let kept = keeping("/shop", &[(service, 1)], session_cookie());
            facts.http_routes = vec![route(service, vec![kept])];
        });
        let mut client = H1::dial(&lab, WEB, vip).await;
        let first = client.fetch(get("/shop/a")).await;
        let set = first.headers[SET_COOKIE].to_str().unwrap();
        assert!(set.ends_with("; Path=/shop; HttpOnly; SameSite=Strict"), "{set}");
        let cookie = cookie_of(&first.headers).unwrap();

        for _ in 0..20 {
            let again = client.fetch(with("/shop/b", "cookie", &cookie)).await;
            assert_eq!(again.text(), first.text(), "{service}");
            assert_eq!(again.headers.get(SET_COOKIE), None, "a session begins once");
        }
        let mut others = Vec::new();
        for _ in 0..20 {
            others.push(client.fetch(get("/shop/a")).await.text().to_owned());
        }
        assert!(others.iter().any(|other| other != first.text()), "{service}");
    }
}

/// A request over HTTP/2, which may give each cookie a line (RFC 9113 section 8.2.3).
fn asking(is_grpc: bool, cookie: Option<&str>) -> Request<Body> {
    let mut request = if is_grpc { call(b"hi") } else { get2("/") };
    for cookie in ["other=1"].into_iter().chain(cookie) {
        request.headers_mut().append(COOKIE, cookie.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn clients_of_http_2_and_grpc_stay_at_one_endpoint_too() {
    for (pod, is_grpc) in [(CART, false), (CART, true), (PAY, false), (PAY, true)] {
        let lab = Lab::start().await;
        let app = |text: &'static [u8]| App::http(&lab, pod, move |_| async move { grpc(text, 0) });
        let (one, two) = (app(b"one").await, app(b"two").await);
        let vip = lab
            .service("cart", AppProtocol::Grpc, &[one.addr, two.addr])
            .await;
        lab.change(|facts| {
            facts.http_routes = vec![route(
                "cart",
                vec![keeping("/", &[("cart", 1)], session_cookie())],
            )];
        });
        let mut client = H2::dial(&lab, WEB, vip).await;
        let first = client.fetch(asking(is_grpc, None)).await;
        let cookie = cookie_of(&first.headers).unwrap();
        for _ in 0..20 {
            let again = client.fetch(asking(is_grpc, Some(&cookie))).await;
            assert_eq!(again.text(), first.text());
            assert_eq!(again.trailers.unwrap()["grpc-status"], "0");
            assert_eq!(again.headers.get(SET_COOKIE), None, "a session begins once");
        }
        let mut others = Vec::new();
        for _ in 0..20 {
            others.push(client.fetch(asking(is_grpc, None)).await.text().to_owned());
        }
        assert!(others.iter().any(|other| other != first.text()));
    }
}

#[tokio::test]
async fn a_client_that_repeats_the_header_stays_at_one_endpoint() {
    let lab = Lab::start().await;
    let (_one, _two, vip) = pair(&lab, PAY, "pay").await;
    lab.change(|facts| {
        let session = SessionPersistence {
            carrier: SessionCarrier::Header("x-session".parse().unwrap()),
            lifetime: None,
        };
        facts.http_routes = vec![route("pay", vec![keeping("/", &[("pay", 1)], session)])];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    let first = client.fetch(get("/")).await;
    let token = first.headers["x-session"].to_str().unwrap().to_owned();
    for _ in 0..20 {
        let again = client.fetch(with("/", "x-session", &token)).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.headers.get("x-session"), None);
    }
}

#[tokio::test]
async fn a_session_stays_at_its_backend_when_the_weight_goes_to_another() {
    let lab = Lab::start().await;
    let old = App::says(&lab, PAY, "old").await;
    let new = App::says(&lab, CART, "new").await;
    let vip = lab.service("pay", AppProtocol::Http, &[old.addr]).await;
    lab.service("cart", AppProtocol::Http, &[new.addr]).await;
    let split = |backends: &'static [(&str, u32)]| {
        lab.change(move |facts| {
            facts.http_routes = vec![route("pay", vec![keeping("/", backends, session_cookie())])];
        });
    };
    split(&[("pay", 1), ("cart", 0)]);
    let mut client = H1::dial(&lab, WEB, vip).await;
    let first = client.fetch(get("/")).await;
    let cookie = cookie_of(&first.headers).unwrap();
    split(&[("pay", 0), ("cart", 1)]);
    assert_eq!(client.fetch(with("/", "cookie", &cookie)).await.text(), "old");
    assert_eq!(client.fetch(get("/")).await.text(), "new");

    // It is no backend of the rule any more.
    split(&[("cart", 1)]);
    let moved = client.fetch(with("/", "cookie", &cookie)).await;
    assert_eq!(moved.text(), "new");
    let cookie = cookie_of(&moved.headers).unwrap();
    assert_eq!(
        client
            .fetch(with("/", "cookie", &cookie))
            .await
            .headers
            .get(SET_COOKIE),
        None
    );
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_goes_on_at_another() {
    let lab = Lab::start().await;
    let (one, two, vip) = pair(&lab, CART, "cart").await;
    lab.change(|facts| {
        facts.http_routes = vec![route(
            "cart",
            vec![keeping("/", &[("cart", 1)], session_cookie())],
        )];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    let first = client.fetch(get("/")).await;
    let (gone, other) = if first.text() == "one" {
        (one.addr, "two")
    } else {
        (two.addr, "one")
    };
    lab.change(|facts| {
        facts.endpoints.retain(|endpoint| endpoint.addr != gone);
    });
    let stale = cookie_of(&first.headers).unwrap();
    let moved = client.fetch(with("/", "cookie", &stale)).await;
    assert_eq!(moved.text(), other);
    assert_ne!(cookie_of(&moved.headers).unwrap(), stale);
}

#[tokio::test]
async fn an_attempt_that_failed_ends_the_session_at_its_endpoint() {
    let lab = Lab::start().await;
    let app = |text: &'static str| {
        App::http(
            &lab,
            PAY,
            move |request: Request<hyper::body::Incoming>| async move {
                let is_bad = request.headers().get("x-fail").is_some_and(|bad| bad == text);
                let mut response = Response::new(full(text));
                if is_bad {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            },
        )
    };
    let (one, two) = (app("one").await, app("two").await);
    let vip = lab.service("pay", AppProtocol::Http, &[one.addr, two.addr]).await;
    lab.change(|facts| {
        let kept = keeping("/", &[("pay", 1)], session_cookie());
        let retried = HttpRule {
            retry: Some(again(1, "503")),
            ..kept
        };
        facts.http_routes = vec![route("pay", vec![retried])];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    let first = client.fetch(get("/")).await;
    let mut request = with("/", "cookie", &cookie_of(&first.headers).unwrap());
    request
        .headers_mut()
        .insert("x-fail", first.text().parse().unwrap());
    let moved = client.fetch(request).await;
    assert_eq!(moved.status, StatusCode::OK);
    assert_ne!(moved.text(), first.text());
    let cookie = cookie_of(&moved.headers).unwrap();
    assert_eq!(
        client.fetch(with("/", "cookie", &cookie)).await.text(),
        moved.text()
    );
}

#[tokio::test]
async fn a_token_of_another_rule_or_of_nobody_leads_nowhere_else() {
    let lab = Lab::start().await;
    let secret = App::says(&lab, BANK, "secret").await;
    let app = App::says(&lab, PAY, "pay").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    lab.service("bank", AppProtocol::Http, &[secret.addr]).await;
    lab.change(|facts| {
        let rules = vec![
            keeping("/bank", &[("bank", 1)], session_cookie()),
            keeping("/pay", &[("pay", 1)], session_cookie()),
            keeping("/both", &[("pay", 1), ("bank", 0)], session_cookie()),
        ];
        facts.http_routes = vec![route("pay", rules)];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    let of_bank = client.fetch(get("/bank")).await;
    assert_eq!(of_bank.text(), "secret");
    let of_bank = cookie_of(&of_bank.headers).unwrap();
    for path in ["/pay", "/both"] {
        for cookie in [of_bank.as_str(), "s=", "s=AQ", "s=%00", "s"] {
            let reply = client.fetch(with(path, "cookie", cookie)).await;
            assert_eq!(reply.text(), "pay", "{path} {cookie}");
            assert!(cookie_of(&reply.headers).is_some());
        }
    }
    // The right one counts wherever it stands among others of its name.
    let reply = client
        .fetch(with("/bank", "cookie", &format!("s=x; a=b; {of_bank}")))
        .await;
    assert_eq!((reply.text(), reply.headers.get(SET_COOKIE)), ("secret", None));
}

#[tokio::test]
async fn a_permanent_cookie_says_how_long_it_lasts_and_another_does_not() {
    let lab = Lab::start().await;
    let (_one, _two, vip) = pair(&lab, CART, "cart").await;
    let minute = Some(Duration::from_mins(1));
    for (is_permanent, ending) in [
        (true, "; Max-Age=60; HttpOnly; SameSite=Strict"),
        (false, "; Path=/; HttpOnly; SameSite=Strict"),
    ] {
        lab.change(|facts| {
            let kept = keeping("/", &[("cart", 1)], by_cookie(minute, is_permanent));
            facts.http_routes = vec![route("cart", vec![kept])];
        });
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        let set = reply.headers[SET_COOKIE].to_str().unwrap();
        assert!(set.ends_with(ending), "{set}");
    }
}
