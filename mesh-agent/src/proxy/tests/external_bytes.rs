//! CUSTOM policies and connections of bytes that are no HTTP: their provider decides before one of them reaches the
//! application, on every path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, full, speaks};
use super::external::{grpc, guard, http};
use super::facts::{BANK, CART, LEGACY, LabPod, PAY, WEB};
use super::lab::{Lab, soon};
use crate::mesh::policy::authorization::PolicyRule;
use crate::mesh::policy::external::{Authorizer, OnError};
use crate::mesh::service::AppProtocol;

/// A gRPC authorizer that says what it is told to, and remembers what it was asked.
#[derive(Clone, Default)]
struct Opa {
    says_no: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Bytes>>>,
}

impl Opa {
    async fn run(&self, lab: &Lab) {
        let opa = self.clone();
        let app = App::http(lab, BANK, move |request| {
            let opa = opa.clone();
            async move {
                let check = request.into_body().collect().await.unwrap().to_bytes();
                opa.asked.lock().push(check);
                // A CheckResponse: empty, or with a status of 7.
                let message: &[u8] = if opa.says_no.load(Ordering::Relaxed) {
                    b"\0\0\0\0\x04\x0a\x02\x08\x07"
                } else {
                    b"\0\0\0\0\0"
                };
                let mut answer = Response::new(full(message));
                let headers = answer.headers_mut();
                headers.insert("content-type", "application/grpc".parse().unwrap());
                headers.insert("grpc-status", "0".parse().unwrap());
                answer
            }
        })
        .await;
        lab.service("opa", AppProtocol::Grpc, &[app.addr]).await;
    }

    fn last(&self) -> String {
        self.asked.lock().last().unwrap().escape_ascii().to_string()
    }
}

