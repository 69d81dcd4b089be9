//! How long a gRPC client waits: `grpc-timeout` (gRPC over HTTP/2, "Requests").
//!
//! Place in the walk: before a request is tried, and on its way to the endpoint. Must not know: routes.

use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// When a request that began at `started` must be over: at the route's `deadline`, or when its client gives up.
pub(super) fn end(
    headers: &HeaderMap,
    started: Instant,
    deadline: Option<tokio::time::Instant>,
) -> Option<Instant> {
    let given_up = headers
        .get(TIMEOUT)
        .and_then(read)
        .map(|patience| started + patience);
    let deadline = deadline.map(tokio::time::Instant::into_std);
    given_up.into_iter().chain(deadline).min()
}

/// Makes the header say what is left of the client's patience.
pub(super) fn pass_on(headers: &mut HeaderMap, started: Instant) {
    let Some(patience) = headers.get(TIMEOUT).and_then(read) else {
        return;
    };
    let elapsed = started.elapsed();
    if elapsed >= NOTHING
        && let Ok(left) = HeaderValue::try_from(written(patience.saturating_sub(elapsed)))
    {
        headers.insert(TIMEOUT, left);
    }
}

/// 1 to 8 digits and a unit.
fn read(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(count.checked_mul(3600)?),
        "M" => Duration::from_secs(count.checked_mul(60)?),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// In the smallest unit whose number has 8 digits at most; never nothing, which no server need understand.
fn written(left: Duration) -> String {
    let units = [
        (left.as_micros().max(1), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
    ];
    let fitting = units.into_iter().find(|(count, _)| *count <= MOST);
    let (count, unit) = fitting.unwrap_or((u128::from(left.as_secs() / 3600).min(MOST), 'H'));
    format!("{count}{unit}")
}

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// 8 digits.
const MOST: u128 = 99_999_999;
/// So little is not worth writing the header again.
const NOTHING: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &'static str) -> Option<Duration> {
        read(&HeaderValue::from_static(text))
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("100000000n", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("1é", None),
        ] {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(read(&value), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_left_is_written_with_eight_digits_at_most() {
        for (left, expected) in [
            (Duration::ZERO, "1u"),
            (Duration::from_micros(1500), "1500u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_hours(30), "108000S"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(written(left), expected, "{left:?}");
        }
        let (long, short) = (of("3S").unwrap(), of("100m").unwrap());
        assert!(short < long);
    }

    #[test]
    fn the_end_is_the_earlier_of_both() {
        let started = Instant::now();
        let after = |seconds| started + Duration::from_secs(seconds);
        let mut headers = HeaderMap::new();
        assert_eq!(end(&headers, started, None), None);
        assert_eq!(end(&headers, started, Some(after(5).into())), Some(after(5)));
        headers.insert(TIMEOUT, HeaderValue::from_static("3S"));
        assert_eq!(end(&headers, started, None), Some(after(3)));
        assert_eq!(end(&headers, started, Some(after(5).into())), Some(after(3)));
        assert_eq!(end(&headers, started, Some(after(2).into())), Some(after(2)));
    }
}
