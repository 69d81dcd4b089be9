//! Explains what would become of a request, without sending it: the decisions of the walk, asked one by one.
//!
//! Place in the walk: beside it; the admin server asks. Every decision is the walk's own function, and whatever takes,
//! counts or tells is left out. Must not know: how the answer is shown.

mod bytes;
mod place;
mod policies;
mod question;
pub mod report;
mod resilience;
mod routes;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, Request, StatusCode, Uri};
use mesh_common::layout::Addr;

use self::place::Place;
pub use self::question::{BadQuestion, PAGE, Question};
use self::report::{DialledPlace, Explanation, Outcome, PlaceKind, Routes, SourcePod, Verdict, Way};
use crate::mesh::service::AppProtocol;
use crate::mesh::workload::Workload;
use crate::proxy::http::headers::is_grpc;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::stream::protocol_of;
use crate::proxy::{Ends, Mesh};
use crate::snapshot::{Destination, Snapshot};

/// Why nothing can be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// It cannot be read.
    #[error(transparent)]
    Question(#[from] BadQuestion),
    /// No such pod.
    #[error("no pod {pod} is known on {node}{hint}; is it in the configuration that this agent reads?")]
    NoPod {
        /// `NAMESPACE/NAME`.
        pod: String,
        /// The node that was asked.
        node: String,
        /// A pod that may be meant.
        hint: String,
    },
    /// Another agent carries its requests.
    #[error("pod {pod} runs on node {node}: ask the agent there, which decides where its requests go")]
    OtherNode {
        /// `NAMESPACE/NAME`.
        pod: String,
        /// The node it runs on.
        node: String,
    },
    /// Nobody captures its traffic.
    #[error(
        "pod {0} is not in the mesh: its traffic goes as it would without one; enrol it by the label \
         mesh-agent.dev/dataplane: enabled of its namespace"
    )]
    Outside(String),
    /// Its traffic is not captured yet.
    #[error("pod {0} is not captured yet: `mesh-agent status` says why")]
    NotCaptured(String),
    /// It has no address of the family that it would dial.
    #[error("pod {0} has no address of the family of {1}, so it cannot dial it")]
    Family(String, IpAddr),
    /// A name that can only be a Service's, and is none.
    #[error(
        "no Service {0} is known, or it has no address; `mesh-agent status` lists objects that were left out"
    )]
    NoService(String),
}

impl Unexplained {
    /// How the admin server answers.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Question(_) => StatusCode::BAD_REQUEST,
            Self::NoPod { .. } | Self::NoService(_) => StatusCode::NOT_FOUND,
            Self::OtherNode { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Outside(_) | Self::NotCaptured(_) | Self::Family(..) => StatusCode::CONFLICT,
        }
    }
}

impl Mesh {
    /// What would become of what `question` asks about. Sends nothing, takes nothing, counts nothing.
    pub fn explain(&self, question: &Question) -> Result<Explanation, Unexplained> {
        let snapshot = self.snapshots.load();
        let source = self.source(&snapshot, question)?;
        let host = question.to.host().unwrap_or_default();
        let domain = self.settings.zone.domain();
        let mut explanation = Explanation {
            node: self.settings.node.to_string(),
            snapshot_version: snapshot.version(),
            source: SourcePod {
                pod: pod_name(&source.pod.workload),
                identity: source.pod.workload.identity.to_string(),
            },
            request: question.to_string(),
            destination: elsewhere(host),
            routes: None,
            ways: Vec::new(),
            verdict: Verdict {
                reason: "sent on in plaintext, as bytes, to whatever address the resolver gives".to_owned(),
                ..Verdict::default()
            },
        };
        let (ip, addrs) = match place::find(&snapshot, &question.namespace, &domain, host)? {
            Place::Addr(ip, addrs) => (ip, addrs),
            Place::Elsewhere => return Ok(explanation),
        };
        let dialled = SocketAddr::new(ip, question.port);
        explanation.destination = dialled_place(&snapshot, source.as_known(&snapshot), dialled);
        if addrs > 1 {
            let note = format!("the first of {addrs} addresses that its name has; another may be dialled");
            explanation.destination.notes.push(note);
        }
        if let Some(why) = why_not_captured(&source.pod.workload, dialled) {
            explanation.verdict = Verdict {
                outcome: Outcome::NotCaptured,
                reason: why,
                ..Verdict::default()
            };
            return Ok(explanation);
        }
        let own = source.pod.addr_like(ip);
        let own = own.ok_or_else(|| Unexplained::Family(pod_name(&source.pod.workload), ip))?;
        let trip = Trip {
            mesh: self,
            snapshot: &snapshot,
            source: &source,
            ends: Ends {
                client: SocketAddr::new(own, 0),
                original: dialled,
            },
            is_grpc: is_grpc(&question.headers),
        };
        let told = trip.tell(question, &mut explanation.destination.notes);
        (explanation.routes, explanation.ways, explanation.verdict) = (told.routes, told.ways, told.verdict);
        Ok(explanation)
    }

