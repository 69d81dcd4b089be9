//! Applications that speak TLS themselves: requests in plaintext reach them, proven ones only, on every path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{full, speaks};
use super::client::{H1, get};
use super::facts::{CART, LEGACY, LabPod, PAY, WEB, destination_rule, meta, name};
use super::lab::Lab;
use crate::identity::testing::tls_server;
use crate::mesh::backend_tls::{
    BackendTls, BackendTlsPolicy, BackendTlsTarget, PeerName, TrustedRoots, WrittenTls,
};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::WrittenPolicy;
use crate::proxy::explain::Question;
use crate::proxy::explain::report::TransportKind;
use crate::transport::http::Body;

pub(super) const HOST: &str = "cart.example";

/// Serves HTTP inside of TLS, and answers with the name that it was asked for; counts handshakes that came about.
struct TlsApp {
    root: String,
    proven: Arc<AtomicUsize>,
    dialled: Arc<AtomicUsize>,
    addr: SocketAddr,
}

impl TlsApp {
    async fn open(lab: &Lab, pod: LabPod, names: &[&str]) -> Self {
        let (acceptor, root) = tls_server(names);
        let (proven, dialled) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (noted, seen) = (Arc::clone(&proven), Arc::clone(&dialled));
        let addr = speaks(lab, pod, move |stream| {
            seen.fetch_add(1, Ordering::Relaxed);
            let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                noted.fetch_add(1, Ordering::Relaxed);
                let asked = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                let service = service_fn(move |_: Request<Incoming>| says(asked.clone()));
                // An error is a client that went away.
                let _served = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await;
        Self {
            root,
            proven,
            dialled,
            addr,
        }
    }

    fn tls(&self, names: &[PeerName]) -> BackendTls {
        BackendTls {
            roots: TrustedRoots::Pem(self.root.as_str().into()),
            name: Some(HOST.into()),
            names: names.to_vec(),
            ..BackendTls::impossible()
        }
    }
}

pub(super) fn says(text: String) -> std::future::Ready<Result<Response<Body>, Infallible>> {
    std::future::ready(Ok(Response::new(full(text))))
}

pub(super) fn policy(lab: &Lab, tls: &BackendTls) {
    let tls = Arc::new(tls.clone());
    lab.change(move |facts| {
        facts.backend_tls_policies = vec![BackendTlsPolicy {
            meta: meta("BackendTLSPolicy shop/cart".to_owned()),
            targets: vec![BackendTlsTarget {
                field: "spec.targetRefs[0]".into(),
                service: name("cart"),
                section: None,
            }],
            tls: Arc::clone(&tls),
        }];
    });
}

#[tokio::test]
async fn a_plain_request_reaches_an_application_that_speaks_tls_wherever_it_is() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let app = TlsApp::open(&lab, pod, &[HOST]).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        policy(&lab, &app.tls(&[]));
        let mut client = H1::dial(&lab, WEB, vip).await;
        for _ in 0..2 {
            let reply = client.fetch(get("/")).await;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, HOST), "{}", pod.name);
        }
        assert_eq!(
            app.proven.load(Ordering::Relaxed),
            1,
            "{}: connections are kept",
            pod.name
        );
    }
}

#[tokio::test]
async fn who_does_not_prove_what_is_asked_for_gets_nothing() {
    let uri = "spiffe://elsewhere/ns/shop/sa/cart";
    let host = |name: &str| PeerName::Host(name.into());
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let app = TlsApp::open(&lab, pod, &[HOST, "alias.example", uri]).await;
        let stranger = tls_server(&[HOST]).1;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        let with_root = |root: TrustedRoots| BackendTls {
            roots: root,
            ..app.tls(&[])
        };
        let mut refused = 0;
        for (what, tls, is_proven) in [
            ("its name", app.tls(&[]), true),
            (
                "an alias",
                app.tls(&[host("other.example"), host("alias.example")]),
                true,
            ),
            ("a uri", app.tls(&[PeerName::Uri(uri.into())]), true),
            ("another alias", app.tls(&[host("other.example")]), false),
            (
                "another uri",
                app.tls(&[PeerName::Uri("spiffe://elsewhere/x".into())]),
                false,
            ),
            (
                "another ca",
                with_root(TrustedRoots::Pem(stranger.as_str().into())),
                false,
            ),
            ("no bundle of the node", with_root(TrustedRoots::System), false),
            ("what cannot be honoured", with_root(TrustedRoots::Nobody), false),
        ] {
            policy(&lab, &tls);
            let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/refused")).await;
            let status = if is_proven { 200 } else { 503 };
            assert_eq!(reply.status, status, "{}: {what}", pod.name);
            if is_proven {
                continue;
            }
            refused += 1;
            let agent = lab.agent_of(if pod.joins() { pod } else { WEB });
            let is_told = |line: &&serde_json::Value| {
                line["response_flags"] == "UF" && line["response_code_details"] == "upstream_tls_failed"
            };
            super::lab::eventually(what, || agent.log().iter().filter(is_told).count() >= refused).await;
        }
        assert!(app.dialled.load(Ordering::Relaxed) > 0);
    }
}

