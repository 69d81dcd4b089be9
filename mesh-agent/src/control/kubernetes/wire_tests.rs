//! What becomes of answers that a real API server gives, good ones and others: by one that is scripted.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Config;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::lifecycle::Tasks;

/// What the server holds and how it will behave.
#[derive(Debug, Default)]
struct Script {
    /// Objects by the path of their collection.
    objects: BTreeMap<&'static str, Vec<Value>>,
    /// Collections that are refused, with what status and why.
    refused: BTreeMap<&'static str, (u16, &'static str)>,
    /// What each next watch says; one that ends is closed afterwards, one without a script stays open in silence.
    watches: BTreeMap<&'static str, VecDeque<Watch>>,
    /// Groups besides the built-in ones, as `GROUP/VERSION`, with kind and plural.
    groups: Vec<(&'static str, &'static str, &'static str)>,
    asked: Vec<String>,
}

#[derive(Debug, Default)]
struct Watch {
    events: Vec<Value>,
    is_open: bool,
    /// What the collection holds from then on.
    leaves: Option<Vec<Value>>,
}

#[derive(Debug)]
struct Server {
    script: Arc<Mutex<Script>>,
    tasks: Tasks,
    url: http::Uri,
    dir: tempfile::TempDir,
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let script = Arc::new(Mutex::new(script));
        let (tasks, shared) = (Tasks::new(), Arc::clone(&script));
        let connections = tasks.child();
        tasks.spawn("scripted-api", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    std::future::ready(Ok::<_, Infallible>(answer(&request, &script)))
                });
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn("scripted-connection", served.map(drop));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        Self {
            script,
            tasks,
            url,
            dir,
        }
    }

    fn source(&self) -> KubernetesSource {
        let standing = Standing::new();
        let builder = ClientBuilder::try_from(Config::new(self.url.clone())).unwrap();
        let client = builder.with_layer(&Hearing(standing.clone())).build();
        let copy = Copy::at(self.dir.path().join("objects"));
        KubernetesSource::new(client, standing, "cluster.local", copy, Duration::from_millis(20))
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// How often a request of this kind was made.
    fn times(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        let script = self.script.lock().unwrap();
        script.asked.iter().filter(|line| is_meant(line)).count()
    }
}

fn answer(request: &Request<Incoming>, script: &Mutex<Script>) -> Response<Body> {
    let mut script = script.lock().unwrap();
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    script.asked.push(format!("{path}?{query}"));
    if let Some((status, message)) = script.refused.get(path) {
        let failure = json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status,
            "reason": "Forbidden", "message": message });
        return response(*status, vec![failure], false);
    }
    if path == "/apis" {
        return response(200, vec![script.groups()], false);
    }
    if let Some(list) = script.resources(path) {
        return response(200, vec![list], false);
    }
    if query.contains("watch=true") {
        let next = script.watches.iter_mut().find(|(known, _)| **known == path);
        let next = next.and_then(|(known, watches)| Some((*known, watches.pop_front()?)));
        let Some((known, watch)) = next else {
            return response(200, Vec::new(), true);
        };
        if let Some(objects) = watch.leaves {
            script.objects.insert(known, objects);
        }
        return response(200, watch.events, watch.is_open);
    }
    let items = script.objects.get(path).cloned().unwrap_or_default();
    let list = json!({ "metadata": { "resourceVersion": "1" }, "items": items });
    response(200, vec![list], false)
}

impl Script {
    fn groups(&self) -> Value {
        let groups = self.groups.iter().map(|(group_version, _, _)| {
            let (group, version) = group_version.split_once('/').unwrap();
            let version = json!({ "groupVersion": group_version, "version": version });
            json!({ "name": group, "versions": [version] })
        });
        json!({ "groups": groups.collect::<Vec<_>>() })
    }

    fn resources(&self, path: &str) -> Option<Value> {
        let group_version = path.strip_prefix("/apis/")?;
        let named: Vec<_> = self
            .groups
            .iter()
            .filter(|(one, _, _)| *one == group_version)
            .collect();
        (!named.is_empty()).then(|| {
            let resources = named.iter().map(|(_, kind, plural)| {
                json!({ "kind": kind, "name": plural, "namespaced": true, "singularName": "", "verbs": [] })
            });
            json!({ "groupVersion": group_version, "resources": resources.collect::<Vec<_>>() })
        })
    }
}

