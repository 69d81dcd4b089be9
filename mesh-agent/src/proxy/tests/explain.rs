//! An explanation says what then happens, and does nothing.

use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{App, full};
use super::authorization::{echo, from, policy, set, to};
use super::client::H1;
use super::facts::{BANK, CART, LATE, PAY, WEB, mesh_wide, route, rule};
use super::lab::{Lab, eventually, soon};
use crate::mesh::facts::Facts;
use crate::mesh::policy::MtlsMode;
use crate::mesh::policy::authorization::{PolicyAction, TextAttribute};
use crate::mesh::route::{
    Abort, DirectResponse, Fault, FieldMatch, Filters, HttpMatch, HttpRule, PathRewrite, Redirect, Rewrite,
    RuleAction, Share, ValueMatch,
};
use crate::mesh::service::AppProtocol;
use crate::policy::authentication::testing::{Signer, inline, policy as jwt_policy, rule as jwt_rule};
use crate::proxy::explain::Question;
use crate::proxy::explain::report::{Explanation, Outcome};

use PolicyAction::{Allow, Deny};

/// A Service and its application.
pub(super) struct Shop {
    name: &'static str,
    pub(super) vip: SocketAddr,
    app: App,
}

impl Shop {
    pub(super) async fn open(lab: &Lab, name: &'static str) -> Self {
        let pod = if name == "cart" { CART } else { PAY };
        let app = App::says(lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        Self { name, vip, app }
    }

    /// A request for `path`, in which `METHOD ` may stand before it, and a header behind ` `.
    fn asked(&self, request: &str) -> (Method, String, Vec<String>) {
        let (request, header) = request.split_once(" | ").unwrap_or((request, ""));
        let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
        let headers = (!header.is_empty()).then(|| header.to_owned());
        let url = format!("http://{}{path}", self.name);
        (method.parse().unwrap(), url, headers.into_iter().collect())
    }

    pub(super) fn explained(&self, lab: &Lab, request: &str) -> Explanation {
        let (method, url, headers) = self.asked(request);
        let question = Question::new("shop/web", &url, Some(method.as_str()), &headers).unwrap();
        lab.a.mesh.explain(&question).unwrap()
    }

    /// The status, and how many requests came to the application.
    pub(super) async fn sent(&self, lab: &Lab, request: &str) -> (u16, usize) {
        let (method, url, headers) = self.asked(request);
        let path = url.strip_prefix(&format!("http://{}", self.name)).unwrap();
        let mut sent = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.name);
        for header in &headers {
            let (name, value) = header.split_once(": ").unwrap();
            sent = sent.header(name, value);
        }
        let before = self.app.seen().len();
        let mut client = H1::dial(lab, WEB, self.vip).await;
        let reply = client.fetch(sent.body(full("")).unwrap()).await;
        (reply.status.as_u16(), self.app.seen().len() - before)
    }
}

/// What an explanation foretells: the status, and how many requests come to the application.
fn foretold(explanation: &Explanation) -> (u16, usize) {
    let verdict = &explanation.verdict;
    match verdict.outcome {
        Outcome::Sent => (200, 1),
        Outcome::Answered | Outcome::Refused => (verdict.status.unwrap(), 0),
        Outcome::Asked | Outcome::Varies | Outcome::NotCaptured => panic!("{explanation:#?}"),
    }
}

fn with_header(name: &str, value: &str, rule: HttpRule) -> HttpRule {
    let header = FieldMatch {
        name: name.into(),
        value: ValueMatch::Exact(value.into()),
    };
    let matches = rule.matches.iter().map(|one| HttpMatch {
        headers: vec![header.clone()],
        ..one.clone()
    });
    HttpRule {
        matches: matches.collect(),
        ..rule
    }
}

fn answering(prefix: &str, action: RuleAction) -> HttpRule {
    HttpRule {
        action,
        ..rule(prefix, &[], None)
    }
}

