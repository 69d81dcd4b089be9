//! TLS with applications by files of the node: what is shown to them, what they are believed by, and files that change.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::app::speaks;
use super::backends::{HOST, policy, says};
use super::client::{H1, get};
use super::facts::{CART, LEGACY, LabPod, WEB};
use super::lab::Lab;
use crate::identity::FailingTls;
use crate::identity::testing::{MutualServer, tls_server};
use crate::mesh::backend_tls::{BackendTls, ClientFiles, NodeFile, PeerName, TrustedRoots};
use crate::mesh::service::AppProtocol;

/// Answers each connection's one request with the name of the certificate that it was shown.
async fn serve(lab: &Lab, pod: LabPod, server: &MutualServer) -> SocketAddr {
    let acceptor = server.acceptor.clone();
    speaks(lab, pod, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
            let (_, shown) = X509Certificate::from_der(shown).unwrap();
            let name = shown.subject().iter_common_name().next().unwrap();
            let name = name.as_str().unwrap().to_owned();
            let service = service_fn(move |_: Request<Incoming>| says(name.clone()));
            // An error is a client that went away.
            let _served = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

/// Where the agents of the lab look for files.
struct Files(PathBuf);

impl Files {
    fn of(lab: &Lab) -> Self {
        Self(lab.a.mesh.settings.root_bundle.with_file_name("tls"))
    }

    /// Puts a file there as who keeps certificates does: at once.
    fn put(&self, path: &str, content: &str) -> NodeFile {
        let (namespace, below) = path.split_once('/').unwrap();
        let (at, aside) = (self.0.join(path), self.0.join("aside"));
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(aside, at).unwrap();
        NodeFile::new(namespace, &format!("/{below}")).unwrap()
    }

    fn pair(&self, (certificate, key): &(String, String)) -> ClientFiles {
        ClientFiles {
            certificate: self.put("shop/client.pem", certificate),
            key: self.put("shop/key.pem", key),
        }
    }
}

fn tls(server: &MutualServer, shown: &ClientFiles) -> BackendTls {
    BackendTls {
        declared: Some("BackendTLSPolicy shop/cart".into()),
        roots: TrustedRoots::Pem(server.root.as_str().into()),
        name: Some(HOST.into()),
        shown: Some(shown.clone()),
        ..BackendTls::impossible()
    }
}

async fn asked(lab: &Lab, vip: SocketAddr) -> (u16, String) {
    let reply = H1::dial(lab, WEB, vip).await.fetch(get("/")).await;
    (reply.status.as_u16(), reply.text().to_owned())
}

/// A server, what lies in the files of a rule for it, and how it is asked.
struct Bench {
    lab: Lab,
    server: MutualServer,
    files: Files,
    pair: ClientFiles,
    vip: SocketAddr,
}

impl Bench {
    async fn at(pod: LabPod) -> Self {
        let (lab, server) = (Lab::start().await, MutualServer::new(HOST));
        let addr = serve(&lab, pod, &server).await;
        let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;
        let files = Files::of(&lab);
        let pair = files.pair(&server.client("web"));
        Self {
            lab,
            server,
            files,
            pair,
            vip,
        }
    }

    /// What the server takes, and what proves it.
    fn right(&self) -> BackendTls {
        tls(&self.server, &self.pair)
    }

    /// What is told to fail of the policies in force.
    fn told(&self) -> Vec<FailingTls> {
        let mesh = &self.lab.a.mesh;
        let snapshot = mesh.snapshots.load();
        mesh.backends().failing(|tls| snapshot.speaks(tls))
    }

    /// Fails unless a request under `tls` is answered, or refused.
    async fn judge(&self, what: &str, tls: BackendTls, is_proven: bool) {
        policy(&self.lab, &tls);
        let (status, text) = asked(&self.lab, self.vip).await;
        assert_eq!(status, if is_proven { 200 } else { 503 }, "{what}: {text}");
        assert!(!is_proven || text == "web", "{what}: {text}");
    }
}

#[tokio::test]
async fn the_certificate_that_a_rule_names_is_shown_and_nothing_less_will_do() {
    for pod in [CART, LEGACY] {
        let bench = Bench::at(pod).await;
        let (certificate, key) = (&bench.pair.certificate, &bench.pair.key);
        let other_key = bench.files.put("shop/other.pem", &bench.server.client("other").1);
        bench.files.put("pay/client.pem", &bench.server.client("pay").0);
        let neighbours = NodeFile::new("shop", "/pay/client.pem").unwrap();
        let shows = |certificate: &NodeFile, key: &NodeFile| {
            let (certificate, key) = (certificate.clone(), key.clone());
            let shown = Some(ClientFiles { certificate, key });
            BackendTls {
                shown,
                ..bench.right()
            }
        };
        bench.judge("certificate and key", bench.right(), true).await;
        let nothing = BackendTls {
            shown: None,
            ..bench.right()
        };
        bench.judge("nothing shown", nothing, false).await;
        bench
            .judge("another's key", shows(certificate, &other_key), false)
            .await;
        bench
            .judge("another's part", shows(&neighbours, key), false)
            .await;
    }
}

#[tokio::test]
async fn a_server_is_believed_by_the_roots_and_lists_that_a_rule_names() {
    for pod in [CART, LEGACY] {
        let bench = Bench::at(pod).await;
        let stranger = MutualServer::new(HOST);
        let roots = |roots: TrustedRoots| BackendTls {
            roots,
            ..bench.right()
        };
        let list = |text: &str| {
            let revoked = Some(bench.files.put("shop/crl.pem", text));
            BackendTls {
                revoked,
                ..bench.right()
            }
        };
        let file = TrustedRoots::File(bench.files.put("shop/roots.pem", &bench.server.root));
        let others = TrustedRoots::File(bench.files.put("shop/others.pem", &stranger.root));
        let anybody = BackendTls {
            name: Some("other.example".into()),
            ..roots(TrustedRoots::Anybody)
        };
        let [harmless, revoking] = &bench.server.lists;
        bench.judge("roots in a file", roots(file), true).await;
        bench.judge("another's roots", roots(others), false).await;
        bench.judge("whoever it is", anybody, true).await;
        bench.judge("a list without it", list(harmless), true).await;
        bench
            .judge("another's list", list(&stranger.lists[0]), false)
            .await;
        bench.judge("a list with it", list(revoking), false).await;
    }
}

#[tokio::test]
async fn what_fails_is_told_with_its_policy_and_reason_until_it_does_not() {
    for pod in [CART, LEGACY] {
        let bench = Bench::at(pod).await;
        let stranger = MutualServer::new(HOST);
        let gone = NodeFile::new("shop", "/gone.pem").unwrap();
        let shown = ClientFiles {
            certificate: gone,
            ..bench.pair.clone()
        };
        let right = bench.right();
        for (reason, wrong) in [
            (
                // Its root has the same name.
                "BadSignature",
                BackendTls {
                    roots: TrustedRoots::Pem(stranger.root.as_str().into()),
                    ..right.clone()
                },
            ),
            (
                "NotValidForName",
                BackendTls {
                    names: vec![PeerName::Host("other.example".into())],
                    ..right.clone()
                },
            ),
            (
                "gone.pem: No such file",
                BackendTls {
                    shown: Some(shown),
                    ..right.clone()
                },
            ),
        ] {
            bench.judge(reason, wrong, false).await;
            let told = bench.told();
            let [one] = &told[..] else {
                panic!("{reason}: {told:?}");
            };
            assert_eq!((&*one.policy, &*one.name), ("BackendTLSPolicy shop/cart", HOST));
            assert!(one.error.contains(reason), "{one:?}");
            assert!(!one.goes_on, "{one:?}");
            bench.judge(reason, right.clone(), true).await;
            assert_eq!(bench.told(), [], "{reason}");
        }
        bench.files.put("shop/key.pem", "junk");
        bench.judge("the former pair", right.clone(), true).await;
        let told = bench.told();
        assert!(told.len() == 1 && told[0].goes_on, "{told:?}");
        bench.files.pair(&bench.server.client("web"));
        bench.judge("a whole pair", right, true).await;
        assert_eq!(bench.told(), []);
    }
}

#[tokio::test]
async fn files_that_change_are_read_again_and_junk_leaves_the_former_in_force() {
    let lab = Lab::start().await;
    let server = MutualServer::new(HOST);
    let addr = serve(&lab, LEGACY, &server).await;
    let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;
    let files = Files::of(&lab);
    let pair = files.pair(&server.client("first"));
    policy(&lab, &tls(&server, &pair));
    assert_eq!(asked(&lab, vip).await, (200, "first".to_owned()));
    let (certificate, key) = server.client("second");
    files.put("shop/client.pem", &certificate);
    assert_eq!(
        asked(&lab, vip).await,
        (200, "first".to_owned()),
        "half of a pair"
    );
    files.put("shop/key.pem", &key);
    assert_eq!(asked(&lab, vip).await, (200, "second".to_owned()));
    files.put("shop/client.pem", "junk");
    // Of each snapshot, not only of the one that it was read for.
    policy(&lab, &tls(&server, &pair));
    assert_eq!(asked(&lab, vip).await, (200, "second".to_owned()));
    files.pair(&server.client("third"));
    assert_eq!(asked(&lab, vip).await, (200, "third".to_owned()));
}

#[tokio::test]
async fn a_server_that_asks_for_no_certificate_takes_one_that_would_be_shown() {
    let lab = Lab::start().await;
    let server = MutualServer::new(HOST);
    let (acceptor, root) = tls_server(&[HOST]);
    let addr = speaks(&lab, LEGACY, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |_: Request<Incoming>| says("nobody".to_owned()));
            // An error is a client that went away.
            let _served = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;
    let pair = Files::of(&lab).pair(&server.client("web"));
    let roots = TrustedRoots::Pem(root.into());
    policy(
        &lab,
        &BackendTls {
            roots,
            ..tls(&server, &pair)
        },
    );
    assert_eq!(asked(&lab, vip).await, (200, "nobody".to_owned()));
}
