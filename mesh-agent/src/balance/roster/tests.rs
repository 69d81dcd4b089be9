//! How groups share the traffic, and what ejection, panic and newness do to it.

use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::balance::members::looks;
use crate::balance::tests::{asked, assert_fits};
use crate::balance::{Outcome, Standing, Watch};
use crate::mesh::traffic::{ConsistentHash, HashKey, HashTable, OutlierDetection};

fn watched(from: usize, count: usize) -> Vec<Member> {
    (from..from + count)
        .map(|index| Member {
            index,
            name: SocketAddr::from(([10, 0, 0, 1], u16::try_from(index).unwrap() + 1)),
            weight: 1,
            load: Arc::default(),
            standing: Some(Arc::new(Standing::default())),
            health: None,
        })
        .collect()
}

fn roster(sizes: &[usize], weights: &[u32], policy: Policy) -> Roster {
    let mut from = 0;
    let groups = sizes.iter().enumerate().map(|(position, &size)| {
        let members = watched(from, size);
        from += size;
        (members, weights.get(position).copied())
    });
    Roster::new(groups.collect(), policy, None, &mut SmallRng::seed_from_u64(1))
}

/// Ejects so many of a group, whatever a policy would allow.
fn eject(roster: &Roster, group: usize, count: usize) {
    let policy = OutlierDetection {
        max_ejected_percent: 100,
        ..OutlierDetection::default()
    };
    for member in roster.groups[group].members.iter().take(count) {
        let watch = Watch::new(policy, Arc::default(), 1);
        for _ in 0..5 {
            watch.saw(
                member.standing.as_ref().unwrap(),
                Outcome::ServerError,
                Instant::now(),
            );
        }
        assert!(member.is_left_out());
    }
}

fn random() -> Policy {
    Policy {
        balancer: BalancerKind::Random,
        ..Policy::default()
    }
}

fn counts(roster: &Roster, picks: u32, now: Instant) -> Vec<u32> {
    let mut rng = SmallRng::seed_from_u64(2);
    let all = roster.groups.iter().map(|group| group.members.len()).sum();
    let mut counts = vec![0; all];
    for _ in 0..picks {
        counts[roster.pick(&mut asked(&mut rng), now).unwrap()] += 1;
    }
    counts
}

fn by_group(counts: &[u32], sizes: &[usize]) -> Vec<u32> {
    let mut rest = counts;
    sizes
        .iter()
        .map(|&size| {
            let (group, others) = rest.split_at(size);
            rest = others;
            group.iter().sum()
        })
        .collect()
}

#[test]
fn the_next_level_takes_what_the_first_cannot_bear() {
    let roster = roster(&[10, 10], &[], random());
    let now = Instant::now();
    assert_eq!(by_group(&counts(&roster, 1000, now), &[10, 10]), [1000, 0]);
    eject(&roster, 0, 5);
    roster.refresh();
    let found = counts(&roster, 20_000, now);
    assert_fits(&by_group(&found, &[10, 10]), &[70, 30]);
    assert!(found[..5].iter().all(|count| *count == 0), "{found:?}");
}

#[test]
fn the_turns_of_an_ejected_member_fall_on_all_others_alike() {
    let policy = Policy {
        balancer: BalancerKind::RoundRobin,
        ..Policy::default()
    };
    let roster = roster(&[5], &[], policy);
    eject(&roster, 0, 1);
    let found = counts(&roster, 10_000, Instant::now());
    assert_eq!(found[0], 0);
    assert_fits(&found[1..], &[1; 4]);
}

#[test]
fn what_was_tried_is_not_picked_again_while_there_is_another() {
    for policy in [random(), maglev(), Policy::default()] {
        let roster = roster(&[3], &[], policy.clone());
        eject(&roster, 0, 1);
        let names: Vec<_> = roster.groups[0]
            .members
            .iter()
            .map(|member| member.name)
            .collect();
        let mut rng = SmallRng::seed_from_u64(6);
        for (tried, allowed) in [
            (&names[1..2], &[2][..]),
            (&names[2..3], &[1]),
            // Nobody is left: again one of them, never the ejected one.
            (&names[1..3], &[1, 2]),
        ] {
            for _ in 0..200 {
                let mut asked = asked(&mut rng);
                (asked.hash, asked.tried) = (Some(77), tried);
                let picked = roster.pick(&mut asked, Instant::now()).unwrap();
                assert!(allowed.contains(&picked), "{policy:?} {tried:?}: {picked}");
            }
        }
    }
}

#[test]
fn a_level_whose_last_member_is_ejected_is_left_at_once() {
    let roster = roster(&[2, 1], &[], random());
    eject(&roster, 0, 2);
    // Before anybody has looked at the whole of it.
    assert_eq!(counts(&roster, 100, Instant::now()), [0, 0, 100]);
}

#[test]
fn without_panic_nobody_good_is_nobody() {
    let mut rng = SmallRng::seed_from_u64(4);
    for (panic_percent, is_picked) in [(0, false), (50, true)] {
        let policy = Policy {
            panic_percent,
            ..random()
        };
        let roster = roster(&[3], &[], policy);
        eject(&roster, 0, 3);
        roster.refresh();
        let picked = roster.pick(&mut asked(&mut rng), Instant::now());
        assert_eq!(picked.is_some(), is_picked, "{panic_percent}");
    }
}

#[test]
fn in_panic_the_ejected_are_used_too() {
    let policy = Policy {
        panic_percent: 50,
        ..random()
    };
    let roster = roster(&[4], &[], policy);
    eject(&roster, 0, 3);
    roster.refresh();
    assert_fits(&counts(&roster, 4000, Instant::now()), &[1; 4]);
}

