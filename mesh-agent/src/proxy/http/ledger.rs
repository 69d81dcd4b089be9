//! The records of one request: one for each reporter that this agent is.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use http::header::HeaderValue;

use crate::mesh::service::ServiceName;
use crate::proxy::http::half_closed::Turn;
use crate::proxy::refusal::Refusal;
use crate::telemetry::{FlowLabels, HttpRecord, HttpStart, PathTaken, ResponseFlag, Telemetry};

/// Shared by the walk and by both bodies; whoever drops it last closes the records.
#[derive(Debug)]
pub(super) struct Ledger {
    telemetry: Telemetry,
    start: HttpStart,
    first: HttpRecord,
    second: OnceLock<HttpRecord>,
    is_grpc: bool,
    turn: Turn,
}

impl Ledger {
    pub(super) fn open(
        telemetry: &Telemetry,
        flow: FlowLabels,
        start: HttpStart,
        is_grpc: bool,
        turn: Turn,
    ) -> Arc<Self> {
        let first = telemetry.http(flow, start.clone());
        if is_grpc {
            first.request_is_grpc();
        }
        Arc::new(Self {
            telemetry: telemetry.clone(),
            start,
            first,
            second: OnceLock::new(),
            is_grpc,
            turn,
        })
    }

    /// This agent is the destination's too: a second record is kept from now on.
    pub(super) fn also(&self, flow: FlowLabels) {
        let record = self
            .second
            .get_or_init(|| self.telemetry.http(flow, self.start.clone()));
        if self.is_grpc {
            record.request_is_grpc();
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

    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// All records.
    pub(super) fn records(&self) -> impl Iterator<Item = &HttpRecord> {
        std::iter::once(&self.first).chain(self.second.get())
    }

    pub(super) fn flag(&self, flag: ResponseFlag, details: impl Into<Cow<'static, str>>) {
        let details = details.into();
        for record in self.records() {
            record.flag(flag);
            record.details(details.clone());
        }
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        self.flag(refusal.flag(), refusal.details());
        for record in self.records() {
            record.respond(if self.is_grpc {
                200
            } else {
                refusal.status().as_u16()
            });
            if self.is_grpc {
                record.grpc_status(refusal.grpc_status());
            }
        }
    }

    pub(super) fn service(&self, service: &ServiceName) {
        self.first.service(service.clone());
    }

    /// Told once for a request, on the source's record: it is counted.
    pub(super) fn path_taken(&self, path: PathTaken) {
        self.first.path_taken(path);
    }

    pub(super) fn route(&self, route: &str) {
        for record in self.records() {
            record.route(route);
        }
    }

    /// Notes the gRPC status that headers or trailers carry, if they do.
    pub(super) fn grpc_status_in(&self, headers: &HeaderMap) {
        let status = headers
            .get("grpc-status")
            .map(HeaderValue::to_str)
            .and_then(Result::ok);
        if let Some(code) = status.and_then(|text| text.parse().ok()) {
            for record in self.records() {
                record.grpc_status(code);
            }
        }
    }

    pub(super) fn request_bytes(&self, count: u64) {
        for record in self.records() {
            record.add_request_bytes(count);
        }
    }

    pub(super) fn response_bytes(&self, count: u64) {
        for record in self.records() {
            record.add_response_bytes(count);
        }
    }
}
