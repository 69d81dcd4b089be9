//! Claims about the service, asked by the agent's own client over real sockets.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::*;
use crate::grpc::{self, CallError};
use crate::identity::istio::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse};
use crate::identity::{CaClient, CaClientSettings, IssueError, Issuer as _, Svid, error_chain};
use crate::lifecycle::Tasks;
use crate::telemetry::CaMetrics;

const A: &str = "the-token-of-node-a-0123456789";
const B: &str = "the-token-of-node-b-0123456789";

/// One pod on each node.
#[derive(Debug)]
struct Pods(HashSet<(NodeName, SpiffeId)>);

impl NodePods for Pods {
    fn runs(&self, node: &NodeName, identity: &SpiffeId) -> Result<bool, PodsUnknown> {
        Ok(self.0.contains(&(node.clone(), identity.clone())))
    }
}

struct Fixture {
    dir: TempDir,
    addr: SocketAddr,
    keys: Arc<Keys>,
    metrics: CaMetrics,
    tasks: Tasks,
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn fixture() -> Fixture {
    let pods = [("node-a", "web"), ("node-b", "cart")];
    let pods = pods.map(|(node, account)| (NodeName::new(node), id(account)));
    fixture_with(None, Arc::new(Pods(pods.into()))).await
}

/// With node tokens where nobody else says whose a token is.
async fn fixture_with(authenticator: Option<Arc<dyn Authenticator>>, pods: Arc<dyn NodePods>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tokens")).unwrap();
    for (node, token) in [("node-a", A), ("node-b", B)] {
        secret(&dir.path().join("tokens").join(node), token);
    }
    let keys = Arc::new(
        Keys::open(KeyringPlace {
            files: KeyFiles::Dir(dir.path().join("ca")),
            bundle_file: Some(dir.path().join("bundle.pem")),
            trust_domain: "cluster.local".into(),
            names: vec!["127.0.0.1".parse().unwrap(), "mesh-ca".parse().unwrap()],
        })
        .unwrap(),
    );
    let node_tokens = Arc::new(NodeTokens::open(dir.path().join("tokens")).unwrap());
    let (metrics, tasks) = (CaMetrics::new(), Tasks::new());
    let service = CaService::new(
        CaServiceSettings {
            trust_domain: "cluster.local".into(),
            max_ttl: Duration::from_hours(1),
        },
        Arc::clone(&keys),
        authenticator.unwrap_or(node_tokens),
        pods,
        metrics.clone(),
    );
    let server = CaServer::bind(([127, 0, 0, 1], 0).into(), service).await.unwrap();
    let addr = server.local_addr().unwrap();
    server.run(&tasks);
    Fixture {
        dir,
        addr,
        keys,
        metrics,
        tasks,
    }
}

impl Fixture {
    fn client(&self, token: &str) -> CaClient {
        let token_file = self.dir.path().join("token");
        secret(&token_file, token);
        CaClient::new(CaClientSettings {
            addr: self.addr.to_string().parse().unwrap(),
            root_file: self.dir.path().join("bundle.pem"),
            token_file,
            ttl: Duration::from_mins(10),
        })
    }

    async fn ask(&self, token: &str, identity: &SpiffeId) -> Result<Svid, IssueError> {
        self.client(token).issue(identity).await
    }

    /// As a client that sends what it likes.
    async fn raw(
        &self,
        path: &str,
        token: Option<&str>,
        request: &CreateCertificateRequest,
    ) -> Result<CreateCertificateResponse, CallError> {
        let stream = self.client(A).connect().await.unwrap();
        let authorization = token.map_or(HeaderValue::from_static("Basic x"), |token| {
            HeaderValue::from_str(&format!("Bearer {token}")).unwrap()
        });
        Box::pin(grpc::call(stream, ("ca", path), authorization, request)).await
    }

