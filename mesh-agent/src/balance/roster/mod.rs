//! The endpoints of one upstream in groups, each with its algorithm, and how the groups share the traffic now.
//!
//! Place in the walk: what an upstream asks for an endpoint. Must not know: why endpoints are grouped as they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use rand::{Rng, RngCore};

use super::priority::{self, Bearing, Level};
use super::round_robin::Turn;
use super::{Asked, Balancer, Health, Member, Members, Standing, slow_start};
use crate::mesh::traffic::{BalancerKind, Warmup};

/// How a roster chooses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Within a group.
    pub balancer: BalancerKind,
    /// How slowly a new member is loaded; hashing knows no such thing.
    pub warmup: Option<Warmup>,
    /// With fewer good members than this percentage all are used.
    pub panic_percent: u32,
}

/// Groups, and their shares.
#[derive(Debug)]
pub struct Roster {
    groups: Vec<Group>,
    policy: Policy,
}

#[derive(Debug)]
struct Group {
    members: Members,
    balancer: Arc<dyn Balancer>,
    turn: Arc<Turn>,
    /// The declared share; `None` for a level of priority.
    weight: Option<u32>,
    share: AtomicU32,
    is_panicking: AtomicBool,
    /// Positions of the members that may be used, as the last refresh saw them; absent while that is all.
    good: ArcSwapOption<Box<[usize]>>,
}

impl Roster {
    /// Members by group, each with its declared share if it has one. Turns and tables of `previous` go on where they
    /// are still right.
    pub fn new(
        groups: Vec<(Vec<Member>, Option<u32>)>,
        policy: Policy,
        previous: Option<&Self>,
        rng: &mut dyn RngCore,
    ) -> Self {
        let previous = previous.filter(|previous| previous.policy.balancer == policy.balancer);
        let group = |(position, (members, weight)): (usize, (Vec<Member>, Option<u32>))| {
            let before = previous.and_then(|previous| previous.groups.get(position));
            let turn = before.map_or_else(|| Arc::new(Turn::anywhere(rng)), |group| Arc::clone(&group.turn));
            let members = Members::new(members);
            // A table is dear to make, and says the same for the same names.
            let same = before.filter(|group| group.members.are_named_as(&members));
            let balancer = same.map_or_else(
                || Arc::from(super::new(&policy.balancer, &members, &turn)),
                |group| Arc::clone(&group.balancer),
            );
            Group {
                members,
                balancer,
                turn,
                weight,
                share: AtomicU32::default(),
                is_panicking: AtomicBool::default(),
                good: ArcSwapOption::empty(),
            }
        };
        let groups = groups.into_iter().enumerate().map(group).collect();
        let roster = Self { groups, policy };
        roster.refresh();
        roster
    }

    /// The place of the chosen endpoint among all of the upstream; `None` when none may be used.
    pub fn pick(&self, asked: &mut Asked<'_>, now: Instant) -> Option<usize> {
        if asked.leaves_localities
            && !asked.tried.is_empty()
            && let Some(elsewhere) = self.pick_elsewhere(asked, now)
        {
            return Some(elsewhere);
        }
        let first = self.group_by_share(asked.rng, |_| true)?;
        let picked = self.groups.get(first)?.pick(&self.policy, asked, now);
        // Between an ejection and the next refresh a group may have nobody left.
        picked.or_else(|| {
            let mut groups = self.groups.iter().enumerate();
            groups.find_map(|(position, group)| {
                (position != first)
                    .then(|| group.pick(&self.policy, asked, now))
                    .flatten()
            })
        })
    }

    /// One of a group of which none was tried: by their shares, and in their order where they have none as yet. Envoy leaves out
    /// priorities so (`envoy.retry_priorities.previous_priorities`).
    fn pick_elsewhere(&self, asked: &mut Asked<'_>, now: Instant) -> Option<usize> {
        let is_fresh = |group: &Group| !asked.tried.iter().any(|name| group.members.has(*name));
        let fresh: Vec<bool> = self.groups.iter().map(is_fresh).collect();
        let is_fresh = |position: usize| fresh.get(position) == Some(&true);
        let first = self.group_by_share(asked.rng, is_fresh);
        let others = (0..self.groups.len()).filter(|position| is_fresh(*position));
        first.into_iter().chain(others).find_map(|position| {
            let group = self.groups.get(position)?;
            group.pick(&self.policy, asked, now)
        })
    }

