//! What an outcome tells of the endpoint: the only place that reads statuses for outlier detection.
//!
//! Place in the walk: after an answer, or the want of one. Must not know: what becomes of an endpoint that fails.

use std::time::Instant;

use http::{HeaderMap, HeaderName, Response, StatusCode};

use crate::balance::{Outcome, Pick};
use crate::mesh::traffic::ErrorCodes;
use crate::proxy::refusal::Refusal;
use crate::transport::DialError;

/// The endpoint answered. A gRPC call that begins well is judged when it ends.
pub(super) fn answered(pick: Option<&mut Pick>, response: &Response<impl Sized>, is_grpc: bool) {
    let Some(pick) = pick else { return };
    let now = Instant::now();
    pick.answered(now);
    let status = match grpc_status(response.headers()) {
        Some(code) if is_grpc => stands_for(code),
        None if is_grpc && response.status() == StatusCode::OK => return,
        Some(_) | None => response.status().as_u16(),
    };
    let outcome = of_status(status, pick.errors());
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
        let outcome = of_status(stands_for(code), pick.errors());
        pick.done(outcome, Instant::now());
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
            | DialError::NoTunnel(_)
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

/// `errors` are the statuses that count as such, instead of 5xx.
fn of_status(status: u16, errors: Option<&ErrorCodes>) -> Outcome {
    let is_error = errors.map_or(status >= 500, |errors| errors.holds(status));
    match status {
        _ if !is_error => Outcome::Good,
        502..=504 => Outcome::GatewayError,
        _ => Outcome::ServerError,
    }
}

/// The HTTP status that Envoy takes a gRPC status for (`source/common/grpc/status.cc`).
fn stands_for(code: u32) -> u16 {
    match code {
        0 => 200,
        // CANCELLED.
        1 => 499,
        // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE.
        3 | 9 | 11 => 400,
        // DEADLINE_EXCEEDED.
        4 => 504,
        // NOT_FOUND.
        5 => 404,
        // ALREADY_EXISTS, ABORTED.
        6 | 10 => 409,
        // PERMISSION_DENIED.
        7 => 403,
        // RESOURCE_EXHAUSTED.
        8 => 429,
        // UNIMPLEMENTED.
        12 => 501,
        // UNAVAILABLE.
        14 => 503,
        // UNAUTHENTICATED.
        16 => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what is none.
        _ => 500,
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
            assert_eq!(of_status(status, None), outcome, "{status}");
        }
    }

    #[test]
    fn a_policy_says_which_statuses_are_failures_and_no_others_are() {
        let errors = ErrorCodes::of(&[429, 503]);
        for (status, outcome) in [
            (200, Outcome::Good),
            (429, Outcome::ServerError),
            (500, Outcome::Good),
            (502, Outcome::Good),
            (503, Outcome::GatewayError),
        ] {
            assert_eq!(of_status(status, errors.as_ref()), outcome, "{status}");
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
            (99, Outcome::ServerError),
        ] {
            assert_eq!(of_status(stands_for(code), None), outcome, "{code}");
        }
        let errors = ErrorCodes::of(&[429]);
        assert_eq!(of_status(stands_for(8), errors.as_ref()), Outcome::ServerError);
        assert_eq!(of_status(stands_for(14), errors.as_ref()), Outcome::Good);
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
