//! When endpoints are asked for their health: by tokio's clock, which stands still but for what is waited for.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::facts::{endpoint, service};
use crate::balance::Finding;
use crate::lifecycle::Tasks;
use crate::mesh::facts::Facts;
use crate::mesh::health_check::{HealthCheck, Question};
use crate::mesh::service::AppProtocol;
use crate::proxy::health::rounds::{Asker, JITTER, MAX_UNDER_WAY, ask_in_turn};
use crate::proxy::http::probe::Answer;
use crate::snapshot::{Checked, Snapshot, SnapshotCell, SnapshotSettings};

/// What each question gets.
type Script = Arc<dyn Fn() -> BoxFuture<'static, Answer> + Send + Sync>;

/// Answers by a script and notes when it was asked for whom.
#[derive(Clone)]
struct Scripted {
    script: Script,
    asked: Arc<Mutex<Vec<(SocketAddr, Instant)>>>,
    found: Arc<Mutex<Vec<Finding>>>,
    is_anybody_served: bool,
}

impl Asker for Scripted {
    fn question(&self, checked: &Arc<Checked>, by: IpAddr) -> Option<BoxFuture<'static, Answer>> {
        assert_eq!(by, CLIENT);
        let (asked, script, addr) = (Arc::clone(&self.asked), Arc::clone(&self.script), checked.addr);
        self.is_anybody_served.then(|| -> BoxFuture<'static, Answer> {
            Box::pin(async move {
                asked.lock().push((addr, Instant::now()));
                script().await
            })
        })
    }

    fn found(&self, finding: Finding) {
        self.found.lock().push(finding);
    }
}

struct Round {
    asker: Scripted,
    snapshots: Arc<SnapshotCell>,
    begun: Instant,
    _tasks: Tasks,
}

impl Round {
    /// Asks `endpoints` endpoints of a Service that somebody has just used.
    fn start(check: HealthCheck, endpoints: u8, script: Script) -> Self {
        Self::with(check, endpoints, script, true)
    }

    fn with(check: HealthCheck, endpoints: u8, script: Script, is_anybody_served: bool) -> Self {
        let mut cart = service("cart", Ipv4Addr::new(10, 96, 0, 1).into(), AppProtocol::Http);
        cart.traffic.health_check = Some(Arc::new(check));
        let addrs = (0..endpoints).map(|last| SocketAddr::from(([10, 0, 1, last], 8080)));
        let facts = Facts {
            services: vec![cart.into()],
            endpoints: addrs.map(|addr| endpoint("cart", addr)).collect(),
            ..Facts::default()
        };
        let settings = SnapshotSettings {
            node: "a".into(),
            root_namespace: "mesh-system".into(),
            trust_domains: Arc::new([]),
        };
        let snapshots = Arc::new(SnapshotCell::new(Snapshot::build(&facts, &settings, None).0));
        let asker = Scripted {
            script,
            asked: Arc::default(),
            found: Arc::default(),
            is_anybody_served,
        };
        let tasks = Tasks::new();
        let (stop, own, cell) = (tasks.stop(), asker.clone(), Arc::clone(&snapshots));
        tasks.spawn("rounds", async move { ask_in_turn(own, &cell, stop).await });
        let round = Self {
            asker,
            snapshots,
            begun: Instant::now(),
            _tasks: tasks,
        };
        round.is_used();
        round
    }

    /// A pod of this node uses the Service now.
    fn is_used(&self) {
        for upstream in self.snapshots.load().upstreams() {
            upstream.used_by(CLIENT, Instant::now().into_std());
        }
    }

    /// Lets so much time pass, with somebody who uses the Service all the while.
    async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.is_used();
            sleep(STEP).await;
        }
    }

    /// When the endpoint was asked, since the beginning.
    fn asked(&self) -> Vec<Duration> {
        let asked = self.asker.asked.lock();
        asked.iter().map(|(_, at)| *at - self.begun).collect()
    }

    fn unhealthy(&self) -> usize {
        self.snapshots.load().unhealthy().len()
    }
}

fn answer(finding: Finding) -> Script {
    Arc::new(move || Box::pin(async move { Answer::of(finding, "as the script says") }))
}

fn silence() -> Script {
    Arc::new(|| Box::pin(pending()))
}

