//! Keys as they are fetched from a web server that fails, lies and changes them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::lifecycle::{PATIENCE, Tasks};
use crate::mesh::facts::Facts;
use crate::mesh::workload::fixture::pod;
use crate::policy::authentication::testing::{Signer, policy, rule, set};
use crate::policy::authentication::{Failure, Guard};
use crate::snapshot::{Snapshot, SnapshotSettings};

/// A server of documents by path, and how often each was asked for.
#[derive(Clone, Default)]
struct Web {
    documents: Arc<Mutex<BTreeMap<String, String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Serves until the tasks end; returns where.
    async fn serve(&self, tasks: &Tasks) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let (web, stop) = (self.clone(), tasks.stop());
        tasks.spawn("web", async move {
            loop {
                let (mut stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = stop.requested() => return,
                };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let answer = web.documents.lock().get(&path).cloned();
                web.asked.lock().push(path);
                // A client that has heard enough goes away.
                let _written = stream.write_all(answer.unwrap_or_default().as_bytes()).await;
            }
        });
        at
    }

    fn says(&self, path: &str, answer: String) {
        self.documents.lock().insert(path.to_owned(), answer);
    }

    fn publishes(&self, path: &str, document: &str) {
        let length = document.len();
        self.says(
            path,
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{document}"),
        );
    }
}

/// A loop under way for one source.
struct Running {
    tasks: Tasks,
    snapshots: Arc<SnapshotCell>,
    told: watch::Receiver<Vec<KeyStatus>>,
}

impl Running {
    fn start(source: &KeySource, tasks: &Tasks) -> Self {
        let mut workload = pod("shop", "web-1");
        workload.addrs = vec!["10.0.0.1".parse().unwrap()];
        let facts = Facts {
            workloads: vec![workload.into()],
            request_authentications: vec![policy(vec![rule(source.clone())])],
            ..Facts::default()
        };
        let settings = SnapshotSettings {
            trust_domains: Arc::new([]),
            node: "node-a".into(),
            root_namespace: "mesh-system".into(),
        };
        let (snapshot, _) = Snapshot::build(&facts, &settings, None);
        let snapshots = Arc::new(SnapshotCell::new(snapshot));
        let (tell, told) = watch::channel(Vec::new());
        let keys = KeyLoop::new(
            Arc::clone(&snapshots),
            Fetcher::new(Path::new("/nowhere")),
            Telemetry::default(),
            Box::new(move |status| drop(tell.send_replace(status))),
        );
        tasks.spawn("keys", keys.run(tasks.stop()));
        Self {
            tasks: tasks.clone(),
            snapshots,
            told,
        }
    }

    async fn until(&mut self, holds: impl Fn(&KeyStatus) -> bool) {
        let told = self.told.wait_for(|status| status.iter().any(&holds));
        tokio::time::timeout(PATIENCE, told)
            .await
            .expect("in time")
            .unwrap();
    }

    fn guard(&self) -> Arc<Guard> {
        self.snapshots.load().guard(&pod("shop", "web-1"))
    }

    fn asked(&self, signer: &Signer, issuer: &str) -> Result<(), Failure> {
        let token = signer.sign(&json!({"iss": issuer, "sub": "alice"}));
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let admitted = self
            .guard()
            .admit(80, &Uri::from_static("/"), &headers, SystemTime::now());
        admitted.map(drop)
    }

    async fn end(self) {
        self.tasks.request_stop();
        assert!(self.tasks.joined(Duration::from_secs(5)).await);
    }
}

fn keys(signer: &Signer) -> String {
    set(&[signer.jwk()])
}

const ISSUER: &str = crate::policy::authentication::testing::ISSUER;

#[tokio::test]
async fn keys_are_fetched_and_fetched_again_when_a_token_names_another() {
    let (tasks, web) = (Tasks::new(), Web::default());
    let at = web.serve(&tasks).await;
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    web.publishes("/keys?v=1", &keys(&old));
    let source = KeySource::Uri(format!("{at}/keys?v=1").into());
    let mut running = Running::start(&source, &tasks);
    running.until(|status| status.fetched_unix_s.is_some()).await;
    assert_eq!(running.asked(&old, ISSUER), Ok(()));
    web.publishes("/keys?v=1", &keys(&new));
    assert_eq!(running.asked(&new, ISSUER), Err(Failure::UnknownKey));
    // What the walk does when a token fails for its key.
    running.snapshots.keys_missed();
    let rotated = async {
        while running.asked(&new, ISSUER).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, rotated)
        .await
        .expect("rotated in time");
    assert_eq!(running.asked(&old, ISSUER), Err(Failure::UnknownKey));
    assert_eq!(*web.asked.lock(), ["/keys?v=1", "/keys?v=1"]);
    running.end().await;
}

