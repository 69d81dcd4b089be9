//! A connection that reaches a pod of this node, as the pod's policies see it: from another node, from this one, or in
//! plaintext.
//!
//! Place in the walk: asked at the destination before anything is delivered, and again whenever policies change. Must
//! not know: routes, how bytes move.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Request;
use http::uri::Authority;

use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::MtlsMode;
use crate::mesh::workload::Workload;
use crate::policy::authentication::{Claims, Guard};
use crate::policy::authorization::{
    self, Ask, Connection, DryRun, Host, Judgement, Protection, Recorded, Verdict,
};
use crate::policy::rate_limit::Limits;
use crate::proxy::Mesh;
use crate::proxy::http::path;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::snapshot::{InboundPort, Snapshot};

/// Who arrives where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// The pod that is reached.
    pub(super) pod: &'a Workload,
    /// Who is known to come, by a certificate or by being a pod of this node; `None` for plaintext.
    pub(super) peer: Option<&'a SpiffeId>,
    /// The true client.
    pub(super) client: IpAddr,
    /// The pod's own address and port.
    pub(super) addr: SocketAddr,
    /// The extension provider that has let the request in.
    pub(super) approved: Option<&'a str>,
}

/// An arrival that outlives the call that decided on it.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) pod: Arc<ServedPod>,
    pub(super) peer: Option<SpiffeId>,
    pub(super) client: IpAddr,
    pub(super) addr: SocketAddr,
    /// The extension provider that has let the request in.
    pub(super) approved: Option<Arc<str>>,
    /// Whether the client's whole connection leads to the pod, so that it is watched as one.
    pub(super) is_all: bool,
}

impl Visit {
    pub(super) fn arrival(&self) -> Arrival<'_> {
        Arrival {
            pod: &self.pod.pod.workload,
            peer: self.peer.as_ref(),
            client: self.client,
            addr: self.addr,
            approved: self.approved.as_deref(),
        }
    }
}