pub(super) fn routes(name: &'static str) -> Vec<HttpRule> {
    let to_shop = |prefix: &str| rule(prefix, &[(name, 1)], None);
    let redirect = Redirect {
        scheme: None,
        host: Some("example.org".into()),
        port: None,
        path: None,
        status: StatusCode::FOUND,
    };
    let teapot = DirectResponse {
        status: StatusCode::IM_A_TEAPOT,
        body: b"short".as_slice().into(),
    };
    let aborting = HttpRule {
        fault: Some(Fault {
            delay: None,
            abort: Some((Abort::Http(StatusCode::INSUFFICIENT_STORAGE), Share::ALL)),
        }),
        ..to_shop("/abort")
    };
    let rewriting = HttpRule {
        filters: Filters {
            rewrite: Rewrite {
                authority: None,
                path: Some(PathRewrite::Full("/open/secret".into())),
            },
            ..Filters::default()
        },
        ..to_shop("/rewritten")
    };
    vec![
        to_shop("/open"),
        rewriting,
        with_header("x-canary", "yes", to_shop("/")),
        rule("/nobody", &[("nobody", 1)], None),
        rule("/empty", &[("empty", 1)], None),
        rule("/late", &[("late", 1)], None),
        answering("/moved", RuleAction::Redirect(redirect)),
        answering("/tea", RuleAction::Respond(teapot)),
        aborting,
    ]
}

const REQUESTS: [&str; 16] = [
    "/open",
    "/rewritten",
    "/open/x?a=b",
    "POST /open",
    "/opened",
    "/opened | x-canary: yes",
    "/open/../secret | x-canary: yes",
    "/open/%2e%2e/moved",
    "/nobody",
    "/empty",
    "/late",
    "/moved/x",
    "/tea",
    "/abort",
    "/open//secret",
    "/open | authorization: Bearer a.b.c",
];

type Declare = Box<dyn Fn(&mut Facts)>;

/// What may be declared besides the routes.
fn settings() -> Vec<(&'static str, Declare)> {
    let policies = |policies| -> Declare { Box::new(set(policies)) };
    let signer = Signer::new("k");
    vec![
        ("nothing", Box::new(|_: &mut Facts| {})),
        (
            "no routes",
            Box::new(|facts: &mut Facts| facts.http_routes.clear()),
        ),
        (
            "STRICT",
            Box::new(|facts: &mut Facts| facts.peer_authentications = vec![mesh_wide(MtlsMode::Strict)]),
        ),
        (
            "DISABLE, and one identity is allowed",
            Box::new(|facts: &mut Facts| {
                facts.peer_authentications = vec![mesh_wide(MtlsMode::Disable)];
                set(vec![policy(Allow, vec![from(WEB)])])(facts);
            }),
        ),
        (
            "the client is allowed",
            policies(vec![policy(Allow, vec![from(WEB)])]),
        ),
        (
            "another is allowed",
            policies(vec![policy(Allow, vec![from(BANK)])]),
        ),
        (
            "a path is denied",
            policies(vec![policy(Deny, vec![to(TextAttribute::Path, "/open/secret*")])]),
        ),
        (
            "a method is allowed",
            policies(vec![policy(Allow, vec![to(TextAttribute::Method, "POST")])]),
        ),
        (
            "tokens are looked at",
            Box::new(move |facts: &mut Facts| {
                let rule = jwt_rule(inline(&[signer.jwk()]));
                facts.request_authentications = vec![jwt_policy(vec![rule])];
            }),
        ),
    ]
}