    /// Shares the traffic anew among the groups after members were ejected or taken back.
    pub fn refresh(&self) {
        let healths: Vec<Bearing> = self.groups.iter().map(Group::examine).collect();
        let levels = if self.groups.iter().any(|group| group.weight.is_some()) {
            self.by_weight(&healths)
        } else {
            priority::levels(&healths, self.policy.panic_percent)
        };
        for (group, level) in self.groups.iter().zip(levels) {
            group.share.store(level.share, Ordering::Relaxed);
            group.is_panicking.store(level.is_panicking, Ordering::Relaxed);
        }
    }

    /// Whether `made`, which was made to follow this one, groups the same members alike.
    pub fn is_as(&self, made: &Self) -> bool {
        let is_as = |(before, now): (&Group, &Group)| {
            let mut members = before.members.iter().zip(now.members.iter());
            before.weight == now.weight
                && before.members.len() == now.members.len()
                && members.all(|(before, now)| before.is_as(now))
        };
        self.policy == made.policy
            && self.groups.len() == made.groups.len()
            && self.groups.iter().zip(&made.groups).all(is_as)
    }

    /// The members that the kernel may choose of at random, as the roster would; `None` when it would choose
    /// otherwise.
    pub fn of_equals(&self) -> Option<&Members> {
        let mut sharing = self
            .groups
            .iter()
            .filter(|group| group.share.load(Ordering::Relaxed) > 0);
        let (only, next) = (sharing.next()?, sharing.next());
        let is_alike = match self.policy.balancer {
            BalancerKind::LeastRequest | BalancerKind::Random => {
                only.members.weigh_alike() && self.policy.warmup.is_none()
            }
            BalancerKind::RoundRobin | BalancerKind::PeakEwma | BalancerKind::ConsistentHash(_) => false,
        };
        (next.is_none() && (is_alike || only.members.len() == 1)).then_some(&only.members)
    }

    /// The groups as they stand now: in percent what part of the traffic each gets, whether ejected members are used
    /// too, and the members.
    pub fn groups(&self) -> impl Iterator<Item = (f64, bool, &Members)> {
        let shares: Vec<u32> = self
            .groups
            .iter()
            .map(|group| group.share.load(Ordering::Relaxed))
            .collect();
        let total = f64::from(shares.iter().sum::<u32>()).max(1.0);
        self.groups.iter().zip(shares).map(move |(group, share)| {
            let is_panicking = group.is_panicking.load(Ordering::Relaxed);
            (100.0 * f64::from(share) / total, is_panicking, &group.members)
        })
    }

    /// Declared shares, less of those groups that cannot bear theirs (Envoy's locality-weighted balancing).
    fn by_weight(&self, healths: &[Bearing]) -> Vec<Level> {
        let is_panicking = priority::levels(healths, self.policy.panic_percent)
            .iter()
            .all(|level| level.is_panicking);
        let share = |(group, health): (&Group, &Bearing)| {
            let borne = if is_panicking { 100 } else { health.provision() };
            Level {
                share: group.weight.unwrap_or_default() * borne,
                is_panicking,
            }
        };
        self.groups.iter().zip(healths).map(share).collect()
    }

    /// Of those whose position `counts`; `None` where these have no share.
    fn group_by_share(&self, rng: &mut dyn RngCore, counts: impl Fn(usize) -> bool) -> Option<usize> {
        if self.groups.len() == 1 {
            return counts(0).then_some(0);
        }
        // Shares may change between the two looks: the traffic is shared a little differently once.
        let shares = || {
            let shares = self.groups.iter().enumerate();
            shares.map(|(position, group)| {
                if counts(position) {
                    group.share.load(Ordering::Relaxed)
                } else {
                    0
                }
            })
        };
        let total: u32 = shares().sum();
        let mut drawn = (total > 0).then(|| rng.random_range(0..total))?;
        shares().position(|share| {
            let is_it = drawn < share;
            drawn = drawn.saturating_sub(share);
            is_it
        })
    }
}

