//! How one health check travels, and what its answer says.
//!
//! Place in the walk: beside requests; it takes their way. Must not know: when endpoints are asked, what follows from the
//! answer.
//!
//! A check goes where a request of the caller's would: with its identity, through the agent of the endpoint's node, and the
//! policies of the destination hold for it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};

use crate::balance::Finding;
use crate::grpc;
use crate::identity::Alpn;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::health_check::{HttpQuestion, Question};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::Reuse;
use crate::mesh::workload::Workload;
use crate::proxy::backend;
use crate::proxy::hop::Hop;
use crate::proxy::http::headers::{ORIGINAL_VERSION, prepare};
use crate::proxy::http::outcome::{self, Heard};
use crate::proxy::http::plan::wire_for;
use crate::proxy::http::reach;
use crate::proxy::outbound::same_node;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::{Ends, Mesh};
use crate::snapshot::{Checked, Snapshot};
use crate::transport::http::Body;
use crate::transport::pool::{Leased, PoolKey, Wire};
use crate::transport::proxy_header::{self, ProxyHeader};

/// What an endpoint answered, and in which words.
#[derive(Debug)]
pub(in crate::proxy) struct Answer {
    pub(in crate::proxy) finding: Finding,
    pub(in crate::proxy) why: Cow<'static, str>,
}

impl Answer {
    /// It did not answer.
    pub(in crate::proxy) fn none(why: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Finding::NoAnswer, why)
    }

    /// What `finding` says, because of `why`.
    pub(in crate::proxy) fn of(finding: Finding, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            finding,
            why: why.into(),
        }
    }
}

/// Asks once, for as long as the caller waits. Cancel-safe.
pub(in crate::proxy) async fn probe(mesh: &Arc<Mesh>, checked: &Checked, caller: &Arc<ServedPod>) -> Answer {
    let way = match Way::decide(mesh, checked, caller) {
        Ok(way) => way,
        Err(refusal) => return Answer::none(refusal.details()),
    };
    let answered = match &checked.check.question {
        Question::Http(question) => way.http(question, checked).await,
        Question::Tcp => way.tcp().await,
        Question::Grpc(service) => way.grpc(service).await,
    };
    answered.unwrap_or_else(|refusal| {
        if refusal.is_of_policy() {
            Answer::of(Finding::Failed, refusal.details())
        } else {
            Answer::none(refusal.details())
        }
    })
}

/// The way to one endpoint.
struct Way<'a> {
    mesh: &'a Arc<Mesh>,
    caller: &'a Arc<ServedPod>,
    hop: Hop,
    addr: SocketAddr,
    /// What the application is shown: the caller's address, and no port, since nobody there dialled.
    client: SocketAddr,
    protocol: AppProtocol,
    /// The TLS that the application speaks itself, where this agent begins it.
    tls: Option<Arc<BackendTls>>,
    /// What it is told before anything else: that no client is behind the check.
    proxied: Option<ProxyHeader>,
}

impl<'a> Way<'a> {
    fn decide(mesh: &'a Arc<Mesh>, checked: &Checked, caller: &'a Arc<ServedPod>) -> Result<Self, Refusal> {
        let snapshot = mesh.snapshots.load();
        let addr = checked.addr;
        let pod = pod_of(&snapshot, checked)?;
        let hop = Hop::decide(mesh, &snapshot, pod, addr.port())?;
        let own = caller.pod.addr_like(addr.ip());
        let own = own.or_else(|| caller.pod.workload.addrs.first().copied());
        let outside = snapshot.port_with(&caller.pod.workload, &checked.service, addr);
        let proxied = outside.and_then(|port| port.proxied());
        Ok(Self {
            mesh,
            caller,
            tls: backend::tls_behind(&hop, addr.port(), &snapshot, outside.and_then(|port| port.tls())),
            proxied: proxied
                .filter(|_| matches!(hop, Hop::Plain { .. }))
                .map(proxy_header::own),
            hop,
            addr,
            client: SocketAddr::new(own.ok_or(Refusal::NotEnrolled)?, 0),
            protocol: pod.map_or(AppProtocol::Detect, |pod| {
                snapshot.inbound(pod, addr.port()).protocol
            }),
        })
    }

    async fn http(&self, question: &HttpQuestion, checked: &Checked) -> Result<Answer, Refusal> {
        let host = question.host.as_deref();
        let host = host.map_or_else(|| Cow::Owned(checked.service.host()), Cow::Borrowed);
        let mut request = Request::new(full(Bytes::new()));
        *request.uri_mut() = question.path.parse().map_err(|_invalid| Refusal::Malformed)?;
        let wire = wire_for(self.protocol, Version::HTTP_11);
        let mut response = self.send(request, &host, wire).await?;
        if let Some(answer) = unserved(response.headers()) {
            return Ok(answer);
        }
        let status = response.status().as_u16();
        let is_in = |ranges: &[std::ops::RangeInclusive<u16>]| ranges.iter().any(|one| one.contains(&status));
        let finding = if is_in(&question.expected) {
            Finding::Passed
        } else if is_in(&question.retriable) {
            Finding::NoAnswer
        } else {
            Finding::Failed
        };
        // Only a connection whose answer was read to its end is used again; the status has said everything.
        let _read = read(response.body_mut()).await;
        Ok(Answer::of(finding, format!("status {status}")))
    }

