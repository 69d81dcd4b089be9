//! Annotations of bad times, as an upstream has them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::mesh::fallback::{Fallback, FallbackOn, FallbackTo};
use crate::mesh::hedge::Hedge;

fn leading_to(service: Service, name: &str, port: u16) -> Service {
    let fallback = Fallback {
        on: vec![FallbackOn::Unreachable],
        to: FallbackTo::Service {
            service: ServiceName::new("shop", name),
            port,
        },
    };
    Service {
        resilience: Resilience {
            fallback: Some(fallback),
            ..Resilience::default()
        },
        ..service
    }
}

#[test]
fn a_fallback_that_leads_nowhere_or_further_is_reported() {
    let plain = |name| service(name, &[], AppProtocol::Http);
    for (named, port, of_spare, reported) in [
        ("spare", 80, None, None),
        ("spare", 81, None, Some("port 81 is not known")),
        ("absent", 80, None, Some("shop/absent")),
        ("spare", 80, Some("last"), Some("has a fallback itself")),
    ] {
        let spare = match of_spare {
            Some(next) => leading_to(plain("spare"), next, 80),
            None => plain("spare"),
        };
        let facts = Facts {
            services: vec![
                leading_to(plain("cart"), named, port).into(),
                spare.into(),
                plain("last").into(),
            ],
            ..Facts::default()
        };
        let (_, rejections) = build(&facts);
        let reasons: Vec<_> = rejections.iter().map(|one| one.reason.as_str()).collect();
        match (reported, reasons.as_slice()) {
            (None, []) => {}
            (Some(expected), [only]) => assert!(only.contains(expected), "{only}"),
            (_, reasons) => panic!("{named}:{port}: {reasons:?}"),
        }
    }
}

#[test]
fn what_is_slow_is_known_beyond_the_snapshot_in_which_it_was_learned() {
    let hedge = Hedge {
        min_samples: 10,
        ..Hedge::default()
    };
    let hedged = Service {
        resilience: Resilience {
            hedge: Some(hedge),
            ..Resilience::default()
        },
        ..service("cart", &[], AppProtocol::Http)
    };
    let facts = Facts {
        services: vec![hedged.into()],
        ..Facts::default()
    };
    let cart = |snapshot: &Snapshot| {
        let upstream = snapshot.upstream(&client(), &ServiceName::new("shop", "cart"), 80);
        Arc::clone(upstream.unwrap())
    };
    let (first, _) = build(&facts);
    let (upstream, now) = (cart(&first), Instant::now());
    assert_eq!(upstream.slow_after(&hedge, now), None);
    for _ in 0..10 {
        upstream.may_hedge(&hedge, now);
        upstream.saw_answer(Duration::from_millis(40), now);
    }
    assert!(upstream.grants_hedge(&hedge, now));
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    let upstream = cart(&second);
    let slow = upstream.slow_after(&hedge, now).unwrap();
    assert!(
        (Duration::from_millis(40)..Duration::from_millis(46)).contains(&slow),
        "{slow:?}"
    );
    assert!(!upstream.grants_hedge(&hedge, now), "a tenth of ten is used up");
    let late = Hedge {
        min_delay: Duration::from_millis(90),
        ..hedge
    };
    assert_eq!(upstream.slow_after(&late, now), Some(late.min_delay));
}