#[test]
fn declared_shares_are_kept_until_a_group_cannot_bear_its_own() {
    let roster = roster(&[4, 4], &[80, 20], random());
    let now = Instant::now();
    assert_fits(&by_group(&counts(&roster, 20_000, now), &[4, 4]), &[80, 20]);
    eject(&roster, 0, 2);
    roster.refresh();
    // Half good, 1.4 times: 70 % of 80 against 20.
    assert_fits(&by_group(&counts(&roster, 20_000, now), &[4, 4]), &[56, 20]);
}

#[test]
fn a_new_member_gets_its_part_and_then_all() {
    let policy = Policy {
        warmup: Some(Warmup {
            duration: Duration::from_secs(100),
            minimum_percent: 10,
            aggression_milli: 1000,
        }),
        ..random()
    };
    let roster = roster(&[4], &[], policy);
    let start = Instant::now();
    let age_of = |index: usize, now| {
        let member = roster.groups[0].members.get(index).unwrap();
        member.standing.as_ref().unwrap().age(now)
    };
    for index in 0..3 {
        age_of(index, start);
    }
    let later = start + Duration::from_secs(200);
    age_of(3, later);
    let half = later + Duration::from_secs(50);
    assert_fits(&counts(&roster, 20_000, half), &[2, 2, 2, 1]);
    let warm = later + Duration::from_secs(100);
    assert_fits(&counts(&roster, 20_000, warm), &[1; 4]);
}

fn maglev() -> Policy {
    Policy {
        balancer: BalancerKind::ConsistentHash(ConsistentHash {
            key: HashKey::SourceIp,
            table: HashTable::Maglev(65537),
            balance_factor: None,
        }),
        ..Policy::default()
    }
}

#[test]
fn a_hash_goes_elsewhere_while_its_member_is_ejected_and_the_others_stay() {
    let roster = roster(&[10], &[], maglev());
    let homes = || -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(9);
        (0..500_u32)
            .map(|value| {
                let mut asked = asked(&mut rng);
                asked.hash = Some(crate::balance::hash(&value.to_be_bytes()));
                roster.pick(&mut asked, Instant::now()).unwrap()
            })
            .collect()
    };
    let before = homes();
    eject(&roster, 0, 1);
    let after = homes();
    for (before, after) in before.into_iter().zip(after) {
        assert!(after != 0 && (before == after || before == 0), "{before} {after}");
    }
}

#[test]
fn a_table_is_kept_while_the_names_are_the_same() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut of = |count, previous: Option<&Roster>| {
        Roster::new(vec![(watched(0, count), None)], maglev(), previous, &mut rng)
    };
    let first = of(5, None);
    let (same, other) = (of(5, Some(&first)), of(6, Some(&first)));
    assert!(Arc::ptr_eq(&first.groups[0].balancer, &same.groups[0].balancer));
    assert!(!Arc::ptr_eq(&first.groups[0].balancer, &other.groups[0].balancer));
}

#[test]
fn whoever_is_ejected_a_pick_looks_at_a_handful_of_10_000() {
    let mut rng = SmallRng::seed_from_u64(6);
    for ejected in [0, 5_000, 9_900, 9_999, 10_000] {
        let roster = roster(&[10_000], &[], random());
        eject(&roster, 0, ejected);
        roster.refresh();
        let first: SocketAddr = roster.groups[0].members.get(9_999).unwrap().name;
        for tried in [&[][..], &[first]] {
            for _ in 0..500 {
                let mut asked = asked(&mut rng);
                asked.tried = tried;
                let (picked, looks) = looks::of(|| roster.pick(&mut asked, Instant::now()));
                // One that was tried is better than none.
                assert_eq!(picked.is_none(), ejected == 10_000, "{ejected} {tried:?}");
                assert!(looks <= 100, "{ejected}: {looks}");
            }
        }
    }
}

/// By group, where picks go that leave the localities of the members at these positions.
fn elsewhere(roster: &Roster, sizes: &[usize], tried: &[usize]) -> Vec<u32> {
    let all: Vec<_> = roster
        .groups
        .iter()
        .flat_map(|group| group.members.iter())
        .collect();
    let tried: Vec<_> = tried.iter().map(|&index| all[index].name).collect();
    let mut rng = SmallRng::seed_from_u64(3);
    let mut counts = vec![0; all.len()];
    for _ in 0..1000 {
        let mut asked = asked(&mut rng);
        asked.tried = &tried;
        asked.leaves_localities = true;
        counts[roster.pick(&mut asked, Instant::now()).unwrap()] += 1;
    }
    by_group(&counts, sizes)
}

#[test]
fn a_further_try_leaves_the_localities_that_were_tried() {
    let sizes = [3, 2, 4];
    let levels = roster(&sizes, &[], random());
    for (tried, expected) in [
        (&[][..], [1000, 0, 0]),
        (&[1], [0, 1000, 0]),
        (&[1, 4], [0, 0, 1000]),
        (&[3], [1000, 0, 0]),
        // Nothing is left: as if none had been.
        (&[0, 3, 5], [1000, 0, 0]),
    ] {
        assert_eq!(elsewhere(&levels, &sizes, tried), expected, "{tried:?}");
    }
    eject(&levels, 1, 2);
    levels.refresh();
    assert_eq!(
        elsewhere(&levels, &sizes, &[1]),
        [0, 0, 1000],
        "nobody of the next one is good"
    );
    let shared = roster(&sizes, &[50, 30, 20], random());
    let found = elsewhere(&shared, &sizes, &[0]);
    assert_fits(&found[1..], &[30, 20]);
}