impl Arrival<'_> {
    /// Whether something that may be sent on the connection is let in; asked when there is nothing more to see yet.
    pub(super) fn judge_connection(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        let Some(protection) = self.protection(snapshot)? else {
            return Ok(());
        };
        match protection.of_connection(&self.connection(snapshot)) {
            Verdict::Allowed | Verdict::NeedsRequests => Ok(()),
            Verdict::Denied(denial) => Err(Refusal::Denied(denial)),
        }
    }

    /// Whether bytes that are no HTTP are let in.
    ///
    /// Those about which somebody must be asked first, and was not, are not.
    pub(super) fn judge_bytes(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        match self.judge_opaque(snapshot)? {
            Judgement::Allowed => Ok(()),
            Judgement::Ask(ask) => Err(Refusal::Denied(ask.unanswered)),
        }
    }

    pub(super) fn judge_opaque(&self, snapshot: &Snapshot) -> Result<Judgement, Refusal> {
        let Some(protection) = self.protection(snapshot)? else {
            return Ok(Judgement::Allowed);
        };
        protection
            .of_bytes(&self.connection(snapshot), self.approved)
            .map_err(Refusal::Denied)
    }

    /// What looks at the tokens of its requests; `None` where nothing does, or not for this client.
    pub(super) fn guard(&self, snapshot: &Snapshot) -> Option<Arc<Guard>> {
        let guard = snapshot.guard(self.workload(snapshot));
        Some(guard).filter(|guard| !guard.is_none() && !self.is_probe(snapshot))
    }

    /// What counts its requests; `None` where nothing does, or not those of this client.
    pub(super) fn limits(&self, snapshot: &Snapshot) -> Option<Arc<Limits>> {
        let limits = snapshot.rate_limits(self.workload(snapshot))?;
        Some(limits).filter(|_| !self.is_probe(snapshot))
    }

    /// Who policies see at the other end.
    pub(super) fn proven<'s>(&'s self, snapshot: &'s Snapshot) -> Option<&'s SpiffeId> {
        snapshot.proven(self.peer, self.workload(snapshot), self.addr.port())
    }

    /// Whether a request is let in; its path is in its normal form.
    ///
    /// One about which somebody must be asked first, and was not, is not.
    pub(super) fn judge_request(
        &self,
        snapshot: &Snapshot,
        request: &Request<impl Sized>,
        authority: &Authority,
        token: Option<&Claims>,
    ) -> Result<(), Refusal> {
        match self.judge(snapshot, request, authority, token)? {
            Judgement::Allowed => Ok(()),
            Judgement::Ask(ask) => Err(Refusal::Denied(ask.unanswered)),
        }
    }

    /// Whether a request is let in, or who must be asked first.
    ///
    /// It is asked for each way in which an application may read that path, and must be let in for all.
    pub(super) fn judge(
        &self,
        snapshot: &Snapshot,
        request: &Request<impl Sized>,
        authority: &Authority,
        token: Option<&Claims>,
    ) -> Result<Judgement, Refusal> {
        let Some(protection) = self.protection(snapshot)? else {
            return Ok(Judgement::Allowed);
        };
        let connection = self.connection(snapshot);
        let mut asked = self.asked(request, authority, token);
        for path in path::readings(request.uri().path()) {
            asked.path = path;
            let judged = protection.of_request(&connection, &asked, self.approved);
            if let ask @ Judgement::Ask(_) = judged.map_err(Refusal::Denied)? {
                return Ok(ask);
            }
        }
        Ok(Judgement::Allowed)
    }

    /// Lets bytes that are no HTTP in or not, and counts what policies want counted; or says who must let them in first.
    pub(super) fn admit_bytes(&self, mesh: &Mesh) -> Result<Option<Ask>, Refusal> {
        let snapshot = mesh.snapshots.load();
        let judged = self.judge_opaque(&snapshot);
        if let Ok(Judgement::Ask(ask)) = judged {
            return Ok(Some(ask));
        }
        if let Ok(Some(protection)) = self.protection(&snapshot) {
            self.record(mesh, protection.recorded(&self.connection(&snapshot), None));
        }
        judged
            .map(|_allowed| None)
            .inspect_err(|refusal| self.refused(mesh, refusal))
    }

    /// What is known of the port that is reached.
    pub(super) fn port(&self, snapshot: &Snapshot) -> InboundPort {
        snapshot.inbound(self.pod, self.addr.port())
    }

    /// Lets a request in or not, and counts what policies want counted; or names the extension provider that must let it
    /// in first.
    pub(super) fn admit_request(
        &self,
        mesh: &Mesh,
        snapshot: &Snapshot,
        request: &Request<impl Sized>,
        authority: &Authority,
        token: Option<&Claims>,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let judged = self.judge(snapshot, request, authority, token);
        if let Ok(Judgement::Ask(ask)) = judged {
            return Ok(Some(ask.provider));
        }
        if let Ok(Some(protection)) = self.protection(snapshot)
            && protection.records()
        {
            let asked = self.asked(request, authority, token);
            self.record(
                mesh,
                protection.recorded(&self.connection(snapshot), Some(&asked)),
            );
        }
        judged
            .map(|_allowed| None)
            .inspect_err(|refusal| self.refused(mesh, refusal))
    }

    /// Counts and logs a refusal.
    pub(super) fn refused(&self, mesh: &Mesh, refusal: &Refusal) {
        mesh.telemetry.mesh().denied(refusal.reason());
        tracing::debug!(
            pod = %self.pod.pod_name,
            peer = self.peer.map(tracing::field::display),
            client = %self.client,
            port = self.addr.port(),
            details = %refusal.details(),
            "refused by policy"
        );
    }

    fn record(&self, mesh: &Mesh, recorded: Recorded) {
        let Recorded { is_audited, dry_run } = recorded;
        if is_audited {
            mesh.telemetry.mesh().audited();
        }
        if let Some(result) = dry_run {
            let would_deny = result == DryRun::WouldDeny;
            mesh.telemetry.mesh().dry_run(would_deny);
            if would_deny {
                tracing::info!(
                    pod = %self.pod.pod_name,
                    peer = self.peer.map(tracing::field::display),
                    client = %self.client,
                    port = self.addr.port(),
                    "a policy on trial would have refused this"
                );
            }
        }
    }

    /// What PeerAuthentication says of a client that proved nothing. Its own node may probe the pod; an excluded port
    /// comes here only until the kernel knows of it.
    pub(super) fn judge_plaintext(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        let (workload, port) = (self.workload(snapshot), self.addr.port());
        let is_forbidden = self.peer.is_none()
            && snapshot.mtls_mode(workload, port) == MtlsMode::Strict
            && workload.is_meshed_at(port)
            && !self.is_probe(snapshot);
        if is_forbidden {
            Err(Refusal::Plaintext)
        } else {
            Ok(())
        }
    }

    /// The policies to be asked; `None` where there are none, or none that holds for this client.
    pub(super) fn protection(&self, snapshot: &Snapshot) -> Result<Option<Arc<Protection>>, Refusal> {
        self.judge_plaintext(snapshot)?;
        let protection = snapshot.protection(self.workload(snapshot));
        Ok(Some(protection).filter(|protection| !protection.is_none() && !self.is_probe(snapshot)))
    }

    /// No policy keeps the kubelet of the pod's own node from its probes.
    fn is_probe(&self, snapshot: &Snapshot) -> bool {
        self.peer.is_none() && snapshot.is_probe(self.workload(snapshot), self.client, self.addr.port())
    }

    /// The pod as the snapshot knows it now: labels may have changed since it joined.
    fn workload<'s>(&'s self, snapshot: &'s Snapshot) -> &'s Workload {
        let known = snapshot.workload(&self.pod.uid);
        known.map_or(self.pod, AsRef::as_ref)
    }

    pub(super) fn connection<'s>(&'s self, snapshot: &'s Snapshot) -> Connection<'s> {
        let peer = self.proven(snapshot);
        Connection::new(peer, self.client, self.addr.ip(), self.addr.port())
    }

    /// The request in the form in which it is sent on.
    pub(super) fn asked<'r>(
        &self,
        request: &'r Request<impl Sized>,
        authority: &Authority,
        token: Option<&'r Claims>,
    ) -> authorization::Request<'r> {
        authorization::Request {
            method: request.method().as_str(),
            path: Cow::Borrowed(request.uri().path()),
            host: Host::new(authority.as_str()),
            headers: request.headers(),
            remote_ip: forwarded_for(request.headers()).unwrap_or(self.client),
            token,
        }
    }
}

/// The last entry of `x-forwarded-for`: who the nearest proxy says it served (Istio with `numTrustedProxies` 0).
fn forwarded_for(headers: &http::HeaderMap) -> Option<IpAddr> {
    let last_line = headers.get_all("x-forwarded-for").iter().next_back()?;
    let last = last_line.to_str().ok()?.rsplit(',').next()?.trim();
    last.parse().ok()
}