impl Policy {
    /// Whether a member gets its full share already, or chance gives it this one.
    fn admits(&self, member: &Member, asked: &mut Asked<'_>, now: Instant) -> bool {
        let (Some(warmup), Some(standing)) = (&self.warmup, &member.standing) else {
            return true;
        };
        if matches!(self.balancer, BalancerKind::ConsistentHash(_)) {
            return true;
        }
        let age = if asked.is_rehearsal {
            standing.age_so_far(now)
        } else {
            standing.age(now)
        };
        let recovered = member
            .health
            .as_ref()
            .and_then(|health| health.recovered_for(now));
        let age = recovered.map_or(age, |recovered| recovered.min(age));
        let part = slow_start::part(warmup, age);
        part >= 1.0 || asked.rng.random::<f64>() < part
    }
}

impl Group {
    fn pick(&self, policy: &Policy, asked: &mut Asked<'_>, now: Instant) -> Option<usize> {
        let is_panicking = self.is_panicking.load(Ordering::Relaxed);
        let mut passed_over = None;
        for attempt in 0..ATTEMPTS {
            asked.attempt = attempt;
            let member = self.members.get(self.balancer.pick(&self.members, asked)?)?;
            if member.is_left_out() && !is_panicking {
                continue;
            }
            if !asked.tried.contains(&member.name) && policy.admits(member, asked, now) {
                return Some(member.index);
            }
            passed_over.get_or_insert(member.index);
        }
        // Most are ejected or tried, or chance was unkind; one that was passed over is better than none.
        match passed_over {
            Some(passed_over) if asked.tried.is_empty() => Some(passed_over),
            _ => self.good_one(asked).or(passed_over),
        }
    }

    /// Any member that is good, from a random one on, and one that was not tried before one that was. However many there
    /// are, it looks at few: besides those that were tried only such as were ejected since the last refresh are in the way.
    fn good_one(&self, asked: &mut Asked<'_>) -> Option<usize> {
        let good = self.good.load();
        let good = good.as_deref();
        let count = good.map_or(self.members.len(), |good| good.len());
        let start = asked.rng.random_range(0..count.max(1));
        let looks = asked.tried.len().saturating_add(LOOKS).min(count);
        let members = (0..looks).filter_map(|step| {
            let at = (start + step).checked_rem(count)?;
            let position = good.map_or(Some(at), |good| good.get(at).copied())?;
            self.members.get(position)
        });
        let mut tried = None;
        for member in members.filter(|member| !member.is_left_out()) {
            if !asked.tried.contains(&member.name) {
                return Some(member.index);
            }
            tried.get_or_insert(member.index);
        }
        tried
    }

    /// Looks at all members, and keeps who may be used for picks to find.
    fn examine(&self) -> Bearing {
        let all = self.members.len();
        let positions = self.members.iter().enumerate();
        let good: Box<[usize]> = positions
            .filter(|(_, member)| !member.is_left_out())
            .map(|(position, _)| position)
            .collect();
        let count = good.len();
        self.good.store((count < all).then(|| Arc::new(good)));
        Bearing { good: count, all }
    }
}

impl Member {
    /// Whether it is the same member with the same records at the same place.
    fn is_as(&self, made: &Self) -> bool {
        let standing = |one: &Self| one.standing.as_ref().map(Arc::as_ptr);
        let health = |one: &Self| one.health.as_ref().map(Arc::as_ptr);
        (self.index, self.name, self.weight) == (made.index, made.name, made.weight)
            && Arc::ptr_eq(&self.load, &made.load)
            && standing(self) == standing(made)
            && health(self) == health(made)
    }

    /// Whether it is ejected, or unhealthy.
    fn is_left_out(&self) -> bool {
        let is_ejected = |standing: &Arc<Standing>| standing.is_ejected();
        let is_unhealthy = |health: &Arc<Health>| health.is_unhealthy();
        self.standing.as_ref().is_some_and(is_ejected) || self.health.as_ref().is_some_and(is_unhealthy)
    }
}

/// With half of the members ejected, one in 65,000 picks is not found by these.
const ATTEMPTS: u32 = 16;
/// With nine of ten ejected at once, one in 800 picks between that and the next refresh finds nobody by these.
const LOOKS: usize = 64;

#[cfg(test)]
mod tests;
