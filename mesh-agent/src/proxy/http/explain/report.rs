//! What is answered: one value, whose keys in JSON stay as they are.
//!
//! Place in the walk: none. Must not know: how it was found, or how it is shown.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What would become of a request, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node whose agent explains.
    pub node: String,
    /// The snapshot that it looked at.
    pub snapshot_version: u64,
    /// Who asks.
    pub source: SourcePod,
    /// What is asked: `GET http://cart/path`.
    pub request: String,
    /// What stands behind the address that the pod would dial.
    pub destination: DialledPlace,
    /// What the routes of the dialled Service say; absent where there are none.
    pub routes: Option<Routes>,
    /// The ways that it may take: one for each backend of the rule.
    pub ways: Vec<Way>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// The pod that would send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePod {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// What it proves to others.
    pub identity: String,
}

/// What would be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialledPlace {
    /// What it is.
    pub kind: PlaceKind,
    /// `NAMESPACE/NAME` of the Service or Pod.
    pub name: Option<String>,
    /// Address and port; absent for a name that only the pod's own resolver knows.
    pub addr: Option<SocketAddr>,
    /// What is spoken: `http`, `http2`, `grpc`, `tcp`, or `detect` where nobody said.
    pub protocol: String,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// Kinds of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceKind {
    /// A port of a Service.
    Service,
    /// A pod's own address.
    Pod,
    /// The address of a Service, but none of its ports.
    NoSuchPort,
    /// Nothing that the mesh knows.
    Outside,
}

/// What the routes say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// The matches of their rules in the order in which they are tried.
    pub matches: Vec<MatchLine>,
    /// Further ones, which are not shown.
    pub left_out: usize,
    /// The rule that acts; none means 404.
    pub chosen: Option<ChosenRule>,
}

/// One match of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchLine {
    /// `HTTPRoute`, `GRPCRoute` or `VirtualService`.
    pub kind: String,
    /// `NAMESPACE/NAME` of the route.
    pub route: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// The rule's own name.
    pub rule_name: Option<String>,
    /// What it asks for.
    pub asks: String,
    /// Whether it holds; the first that does is taken.
    pub holds: bool,
    /// Which part of the request does not fit, in one word: `path`, `method`, `header`, `query`, ...
    pub mismatch: Option<String>,
    /// The same in words.
    pub why_not: Option<String>,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenRule {
    /// Its match among `matches`, from 0; absent when that one is left out.
    pub position: Option<usize>,
    /// `NAMESPACE/NAME` of the route.
    pub route: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// What it changes wherever the request goes.
    pub changes: Vec<String>,
    /// What it does to some requests on purpose.
    pub faults: Vec<String>,
    /// Limit of the whole transaction, in milliseconds.
    pub request_timeout_ms: Option<u64>,
    /// Limit of one attempt, in milliseconds.
    pub attempt_timeout_ms: Option<u64>,
    /// Further attempts that it asks for.
    pub retries: Option<u32>,
}

/// One way that a request may take.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The Service port that serves it: `NAMESPACE/NAME:PORT`; absent where none can.
    pub backend: Option<String>,
    /// Of how many requests of the rule, in percent.
    pub share_percent: f64,
    /// What is changed of requests that go there, after the rule's own changes.
    pub changes: Vec<String>,
    /// What is sent: `GET host/path`.
    pub sent_as: Option<String>,
    /// How one of its endpoints is chosen.
    pub balancer: Option<String>,
    /// Requests that are under way to all endpoints from this node.
    pub under_way: Option<usize>,
    /// Whether and when a second endpoint is asked too, where the Service says so.
    pub hedge: Option<String>,
    /// What answers instead, and when, where the Service says so.
    pub fallback: Option<String>,
    /// Endpoints in the order in which their groups are preferred.
    pub endpoints: Vec<EndpointLine>,
    /// Further ones, which are not shown.
    pub endpoints_left_out: usize,
    /// How it gets to the endpoint that would be picked.
    pub transport: Option<Transport>,
    /// What the policies of the pod there say.
    pub policies: Option<Policies>,
    /// What becomes of a request that takes this way.
    pub verdict: Verdict,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointLine {
    /// Address and port.
    pub addr: SocketAddr,
    /// `NAMESPACE/NAME` of the pod behind it.
    pub pod: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Requests and connections of this node that are under way to it.
    pub under_way: usize,
    /// Whether it is left out for its failures.
    pub is_ejected: bool,
    /// Whether it is left out for its answers to health checks.
    #[serde(default)]
    pub is_unhealthy: bool,
    /// Which group of equally near endpoints it is of, from 0.
    pub group: usize,
    /// What part of the traffic that group gets now, in percent.
    pub group_share_percent: f64,
    /// Whether the balancer would pick it now; with chance at play the next time may be another's.
    pub is_picked: bool,
}