#[tokio::test]
async fn the_issuer_names_its_keys() {
    let (tasks, web) = (Tasks::new(), Web::default());
    let at = web.serve(&tasks).await;
    let signer = Signer::new("k");
    let configured =
        |issuer: &str| json!({"issuer": issuer, "jwks_uri": format!("{at}/jwks"), "x": [1]}).to_string();
    web.publishes("/.well-known/openid-configuration", &configured("http://other"));
    web.publishes("/jwks", &keys(&signer));
    let mut running = Running::start(&KeySource::Issuer(at.as_str().into()), &tasks);
    running
        .until(|status| {
            status
                .last_error
                .as_deref()
                .is_some_and(|error| error.contains("of this issuer"))
        })
        .await;
    web.publishes("/.well-known/openid-configuration", &configured(&at));
    running
        .until(|status| status.last_error.is_none() && status.fetched_unix_s.is_some())
        .await;
    assert_eq!(running.asked(&signer, ISSUER), Ok(()));
    running.end().await;
}

#[tokio::test]
async fn whatever_else_a_server_says_leaves_the_keys_as_they_are_and_is_told() {
    let set_of_much = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(KeySet::MAX_BYTES + 1));
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: /good\r\ncontent-length: 0\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    let signer = Signer::new("k");
    for (answer, error) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        (elsewhere, "302"),
        (cut, "cannot be read"),
        ("nonsense\r\n\r\n", "cannot be read"),
        ("", "cannot be read"),
        (&set_of_much, "too large"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "not a JWK set"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}",
            "no key",
        ),
    ] {
        let (tasks, web) = (Tasks::new(), Web::default());
        let at = web.serve(&tasks).await;
        web.publishes("/good", &keys(&signer));
        web.publishes("/keys", &keys(&signer));
        let mut running = Running::start(&KeySource::Uri(format!("{at}/keys").into()), &tasks);
        running.until(|status| status.fetched_unix_s.is_some()).await;
        web.says("/keys", answer.to_owned());
        assert_eq!(
            running.asked(&Signer::new("other"), ISSUER),
            Err(Failure::UnknownKey)
        );
        running.snapshots.keys_missed();
        running
            .until(|status| {
                status
                    .last_error
                    .as_deref()
                    .is_some_and(|told| told.contains(error))
            })
            .await;
        assert_eq!(running.asked(&signer, ISSUER), Ok(()), "{answer:.40}");
        assert!(
            !web.asked.lock().contains(&"/good".to_owned()),
            "a redirect was followed"
        );
        running.end().await;
    }
}

#[tokio::test]
async fn until_keys_were_fetched_their_tokens_are_refused() {
    let tasks = Tasks::new();
    // Nobody listens there: the port was just given back.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    drop(listener);
    let mut running = Running::start(&KeySource::Uri(url.as_str().into()), &tasks);
    running
        .until(|status| {
            status.source == url
                && status
                    .last_error
                    .as_deref()
                    .is_some_and(|e| e.contains("connect"))
        })
        .await;
    assert_eq!(running.asked(&Signer::new("k"), ISSUER), Err(Failure::NoKeys));
    running.end().await;
}

#[test]
fn only_web_urls_without_a_user_are_fetched() {
    for (text, is_web) in [
        ("http://a/b", true),
        ("https://a:8443/b?c=d", true),
        ("https://[::1]/", true),
        ("HTTPS://a/", true),
        ("ftp://a/", false),
        ("file:///etc/passwd", false),
        ("unix:/run/x", false),
        ("//a/b", false),
        ("/b", false),
        ("a", false),
        ("http://", false),
        ("http://u:p@a/", false),
        ("http://a b/", false),
        ("", false),
    ] {
        assert_eq!(web_url(text).is_some(), is_web, "{text}");
    }
}

#[tokio::test]
async fn who_is_asked_over_tls_does_not_name_keys_in_plaintext() {
    let weaker: Value = json!({"issuer": "https://a", "jwks_uri": "http://a/jwks"});
    let provider: Provider = serde_json::from_value(weaker).unwrap();
    assert!(named_by(&web_url("https://a/x").unwrap(), "https://a", &provider).is_none());
    assert!(named_by(&web_url("http://a/x").unwrap(), "https://a", &provider).is_some());
    assert!(named_by(&web_url("http://a/x").unwrap(), "https://b", &provider).is_none());
}
