//! What an outcome tells of the endpoint: the only place that reads statuses for outlier detection.
//!
//! Place in the walk: after an answer, or the want of one. Must not know: what becomes of an endpoint that fails.

use std::time::Instant;

use http::{HeaderMap, HeaderName, Response, StatusCode};

use crate::balance::{Outcome, Pick};
use crate::proxy::refusal::Refusal;
use crate::transport::DialError;

/// The endpoint answered. A gRPC call that begins well is judged when it ends.
pub(super) fn answered(pick: Option<&mut Pick>, response: &Response<impl Sized>, is_grpc: bool) {
    let Some(pick) = pick else { return };
    let now = Instant::now();
    pick.answered(now);
    let outcome = match grpc_status(response.headers()) {
        Some(code) if is_grpc => of_grpc(code),
        None if is_grpc && response.status() == StatusCode::OK => return,
        Some(_) | None => of_status(response.status()),
    };
    pick.done(outcome, now);
}

/// The response ended with these trailers.
pub(super) fn ended(pick: Option<&mut Pick>, trailers: &HeaderMap) {
    if let Some(code) = grpc_status(trailers) {
        ended_with(pick, code);
    }
}

/// The gRPC call ended with this status.
pub(super) fn ended_with(pick: Option<&mut Pick>, code: u32) {
    if let Some(pick) = pick {
        pick.done(of_grpc(code), Instant::now());
    }
}

/// The response broke off.
pub(super) fn broken(pick: Option<&mut Pick>) {
    if let Some(pick) = pick {
        pick.done(Outcome::LocalFailure, Instant::now());
    }
}

/// The agent answers in the endpoint's place.
pub(super) fn refused(pick: Option<&mut Pick>, refusal: &Refusal) {
    if let (Some(pick), true) = (pick, is_endpoints_fault(refusal)) {
        pick.done(Outcome::LocalFailure, Instant::now());
    }
}

fn is_endpoints_fault(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Unreachable(error) => match **error {
            DialError::Connect(_)
            | DialError::TimedOut
            | DialError::Handshake(_)
            | DialError::NotHttp2
            | DialError::Http(_) => true,
            // Our own want of a socket, a certificate, or room.
            DialError::Socket(_)
            | DialError::NoCertificate
            | DialError::Tls(_)
            | DialError::Backend(_)
            | DialError::Overflow
            | DialError::Crowded(_) => false,
        },
        Refusal::Broken(_) | Refusal::NoAnswer | Refusal::TimedOut => true,
        // The whole request was given up, whichever endpoint had it.
        Refusal::Silent
        | Refusal::NoRoute
        | Refusal::InvalidBackend
        | Refusal::NoEndpoint
        | Refusal::Overloaded
        | Refusal::Crowded
        | Refusal::Laden
        | Refusal::OverBudget
        | Refusal::NoSuchPort
        | Refusal::NotEnrolled
        | Refusal::Plaintext
        | Refusal::Denied(_)
        | Refusal::Unauthenticated(_)
        | Refusal::External(_)
        | Refusal::RateLimited(_)
        | Refusal::RateLimiterFailed
        | Refusal::Revoked
        | Refusal::ConnectMethod
        | Refusal::ConnectProtocol
        | Refusal::TargetTooLong
        | Refusal::Aborted(_)
        | Refusal::Malformed => false,
    }
}

fn of_status(status: StatusCode) -> Outcome {
    match status.as_u16() {
        502..=504 => Outcome::GatewayError,
        500.. => Outcome::ServerError,
        _ => Outcome::Good,
    }
}

/// By the HTTP status that Envoy takes a gRPC status for (`source/common/grpc/status.cc`).
fn of_grpc(code: u32) -> Outcome {
    match code {
        // DEADLINE_EXCEEDED, UNAVAILABLE.
        4 | 14 => Outcome::GatewayError,
        // UNKNOWN, UNIMPLEMENTED, INTERNAL, DATA_LOSS.
        2 | 12 | 13 | 15 => Outcome::ServerError,
        _ => Outcome::Good,
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundreds_are_failures_and_some_of_them_a_gateways() {
        for (status, outcome) in [
            (200, Outcome::Good),
            (404, Outcome::Good),
            (429, Outcome::Good),
            (500, Outcome::ServerError),
            (501, Outcome::ServerError),
            (502, Outcome::GatewayError),
            (503, Outcome::GatewayError),
            (504, Outcome::GatewayError),
            (505, Outcome::ServerError),
        ] {
            assert_eq!(
                of_status(StatusCode::from_u16(status).unwrap()),
                outcome,
                "{status}"
            );
        }
    }

    #[test]
    fn grpc_statuses_count_as_the_http_status_that_envoy_takes_them_for() {
        for (code, outcome) in [
            (0, Outcome::Good),
            (5, Outcome::Good),
            (8, Outcome::Good),
            (16, Outcome::Good),
            (2, Outcome::ServerError),
            (12, Outcome::ServerError),
            (13, Outcome::ServerError),
            (15, Outcome::ServerError),
            (4, Outcome::GatewayError),
            (14, Outcome::GatewayError),
        ] {
            assert_eq!(of_grpc(code), outcome, "{code}");
        }
    }

    #[test]
    fn what_the_agent_lacks_itself_is_not_held_against_the_endpoint() {
        let of_dial = |error| Refusal::from(error);
        let refused = std::io::ErrorKind::ConnectionRefused;
        for (refusal, is_endpoints) in [
            (of_dial(DialError::Connect(refused.into())), true),
            (of_dial(DialError::TimedOut), true),
            (of_dial(DialError::NoCertificate), false),
            (of_dial(DialError::Overflow), false),
            (of_dial(DialError::Socket(refused.into())), false),
            (Refusal::TimedOut, true),
            (Refusal::NoRoute, false),
            (Refusal::Overloaded, false),
        ] {
            assert_eq!(is_endpoints_fault(&refusal), is_endpoints, "{refusal:?}");
        }
    }
}
