//! Who is ejected, by what, for how long, and how many at once.

use std::time::Duration;

use super::*;

const BASE: Duration = Duration::from_secs(30);
const NOBODY: [usize; 0] = [];

struct Fixture {
    watch: Watch,
    standings: Vec<Standing>,
    start: Instant,
}

fn fixture(endpoints: usize, policy: OutlierDetection) -> Fixture {
    Fixture {
        watch: Watch::new(policy, Arc::default(), endpoints),
        standings: (0..endpoints).map(|_| Standing::default()).collect(),
        start: Instant::now(),
    }
}

impl Fixture {
    fn saw(&self, endpoint: usize, outcomes: &[Outcome], after: Duration) {
        for outcome in outcomes {
            let now = self.start + after;
            self.watch.saw(&self.standings[endpoint], *outcome, now);
        }
    }

    fn sweep(&self, after: Duration) {
        self.watch.sweep(self.standings.iter(), self.start + after);
    }

    fn ejected(&self) -> Vec<usize> {
        let all = self.standings.iter().enumerate();
        all.filter(|(_, standing)| standing.is_ejected())
            .map(|(position, _)| position)
            .collect()
    }
}

use Outcome::{GatewayError, Good, LocalFailure, ServerError};

#[test]
fn what_ejects_is_what_the_policy_counts() {
    let off = OutlierDetection {
        consecutive_5xx: 0,
        ..OutlierDetection::default()
    };
    let gateway = OutlierDetection {
        consecutive_gateway: 2,
        ..off
    };
    let split = OutlierDetection {
        splits_local: true,
        ..OutlierDetection::default()
    };
    let local_off = OutlierDetection {
        consecutive_local: 0,
        ..split
    };
    let default = OutlierDetection::default();
    let cases: [(OutlierDetection, &[Outcome], bool); 15] = [
        (default, &[ServerError; 4], false),
        (default, &[ServerError; 5], true),
        (default, &[GatewayError; 5], true),
        (default, &[LocalFailure; 5], true),
        (
            default,
            &[ServerError, ServerError, GatewayError, LocalFailure, ServerError],
            true,
        ),
        (
            default,
            &[
                ServerError,
                ServerError,
                ServerError,
                ServerError,
                Good,
                ServerError,
            ],
            false,
        ),
        (off, &[ServerError; 50], false),
        (gateway, &[ServerError; 50], false),
        (gateway, &[GatewayError; 2], true),
        (gateway, &[LocalFailure; 2], true),
        (gateway, &[GatewayError, ServerError, GatewayError], false),
        (split, &[LocalFailure; 4], false),
        (split, &[LocalFailure; 5], true),
        (
            split,
            &[
                ServerError,
                LocalFailure,
                ServerError,
                LocalFailure,
                ServerError,
                ServerError,
            ],
            false,
        ),
        (local_off, &[LocalFailure; 50], false),
    ];
    for (number, (policy, outcomes, is_ejected)) in cases.into_iter().enumerate() {
        let fixture = fixture(10, policy);
        fixture.saw(3, outcomes, Duration::ZERO);
        assert_eq!(
            !fixture.ejected().is_empty(),
            is_ejected,
            "case {number}: {outcomes:?}"
        );
    }
}

#[test]
fn as_many_are_ejected_at_once_as_the_percentage_or_one_says() {
    for (endpoints, percent, expected) in [
        (1, 10, 0),
        (2, 10, 1),
        (3, 10, 1),
        (5, 10, 1),
        (19, 10, 1),
        (20, 10, 2),
        (100, 10, 10),
        (5, 0, 1),
        (1, 0, 0),
        (5, 50, 2),
        (1, 99, 0),
        // Who asks for everything gets it, to the last endpoint.
        (1, 100, 1),
        (5, 100, 5),
    ] {
        let policy = OutlierDetection {
            max_ejected_percent: percent,
            ..OutlierDetection::default()
        };
        let fixture = fixture(endpoints, policy);
        for endpoint in 0..endpoints {
            fixture.saw(endpoint, &[ServerError; 5], Duration::ZERO);
        }
        assert_eq!(fixture.ejected().len(), expected, "{endpoints} at {percent} %");
        assert_eq!(fixture.watch.vitals.ejected(), expected);
        let counted = fixture.watch.vitals.ejections(Cause::Consecutive5xx);
        assert_eq!(counted, u64::try_from(expected).unwrap());
    }
}

#[test]
fn each_ejection_that_follows_soon_is_longer_up_to_the_longest() {
    let policy = OutlierDetection {
        max_ejection: 3 * BASE,
        interval: Duration::from_hours(1),
        ..OutlierDetection::default()
    };
    let fixture = fixture(2, policy);
    let mut now = Duration::ZERO;
    for times in [1, 2, 3, 3, 3] {
        fixture.saw(0, &[ServerError; 5], now);
        let term = BASE * times;
        fixture.sweep(now + term.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(fixture.ejected(), [0], "{times}");
        now += term;
        fixture.sweep(now);
        assert_eq!(fixture.ejected(), NOBODY, "{times}");
        assert_eq!(fixture.watch.vitals.ejected(), 0);
    }
}

#[test]
fn good_intervals_make_the_next_ejection_shorter() {
    let fixture = fixture(2, OutlierDetection::default());
    fixture.sweep(Duration::ZERO);
    fixture.saw(0, &[ServerError; 5], Duration::ZERO);
    fixture.sweep(BASE);
    assert_eq!(fixture.ejected(), NOBODY);
    // The interval that ended with the pardon was the first good one; here is another.
    fixture.sweep(BASE + Duration::from_secs(10));
    fixture.saw(0, &[ServerError; 5], 2 * BASE);
    assert_eq!(fixture.ejected(), [0]);
    fixture.sweep(3 * BASE);
    assert_eq!(fixture.ejected(), NOBODY, "one base time again");
}

#[test]
fn a_pardon_forgets_the_failures_before() {
    let fixture = fixture(2, OutlierDetection::default());
    fixture.saw(0, &[ServerError; 9], Duration::ZERO);
    fixture.sweep(BASE);
    fixture.saw(0, &[ServerError; 4], BASE);
    assert_eq!(fixture.ejected(), NOBODY);
    fixture.saw(0, &[ServerError], BASE);
    assert_eq!(fixture.ejected(), [0]);
}

/// Endpoints that answered 100 times, each with so many good ones; the failures are never five in a row.
fn with_rates(good: &[usize], factor: Option<u32>) -> Fixture {
    let policy = OutlierDetection {
        consecutive_5xx: 0,
        success_rate_stdev_milli: factor,
        ..OutlierDetection::default()
    };
    let fixture = fixture(good.len(), policy);
    fixture.sweep(Duration::ZERO);
    for (endpoint, &good) in good.iter().enumerate() {
        fixture.saw(endpoint, &vec![Good; good], Duration::ZERO);
        fixture.saw(endpoint, &vec![ServerError; 100 - good], Duration::ZERO);
    }
    fixture.sweep(Duration::from_secs(10));
    fixture
}

#[test]
fn who_succeeds_far_less_often_than_the_others_is_ejected_where_that_is_asked_for() {
    let rates = [100, 100, 100, 100, 100, 20];
    assert_eq!(with_rates(&rates, Some(1900)).ejected(), [5]);
    assert_eq!(with_rates(&rates, None).ejected(), NOBODY);
    assert_eq!(
        with_rates(&[99, 98, 97, 99, 98, 97], Some(1900)).ejected(),
        NOBODY
    );
    assert_eq!(
        with_rates(&[100, 100, 100, 20], Some(1900)).ejected(),
        NOBODY,
        "too few"
    );
}
