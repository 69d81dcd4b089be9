//! The records of one request: one for each reporter that this agent is.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::mesh::service::ServiceName;
use crate::proxy::http::body::held::Share;
use crate::proxy::http::connection::half_closed::Turn;
use crate::proxy::http::connection::silence::Pulse;
use crate::proxy::refusal::Refusal;
use crate::telemetry::plain::clipped;
use crate::telemetry::{FlowLabels, HttpRecord, HttpStart, PathTaken, PeerLabels, ResponseFlag, Telemetry};

/// Shared by the walk and by both bodies; whoever drops it last closes the records.
#[derive(Debug)]
pub(super) struct Ledger {
    telemetry: Telemetry,
    start: Arc<HttpStart>,
    /// None for a mirror's request: whoever called made one request.
    first: Option<HttpRecord>,
    /// Of the attempt that is under way at a pod of this node.
    second: Mutex<Option<HttpRecord>>,
    is_grpc: bool,
    turn: Turn,
    /// When something of it moved last.
    pulse: Pulse,
    /// Among the requests that the pod may have.
    place: OnceLock<OwnedSemaphorePermit>,
}

impl Ledger {
    pub(super) fn open(
        telemetry: &Telemetry,
        flow: FlowLabels,
        start: Arc<HttpStart>,
        is_grpc: bool,
        turn: Turn,
        pulse: Pulse,
    ) -> Arc<Self> {
        let first = telemetry.http(flow, Arc::clone(&start));
        if is_grpc {
            first.request_is_grpc();
        }
        Arc::new(Self {
            telemetry: telemetry.clone(),
            start,
            first: Some(first),
            second: Mutex::default(),
            is_grpc,
            turn,
            pulse,
            place: OnceLock::new(),
        })
    }

    /// Of a copy of the request: only a destination on this node reports it.
    pub(super) fn of_copy(&self, authority: &str) -> Arc<Self> {
        Arc::new(Self {
            telemetry: self.telemetry.clone(),
            start: Arc::new(HttpStart {
                authority: clipped(authority),
                started: Instant::now(),
                ..HttpStart::clone(&self.start)
            }),
            first: None,
            second: Mutex::default(),
            is_grpc: self.is_grpc,
            turn: Turn::new(Arc::default()),
            pulse: self.pulse.another(),
            place: OnceLock::new(),
        })
    }

    /// Of a try beside another one: only a destination on this node reports it, until its answer is the client's.
    pub(super) fn of_try(&self) -> Arc<Self> {
        self.of_copy(&self.start.authority)
    }

    /// The try that `other` was kept for is the request's own from now on.
    pub(super) fn adopt(&self, other: &Self) {
        let second = other.second.lock().take();
        let before = std::mem::replace(&mut *self.second.lock(), second);
        drop(before);
    }

    /// Holds `place` for as long as the request is under way.
    pub(super) fn hold(&self, place: OwnedSemaphorePermit) {
        // Taken once for a request.
        drop(self.place.set(place));
    }

    /// This agent is the destination's too: a second record is kept from now on.
    pub(super) fn also(&self, flow: FlowLabels) {
        let record = self.telemetry.http(flow, Arc::clone(&self.start));
        if self.is_grpc {
            record.request_is_grpc();
        }
        let before = self.second.lock().replace(record);
        drop(before);
    }

    /// The attempt that is under way is over, and another one follows: its destination has had a request, the client no
    /// answer yet.
    pub(super) fn attempt_is_over(&self, tell: impl FnOnce(&HttpRecord)) {
        let second = self.second.lock().take();
        if let Some(record) = second {
            tell(&record);
        }
    }

    /// The request was read to its end, and its answer is an ordinary one.
    pub(super) fn request_is_whole(&self) {
        self.turn.request_is_whole();
    }

    /// The answer is given, or none will come: the connection is no HTTP any more.
    pub(super) fn is_answered(&self) {
        self.turn.end();
    }

    /// Beats whenever a part of a body passes.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// When the head of the request was complete.
    pub(super) fn started(&self) -> Instant {
        self.start.started
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// Tells all records.
    pub(super) fn each(&self, tell: impl Fn(&HttpRecord)) {
        if let Some(first) = &self.first {
            tell(first);
        }
        if let Some(second) = &*self.second.lock() {
            tell(second);
        }
    }

    /// Tells the record of the source alone.
    pub(super) fn at_source(&self, tell: impl FnOnce(&HttpRecord)) {
        if let Some(first) = &self.first {
            tell(first);
        }
    }

    pub(super) fn flag(&self, flag: ResponseFlag, details: impl Into<Cow<'static, str>>) {
        let details = details.into();
        self.each(|record| {
            record.flag(flag);
            record.details(details.clone());
        });
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        self.each(|record| self.refused_at(record, refusal));
    }

    /// A body of the request finds no room on the account of its pod.
    pub(super) fn laden(&self, share: &Share) {
        let (pod, direction) = share.owner();
        let labels = PeerLabels::of(&pod.pod.workload);
        self.telemetry
            .mesh()
            .pod_limit_refused(direction, &labels, "bytes");
        self.flag(Refusal::Laden.flag(), Refusal::Laden.details());
    }

    /// Notes a refusal on one record.
    pub(super) fn refused_at(&self, record: &HttpRecord, refusal: &Refusal) {
        record.flag(refusal.flag());
        record.details(refusal.details());
        if self.is_grpc {
            record.respond(200);
            record.grpc_status(refusal.grpc_status());
        } else {
            record.respond(refusal.status().as_u16());
        }
    }

    pub(super) fn service(&self, service: &ServiceName) {
        if let Some(first) = &self.first {
            first.service(service.clone());
        }
    }

    /// Told once for a request, on the source's record: it is counted.
    pub(super) fn path_taken(&self, path: PathTaken) {
        if let Some(first) = &self.first {
            first.path_taken(path);
        }
    }

    pub(super) fn route(&self, route: &str) {
        self.each(|record| record.route(route));
    }

    /// Notes the gRPC status that headers or trailers carry, if they do.
    pub(super) fn grpc_status_in(&self, headers: &HeaderMap) {
        if let Some(code) = grpc_status(headers) {
            self.each(|record| record.grpc_status(code));
        }
    }

    pub(super) fn request_bytes(&self, count: u64) {
        self.pulse.beat();
        self.each(|record| record.add_request_bytes(count));
    }

    pub(super) fn response_bytes(&self, count: u64) {
        self.pulse.beat();
        self.each(|record| record.add_response_bytes(count));
    }
}

/// `grpc-status`, of a head or of trailers.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    let text = headers.get(GRPC_STATUS).map(HeaderValue::to_str);
    text.and_then(Result::ok)?.parse().ok()
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
