//! Whether and when a request is tried again.
//!
//! Place in the walk: after an attempt has failed. Must not know: connections, bodies, endpoints.
//!
//! Source: Envoy's router filter (`x-envoy-retry-on`) and `JitteredExponentialBackOffStrategy`.

use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, StatusCode};
use rand::{Rng, RngCore};

use crate::mesh::route::{RetryOn, RetryPolicy};

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum Attempt<'a> {
    /// There was no connection.
    NotConnected,
    /// The application's HTTP/2 said that it did nothing.
    Refused,
    /// The connection ended before a response; `is_sent` tells whether it had got a part of the request.
    Reset {
        /// Whether a part of the request was sent.
        is_sent: bool,
    },
    /// Its own time limit passed before a response.
    TimedOut,
    /// A limit of the destination refused it.
    RateLimited {
        /// When there is room again, if that is known.
        retry_after: Option<Duration>,
    },
    /// There is a response.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its head.
        headers: &'a HeaderMap,
        /// Its gRPC status, if it is known before a message.
        grpc: Option<u32>,
    },
}

impl RetryPolicy {
    /// Whether an attempt that ended so is a reason to try again.
    pub fn wants(&self, attempt: Attempt<'_>) -> bool {
        self.on.iter().any(|on| is_reason(on, attempt))
    }

    /// The pause before the `count`th further attempt, counted from 1: what the response asks for with `retry-after`,
    /// else drawn from an interval that doubles each time; the least pause is part of each.
    pub fn pause(&self, count: u32, attempt: Attempt<'_>, rng: &mut dyn RngCore) -> Duration {
        let asked = match attempt {
            Attempt::Answered { headers, .. } => retry_after(headers),
            Attempt::RateLimited { retry_after } => retry_after.filter(|pause| *pause <= LONGEST_PAUSE),
            Attempt::NotConnected | Attempt::Refused | Attempt::Reset { .. } | Attempt::TimedOut => None,
        };
        if let Some(asked) = asked {
            // Not all at once when the time is over.
            return rng.random_range(asked..=asked.mul_f32(1.5)).max(self.least_pause);
        }
        let doubled = 2_u32.saturating_pow(count.min(MAX_DOUBLINGS)).saturating_sub(1);
        let interval = self.backoff.saturating_mul(doubled).min(self.backoff * 10);
        self.least_pause
            .saturating_add(rng.random_range(Duration::ZERO..=interval))
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts {
    begun: u32,
    most: u32,
    deadline: Option<Instant>,
}

/// Why a request is not tried again although there is a reason to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMore {
    /// It was tried as often as its policy says.
    UsedUp,
    /// Its time is over, or would be after the pause.
    TooLate,
}

impl Attempts {
    /// The first one is under way, without a policy the only one; all must be over at `deadline`.
    pub fn of(policy: Option<&RetryPolicy>, deadline: Option<Instant>) -> Self {
        let further = policy.map_or(0, |policy| policy.attempts);
        Self {
            begun: 1,
            most: further.saturating_add(1),
            deadline,
        }
    }

    /// The number of the attempt that is under way, from 1 on.
    pub fn number(&self) -> u32 {
        self.begun
    }

    /// Whether one more may begin after `pause`.
    pub fn allow(&self, pause: Duration, now: Instant) -> Result<(), NoMore> {
        if self.begun >= self.most {
            return Err(NoMore::UsedUp);
        }
        match self.deadline {
            Some(deadline) if now + pause >= deadline => Err(NoMore::TooLate),
            Some(_) | None => Ok(()),
        }
    }