    async fn grpc(&self, service: &str) -> Result<Answer, Refusal> {
        let message = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut request = Request::new(full(grpc::frame(&message)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/grpc.health.v1.Health/Check");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let authority = self.addr.to_string();
        let mut response = self.send(request, &authority, Wire::H2).await?;
        if let Some(answer) = unserved(response.headers()) {
            return Ok(answer);
        }
        if response.status() != StatusCode::OK {
            return Ok(Answer::of(
                Finding::Failed,
                format!("http status {}", response.status().as_u16()),
            ));
        }
        if let Err(error) = grpc::outcome(response.headers()) {
            return Ok(Answer::of(Finding::Failed, error.to_string()));
        }
        let Some((message, trailers)) = read(response.body_mut()).await else {
            return Ok(Answer::none("the answer broke off"));
        };
        if let Err(error) = grpc::outcome(&trailers) {
            return Ok(Answer::of(Finding::Failed, error.to_string()));
        }
        Ok(match grpc::unframe::<HealthCheckResponse>(&message) {
            Ok(HealthCheckResponse { status: SERVING }) => Answer::of(Finding::Passed, "SERVING"),
            Ok(HealthCheckResponse { status }) => {
                Answer::of(Finding::Failed, format!("serving status {status}"))
            }
            Err(error) => Answer::of(Finding::Failed, error.to_string()),
        })
    }

    /// Across nodes it is the other agent that connects to the application, and says whether it could.
    async fn tcp(&self) -> Result<Answer, Refusal> {
        if let Hop::OtherNode { .. } = self.hop {
            let mut request = Request::new(full(Bytes::new()));
            request.headers_mut().insert(reach::ASKED, reach::TCP);
            let authority = self.addr.to_string();
            let response = self.send(request, &authority, Wire::H2).await?;
            if let Some(answer) = unserved(response.headers()) {
                return Ok(answer);
            }
            return Ok(match response.headers().get(reach::ASKED) {
                Some(_) => Answer::of(Finding::Passed, "connected"),
                None => Answer::none(format!("status {}", response.status().as_u16())),
            });
        }
        if let Some(visit) = self.visit() {
            visit.arrival().judge_bytes(&self.mesh.snapshots.load())?;
        }
        // Not [`Alpn::Tcp`], which in plaintext means the port of a client that is there.
        let connecting = self
            .hop
            .connect(self.mesh, self.caller, self.client, self.addr, Alpn::H2);
        let connecting = backend::introduced(self.mesh, self.proxied.as_ref(), connecting);
        drop(connecting.await?);
        Ok(Answer::of(Finding::Passed, "connected"))
    }

    async fn send(
        &self,
        mut request: Request<Body>,
        authority: &str,
        wire: Wire,
    ) -> Result<Response<Leased>, Refusal> {
        let authority: Authority = authority.parse().map_err(|_invalid| Refusal::Malformed)?;
        let user_agent = HeaderValue::from_static("mesh-agent-health-check");
        request.headers_mut().insert(USER_AGENT, user_agent);
        let (pool, carrying) = match &self.hop {
            Hop::SameNode(pod) => {
                self.let_in(&request, &authority)?;
                (&pod.pool, wire)
            }
            Hop::OtherNode { .. } => (&self.caller.pool, Wire::H2),
            Hop::Plain { .. } => (&self.caller.pool, wire),
        };
        prepare(&mut request, carrying, &authority)?;
        if matches!(self.hop, Hop::OtherNode { .. }) && wire == Wire::H1 {
            let version = HeaderValue::from_static("1");
            request.headers_mut().insert(ORIGINAL_VERSION, version);
        }
        let key = PoolKey {
            endpoint: self.hop.uid(),
            addr: self.addr,
            // On this node never one that an application's request might use: it would show a client without a port.
            client: None,
            wire: carrying,
            reuse: Reuse::default(),
            tls: self.tls.as_deref().map(BackendTls::number),
            proxied: self.proxied.clone(),
        };
        let connect = || {
            let (mesh, caller) = (self.mesh, self.caller);
            let connecting = self.hop.connect(mesh, caller, self.client, self.addr, Alpn::H2);
            let connecting = backend::introduced(mesh, self.proxied.as_ref(), connecting);
            backend::over(mesh, caller, self.tls.as_ref(), backend::alpn(wire), connecting)
        };
        Ok(pool.send(&self.caller.tasks, &key, request, &connect).await?)
    }

    /// Nobody else asks the policies of a pod of this node.
    fn let_in(&self, request: &Request<Body>, authority: &Authority) -> Result<(), Refusal> {
        let snapshot = self.mesh.snapshots.load();
        self.visit().map_or(Ok(()), |visit| {
            visit.arrival().judge_request(&snapshot, request, authority, None)
        })
    }

    fn visit(&self) -> Option<crate::proxy::arrival::Visit> {
        let ends = Ends {
            client: self.client,
            original: self.addr,
        };
        same_node(&self.hop, self.caller, ends, self.addr)
    }
}

/// The pod as it is known now.
fn pod_of<'s>(snapshot: &'s Snapshot, checked: &Checked) -> Result<Option<&'s Arc<Workload>>, Refusal> {
    match &checked.workload {
        Some(uid) => snapshot.workload(uid).map(Some).ok_or(Refusal::NoEndpoint),
        None => Ok(None),
    }
}

/// What another agent says of an attempt that did not reach its application.
fn unserved(headers: &HeaderMap) -> Option<Answer> {
    Some(match outcome::heard(headers)? {
        Heard::Failed(_) => Answer::none("the agent of its node cannot reach it"),
        Heard::Forbidden => Answer::of(Finding::Failed, "a policy of its pod refuses it"),
    })
}

/// A body of a few bytes, and its trailers; `None` if it breaks off or is larger.
async fn read(body: &mut Leased) -> Option<(Bytes, HeaderMap)> {
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) if bytes.len() + data.len() > MAX_ANSWER => return None,
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok()?,
        }
    }
    Some((bytes.freeze(), trailers))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// `grpc.health.v1.HealthCheckRequest`
/// (<https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto>).
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// Of an answer as much is read; more closes its connection.
const MAX_ANSWER: usize = 16 * 1024;