/// Two servers that say again what they hear, on either node, and how many connections reached them.
async fn echoes(
    lab: &Lab,
    protocol: AppProtocol,
) -> ([(&'static str, SocketAddr, SocketAddr); 2], Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let mut servers = Vec::new();
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = echo(lab, pod, &reached).await;
        servers.push((name, app, lab.service(name, protocol, &[app]).await));
    }
    (servers.try_into().unwrap(), reached)
}

async fn echo(lab: &Lab, pod: LabPod, reached: &Arc<AtomicUsize>) -> SocketAddr {
    let reached = Arc::clone(reached);
    speaks(lab, pod, move |mut stream| {
        reached.fetch_add(1, Ordering::Relaxed);
        async move {
            let (mut read, mut write) = stream.split();
            let _end = tokio::io::copy(&mut read, &mut write).await;
        }
    })
    .await
}

/// Both servers ask `authorizer` about whatever comes.
fn guard_all(lab: &Lab, authorizer: &Authorizer) {
    guard(lab, authorizer, &[]);
    lab.change(|facts| {
        for policy in &mut facts.authorization_policies {
            policy.rules = vec![PolicyRule::default()];
        }
    });
}

/// Whether a byte comes back.
async fn answers(stream: &mut TcpStream) -> bool {
    let mut echoed = [0; 1];
    // A client that is refused may not even be able to send.
    let sent = stream.write_all(b"x").await;
    sent.is_ok() && matches!(soon("an echo or the end", stream.read(&mut echoed)).await, Ok(1))
}

#[tokio::test]
async fn a_connection_is_let_in_or_refused_before_a_byte_of_it_arrives() {
    for protocol in [AppProtocol::Tcp, AppProtocol::Detect] {
        let (lab, opa) = (Lab::start().await, Opa::default());
        opa.run(&lab).await;
        guard_all(&lab, &grpc());
        let (servers, reached) = echoes(&lab, protocol).await;
        for (name, _, vip) in servers {
            opa.says_no.store(false, Ordering::Relaxed);
            assert!(
                answers(&mut lab.dial(WEB, vip).await).await,
                "{name} {protocol:?}"
            );
            let told = opa.last();
            for part in [
                "ns/shop/sa/web",
                &format!("ns/shop/sa/{name}"),
                &format!("{name}.shop.svc"),
            ] {
                assert!(told.contains(part), "{name}: no {part} in {told}");
            }
            assert!(!told.contains(":path"), "{name}: a request was made up: {told}");

            opa.says_no.store(true, Ordering::Relaxed);
            let before = reached.load(Ordering::Relaxed);
            assert!(
                !answers(&mut lab.dial(WEB, vip).await).await,
                "{name} {protocol:?}"
            );
            assert_eq!(reached.load(Ordering::Relaxed), before, "{name}: it came through");
        }
        assert_eq!(opa.asked.lock().len(), 4, "once a connection, and never twice");
        for agent in [&lab.a, &lab.b] {
            let refused = agent.sum("mesh_policy_denials_total", &[("reason", "ext_authz_denied")]);
            let checked = ["allowed", "denied"]
                .map(|result| agent.sum("mesh_external_checks_total", &[("result", result)]));
            assert_eq!((refused, checked), (1, [1, 1]));
        }
    }
}

#[tokio::test]
async fn plaintext_is_asked_about_without_a_principal() {
    let (lab, opa) = (Lab::start().await, Opa::default());
    opa.run(&lab).await;
    guard_all(&lab, &grpc());
    let ([(_, app, _), _], _) = echoes(&lab, AppProtocol::Tcp).await;
    let gate = lab.steer(app, LEGACY.ip).await;
    for says_no in [false, true] {
        opa.says_no.store(says_no, Ordering::Relaxed);
        let mut stream = TcpStream::connect(gate).await.unwrap();
        assert_eq!(answers(&mut stream).await, !says_no);
        assert!(!opa.last().contains("sa/web"));
    }
}

#[tokio::test]
async fn without_a_decision_the_provider_says_what_becomes_of_a_connection() {
    let lab = Lab::start().await;
    let (servers, reached) = echoes(&lab, AppProtocol::Tcp).await;
    for (on_error, is_let_in) in [
        (OnError::Refuse(StatusCode::FORBIDDEN), false),
        (OnError::Allow, true),
    ] {
        // Nobody stands behind its Service.
        guard_all(&lab, &Authorizer { on_error, ..grpc() });
        for (name, _, vip) in servers {
            let before = reached.load(Ordering::Relaxed);
            assert_eq!(answers(&mut lab.dial(WEB, vip).await).await, is_let_in, "{name}");
            let came = reached.load(Ordering::Relaxed) - before;
            assert_eq!(came, usize::from(is_let_in), "{name}");
        }
    }
    let refused =
        |agent: &super::lab::Agent| agent.sum("mesh_policy_denials_total", &[("reason", "ext_authz_error")]);
    assert_eq!((refused(&lab.a), refused(&lab.b)), (1, 1));
}

#[tokio::test]
async fn an_authorizer_that_is_slow_gives_no_decision() {
    let lab = Lab::start().await;
    let app = App::http(&lab, BANK, |_| std::future::pending()).await;
    lab.service("opa", AppProtocol::Grpc, &[app.addr]).await;
    guard_all(
        &lab,
        &Authorizer {
            timeout: Duration::from_millis(50),
            ..grpc()
        },
    );
    let (servers, reached) = echoes(&lab, AppProtocol::Tcp).await;
    for (name, _, vip) in servers {
        assert!(!answers(&mut lab.dial(WEB, vip).await).await, "{name}");
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_http_provider_is_never_asked_about_connections_nor_any_about_bytes_on_a_port_that_says_http() {
    let (lab, opa) = (Lab::start().await, Opa::default());
    opa.run(&lab).await;
    let ([_, (_, app, vip)], reached) = echoes(&lab, AppProtocol::Tcp).await;
    let open = Authorizer {
        on_error: OnError::Allow,
        ..http()
    };
    guard_all(&lab, &open);
    assert!(!answers(&mut lab.dial(WEB, vip).await).await);

    guard_all(&lab, &grpc());
    assert!(answers(&mut lab.dial(WEB, vip).await).await);
    let before = reached.load(Ordering::Relaxed);
    // Its client's agent believes that it is opaque, and its own knows better.
    lab.b.change(|facts| {
        for service in facts
            .services
            .iter_mut()
            .filter(|service| &*service.name.name == "pay")
        {
            service.ports[0].protocol = AppProtocol::Http;
        }
    });
    assert!(!answers(&mut lab.dial(WEB, vip).await).await, "{app}");
    assert_eq!(reached.load(Ordering::Relaxed), before);
    assert_eq!(opa.asked.lock().len(), 1);
    let count = lab
        .b
        .sum("mesh_external_checks_total", &[("result", "not_asked")]);
    assert_eq!(count, 2);
}

#[tokio::test]
async fn a_live_connection_stays_while_who_let_it_in_is_asked_and_ends_when_somebody_else_must_be() {
    let (lab, opa) = (Lab::start().await, Opa::default());
    opa.run(&lab).await;
    guard(&lab, &grpc(), &[]);
    let (servers, _) = echoes(&lab, AppProtocol::Tcp).await;
    for (name, _, vip) in servers {
        lab.change(|facts| facts.authorization_policies.clear());
        let mut before = lab.dial(WEB, vip).await;
        assert!(answers(&mut before).await, "{name}: nobody is asked");

        guard_all(&lab, &grpc());
        assert!(!answers(&mut before).await, "{name}: nobody has let it in");
        let mut asked = lab.dial(WEB, vip).await;
        assert!(answers(&mut asked).await, "{name}");

        // A change that leaves the question the same; what its provider says now is of new connections.
        opa.says_no.store(true, Ordering::Relaxed);
        lab.change(|facts| facts.nodes.clear());
        assert!(answers(&mut asked).await, "{name}: it was let in");
        opa.says_no.store(false, Ordering::Relaxed);

        lab.change(|facts| {
            let known = Arc::clone(&facts.mesh_configs[0].authorizers["opa"]);
            facts.mesh_configs[0].authorizers.insert("other".into(), known);
            for policy in &mut facts.authorization_policies {
                policy.provider = Some("other".into());
            }
        });
        assert!(!answers(&mut asked).await, "{name}: another must be asked");
    }
}
