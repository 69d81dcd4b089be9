//! What is asked over the wire, and what becomes of answers that a real API server gives: by one that is scripted.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::review::tests::{agent_of_old_server, agent_on, demand};
use super::{ApiError, ClusterPods, RootSecret, TokenReviewer, bearer};
use crate::ca::{Authenticator as _, NodeName, NodePods as _, NotAuthenticated};
use crate::identity::error_chain;
use crate::lifecycle::{Readiness, Tasks};
use crate::mesh::identity::SpiffeId;
use crate::telemetry::CaMetrics;

/// A request as far as scripts look: `METHOD path?query`, and the body.
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) body: Value,
}

/// A status, lines of a body, and whether the body goes on for ever.
pub(super) struct Answer(u16, Vec<Value>, bool);

pub(super) fn once(status: u16, body: Value) -> Answer {
    Answer(status, vec![body], false)
}

pub(super) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message })
}

/// An API server that answers as the script says, and what it was asked.
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) tasks: Tasks,
    asked: Arc<Mutex<Vec<String>>>,
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

pub(super) async fn serve(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (tasks, log, script) = (Tasks::new(), Arc::clone(&asked), Arc::new(script));
    let connections = tasks.child();
    tasks.spawn("scripted-api", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            let service = service_fn(move |request| answer(request, Arc::clone(&log), Arc::clone(&script)));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            connections.spawn("scripted-connection", served.map(drop));
        }
    });
    let client = Client::try_from(Config::new(url)).unwrap();
    Server { client, tasks, asked }
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<String>>>,
    script: Arc<impl Fn(&Asked) -> Answer>,
) -> Result<Response<Body>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    log.lock().unwrap().push(line.clone());
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let Answer(status, lines, is_open) = script(&Asked { line, body });
    let chunks = stream::iter(lines).map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
    let chunks = if is_open {
        chunks.chain(stream::pending()).boxed()
    } else {
        chunks.boxed()
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    Ok(response.body(StreamBody::new(chunks)).unwrap())
}

impl Server {
    fn was_asked(&self, part: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|line| line.contains(part))
    }
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waited)
        .await
        .expect(what);
}

fn reviewer(server: &Server) -> TokenReviewer {
    let demand = demand();
    let pods = Arc::new(ClusterPods::new("cluster.local", demand.agents.clone()));
    TokenReviewer::new(server.client.clone(), demand.audience, demand.agents, pods)
}

fn token() -> String {
    bearer::tests::token("a", 9_000_000_000)
}

#[tokio::test]
async fn a_token_is_reviewed_for_our_audience_alone() {
    let server = serve(|asked| {
        assert_eq!(asked.line, "POST /apis/authentication.k8s.io/v1/tokenreviews?");
        assert_eq!(
            asked.body["spec"],
            json!({ "audiences": ["istio-ca"], "token": token() })
        );
        let mut review = asked.body.clone();
        review["status"] = serde_json::to_value(agent_on("node-a")).unwrap();
        once(201, review)
    })
    .await;
    let node = reviewer(&server).authenticate(&token()).await.unwrap();
    assert_eq!(node, NodeName::new("node-a"));
}

#[tokio::test]
async fn a_pod_that_an_old_server_does_not_place_is_read_and_must_be_the_very_one() {
    for (uid, node) in [("uid-x", Some("node-b")), ("uid-of-its-successor", None)] {
        let server = serve(move |asked| {
            if asked.line.starts_with("POST") {
                let mut review = asked.body.clone();
                review["status"] = serde_json::to_value(agent_of_old_server()).unwrap();
                return once(201, review);
            }
            assert_eq!(asked.line, "GET /api/v1/namespaces/mesh-system/pods/mesh-agent-x");
            let spec = json!({ "nodeName": "node-b", "containers": [] });
            let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "mesh-agent-x", "uid": uid }, "spec": spec });
            once(200, pod)
        })
        .await;
        let found = reviewer(&server).authenticate(&token()).await;
        assert_eq!(found.ok(), node.map(NodeName::new), "{uid}");
    }
}

#[tokio::test]
async fn a_rule_that_is_missing_makes_tokens_uncheckable_and_is_named() {
    let words =
        "tokenreviews.authentication.k8s.io is forbidden: User \"x\" cannot create resource \"tokenreviews\"";
    let server = serve(move |_| once(403, failure(403, "Forbidden", words))).await;
    let error = reviewer(&server).authenticate(&token()).await.unwrap_err();
    assert!(matches!(error, NotAuthenticated::Unavailable(_)), "{error:?}");
    assert!(error_chain(&error).contains(words), "{}", error_chain(&error));
}

#[test]
fn what_an_admission_plugin_forbids_is_not_called_a_missing_rule() {
    let with = |words: &str, reason: &str, code| {
        let status = kube::core::Status::failure(words, reason).with_code(code).boxed();
        ApiError::from(kube::Error::Api(status))
    };
    let of = |words: &str| with(words, "Forbidden", 403);
    let invalid = |words: &str| with(words, "Invalid", 422);
    for words in [
        "httproutes.gateway.networking.k8s.io is forbidden: User \"x\" cannot patch resource \"httproutes/status\"",
        "forbidden: User \"system:anonymous\" cannot get path \"/\"",
    ] {
        assert!(
            matches!(of(words), ApiError::Forbidden(said) if said == words),
            "{words}"
        );
    }
    for words in [
        "admission webhook \"no.example.net\" denied the request: no User may",
        "events.events.k8s.io \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated",
        "httproutes \"a\" is forbidden: ValidatingAdmissionPolicy 'no' with binding 'no' denied request: no",
    ] {
        assert!(
            matches!(of(words), ApiError::Refused(said) if said == words),
            "{words}"
        );
    }
    let by_policy =
        "httproutes \"a\" is forbidden: ValidatingAdmissionPolicy 'no' with binding 'no' denied request: no";
    let by_webhook = "admission webhook \"no.example.net\" denied the request: no";
    for words in [by_policy, by_webhook] {
        assert!(
            matches!(invalid(words), ApiError::Refused(said) if said == words),
            "{words}"
        );
    }
    assert!(matches!(
        invalid("HTTPRoute \"a\" is invalid: spec: no"),
        ApiError::Failed(_)
    ));
}

