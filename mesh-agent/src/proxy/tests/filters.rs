//! What routes change of requests and responses on their way, and what they answer themselves.

use http::{Method, Request, StatusCode};

use super::app::{App, full};
use super::client::{H1, H2, get, get2};
use super::facts::{CART, PAY, WEB, route, rule};
use super::lab::Lab;
use crate::mesh::route::{
    Cors, DirectResponse, Filters, HeaderEdits, HttpRule, OriginMatch, PathRewrite, Redirect, Rewrite,
    RuleAction,
};
use crate::mesh::service::AppProtocol;

fn edits(set: (&str, &str), add: (&str, &str), remove: &str) -> HeaderEdits {
    HeaderEdits {
        set: vec![(set.0.parse().unwrap(), set.1.parse().unwrap())],
        add: vec![(add.0.parse().unwrap(), add.1.parse().unwrap())],
        remove: vec![remove.parse().unwrap()],
    }
}

/// A rule for everything to `service`, with the filters of the rule and of its backend.
fn filtered(service: &str, of_rule: Filters, of_backend: Filters) -> HttpRule {
    let mut rule = HttpRule {
        filters: of_rule,
        ..rule("/old", &[(service, 1)], None)
    };
    if let RuleAction::Forward(backends) = &mut rule.action {
        backends[0].filters = of_backend;
    }
    rule
}

#[tokio::test]
async fn heads_are_changed_by_the_rule_and_then_by_its_backend() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        lab.change(move |facts| {
            let of_rule = Filters {
                request: edits(("a", "rule"), ("b", "rule"), "secret"),
                response: edits(("c", "rule"), ("d", "rule"), "date"),
                ..Filters::default()
            };
            let of_backend = Filters {
                request: edits(("e", "backend"), ("b", "backend"), "a"),
                response: edits(("c", "backend"), ("d", "backend"), "none"),
                ..Filters::default()
            };
            facts.http_routes = vec![route(name, vec![filtered(name, of_rule, of_backend)])];
        });

        let mut request = get("/old");
        for header in ["a", "secret"] {
            request.headers_mut().insert(header, "client".parse().unwrap());
        }
        let reply = H1::dial(&lab, WEB, vip).await.fetch(request).await;

        assert_eq!(reply.headers["c"], "rule", "{name}");
        let added: Vec<_> = reply.headers.get_all("d").iter().collect();
        assert_eq!(added, ["backend", "rule"], "{name}");
        let seen = app.only_seen();
        assert_eq!((seen.header("a"), seen.header("secret")), (None, None), "{name}");
        assert_eq!(seen.header("e"), Some("backend"), "{name}");
        let added: Vec<_> = seen.head.headers.get_all("b").iter().collect();
        assert_eq!(added, ["rule", "backend"], "{name}");
    }
}

#[tokio::test]
async fn what_is_asked_for_is_rewritten_and_normal_again() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        lab.change(move |facts| {
            let of_rule = Filters {
                rewrite: Rewrite {
                    authority: Some("other.example".parse().unwrap()),
                    path: Some(PathRewrite::Prefix("/a/../new".into())),
                },
                ..Filters::default()
            };
            facts.http_routes = vec![route(name, vec![filtered(name, of_rule, Filters::default())])];
        });

        H1::dial(&lab, WEB, vip).await.fetch(get("/old/x?q=1")).await;
        H2::dial(&lab, WEB, vip).await.fetch(get2("/old")).await;

        let seen = app.seen();
        let target = |index: usize| seen[index].head.uri.path_and_query().unwrap().as_str();
        assert_eq!((target(0), target(1)), ("/new/x?q=1", "/new"), "{name}");
        assert_eq!(seen[0].header("host"), Some("other.example"), "{name}");
        assert_eq!(seen[1].head.uri.host(), Some("other.example"), "{name}");
    }
}