/// How the bytes get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transport {
    /// Which way.
    pub kind: TransportKind,
    /// Where to.
    pub addr: SocketAddr,
    /// Who must prove to be there.
    pub peer_identity: Option<String>,
    /// `http/1.1`, `http/2`, or `bytes`.
    pub speaks: String,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// Ways to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportKind {
    /// Within the agent, or past it.
    SameNode,
    /// Mutual TLS with the agent of another node.
    MutualTls,
    /// TLS with the application itself.
    Tls,
    /// In plaintext.
    Plaintext,
}

/// What the policies of the destination pod say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// `NAMESPACE/NAME` of the pod.
    pub pod: String,
    /// The node whose agent decides.
    pub decided_on: String,
    /// Whether that is this one; if not, this is what this node's configuration makes of it.
    pub is_decided_here: bool,
    /// Who they see; `None` for nobody.
    pub peer: Option<String>,
    /// What PeerAuthentication asks for: `STRICT`, `PERMISSIVE` or `DISABLE`.
    pub mtls_mode: String,
    /// `NAMESPACE/NAME` of the `RequestAuthentication` policies.
    pub request_authentications: Vec<String>,
    /// What they make of the request's token.
    pub token: String,
    /// The AuthorizationPolicies.
    pub authorization: Vec<PolicyLine>,
    /// Further ones, which are not shown.
    pub left_out: usize,
    /// The limits of RateLimitPolicy that would count it; what is left of them is not looked at.
    pub rate_limits: Vec<RateLimitLine>,
    /// The form of the path for which they refuse, where it is another than the one that is sent.
    pub read_as: Option<String>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimitLine {
    /// `NAMESPACE/NAME` of its policy.
    pub policy: String,
    /// Whether it is only on trial.
    pub is_dry_run: bool,
    /// What each node lets through: `10 in 60s, 20 at once`.
    pub local: Option<String>,
    /// The service that is asked, as `HOST:PORT`.
    pub service: Option<String>,
}

/// One AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLine {
    /// `ALLOW`, `DENY`, `CUSTOM` or `AUDIT`.
    pub action: String,
    /// `NAMESPACE/NAME`.
    pub policy: String,
    /// Whether it is only on trial.
    pub is_dry_run: bool,
    /// Whether it acts on the port.
    pub acts_on_port: bool,
    /// Whether it matches.
    pub matches: bool,
    /// Its rules.
    pub rules: Vec<RuleLine>,
}

/// One rule of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLine {
    /// Whether it matches.
    pub matches: bool,
    /// Why not.
    pub why_not: Vec<String>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// In one word.
    pub outcome: Outcome,
    /// The HTTP status that the agent answers with.
    pub status: Option<u16>,
    /// The gRPC status that it answers a gRPC client with.
    pub grpc_status: Option<u32>,
    /// Envoy's response flag, as in metrics and access logs.
    pub flag: Option<String>,
    /// `response_code_details` of the access log.
    pub details: Option<String>,
    /// In words.
    pub reason: String,
}

/// What becomes of a request, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is sent on, and the application answers.
    #[default]
    Sent,
    /// A route answers it.
    Answered,
    /// The agent refuses it.
    Refused,
    /// An extension provider is asked, and what it says counts.
    Asked,
    /// It depends on the backend.
    Varies,
    /// It is not captured, and goes as without a mesh.
    NotCaptured,
}