    /// One more begins.
    pub fn begin(&mut self) {
        self.begun = self.begun.saturating_add(1);
    }
}

fn is_reason(on: &RetryOn, attempt: Attempt<'_>) -> bool {
    match attempt {
        Attempt::NotConnected => matches!(
            on,
            RetryOn::ServerError
                | RetryOn::GatewayError
                | RetryOn::Reset
                | RetryOn::ResetBeforeRequest
                | RetryOn::ConnectFailure
        ),
        Attempt::Refused => matches!(
            on,
            RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset | RetryOn::RefusedStream
        ),
        Attempt::Reset { is_sent } => {
            matches!(on, RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset)
                || !is_sent && *on == RetryOn::ResetBeforeRequest
        }
        Attempt::TimedOut => match on {
            RetryOn::ServerError | RetryOn::GatewayError => true,
            RetryOn::Status(status) => *status == StatusCode::GATEWAY_TIMEOUT,
            RetryOn::Grpc(code) => *code == DEADLINE_EXCEEDED,
            RetryOn::Reset
            | RetryOn::ResetBeforeRequest
            | RetryOn::ConnectFailure
            | RetryOn::RefusedStream
            | RetryOn::Conflict
            | RetryOn::RateLimited
            | RetryOn::Header(_) => false,
        },
        Attempt::RateLimited { .. } => *on == RetryOn::RateLimited,
        // As Envoy: a limit says that there are too many requests already, whatever its status is.
        Attempt::Answered { headers, .. } if headers.contains_key(RATE_LIMITED) => {
            *on == RetryOn::RateLimited
        }
        Attempt::Answered {
            status,
            headers,
            grpc,
        } => match on {
            RetryOn::ServerError => status.is_server_error(),
            RetryOn::GatewayError => matches!(status.as_u16(), 502..=504),
            RetryOn::Conflict => status == StatusCode::CONFLICT,
            RetryOn::Status(wanted) => status == *wanted,
            RetryOn::Header(name) => headers.contains_key(name),
            RetryOn::Grpc(code) => grpc == Some(*code),
            RetryOn::Reset
            | RetryOn::ResetBeforeRequest
            | RetryOn::ConnectFailure
            | RetryOn::RefusedStream
            | RetryOn::RateLimited => false,
        },
    }
}

/// RFC 9110 section 10.2.3, in seconds only; longer than Envoy's bound is not waited for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|pause| *pause <= LONGEST_PAUSE)
}

