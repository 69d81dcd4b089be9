//! What a client gets when the agent answers instead of the application.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};

use crate::external::Reply;
use crate::grpc::encode_message;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::refusal::{Limited, Limiter, Refusal, Unapproved};
use crate::transport::http::Body;

/// A plain-text answer, or for a gRPC client a trailers-only one (gRPC over HTTP/2: status 200, `grpc-status`).
pub(super) fn refuse(refusal: &Refusal, is_grpc: bool) -> Response<Body> {
    if is_grpc {
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        if let Refusal::External(Unapproved::Denied(reply)) = refusal {
            headers.clone_from(&reply.headers);
        }
        if let Refusal::RateLimited(limited) = refusal {
            headers.extend(of_limit(limited));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(refusal.grpc_status()));
        headers.insert("grpc-message", message(refusal));
        return response;
    }
    if let Refusal::External(Unapproved::Denied(reply)) = refusal {
        return of_authorizer(reply);
    }
    if let Refusal::External(Unapproved::Unanswered(_)) | Refusal::RateLimiterFailed = refusal {
        let mut response = Response::new(empty());
        *response.status_mut() = refusal.status();
        return response;
    }
    if let Refusal::RateLimited(limited) = refusal {
        return over_limit(limited, refusal);
    }
    // To the letter what Envoy answers to what a policy denies or a fault aborts: others compare it.
    let is_envoys = matches!(
        refusal,
        Refusal::Denied(_) | Refusal::Unauthenticated(_) | Refusal::Aborted(_)
    );
    let end = if is_envoys { "" } else { "\n" };
    let text = Bytes::from(format!("{refusal}{end}"));
    let mut response = Response::new(Full::new(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = refusal.status();
    if matches!(refusal, Refusal::Overloaded | Refusal::Crowded | Refusal::Laden) {
        // Envoy's word for its callers: trying again at once makes it worse.
        let headers = response.headers_mut();
        headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Refusal::Unauthenticated(unauthenticated) = refusal {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, unauthenticated.challenge.clone());
    }
    response
}

/// The answer of an authorizer, to the letter.
fn of_authorizer(reply: &Reply) -> Response<Body> {
    let body = Full::new(reply.body.clone());
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = reply.status;
    response.headers_mut().clone_from(&reply.headers);
    response
}

/// As Envoy answers it: by a limit of its own in words, by a service's with what the service says.
fn over_limit(limited: &Limited, refusal: &Refusal) -> Response<Body> {
    let mut headers = of_limit(limited);
    let body = match limited.by {
        Limiter::Node => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            Bytes::from_static(refusal.reason().as_bytes())
        }
        Limiter::Service => limited.reply.body.clone(),
    };
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = refusal.status();
    *response.headers_mut() = headers;
    response
}

/// What every client that is over a limit is told.
fn of_limit(limited: &Limited) -> HeaderMap {
    let mut headers = limited.reply.headers.clone();
    headers.insert("x-envoy-ratelimited", HeaderValue::from_static("true"));
    if let Some(seconds) = limited.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    headers
}

/// What a gRPC client is told; of a policy not which one it was, of an authorizer what it says.
fn message(refusal: &Refusal) -> HeaderValue {
    if let Refusal::Unauthenticated(unauthenticated) = refusal
        && let Ok(message) = HeaderValue::try_from(unauthenticated.failure.to_string())
    {
        return message;
    }
    if let Refusal::External(Unapproved::Denied(reply)) = refusal {
        let text = encode_message(&String::from_utf8_lossy(&reply.body));
        // Nothing but printable ASCII is left of it.
        return HeaderValue::try_from(text).unwrap_or_else(|_impossible| HeaderValue::from_static("denied"));
    }
    HeaderValue::from_static(if matches!(refusal, Refusal::Denied(_)) {
        "RBAC: access denied"
    } else {
        refusal.reason()
    })
}

/// An answer that is known whole.
pub(super) fn whole(response: Response<Bytes>, ledger: &Ledger) -> Response<Body> {
    ledger.each(|record| record.respond(response.status().as_u16()));
    response.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// The answer that lets both sides change protocol.
pub(super) fn switching(headers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// No bytes.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