fn pod(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "resourceVersion": version },
        "spec": { "nodeName": "node-a", "serviceAccountName": name, "containers": [] },
        "status": { "phase": "Running" },
    })
}

fn list(pods: &[Value], version: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "PodList", "metadata": { "resourceVersion": version }, "items": pods })
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_where_it_was_and_one_that_is_too_old_lists_anew() {
    let lists = Mutex::new(0);
    let server = serve(move |asked| {
        if asked.line.contains("resourceVersion=1") {
            // Tells one thing, and the connection ends.
            let added = json!({ "type": "ADDED", "object": pod("second", "2") });
            return Answer(200, vec![added], false);
        }
        if asked.line.contains("resourceVersion=2") {
            let gone = failure(410, "Expired", "too old resource version");
            return once(200, json!({ "type": "ERROR", "object": gone }));
        }
        if asked.line.contains("watch=true") {
            return Answer(200, Vec::new(), true);
        }
        let mut lists = lists.lock().unwrap();
        *lists += 1;
        match *lists {
            1 => once(403, failure(403, "Forbidden", "pods is forbidden")),
            2 => once(200, list(&[pod("first", "1")], "1")),
            _ => once(200, list(&[pod("second", "2"), pod("third", "7")], "9")),
        }
    })
    .await;
    let pods = Arc::new(ClusterPods::new("cluster.local", BTreeSet::new()));
    let readiness = Readiness::new();
    let first = readiness.guard("pods");
    let follow = Arc::clone(&pods).follow(
        server.client.clone(),
        CaMetrics::new(),
        first,
        server.tasks.stop(),
    );
    server.tasks.spawn("pods", follow);
    let runs = |account: &str| {
        let id = SpiffeId::new("cluster.local", "shop", account).unwrap();
        pods.runs(&NodeName::new("node-a"), &id).ok()
    };
    until("the first list", || runs("first") == Some(true)).await;
    assert!(readiness.is_ready());
    until("what the watch told", || runs("second") == Some(true)).await;
    until("the list after 410", || runs("third") == Some(true)).await;
    assert_eq!((runs("first"), runs("second")), (Some(false), Some(true)));
    assert!(
        server.was_asked("resourceVersion=2"),
        "it did not go on where it was"
    );
}

/// A Secret as the API server keeps it: created once, replaced only in the version that is named.
fn secret_store() -> impl Fn(&Asked) -> Answer + Send + Sync + 'static {
    let kept: Mutex<Option<Value>> = Mutex::default();
    move |asked| {
        let mut kept = kept.lock().unwrap();
        let is_watch = asked.line.contains("watch=true");
        match (asked.line.split(' ').next(), kept.as_ref()) {
            (Some("POST"), Some(_)) => once(409, failure(409, "AlreadyExists", "it is there")),
            (Some("POST"), None) => {
                let mut secret = asked.body.clone();
                secret["metadata"]["resourceVersion"] = json!("1");
                *kept = Some(secret.clone());
                once(201, secret)
            }
            (Some("GET"), Some(secret)) if is_watch => {
                let mut changed = secret.clone();
                changed["data"] = json!({ "also-trusted.pem": "eA==" });
                Answer(200, vec![json!({ "type": "MODIFIED", "object": changed })], true)
            }
            (Some("GET"), Some(secret)) if asked.line.contains("fieldSelector=metadata.name%3Droot") => {
                let metadata = json!({ "resourceVersion": "1" });
                once(
                    200,
                    json!({ "kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": [secret] }),
                )
            }
            (Some("GET"), Some(secret)) => once(200, secret.clone()),
            _ => once(404, failure(404, "NotFound", "it is not there")),
        }
    }
}

#[tokio::test]
async fn the_root_is_made_once_and_the_secret_is_followed_by_its_name_alone() {
    let server = serve(secret_store()).await;
    let obtain = || {
        let name = "mesh-system/root".parse().unwrap();
        RootSecret::obtain(server.client.clone(), name, Some("cluster.local"))
    };
    let (one, other) = tokio::join!(obtain(), obtain());
    let (one, other) = (one.unwrap(), other.unwrap());
    let shown = |root: &RootSecret| {
        let files = crate::ca::KeyFiles::Secret(root.files());
        files.read("ca-cert.pem").unwrap().map(|content| content.to_vec())
    };
    assert!(shown(&one).is_some());
    assert_eq!(shown(&one), shown(&other));

    let files = crate::ca::KeyFiles::Secret(one.files());
    server.tasks.spawn("root", one.follow(server.tasks.stop()));
    until("the change", || files.has("also-trusted.pem")).await;
    let unbound = |line: &String| {
        line.contains("/secrets?") && line.starts_with("GET") && !line.contains("fieldSelector")
    };
    assert!(!server.asked.lock().unwrap().iter().any(unbound));
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_an_error_that_says_how_to_make_it() {
    let server = serve(secret_store()).await;
    let name = "mesh-system/root".parse().unwrap();
    let error = RootSecret::obtain(server.client.clone(), name, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--make-root-secret"), "{error}");
}
