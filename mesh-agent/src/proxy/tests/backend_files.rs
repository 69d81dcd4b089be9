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
use crate::identity::testing::{MutualServer, tls_server};
use crate::mesh::backend_tls::{BackendTls, ClientFiles, NodeFile, TrustedRoots};
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

#[tokio::test]
async fn both_ends_prove_what_the_files_of_a_rule_say_and_nothing_less_is_spoken_to() {
    for pod in [CART, LEGACY] {
        let lab = Lab::start().await;
        let (server, stranger) = (MutualServer::new(HOST), MutualServer::new(HOST));
        let addr = serve(&lab, pod, &server).await;
        let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;
        let files = Files::of(&lab);
        let pair = files.pair(&server.client("web"));
        let right = || tls(&server, &pair);
        let roots = |pem: &str| TrustedRoots::File(files.put("shop/roots.pem", pem));
        let [harmless, revoking] = &server.lists;
        let list = |name: &str, text: &str| Some(files.put(&format!("shop/{name}"), text));
        let shows = |certificate: &NodeFile, key: &NodeFile| {
            let (certificate, key) = (certificate.clone(), key.clone());
            Some(ClientFiles { certificate, key })
        };
        let other_key = files.put("shop/other.pem", &server.client("other").1);
        let neighbours = NodeFile::new("shop", "/pay/client.pem").unwrap();
        files.put("pay/client.pem", &server.client("pay").0);
        for (what, tls, is_proven) in [
            ("certificate and key", right(), true),
            (
                "roots in a file",
                BackendTls {
                    roots: roots(&server.root),
                    ..right()
                },
                true,
            ),
            (
                "a list without it",
                BackendTls {
                    revoked: list("good.crl", harmless),
                    ..right()
                },
                true,
            ),
            (
                "a list with it",
                BackendTls {
                    revoked: list("bad.crl", revoking),
                    ..right()
                },
                false,
            ),
            (
                "a list of another's",
                BackendTls {
                    revoked: list("other.crl", &stranger.lists[0]),
                    ..right()
                },
                false,
            ),
            (
                "no list in it",
                BackendTls {
                    revoked: list("no.crl", &server.root),
                    ..right()
                },
                false,
            ),
            (
                "another's root",
                BackendTls {
                    roots: TrustedRoots::Pem(stranger.root.as_str().into()),
                    ..right()
                },
                false,
            ),
            (
                "whoever it is",
                BackendTls {
                    roots: TrustedRoots::Anybody,
                    name: Some("other.example".into()),
                    ..right()
                },
                true,
            ),
            (
                "nothing shown",
                BackendTls {
                    shown: None,
                    ..right()
                },
                false,
            ),
            (
                "another's key",
                BackendTls {
                    shown: shows(&pair.certificate, &other_key),
                    ..right()
                },
                false,
            ),
            (
                "another's part",
                BackendTls {
                    shown: shows(&neighbours, &pair.key),
                    ..right()
                },
                false,
            ),
        ] {
            policy(&lab, &tls);
            let (status, text) = asked(&lab, vip).await;
            let expected = if is_proven { 200 } else { 503 };
            assert_eq!(status, expected, "{}: {what}: {text}", pod.name);
            assert!(!is_proven || text == "web", "{}: {what}: {text}", pod.name);
        }
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