fn pauses(asked: &[Duration]) -> Vec<Duration> {
    asked
        .windows(2)
        .map(|two| two[1].saturating_sub(two[0]))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_asked_once_an_interval_with_a_tenth_of_jitter() {
    let check = HealthCheck::new(Question::Tcp);
    let round = Round::start(check, 1, answer(Finding::Passed));
    round.pass(Duration::from_mins(20)).await;
    let asked = round.asked();
    assert!(asked[0] <= INTERVAL + ROUNDED, "{:?}", asked[0]);
    let (least, most) = (INTERVAL.mul_f64(1.0 - JITTER), INTERVAL.mul_f64(1.0 + JITTER));
    let pauses = pauses(&asked);
    let is_in_time = |pause: &Duration| *pause >= least && *pause <= most + ROUNDED;
    assert!(pauses.iter().all(is_in_time), "{pauses:?}");
    assert!(pauses.len() > 100, "{}", pauses.len());
    let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(
        longest.saturating_sub(*shortest) > INTERVAL.mul_f64(JITTER),
        "they march in step"
    );
}

#[tokio::test(start_paused = true)]
async fn endpoints_begin_at_moments_that_are_spread_over_the_interval() {
    let check = HealthCheck::new(Question::Tcp);
    let round = Round::start(check, 60, answer(Finding::Passed));
    round.pass(INTERVAL + STEP).await;
    let mut firsts = round.asked();
    firsts.truncate(60);
    // Of 60 moments at random all within one half come once in 2^59 times.
    let early = firsts.iter().filter(|at| **at < INTERVAL / 2).count();
    assert!((1..60).contains(&early), "{firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_in_time_is_asked_again_an_interval_later_and_left_out_after_the_threshold() {
    let check = HealthCheck {
        timeout: Duration::from_secs(4),
        unhealthy_threshold: 3,
        ..HealthCheck::new(Question::Tcp)
    };
    let round = Round::start(check, 1, silence());
    while round.asker.found.lock().len() < 2 {
        round.pass(STEP).await;
    }
    assert_eq!(round.unhealthy(), 0, "two of three");
    while round.asker.found.lock().len() < 3 {
        round.pass(STEP).await;
    }
    assert_eq!(round.unhealthy(), 1);
    assert_eq!(*round.asker.found.lock(), [Finding::NoAnswer; 3]);
    // The pause begins when the time for an answer is over.
    let least = Duration::from_secs(4) + INTERVAL.mul_f64(1.0 - JITTER);
    let pauses = pauses(&round.asked());
    assert!(pauses.iter().all(|pause| *pause >= least), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_answer_counts_at_once_and_so_many_good_ones_as_the_threshold_says_undo_it() {
    let is_good = Arc::new(Mutex::new(false));
    let mood = Arc::clone(&is_good);
    let script: Script = Arc::new(move || {
        let finding = if *mood.lock() {
            Finding::Passed
        } else {
            Finding::Failed
        };
        Box::pin(async move { Answer::of(finding, "as the mood is") })
    });
    let check = HealthCheck {
        healthy_threshold: 3,
        ..HealthCheck::new(Question::Tcp)
    };
    let round = Round::start(check, 1, script);
    while round.asker.found.lock().is_empty() {
        round.pass(STEP).await;
    }
    assert_eq!(round.unhealthy(), 1);
    *is_good.lock() = true;
    while round.asker.found.lock().len() < 3 {
        round.pass(STEP).await;
    }
    assert_eq!(round.unhealthy(), 1, "two of three");
    while round.asker.found.lock().len() < 4 {
        round.pass(STEP).await;
    }
    assert_eq!(round.unhealthy(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_bound_are_asked_at_a_time() {
    let check = HealthCheck {
        timeout: Duration::from_hours(1),
        ..HealthCheck::new(Question::Tcp)
    };
    let round = Round::start(check, 200, silence());
    round.pass(4 * INTERVAL).await;
    assert_eq!(round.asked().len(), MAX_UNDER_WAY);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_asked_seldom_and_without_anybody_served_never() {
    let check = HealthCheck::new(Question::Tcp);
    let seldom = check.no_traffic_interval;
    let round = Round::start(check.clone(), 1, answer(Finding::Passed));
    sleep(Duration::from_mins(20)).await;
    // While the last use is no longer ago than the seldom interval, as often as ever.
    let later: Vec<_> = round.asked().into_iter().filter(|at| *at > seldom).collect();
    let pauses = pauses(&later);
    assert!(pauses.iter().all(|pause| *pause >= seldom), "{pauses:?}");
    assert!(later.len() >= 15, "{later:?}");

    let unserved = Round::with(check, 1, answer(Finding::Failed), false);
    unserved.pass(Duration::from_mins(5)).await;
    assert_eq!((unserved.asked().len(), unserved.unhealthy()), (0, 0));
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
/// Of [`HealthCheck::new`].
const INTERVAL: Duration = Duration::from_secs(10);
/// A timer rounds up to whole milliseconds.
const ROUNDED: Duration = Duration::from_millis(2);
const STEP: Duration = Duration::from_millis(500);