fn response(status: u16, lines: Vec<Value>, is_open: bool) -> Response<Body> {
    let chunks = stream::iter(lines).map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
    let chunks = if is_open {
        chunks.chain(stream::pending()).boxed()
    } else {
        chunks.boxed()
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    response.body(StreamBody::new(chunks)).unwrap()
}

fn service(name: &str, version: u32, vip: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "resourceVersion": version.to_string() },
        "spec": { "clusterIP": vip, "ports": [{ "port": 80 }] },
    })
}

fn event(what: &str, object: Value) -> Value {
    let mut object = object;
    object["apiVersion"] = "v1".into();
    object["kind"] = "Service".into();
    json!({ "type": what, "object": object })
}

/// Names and addresses of the Services of the next reading.
async fn next_services(source: &mut KubernetesSource) -> Vec<String> {
    let reading = timeout(Duration::from_mins(1), source.next_reading())
        .await
        .unwrap()
        .unwrap();
    let services = reading.facts.services.iter();
    let mut services: Vec<_> = services
        .map(|one| format!("{} {:?}", one.name.name, one.vips))
        .collect();
    services.sort();
    services
}

/// Nothing is read while this lasts.
async fn is_quiet(source: &mut KubernetesSource) -> bool {
    timeout(SETTLING * 6, source.next_reading()).await.is_err()
}

fn holding(objects: Vec<Value>) -> Script {
    Script {
        objects: [(SERVICES, objects)].into(),
        ..Script::default()
    }
}

#[tokio::test]
async fn what_is_listed_and_what_changes_is_read() {
    let mut script = holding(vec![service("a", 1, "10.96.0.1")]);
    script.watches.insert(
        SERVICES,
        [Watch {
            events: vec![
                event("ADDED", service("b", 2, "10.96.0.2")),
                event("MODIFIED", service("a", 3, "10.96.0.3")),
                event("DELETED", service("b", 4, "10.96.0.2")),
            ],
            is_open: true,
            ..Watch::default()
        }]
        .into(),
    );
    let server = Server::start(script).await;
    let mut source = server.source();
    // The events may come with the list, after it, or one after the other.
    while next_services(&mut source).await != ["a [10.96.0.3]"] {}
    assert_eq!(source.standing().age(), Duration::ZERO);
    server.tasks.request_stop();
}

#[tokio::test]
async fn events_that_change_nothing_give_no_reading() {
    let mut script = holding(vec![service("a", 1, "10.96.0.1")]);
    let again = [2, 3, 3].map(|version| event("MODIFIED", service("a", version, "10.96.0.1")));
    let watch = Watch {
        events: again.into(),
        is_open: true,
        ..Watch::default()
    };
    script.watches.insert(SERVICES, [watch].into());
    let server = Server::start(script).await;
    let mut source = server.source();
    assert_eq!(next_services(&mut source).await, ["a [10.96.0.1]"]);
    assert!(is_quiet(&mut source).await);
    assert_eq!(source.store.reading().facts.services.len(), 1);
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let mut script = holding(vec![service("a", 1, "10.96.0.1")]);
    let cut = |events| Watch {
        events,
        ..Watch::default()
    };
    script.watches.insert(
        SERVICES,
        [
            cut(vec![]),
            cut(vec![event("ADDED", service("b", 7, "10.96.0.2"))]),
            Watch {
                events: vec![event("ADDED", service("c", 8, "10.96.0.3"))],
                is_open: true,
                ..Watch::default()
            },
        ]
        .into(),
    );
    let server = Server::start(script).await;
    let mut source = server.source();
    while next_services(&mut source).await.len() < 3 {}
    let lists = server.times(|line| line.starts_with(SERVICES) && !line.contains("watch=true"));
    assert_eq!(lists, 1, "nothing is listed again");
    let resumed = |line: &str| line.starts_with(SERVICES) && line.contains("resourceVersion=7");
    assert_eq!(server.times(resumed), 1);
}

