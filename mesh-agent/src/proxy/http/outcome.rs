//! How an attempt ended, in the words in which reasons to try again are written.
//!
//! Place in the walk: after an attempt. Must not know: who tries again, or how often.
//!
//! What the agent of another node could not deliver it answers itself; a header between the agents says so, so that the
//! client's agent has the same reasons there as on its own node.

use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};

use crate::proxy::http::headers::UNSERVED;
use crate::proxy::refusal::Refusal;
use crate::route::Attempt;
use crate::transport::DialError;
use crate::transport::pool::never_begun;

/// The attempt that ended with `refusal`; `None` where the endpoint is not to blame: what the agent lacks, what a policy
/// forbids, what another endpoint would not change.
pub(super) fn of_refusal(refusal: &Refusal) -> Option<Attempt<'static>> {
    match refusal {
        Refusal::Unreachable(error) => match **error {
            DialError::Connect(_)
            | DialError::TimedOut
            | DialError::Handshake(_)
            | DialError::NotHttp2
            | DialError::Http(_) => Some(Attempt::NotConnected),
            DialError::Socket(_)
            | DialError::NoCertificate
            | DialError::Tls(_)
            | DialError::Backend(_)
            | DialError::NoTunnel(_)
            | DialError::Overflow
            | DialError::Crowded(_) => None,
        },
        // One pod comes or goes, others of its Service may be there.
        Refusal::NotEnrolled => Some(Attempt::NotConnected),
        Refusal::Broken(error) => Some(of_broken(error)),
        Refusal::NoAnswer => Some(Attempt::Reset { is_sent: true }),
        Refusal::TimedOut => Some(Attempt::TimedOut),
        Refusal::RateLimited(limited) => Some(Attempt::RateLimited {
            retry_after: limited.retry_after_s.map(Duration::from_secs),
        }),
        // Of the whole request: no attempt is left.
        Refusal::Silent
        | Refusal::NoRoute
        | Refusal::InvalidBackend
        | Refusal::NoEndpoint
        | Refusal::Overloaded
        | Refusal::Crowded
        | Refusal::Laden
        | Refusal::OverBudget
        | Refusal::NoSuchPort
        | Refusal::Plaintext
        | Refusal::Denied(_)
        | Refusal::Unauthenticated(_)
        | Refusal::External(_)
        | Refusal::RateLimiterFailed
        | Refusal::Revoked
        | Refusal::ConnectMethod
        | Refusal::ConnectProtocol
        | Refusal::TargetTooLong
        | Refusal::Aborted(_)
        | Refusal::Malformed => None,
    }
}

/// How a connection ended before the response.
pub(super) fn of_broken(error: &hyper::Error) -> Attempt<'static> {
    if never_begun(error) {
        Attempt::Refused
    } else {
        // hyper cancels what it has not begun to write.
        let is_sent = !error.is_canceled();
        Attempt::Reset { is_sent }
    }
}

/// What another agent tells of its own attempt.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heard {
    /// It came to nothing, as it would have on this node.
    Failed(Attempt<'static>),
    /// A policy of the destination refused the request, with whatever status: there is no reason to try again.
    Forbidden,
}

/// What another agent is told of a refusal.
pub(super) fn told(refusal: &Refusal) -> Option<HeaderValue> {
    let word = match of_refusal(refusal) {
        Some(Attempt::NotConnected) => "connect",
        Some(Attempt::Refused) => "refused",
        Some(Attempt::Reset { is_sent: false }) => "unsent",
        Some(Attempt::Reset { is_sent: true }) => "reset",
        None if refusal.is_of_policy() => "policy",
        // What it is answered with says it.
        Some(Attempt::RateLimited { .. } | Attempt::TimedOut | Attempt::Answered { .. }) | None => {
            return None;
        }
    };
    Some(HeaderValue::from_static(word))
}

/// What another agent tells of its own attempt.
pub(super) fn heard(headers: &HeaderMap) -> Option<Heard> {
    Some(match headers.get(UNSERVED)?.as_bytes() {
        b"connect" => Heard::Failed(Attempt::NotConnected),
        b"refused" => Heard::Failed(Attempt::Refused),
        b"unsent" => Heard::Failed(Attempt::Reset { is_sent: false }),
        b"reset" => Heard::Failed(Attempt::Reset { is_sent: true }),
        b"policy" => Heard::Forbidden,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::mesh::route::RetryPolicy;

    fn of_dial(error: DialError) -> Refusal {
        error.into()
    }

    /// Whether a policy with `words` alone would try again.
    fn wants(words: &str, refusal: &Refusal) -> bool {
        let policy = RetryPolicy {
            attempts: 1,
            on: RetryPolicy::read_words(words).0,
            backoff: Duration::ZERO,
            least_pause: Duration::ZERO,
            avoids_previous: true,
            leaves_localities: false,
        };
        of_refusal(refusal).is_some_and(|attempt| policy.wants(attempt))
    }

    #[test]
    fn what_another_endpoint_could_do_better_is_a_reason_and_nothing_else_is() {
        let refused = || ErrorKind::ConnectionRefused.into();
        for (refusal, is_connect_failure) in [
            (of_dial(DialError::Connect(refused())), true),
            (of_dial(DialError::TimedOut), true),
            (of_dial(DialError::Handshake(refused())), true),
            (Refusal::NotEnrolled, true),
            (of_dial(DialError::Socket(refused())), false),
            (of_dial(DialError::NoCertificate), false),
            (of_dial(DialError::Overflow), false),
            (Refusal::TimedOut, false),
            (Refusal::NoAnswer, false),
        ] {
            assert_eq!(
                wants("connect-failure", &refusal),
                is_connect_failure,
                "{refusal:?}"
            );
        }
        let all =
            "5xx,gateway-error,reset,reset-before-request,connect-failure,refused-stream,503,504,unavailable";
        for refusal in [
            of_dial(DialError::NoCertificate),
            of_dial(DialError::Overflow),
            Refusal::NoRoute,
            Refusal::InvalidBackend,
            Refusal::NoEndpoint,
            Refusal::Overloaded,
            Refusal::OverBudget,
            Refusal::Plaintext,
            Refusal::Revoked,
            Refusal::Malformed,
        ] {
            assert!(!wants(all, &refusal), "{refusal:?}");
        }
        assert!(wants("gateway-error", &Refusal::TimedOut));
        assert!(wants("reset", &Refusal::NoAnswer));
    }

    #[test]
    fn what_one_agent_tells_the_other_one_hears() {
        let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
        let told = told(&of_dial(DialError::Connect(refused))).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(UNSERVED, told);
        assert!(matches!(
            heard(&headers),
            Some(Heard::Failed(Attempt::NotConnected))
        ));
        headers.insert(UNSERVED, super::told(&Refusal::Plaintext).unwrap());
        assert!(matches!(heard(&headers), Some(Heard::Forbidden)));
        headers.insert(UNSERVED, HeaderValue::from_static("something else"));
        assert!(heard(&headers).is_none());
        assert!(super::told(&Refusal::NoEndpoint).is_none());
    }
}