    fn refusals(&self, reason: &str) -> u64 {
        let wanted = format!("mesh_ca_refused_total{{reason=\"{reason}\"}} ");
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(&wanted));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

/// The status code of a refusal.
fn code(error: &CallError) -> &str {
    let CallError::Refused { code, .. } = error else {
        panic!("no refusal: {error}")
    };
    code
}

#[tokio::test]
async fn an_agent_gets_what_its_own_node_runs_with_the_life_it_asked_for() {
    let ca = fixture().await;
    let before = SystemTime::now();
    let client = ca.client(A);
    let svid = client.issue(&id("web")).await.unwrap();
    assert_eq!(svid.identity(), &id("web"));
    let life = svid.not_after().duration_since(before).unwrap();
    assert!(
        life > Duration::from_mins(9) && life < Duration::from_mins(11),
        "{life:?}"
    );
    assert_eq!(client.roots().borrow().len(), 1);
}

#[tokio::test]
async fn an_agent_that_asks_for_another_nodes_pod_is_refused_and_told_why() {
    let ca = fixture().await;
    let error = error_chain(&ca.ask(A, &id("cart")).await.unwrap_err());
    assert!(
        error.contains("status 7") && error.contains("runs on the caller's node"),
        "{error}"
    );
    assert_eq!(ca.refusals("not_on_node"), 1);
    ca.ask(B, &id("cart")).await.unwrap();
}

#[tokio::test]
async fn a_caller_without_a_nodes_token_is_refused() {
    let ca = fixture().await;
    let error = error_chain(&ca.ask(&A.replace('0', "1"), &id("web")).await.unwrap_err());
    assert!(error.contains("status 16"), "{error}");
    let request = CreateCertificateRequest::default();
    let error = ca.raw(CREATE_CERTIFICATE, None, &request).await.unwrap_err();
    assert_eq!(code(&error), "16");
    assert_eq!((ca.refusals("token"), ca.refusals("no_token")), (1, 1));
}

#[tokio::test]
async fn a_token_that_was_replaced_is_used_for_the_next_request_of_the_same_client() {
    let ca = fixture().await;
    let client = ca.client(A);
    client.issue(&id("web")).await.unwrap();
    // As the kubelet replaces it: another file behind the same name.
    secret(&ca.dir.path().join("next"), B);
    fs::rename(ca.dir.path().join("next"), ca.dir.path().join("token")).unwrap();
    client.issue(&id("web")).await.unwrap_err();
    client.issue(&id("cart")).await.unwrap();
}

/// An API server that is away.
#[derive(Debug)]
struct Away;

impl Authenticator for Away {
    fn authenticate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<NodeName, NotAuthenticated>> {
        Box::pin(async { Err(NotAuthenticated::Unavailable("gone".into())) })
    }
}

impl NodePods for Away {
    fn runs(&self, _: &NodeName, _: &SpiffeId) -> Result<bool, PodsUnknown> {
        Err(PodsUnknown)
    }
}

#[tokio::test]
async fn what_nobody_can_decide_now_is_unavailable_and_not_denied() {
    let request = CreateCertificateRequest::on_behalf_of(&id("web"), "x".into(), 60);
    let ca = fixture_with(Some(Arc::new(Away)), Arc::new(Away)).await;
    let error = ca.raw(CREATE_CERTIFICATE, Some(A), &request).await.unwrap_err();
    assert_eq!((code(&error), ca.refusals("token_check")), ("14", 1));
    let ca = fixture_with(None, Arc::new(Away)).await;
    let error = ca.raw(CREATE_CERTIFICATE, Some(A), &request).await.unwrap_err();
    assert_eq!((code(&error), ca.refusals("pods")), ("14", 1));
}

#[tokio::test]
async fn each_wrong_request_is_refused_for_its_own_reason() {
    let ca = fixture().await;
    let for_uri = |uri: &str| {
        let mut request = CreateCertificateRequest::on_behalf_of(&id("web"), "x".into(), 60);
        for value in request
            .metadata
            .iter_mut()
            .flat_map(|metadata| metadata.fields.values_mut())
        {
            value.string = Some(uri.to_owned());
        }
        request
    };
    let big = CreateCertificateRequest {
        csr: "x".repeat(40_000),
        ..CreateCertificateRequest::default()
    };
    for (request, expected, reason) in [
        (CreateCertificateRequest::default(), "3", "no_identity"),
        (for_uri("\u{1b}[31mnot an id\n"), "3", "identity"),
        (
            for_uri("spiffe://other.local/ns/shop/sa/web"),
            "7",
            "trust_domain",
        ),
        (for_uri("spiffe://cluster.local/ns/shop/sa/web"), "3", "csr"),
        (big, "8", "too_large"),
    ] {
        let error = ca.raw(CREATE_CERTIFICATE, Some(A), &request).await.unwrap_err();
        assert_eq!(code(&error), expected, "{reason}: {error}");
        assert_eq!(ca.refusals(reason), 1, "{reason}");
    }
    let error = ca
        .raw("/other/Method", Some(A), &CreateCertificateRequest::default())
        .await
        .unwrap_err();
    assert_eq!((code(&error), ca.refusals("method")), ("12", 1));
}

#[tokio::test]
async fn a_node_that_asks_without_pause_is_slowed_and_others_are_not() {
    let ca = fixture().await;
    let request = CreateCertificateRequest::default();
    let mut last = String::new();
    // As many as it takes: on a busy machine the bucket fills meanwhile.
    for _ in 0..20_000 {
        last = code(&ca.raw(CREATE_CERTIFICATE, Some(A), &request).await.unwrap_err()).to_owned();
        if last == "8" {
            break;
        }
    }
    assert_eq!(last, "8");
    ca.ask(B, &id("cart")).await.unwrap();
}

#[tokio::test]
async fn callers_that_say_nothing_are_let_go() {
    let ca = fixture().await;
    let mut silent = TcpStream::connect(ca.addr).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(
        ca.metrics
            .encode()
            .contains("mesh_ca_handshake_failures_total 1\n")
    );
}

#[tokio::test]
async fn a_ca_that_is_not_the_expected_one_gets_no_token() {
    let (ca, other) = (fixture().await, fixture().await);
    let client = ca.client(A);
    fs::copy(
        other.dir.path().join("bundle.pem"),
        ca.dir.path().join("bundle.pem"),
    )
    .unwrap();
    let error = error_chain(&client.issue(&id("web")).await.unwrap_err());
    assert!(
        error.contains("handshake") && error.contains("UnknownIssuer"),
        "{error}"
    );
    assert!(!error.contains(A), "{error}");
}

#[tokio::test]
async fn the_service_stops_with_a_caller_connected() {
    let ca = fixture().await;
    let _idle = ca.client(A).connect().await.unwrap();
    ca.tasks.request_stop();
    assert!(ca.tasks.joined(Duration::from_secs(30)).await);
}

#[path = "rotation_tests.rs"]
mod rotation;
