//! What a client gets when the agent answers instead of the application.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};

use crate::proxy::http::ledger::Ledger;
use crate::proxy::refusal::Refusal;
use crate::transport::http::Body;

/// A plain-text answer, or for a gRPC client a trailers-only one (gRPC over HTTP/2: status 200, `grpc-status`).
pub(super) fn refuse(refusal: &Refusal, is_grpc: bool) -> Response<Body> {
    if is_grpc {
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(refusal.grpc_status()));
        headers.insert("grpc-message", message(refusal));
        return response;
    }
    // To the letter what Envoy answers to what a policy denies or a fault aborts: others compare it.
    let end = if matches!(refusal, Refusal::Denied(_) | Refusal::Aborted(_)) {
        ""
    } else {
        "\n"
    };
    let text = Bytes::from(format!("{refusal}{end}"));
    let mut response = Response::new(Full::new(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = refusal.status();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// What a gRPC client is told; of a policy not which one it was.
fn message(refusal: &Refusal) -> HeaderValue {
    HeaderValue::from_static(if matches!(refusal, Refusal::Denied(_)) {
        "RBAC: access denied"
    } else {
        refusal.reason()
    })
}

/// An answer that is known whole.
pub(super) fn whole(response: Response<Bytes>, ledger: &Ledger) -> Response<Body> {
    for record in ledger.records() {
        record.respond(response.status().as_u16());
    }
    response.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// The answer that lets both sides change protocol.
pub(super) fn switching(headers: http::HeaderMap) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// No bytes.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