    fn source(&self, snapshot: &Snapshot, question: &Question) -> Result<Arc<ServedPod>, Unexplained> {
        let pod = format!("{}/{}", question.namespace, question.pod);
        let is_it =
            |one: &&Arc<Workload>| *one.namespace == *question.namespace && *one.pod_name == *question.pod;
        let Some(workload) = snapshot.workloads().find(is_it) else {
            let node = self.settings.node.to_string();
            let hint = hint(snapshot, &pod);
            return Err(Unexplained::NoPod { pod, node, hint });
        };
        if workload.node != self.settings.node {
            let node = workload.node.to_string();
            return Err(Unexplained::OtherNode { pod, node });
        }
        if !workload.is_enrolled() {
            return Err(Unexplained::Outside(pod));
        }
        let served = self.pods.find(&workload.uid);
        served.ok_or(Unexplained::NotCaptured(pod))
    }
}

/// A request on its way from an application of this node.
#[derive(Debug, Clone, Copy)]
struct Trip<'a> {
    mesh: &'a Mesh,
    snapshot: &'a Snapshot,
    source: &'a Arc<ServedPod>,
    ends: Ends,
    is_grpc: bool,
}

/// What was found out of it.
#[derive(Debug, Default)]
struct Told {
    routes: Option<Routes>,
    ways: Vec<Way>,
    verdict: Verdict,
}

impl Trip<'_> {
    fn protocol(&self) -> AppProtocol {
        let client = self.source.as_known(self.snapshot);
        protocol_of(self.snapshot, client, self.ends.original)
    }

    fn tell(&self, question: &Question, notes: &mut Vec<String>) -> Told {
        let destination = self
            .snapshot
            .destination(&self.source.pod.workload, self.ends.original);
        let mut told = Told::default();
        let judged = match (self.protocol(), question.is_http) {
            (AppProtocol::Tcp, is_http) => {
                if is_http {
                    notes.push("the agent does not look for HTTP there: it goes as bytes".to_owned());
                }
                Ok(self.bytes(&destination, &mut told))
            }
            (AppProtocol::Detect, false) => Ok(self.bytes(&destination, &mut told)),
            (AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc, false) => {
                notes.push("the port says that HTTP is spoken there, and these bytes are none".to_owned());
                Err(Refusal::Malformed)
            }
            (AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Detect, true) => {
                request_of(question).and_then(|request| self.request(destination, request, &mut told))
            }
        };
        told.verdict = judged.unwrap_or_else(|refusal| self.refused(&refusal));
        told
    }

    fn refused(&self, refusal: &Refusal) -> Verdict {
        Verdict {
            outcome: Outcome::Refused,
            // What a gRPC client is told stands in a field of its own.
            status: Some(if self.is_grpc {
                200
            } else {
                refusal.status().as_u16()
            }),
            grpc_status: self.is_grpc.then(|| refusal.grpc_status()),
            flag: Some(refusal.flag().as_str().to_owned()),
            details: Some(refusal.details().into_owned()),
            reason: refusal.to_string(),
        }
    }
}