#[tokio::test]
async fn a_point_that_is_forgotten_is_listed_anew_and_what_is_gone_is_forgotten() {
    let mut script = holding(vec![service("a", 1, "10.96.0.1"), service("b", 1, "10.96.0.2")]);
    let gone = json!({ "type": "ERROR", "object": {
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old" } });
    let watch = Watch {
        events: vec![gone],
        leaves: Some(vec![service("b", 9, "10.96.0.2")]),
        ..Watch::default()
    };
    script.watches.insert(SERVICES, [watch].into());
    let server = Server::start(script).await;
    let mut source = server.source();
    while next_services(&mut source).await != ["b [10.96.0.2]"] {}
    assert_eq!(
        server.times(|line| line.starts_with(SERVICES) && !line.contains("watch=true")),
        2
    );
}

#[tokio::test]
async fn a_refused_kind_is_named_and_holds_the_first_reading_back_only_where_security_rests_on_it() {
    for (path, watch, is_ready) in [
        ("/api/v1/configmaps", "ConfigMap istio", true),
        ("/api/v1/pods", "Pod", false),
    ] {
        let mut script = holding(vec![service("a", 1, "10.96.0.1")]);
        script.refused.insert(path, (403, "may not list it"));
        let server = Server::start(script).await;
        let mut source = server.source();
        let standing = source.standing();
        let named = || {
            let mut watches = standing.status().watches.into_iter();
            watches.find(|one| one.watch == watch).and_then(|one| one.error)
        };
        let is_named = async {
            while named().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let read_before = tokio::select! {
            biased;
            services = next_services(&mut source) => Some(services),
            () = is_named, if !is_ready => None,
        };
        assert_eq!(read_before.is_some(), is_ready, "{watch}");
        assert_eq!(
            named().as_deref(),
            Some("a rbac rule is missing: may not list it")
        );
        assert!(standing.age() > Duration::ZERO);
        // The rule comes.
        server.change(|script| script.refused.clear());
        if !is_ready {
            assert_eq!(next_services(&mut source).await, ["a [10.96.0.1]"]);
            assert_eq!(named(), None);
        }
    }
}

#[tokio::test]
async fn a_kind_is_read_when_its_definition_comes_and_forgotten_when_it_goes() {
    let server = Server::start(holding(vec![])).await;
    let mut source = server.source();
    let next_policies = async |source: &mut KubernetesSource| {
        let reading = timeout(Duration::from_mins(1), source.next_reading())
            .await
            .unwrap()
            .unwrap();
        reading.facts.peer_authentications.len()
    };
    assert_eq!(next_policies(&mut source).await, 0);
    server.change(|script| {
        let policy = json!({ "metadata": { "name": "default", "namespace": "shop" }, "spec": { "mtls": { "mode": "STRICT" } } });
        script.objects.insert(POLICIES, vec![policy]);
        script.groups = vec![("security.istio.io/v1beta1", "PeerAuthentication", "peerauthentications")];
    });
    while next_policies(&mut source).await == 0 {}
    server.change(|script| script.groups.clear());
    while next_policies(&mut source).await == 1 {}
}

#[tokio::test]
async fn a_config_map_is_read_when_a_policy_names_it() {
    let mut script = holding(vec![]);
    let rule = json!({
        "metadata": { "name": "tls", "namespace": "shop" },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": "a" }],
            "validation": { "hostname": "a.test", "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "roots" }] },
        },
    });
    script.objects.insert(TLS_POLICIES, vec![rule]);
    script.groups = vec![(
        "gateway.networking.k8s.io/v1",
        "BackendTLSPolicy",
        "backendtlspolicies",
    )];
    let server = Server::start(script).await;
    let mut source = server.source();
    let reading = timeout(Duration::from_mins(1), source.next_reading())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reading.facts.backend_tls_policies.len(), 1);
    let lists = |line: &str| line.contains("/configmaps?") && !line.contains("watch=true");
    let of_policy =
        |line: &str| line.starts_with("/api/v1/namespaces/shop/") && line.contains("metadata.name%3Droots");
    assert_eq!(server.times(|line| lists(line) && of_policy(line)), 1);
    let unnamed = |line: &str| lists(line) && !line.contains("fieldSelector=metadata.name");
    assert_eq!(server.times(unnamed), 0);
}

const SERVICES: &str = "/api/v1/services";
const POLICIES: &str = "/apis/security.istio.io/v1beta1/peerauthentications";
const TLS_POLICIES: &str = "/apis/gateway.networking.k8s.io/v1/backendtlspolicies";
