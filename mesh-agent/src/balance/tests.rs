//! What all algorithms promise, and what their tests are made of.

use std::net::SocketAddr;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::members::looks;
use super::*;
use crate::mesh::traffic::{ConsistentHash, HashKey};

/// A question without a hash.
pub(super) fn asked(rng: &mut dyn RngCore) -> Asked<'_> {
    Asked {
        hash: None,
        attempt: 0,
        tried: &[],
        leaves_localities: false,
        active: 0,
        is_rehearsal: false,
        rng,
    }
}

pub(super) fn member(index: usize, name: SocketAddr, weight: u32) -> Member {
    Member {
        index,
        name,
        weight,
        load: Arc::default(),
        standing: None,
        health: None,
    }
}

/// So many members of equal weight.
pub(super) fn members(count: usize) -> Members {
    weighted(&vec![1; count])
}

/// Members of these weights.
pub(super) fn weighted(weights: &[u32]) -> Members {
    let member_of = |(index, weight): (usize, &u32)| {
        let [.., a, b] = u32::try_from(index).unwrap().to_be_bytes();
        member(index, SocketAddr::from(([10, 0, a, b], 8080)), *weight)
    };
    Members::new(weights.iter().enumerate().map(member_of).collect())
}

/// Members at ports of 127.0.0.1, with weights.
pub(super) fn weighted_at(ports: &[(u16, u32)]) -> Members {
    let member_of = |(index, (port, weight)): (usize, &(u16, u32))| {
        member(index, SocketAddr::from(([127, 0, 0, 1], *port)), *weight)
    };
    Members::new(ports.iter().enumerate().map(member_of).collect())
}

/// Members of equal weight at ports of 127.0.0.1.
pub(super) fn members_at(ports: &[u16]) -> Members {
    weighted_at(&ports.iter().map(|port| (*port, 1)).collect::<Vec<_>>())
}

/// The hosts of Envoy's own tests.
pub(super) fn envoys_six() -> Members {
    members_at(&[90, 91, 92, 93, 94, 95])
}

/// How often each member is picked, with a fixed seed.
pub(super) fn counts_of(balancer: &dyn Balancer, members: &Members, picks: u32) -> Vec<u32> {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut counts = vec![0; members.len()];
    for _ in 0..picks {
        counts[balancer.pick(members, &mut asked(&mut rng)).unwrap()] += 1;
    }
    counts
}

/// Chi-square of counts against weights, below what chance exceeds once in 10,000.
pub(super) fn assert_fits(counts: &[u32], weights: &[u32]) {
    let (picks, total) = (counts.iter().sum::<u32>(), weights.iter().sum::<u32>());
    let squares = counts.iter().zip(weights).map(|(&count, &weight)| {
        let expected = f64::from(picks) * f64::from(weight) / f64::from(total);
        (f64::from(count) - expected).powi(2) / expected
    });
    let degrees = f64::from(u32::try_from(counts.len()).unwrap() - 1).max(1.0);
    // Wilson and Hilferty's approximation at z = 3.72.
    let part = 2.0 / (9.0 * degrees);
    let limit = degrees * (1.0 - part + 3.72 * part.sqrt()).powi(3);
    let found: f64 = squares.sum();
    assert!(
        found < limit,
        "chi-square {found:.1} above {limit:.1}: {counts:?}"
    );
}

fn kinds() -> Vec<BalancerKind> {
    let hashing = |table, balance_factor| {
        BalancerKind::ConsistentHash(ConsistentHash {
            key: HashKey::SourceIp,
            table,
            balance_factor,
        })
    };
    vec![
        BalancerKind::LeastRequest,
        BalancerKind::RoundRobin,
        BalancerKind::Random,
        BalancerKind::PeakEwma,
        hashing(HashTable::Ring(1024), None),
        hashing(HashTable::Maglev(65537), None),
        hashing(HashTable::Maglev(65537), Some(125)),
    ]
}

fn turn() -> Arc<Turn> {
    Arc::new(Turn::anywhere(&mut SmallRng::seed_from_u64(3)))
}

#[test]
fn nobody_is_picked_of_nobody() {
    for kind in kinds() {
        let balancer = new(&kind, &members(0), &turn());
        assert_eq!(
            balancer.pick(&members(0), &mut asked(&mut rand::rng())),
            None,
            "{kind:?}"
        );
    }
}

#[test]
fn what_spreads_requests_spreads_them_evenly() {
    for kind in &kinds()[..4] {
        let members = members(20);
        let balancer = new(kind, &members, &turn());
        assert_fits(&counts_of(balancer.as_ref(), &members, 20_000), &[1; 20]);
    }
}

#[test]
fn equal_hashes_go_to_the_same_member() {
    let members = members(50);
    for kind in &kinds()[4..] {
        let balancer = new(kind, &members, &turn());
        for value in 0..200_u32 {
            let pick = || {
                let mut rng = rand::rng();
                let mut asked = asked(&mut rng);
                asked.hash = Some(hash(&value.to_be_bytes()));
                balancer.pick(&members, &mut asked)
            };
            assert_eq!(pick(), pick(), "{kind:?} {value}");
        }
    }
}

#[test]
fn a_pick_holds_one_unit_until_dropped() {
    let load = Arc::new(Load::default());
    let first = Pick::new(Arc::clone(&load));
    let second = Pick::new(Arc::clone(&load));
    assert_eq!(load.active(), 2);
    drop(first);
    assert_eq!(load.active(), 1);
    drop(second);
    assert_eq!(load.active(), 0);
}

#[test]
fn no_algorithm_looks_at_more_of_10_000_than_a_handful() {
    let members = members(10_000);
    // All but ten are busy, so that a bound on load passes over as many as it ever does.
    let _held: Vec<_> = members
        .iter()
        .skip(10)
        .map(|member| Pick::new(Arc::clone(&member.load)))
        .collect();
    for kind in kinds() {
        let balancer = new(&kind, &members, &turn());
        let mut rng = SmallRng::seed_from_u64(5);
        for value in 0..2000_u32 {
            let mut asked = asked(&mut rng);
            (asked.hash, asked.active) = (Some(hash(&value.to_be_bytes())), 9_990);
            let (picked, looks) = looks::of(|| balancer.pick(&members, &mut asked));
            assert!(picked.is_some(), "{kind:?}");
            // The one that is hashed to, and as many jumps as a bound allows, each looked at twice.
            assert!(looks <= 70, "{kind:?}: {looks}");
        }
    }
}

/// Prints nanoseconds per pick; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement: it claims nothing by itself"]
fn a_pick_costs_as_much_of_10_000_as_of_10() {
    for kind in kinds() {
        for count in [10, 10_000] {
            let members = members(count);
            let balancer = new(&kind, &members, &turn());
            let mut rng = SmallRng::seed_from_u64(5);
            let picks = 200_000_u32;
            let began = Instant::now();
            for value in 0..picks {
                let mut asked = asked(&mut rng);
                asked.hash = Some(u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                std::hint::black_box(balancer.pick(&members, &mut asked));
            }
            println!("{kind:?} of {count}: {:?} a pick", began.elapsed() / picks);
        }
    }
}