#[tokio::test]
async fn a_redirect_and_a_direct_response_reach_no_application() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let redirect = Redirect {
            scheme: None,
            host: Some("example.org".into()),
            port: None,
            path: None,
            status: StatusCode::MOVED_PERMANENTLY,
        };
        let teapot = DirectResponse {
            status: StatusCode::IM_A_TEAPOT,
            body: b"short and stout".as_slice().into(),
        };
        let rules = [
            ("/gone", RuleAction::Redirect(redirect)),
            ("/tea", RuleAction::Respond(teapot)),
        ];
        let rules = rules.map(|(prefix, action)| HttpRule {
            action,
            ..rule(prefix, &[], None)
        });
        facts.http_routes = vec![route("cart", rules.into())];
    });

    let mut client = H1::dial(&lab, WEB, vip).await;
    let reply = client.fetch(get("/gone/x?q=1")).await;
    assert_eq!(reply.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(reply.headers["location"], "http://example.org/gone/x?q=1");
    let reply = client.fetch(get("/tea")).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (418, "short and stout"));
    assert_eq!(app.seen().len(), 0);
    let log = lab.a.logged(2).await;
    let codes: Vec<_> = log.iter().map(|line| &line["response_code"]).collect();
    assert_eq!(codes, [301, 418]);
}

#[tokio::test]
async fn scripts_of_allowed_origins_are_told_so_and_others_nothing() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let cors = Cors {
            origins: vec![OriginMatch::Exact("https://a.example".into())],
            credentials: true,
            methods: vec!["*".into()],
            request_headers: vec!["x-one".into()],
            exposed_headers: vec!["x-two".into()],
            max_age: Some(std::time::Duration::from_secs(5)),
            keeps_others_away: false,
        };
        let rule = HttpRule {
            cors: Some(cors),
            ..rule("/", &[("cart", 1)], None)
        };
        facts.http_routes = vec![route("cart", vec![rule])];
    });

    let mut client = H1::dial(&lab, WEB, vip).await;
    let ask = |method: Method, origin: &str| {
        Request::builder()
            .method(method)
            .uri("/")
            .header("host", "cart")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .body(full(""))
            .unwrap()
    };
    let preflight = client.fetch(ask(Method::OPTIONS, "https://a.example")).await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-one"),
        ("access-control-max-age", "5"),
    ] {
        assert_eq!(preflight.headers[name], value);
    }
    assert_eq!(app.seen().len(), 0, "the agent answered");

    let simple = client.fetch(ask(Method::GET, "https://a.example")).await;
    assert_eq!(simple.text(), "hello");
    assert_eq!(simple.headers["access-control-allow-origin"], "https://a.example");
    assert_eq!(simple.headers["access-control-expose-headers"], "x-two");
    assert_eq!(simple.headers["vary"], "origin");

    for method in [Method::OPTIONS, Method::GET] {
        let other = client.fetch(ask(method, "https://evil.example")).await;
        assert_eq!(other.text(), "hello", "the application answers");
        assert!(!other.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_preflight_of_another_origin_can_be_kept_from_the_application() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let cors = Cors {
            origins: vec![OriginMatch::Exact("https://a.example".into())],
            keeps_others_away: true,
            ..Cors::default()
        };
        let rule = HttpRule {
            cors: Some(cors),
            ..rule("/", &[("cart", 1)], None)
        };
        facts.http_routes = vec![route("cart", vec![rule])];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    for (method, asks, is_answered) in [
        (Method::OPTIONS, Some("https://evil.example"), true),
        (Method::OPTIONS, None, false),
        (Method::GET, Some("https://evil.example"), false),
    ] {
        let mut request = get("/");
        *request.method_mut() = method.clone();
        let headers = request.headers_mut();
        headers.insert("access-control-request-method", "PUT".parse().unwrap());
        if let Some(origin) = asks {
            headers.insert("origin", origin.parse().unwrap());
        }
        let before = app.seen().len();
        let reply = client.fetch(request).await;
        assert!(!reply.headers.contains_key("access-control-allow-origin"));
        assert_eq!(app.seen().len() == before, is_answered, "{method} {asks:?}");
        assert_eq!(
            reply.status == StatusCode::NO_CONTENT,
            is_answered,
            "{method} {asks:?}"
        );
    }
}

#[tokio::test]
async fn an_attempt_that_does_not_begin_its_answer_in_time_is_504() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| std::future::pending()).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let rule = HttpRule {
            attempt_timeout: Some(std::time::Duration::from_millis(50)),
            ..rule("/", &[("cart", 1)], None)
        };
        facts.http_routes = vec![route("cart", vec![rule])];
    });
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
}