/// The request as an application would write it: HTTP/1.1, with a `Host`.
fn request_of(question: &Question) -> Result<Request<()>, Refusal> {
    let mut request = Request::new(());
    request.method_mut().clone_from(&question.method);
    request.headers_mut().clone_from(&question.headers);
    if let Some(target) = question.to.path_and_query() {
        *request.uri_mut() = Uri::from(target.clone());
    }
    if !question.headers.contains_key(HOST)
        && let Some(authority) = question.to.authority()
    {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_invalid| Refusal::Malformed)?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(request)
}

/// Why the kernel leaves a connect alone.
fn why_not_captured(source: &Workload, dialled: SocketAddr) -> Option<String> {
    let (ip, port) = (dialled.ip().to_canonical(), dialled.port());
    if source.addrs.iter().any(|own| own.to_canonical() == ip) {
        return Some("not captured: the pod dials itself".to_owned());
    }
    if Addr::from(ip).is_left_alone() {
        return Some("not captured: such addresses stay within the pod or its link".to_owned());
    }
    let excluded = &source.exclusions;
    if excluded.outbound_ports.contains(&port) {
        return Some(format!(
            "not captured: the annotation exclude-outbound-ports names {port}"
        ));
    }
    let block = excluded.outbound_cidrs.iter().find(|block| block.contains(ip))?;
    Some(format!(
        "not captured: the annotation exclude-outbound-cidrs names {block}"
    ))
}

fn dialled_place(snapshot: &Snapshot, client: &Workload, dialled: SocketAddr) -> DialledPlace {
    let destination = snapshot.destination(client, dialled);
    let protocol = protocol_word(protocol_of(snapshot, client, dialled)).to_owned();
    let (kind, name) = match destination {
        Destination::Service(upstream) => (PlaceKind::Service, Some(upstream.service.to_string())),
        Destination::Workload { workload, .. } => (PlaceKind::Pod, Some(pod_name(&workload))),
        Destination::NoSuchPort(service) => (PlaceKind::NoSuchPort, Some(service.to_string())),
        Destination::Unknown => (PlaceKind::Outside, None),
    };
    DialledPlace {
        kind,
        name,
        addr: Some(dialled),
        protocol,
        notes: Vec::new(),
    }
}

fn elsewhere(host: &str) -> DialledPlace {
    DialledPlace {
        kind: PlaceKind::Outside,
        name: None,
        addr: None,
        protocol: protocol_word(AppProtocol::Tcp).to_owned(),
        notes: vec![format!(
            "{host} is the name of no Service that this agent knows; ask by the address that it has, where it is one of \
             the mesh"
        )],
    }
}

fn protocol_word(protocol: AppProtocol) -> &'static str {
    match protocol {
        AppProtocol::Http => "http",
        AppProtocol::Http2 => "http2",
        AppProtocol::Grpc => "grpc",
        AppProtocol::Tcp => "tcp",
        AppProtocol::Detect => "detect",
    }
}

/// The enrolled pod of this node whose name is most like `pod`, if one is.
fn hint(snapshot: &Snapshot, pod: &str) -> String {
    let names = snapshot.local().iter().map(|workload| pod_name(workload));
    let nearest = names.min_by_key(|name| strsim::damerau_levenshtein(name, pod));
    let like = nearest.filter(|name| strsim::damerau_levenshtein(name, pod) <= MOST_TYPOS);
    like.map_or_else(String::new, |name| format!(" (is {name} meant?)"))
}

fn pod_name(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.pod_name)
}

/// The first of `all` as they are shown, and how many are not.
fn bounded<T, L>(mut all: impl Iterator<Item = T>, line: impl Fn(T) -> L) -> (Vec<L>, usize) {
    let lines = all.by_ref().take(MOST_LINES).map(line).collect();
    (lines, all.count())
}

/// Matches, endpoints or policies that one answer shows, of each: whoever asks reads them.
const MOST_LINES: usize = 200;
const MOST_TYPOS: usize = 3;