fn lines_with(lab: &Lab, details: &str) -> usize {
    let lines = [lab.a.log(), lab.b.log()].concat();
    let of_details = |line: &&serde_json::Value| line["response_code_details"] == details;
    lines.iter().filter(of_details).count()
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let lab = Lab::start().await;
    let late = SocketAddr::new(LATE.ip, 1);
    lab.service("empty", AppProtocol::Http, &[]).await;
    lab.service("late", AppProtocol::Http, &[late]).await;
    let shops = [Shop::open(&lab, "cart").await, Shop::open(&lab, "pay").await];
    for (what, declare) in settings() {
        lab.change(|facts| {
            facts.peer_authentications.clear();
            facts.authorization_policies.clear();
            facts.request_authentications.clear();
            facts.http_routes = vec![
                route("cart", routes("cart")),
                crate::mesh::route::HttpRoute {
                    name: "route-2".into(),
                    ..route("pay", routes("pay"))
                },
            ];
            declare(facts);
        });
        for (shop, request) in shops
            .iter()
            .flat_map(|shop| REQUESTS.map(|request| (shop, request)))
        {
            let explanation = shop.explained(&lab, request);
            let details = explanation.verdict.details.clone();
            let before = details.as_deref().map(|details| lines_with(&lab, details));
            let context = format!("{what}: {} {request}: {explanation:#?}", shop.name);
            assert_eq!(
                shop.sent(&lab, request).await,
                foretold(&explanation),
                "{context}"
            );
            if let (Some(details), Some(before)) = (details, before) {
                eventually(&context, || lines_with(&lab, &details) > before).await;
            }
        }
    }
}

#[tokio::test]
async fn bytes_are_explained_as_they_go() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = echo(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Tcp, &[app]).await;
        for (rules, is_let_in) in [(vec![from(WEB)], true), (vec![from(BANK)], false)] {
            lab.change(set(vec![policy(Allow, rules)]));
            let question = Question::new("shop/web", &format!("tcp://{name}:80"), None, &[""; 0]).unwrap();
            let explanation = lab.a.mesh.explain(&question).unwrap();
            let outcome = explanation.verdict.outcome;
            assert_eq!(outcome == Outcome::Sent, is_let_in, "{explanation:#?}");

            let mut client = lab.dial(WEB, vip).await;
            client.write_all(b"x").await.unwrap();
            let mut answer = [0];
            let answered = soon("an answer", client.read_exact(&mut answer)).await;
            assert_eq!(answered.is_ok(), is_let_in, "{name}");
        }
    }
}

#[tokio::test]
async fn asking_leaves_no_trace_and_names_the_endpoint_that_is_asked_next() {
    let lab = Lab::start().await;
    let apps = [App::says(&lab, CART, "a").await, App::says(&lab, CART, "b").await];
    let addrs = [apps[0].addr, apps[1].addr];
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    lab.change(set(vec![policy(Deny, vec![to(TextAttribute::Path, "/secret")])]));
    let question = |path: &str| {
        let url = format!("http://cart{path}");
        Question::new("shop/web", &url, None, &["authorization: Bearer a.b.c"]).unwrap()
    };
    let counts = || {
        let text = lab.a.mesh.telemetry.encode();
        let of_traffic = |line: &&str| line.starts_with("istio_") || line.starts_with("mesh_policy");
        text.lines()
            .filter(of_traffic)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..4 {
        let before = counts();
        assert_eq!(
            lab.a.mesh.explain(&question("/secret")).unwrap().verdict.status,
            Some(403)
        );
        let explanations = [(); 3].map(|()| lab.a.mesh.explain(&question("/")).unwrap());
        let picked = |explanation: &Explanation| {
            let endpoints = explanation.ways[0].endpoints.iter();
            let picked: Vec<_> = endpoints
                .filter(|one| one.is_picked)
                .map(|one| one.addr)
                .collect();
            assert_eq!(picked.len(), 1, "{explanation:#?}");
            picked[0]
        };
        let next = picked(&explanations[0]);
        assert!(explanations.iter().all(|explanation| picked(explanation) == next));
        assert_eq!((lab.a.load(), counts()), (0, before));

        let asked = apps.iter().find(|app| app.addr == next).unwrap();
        let before = asked.seen().len();
        client.fetch(super::client::get("/")).await;
        assert_eq!(asked.seen().len(), before + 1);
        eventually("load is given back", || lab.a.load() == 0).await;
    }
    assert_eq!(
        lab.a
            .log()
            .iter()
            .filter(|line| line["response_code"] == 403)
            .count(),
        0
    );
}