#[tokio::test]
async fn a_rule_that_cannot_be_honoured_dials_nobody_and_the_nodes_bundle_is_believed_where_it_is_named() {
    let lab = Lab::start().await;
    let app = TlsApp::open(&lab, LEGACY, &["cart.shop.svc.cluster.local"]).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let by_rule = |tls: WrittenTls| {
        let written = WrittenPolicy {
            tls: Some(tls),
            ..WrittenPolicy::default()
        };
        lab.change(move |facts| facts.destination_rules = vec![destination_rule("cart", written.clone())]);
    };
    by_rule(WrittenTls::Begun(Arc::new(BackendTls::impossible())));
    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/")).await.status, 503);
    assert_eq!(
        app.dialled.load(Ordering::Relaxed),
        0,
        "least of all in plaintext"
    );

    std::fs::write(&lab.a.mesh.settings.root_bundle, &app.root).unwrap();
    by_rule(WrittenTls::Begun(Arc::new(BackendTls {
        roots: TrustedRoots::System,
        ..BackendTls::impossible()
    })));
    let reply = client.fetch(get("/")).await;
    let own = "cart.shop.svc.cluster.local";
    assert_eq!(
        (reply.status.as_u16(), reply.text()),
        (200, own),
        "its own name by default"
    );

    policy(&lab, &app.tls(&[]));
    assert_eq!(
        client.fetch(get("/")).await.status,
        503,
        "Gateway API's policy goes before it"
    );
}

#[tokio::test]
async fn a_connection_that_was_begun_by_another_policy_is_not_used() {
    for pod in [CART, LEGACY] {
        let lab = Lab::start().await;
        let app = TlsApp::open(&lab, pod, &[HOST]).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        policy(&lab, &app.tls(&[]));
        let mut client = H1::dial(&lab, WEB, vip).await;
        assert_eq!(client.fetch(get("/")).await.status, 200);
        policy(&lab, &app.tls(&[PeerName::Host("other.example".into())]));
        assert_eq!(client.fetch(get("/")).await.status, 503, "{}", pod.name);
        policy(&lab, &app.tls(&[]));
        assert_eq!(client.fetch(get("/")).await.status, 200, "{}", pod.name);
        assert_eq!(
            app.proven.load(Ordering::Relaxed),
            1,
            "{}: the first one again",
            pod.name
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_are_wrapped_towards_servers_outside() {
    let lab = Lab::start().await;
    let (acceptor, root) = tls_server(&[HOST]);
    let addr = speaks(&lab, LEGACY, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Tcp, &[addr]).await;
    policy(
        &lab,
        &BackendTls {
            roots: TrustedRoots::Pem(root.into()),
            name: Some(HOST.into()),
            ..BackendTls::impossible()
        },
    );
    let mut client = lab.dial(WEB, vip).await;
    client.write_all(b"ping").await.unwrap();
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, b"ping");
}

#[tokio::test]
async fn an_explanation_says_that_the_application_speaks_tls() {
    let lab = Lab::start().await;
    for (pod, kind) in [(LEGACY, TransportKind::Tls), (CART, TransportKind::SameNode)] {
        let app = TlsApp::open(&lab, pod, &[HOST]).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        policy(&lab, &app.tls(&[]));
        let question = Question::new("shop/web", &format!("http://{vip}/"), None, &[""; 0]);
        let explanation = lab.a.mesh.explain(&question.unwrap()).unwrap();
        let transport = explanation.ways[0].transport.as_ref().unwrap();
        assert_eq!(transport.kind, kind);
        assert!(
            transport.notes.iter().any(|note| note.contains(HOST)),
            "{transport:?}"
        );
        lab.change(|facts| {
            facts.services.clear();
            facts.endpoints.clear();
        });
    }
}
