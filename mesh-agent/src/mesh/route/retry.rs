//! When a request is tried again, in declared form.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;

/// When and how often a request is tried again. The route's request timeout covers all attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first one; never zero.
    pub attempts: u32,
    /// Any of them is a reason.
    pub on: Vec<RetryOn>,
    /// What is drawn for the pause before the first further attempt is at most this, and grows up to ten times as long.
    pub backoff: Duration,
    /// Comes on top of what is drawn: no pause is shorter.
    pub least_pause: Duration,
    /// Whether endpoints that failed are avoided while there are others.
    pub avoids_previous: bool,
    /// Whether localities whose endpoints failed are left while there are others.
    pub leaves_localities: bool,
}

/// A reason to try again, by Envoy's names (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryOn {
    /// `5xx`: any such status, or no response at all.
    ServerError,
    /// `gateway-error`: 502, 503 or 504, or no response at all.
    GatewayError,
    /// `reset`: no response at all.
    Reset,
    /// `reset-before-request`: no response, and no byte of the request was sent.
    ResetBeforeRequest,
    /// `connect-failure`: there was no connection.
    ConnectFailure,
    /// `refused-stream`: the application's HTTP/2 said that it did nothing.
    RefusedStream,
    /// `retriable-4xx`: 409.
    Conflict,
    /// `envoy-ratelimited`: a limit refused it, be it by this mesh or an Envoy (`x-envoy-ratelimited`). Nothing else is a reason
    /// then.
    RateLimited,
    /// `retriable-status-codes`.
    Status(StatusCode),
    /// `retriable-headers`: the response has a field of this name.
    Header(HeaderName),
    /// `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`: a gRPC status, in headers or in
    /// trailers that come without a message.
    Grpc(u32),
}

impl RetryPolicy {
    /// What the words of a comma-separated list ask for, and the words that are not known.
    pub fn read_words(list: &str) -> (Vec<RetryOn>, Vec<Arc<str>>) {
        let (mut on, mut unknown) = (Vec::new(), Vec::new());
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match RetryOn::of_word(word) {
                Some(reason) => on.push(reason),
                // Its codes come in a list of their own.
                None if word == "retriable-status-codes" || word == "retriable-headers" => {}
                None => unknown.push(word.into()),
            }
        }
        (on, unknown)
    }
}

impl RetryOn {
    /// A word of `retryOn`; Istio takes statuses too.
    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "5xx" => Self::ServerError,
            "gateway-error" => Self::GatewayError,
            "reset" => Self::Reset,
            "reset-before-request" => Self::ResetBeforeRequest,
            "connect-failure" => Self::ConnectFailure,
            "refused-stream" => Self::RefusedStream,
            "retriable-4xx" => Self::Conflict,
            "envoy-ratelimited" => Self::RateLimited,
            "cancelled" => Self::Grpc(1),
            "deadline-exceeded" => Self::Grpc(4),
            "resource-exhausted" => Self::Grpc(8),
            "internal" => Self::Grpc(13),
            "unavailable" => Self::Grpc(14),
            _ => Self::Status(
                word.parse()
                    .ok()
                    .and_then(|code: u16| StatusCode::from_u16(code).ok())?,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_unknown_ones_named() {
        let (on, unknown) = RetryPolicy::read_words("5xx, unavailable,503,,retriable-status-codes, soon");
        let expected = [
            RetryOn::ServerError,
            RetryOn::Grpc(14),
            RetryOn::Status(StatusCode::SERVICE_UNAVAILABLE),
        ];
        assert_eq!(on, expected);
        assert_eq!(unknown, ["soon".into()]);
    }
}