/// What a limit's answer carries, ours and Envoy's.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const DEADLINE_EXCEEDED: u32 = 4;
/// Beyond them the interval is at its bound in any case.
const MAX_DOUBLINGS: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            on: RetryPolicy::read_words(on).0,
            backoff: Duration::from_millis(25),
            least_pause: Duration::ZERO,
            avoids_previous: true,
            leaves_localities: false,
        }
    }

    #[test]
    fn each_word_holds_for_what_envoy_says_it_does() {
        let headers = HeaderMap::new();
        let answered = |status: u16| Attempt::Answered {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            grpc: None,
        };
        let grpc = |code| Attempt::Answered {
            status: StatusCode::OK,
            headers: &headers,
            grpc: Some(code),
        };
        let (unsent, sent) = (
            Attempt::Reset { is_sent: false },
            Attempt::Reset { is_sent: true },
        );
        let (gone, refused, late) = (Attempt::NotConnected, Attempt::Refused, Attempt::TimedOut);
        let mut of_limit = HeaderMap::new();
        of_limit.insert(RATE_LIMITED, "true".parse().unwrap());
        let limited = |status: u16| Attempt::Answered {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &of_limit,
            grpc: Some(14),
        };
        let here = Attempt::RateLimited { retry_after: None };
        let cases: &[(&str, &[Attempt<'_>], &[Attempt<'_>])] = &[
            (
                "5xx",
                &[answered(500), answered(503), gone, refused, sent, late],
                &[answered(200), answered(429), answered(499), grpc(14)],
            ),
            (
                "gateway-error",
                &[answered(502), answered(503), answered(504), gone, sent, late],
                &[answered(500), answered(505)],
            ),
            ("reset", &[sent, unsent, gone, refused], &[answered(503), late]),
            ("reset-before-request", &[unsent, gone], &[sent, answered(503)]),
            ("connect-failure", &[gone], &[unsent, refused, answered(503)]),
            ("refused-stream", &[refused], &[gone, unsent]),
            ("retriable-4xx", &[answered(409)], &[answered(404), answered(429)]),
            (
                "429,504",
                &[answered(429), answered(504), late],
                &[answered(503), gone],
            ),
            ("unavailable", &[grpc(14)], &[grpc(13), answered(503)]),
            ("deadline-exceeded", &[grpc(4), late], &[grpc(14)]),
            ("envoy-ratelimited", &[limited(429), here], &[answered(429), gone]),
            // A limit's answer is no other reason, whatever its status.
            (
                "5xx,429,503,unavailable",
                &[answered(503)],
                &[limited(429), limited(503), here],
            ),
            ("", &[], &[gone, refused, sent, late, answered(503), here]),
        ];
        for (words, reasons, others) in cases {
            for attempt in *reasons {
                assert!(policy(words).wants(*attempt), "{words}: {attempt:?}");
            }
            for attempt in *others {
                assert!(!policy(words).wants(*attempt), "{words}: {attempt:?}");
            }
        }
        let mut named = policy("");
        named.on = vec![RetryOn::Header("x-again".parse().unwrap())];
        let mut with = HeaderMap::new();
        with.insert("x-again", "1".parse().unwrap());
        let found = Attempt::Answered {
            status: StatusCode::OK,
            headers: &with,
            grpc: None,
        };
        assert!(named.wants(found) && !named.wants(answered(200)));
    }

    #[test]
    fn pauses_grow_to_ten_times_the_base_and_are_spread() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (count, most) in [(1, 25), (2, 75), (3, 175), (4, 250), (50, 250)] {
            let pauses: Vec<_> = (0..500)
                .map(|_| policy("5xx").pause(count, Attempt::Refused, &mut rng))
                .collect();
            let (least, greatest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
            let most = Duration::from_millis(most);
            assert!(
                *greatest <= most && *greatest > most.mul_f32(0.9),
                "{count}: {greatest:?}"
            );
            assert!(*least < most.mul_f32(0.1), "{count}: {least:?}");
        }
    }

    #[test]
    fn what_a_server_asks_for_is_waited_for_within_reason() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (written, least, most) in [
            ("2", 2000, 3000),
            ("0", 0, 0),
            ("301", 0, 25),
            ("soon", 0, 25),
            ("-1", 0, 25),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, written.parse().unwrap());
            let attempt = Attempt::Answered {
                status: StatusCode::SERVICE_UNAVAILABLE,
                headers: &headers,
                grpc: None,
            };
            let pause = policy("5xx").pause(1, attempt, &mut rng).as_millis();
            assert!((least..=most).contains(&pause), "{written}: {pause}");
        }
    }

    #[test]
    fn no_pause_is_shorter_than_the_least() {
        let mut rng = SmallRng::seed_from_u64(1);
        let least = Duration::from_millis(25);
        let policy = RetryPolicy {
            least_pause: least,
            ..policy("5xx")
        };
        let pauses: Vec<_> = (0..500)
            .map(|_| policy.pause(1, Attempt::Refused, &mut rng))
            .collect();
        assert!(pauses.iter().all(|pause| (least..=2 * least).contains(pause)));
        assert!(
            pauses.iter().any(|pause| *pause > least.mul_f32(1.5)),
            "they are spread"
        );
    }

    #[test]
    fn whatever_happens_there_are_no_more_attempts_than_allowed_and_none_begins_too_late() {
        let mut rng = SmallRng::seed_from_u64(7);
        let began = Instant::now();
        for _ in 0..2_000 {
            let policy = RetryPolicy {
                attempts: rng.random_range(1..6),
                ..policy("5xx")
            };
            let limit = rng
                .random_bool(0.8)
                .then(|| Duration::from_millis(rng.random_range(0..2_000)));
            let deadline = limit.map(|limit| began + limit);
            let (mut now, mut begun) = (began, 1);
            let mut attempts = Attempts::of(Some(&policy), deadline);
            let end = loop {
                now += Duration::from_millis(rng.random_range(0..400));
                let pause = policy.pause(attempts.number(), Attempt::Refused, &mut rng);
                if let Err(end) = attempts.allow(pause, now) {
                    break end;
                }
                attempts.begin();
                now += pause;
                begun += 1;
                assert!(deadline.is_none_or(|deadline| now < deadline));
                assert_eq!(attempts.number(), begun);
            };
            assert!(begun <= policy.attempts + 1, "{begun} {policy:?}");
            match end {
                NoMore::UsedUp => assert_eq!(begun, policy.attempts + 1),
                NoMore::TooLate => assert!(deadline.is_some()),
            }
        }
    }
}
