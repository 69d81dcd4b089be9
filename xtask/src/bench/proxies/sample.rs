//! One sample: a load on one side, the processor time of all that worked for it, and of all that did not.
//!
//! It must not know which peer it is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::cpu::{self, Machine};
use mesh_tests::process::ProcessId;
use mesh_tests::running::Running;
use serde::Serialize;

use crate::bench::proxies::load::{Amount, Done, Load};
use crate::bench::proxies::way::Way;

/// Processor time for one request, in µs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cost {
    /// Of the load generator.
    pub(crate) client: f64,
    /// Of the proxies.
    pub(crate) proxies: f64,
    /// Of the server.
    pub(crate) backend: f64,
    /// Of the kernel's threads that do what interrupts leave over.
    pub(crate) interrupts: f64,
}

impl Cost {
    /// All of it.
    pub(crate) fn whole_path(&self) -> f64 {
        self.client + self.proxies + self.backend + self.interrupts
    }
}

/// One sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// What the load generator counted.
    pub(crate) done: Done,
    /// What a request cost.
    pub(crate) cost: Cost,
    /// What else ran meanwhile.
    pub(crate) noise: Noise,
}

/// What disturbs a sample, in cores: 1.0 is one core all the time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Noise {
    /// Work of the machine that is neither of the path nor of this command.
    pub(crate) foreign: f64,
    /// What the machine below took away.
    pub(crate) stolen: f64,
}

impl Noise {
    /// A sample beside more than this says nothing. Ticks are counted, not measured: some hundredths of a core are seen as
    /// foreign where nothing foreign ran.
    pub(crate) const LIMIT: Self = Self {
        foreign: 0.10,
        stolen: 0.03,
    };
    /// Everything counts.
    pub(crate) const UNLIMITED: Self = Self {
        foreign: f64::INFINITY,
        stolen: f64::INFINITY,
    };

    /// True when either is more than this.
    pub(crate) fn exceeds(self, limit: Self) -> bool {
        self.foreign > limit.foreign || self.stolen > limit.stolen
    }
}

/// Takes one.
pub(crate) fn take(lab: &Running, way: &Way, load: Load, amount: Amount) -> Result<Sample> {
    let before = Clocks::read(way)?;
    let done = load.run(lab, &way.client, &way.url(load), amount)?;
    let spent = Clocks::read(way)?.since(&before);
    ensure!(done.requests > 0, "no request was answered at {}", way.url(load));
    let a_request = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(done.requests);
    Ok(Sample {
        done,
        cost: Cost {
            client: a_request(done.client),
            proxies: a_request(spent.proxies),
            backend: a_request(spent.backend),
            interrupts: a_request(spent.interrupts),
        },
        noise: spent.noise(done.client),
    })
}

/// Readings of all clocks, or what lies between two of them.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    at: Instant,
    wall: Duration,
    proxies: Duration,
    backend: Duration,
    interrupts: Duration,
    own: Duration,
    machine: Machine,
}

impl Clocks {
    fn read(way: &Way) -> Result<Self> {
        let interrupts = cpu::interrupt_threads()?;
        Ok(Self {
            at: Instant::now(),
            wall: Duration::ZERO,
            proxies: way.proxy_time()?,
            backend: cpu::used_by(way.backend)?,
            interrupts: interrupts
                .iter()
                .map(|thread| cpu::used_by(*thread))
                .sum::<Result<_>>()?,
            own: cpu::used_by(ProcessId::of(std::process::id())?)?,
            machine: cpu::machine()?,
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            at: self.at,
            wall: self.at.saturating_duration_since(before.at),
            proxies: self.proxies.saturating_sub(before.proxies),
            backend: self.backend.saturating_sub(before.backend),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            own: self.own.saturating_sub(before.own),
            machine: Machine {
                busy: self.machine.busy.saturating_sub(before.machine.busy),
                stolen: self.machine.stolen.saturating_sub(before.machine.stolen),
            },
        }
    }

    fn noise(&self, client: Duration) -> Noise {
        let known = self.proxies + self.backend + self.interrupts + self.own + client;
        let share = |time: Duration| time.as_secs_f64() / self.wall.as_secs_f64().max(1e-9);
        Noise {
            foreign: share(self.machine.busy.saturating_sub(known)),
            stolen: share(self.machine.stolen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(busy_ms: u64, stolen_ms: u64) -> Noise {
        let ms = Duration::from_millis;
        let clocks = Clocks {
            at: Instant::now(),
            wall: ms(1000),
            proxies: ms(900),
            backend: ms(300),
            interrupts: ms(20),
            own: ms(10),
            machine: Machine {
                busy: ms(busy_ms),
                stolen: ms(stolen_ms),
            },
        };
        clocks.noise(ms(500))
    }

    #[test]
    fn what_works_for_the_path_is_not_foreign() {
        assert!(!spent(1730, 0).exceeds(Noise::LIMIT));
        assert!(!spent(1760, 0).exceeds(Noise::LIMIT), "ticks are not exact");
    }

    #[test]
    fn a_sample_beside_other_work_or_on_a_machine_that_is_taken_away_is_refused() {
        assert!(spent(1900, 0).exceeds(Noise::LIMIT));
        assert!(spent(1730, 40).exceeds(Noise::LIMIT));
    }

    #[test]
    fn the_whole_path_is_the_sum_of_its_parts() {
        let cost = Cost {
            client: 1.0,
            proxies: 2.0,
            backend: 4.0,
            interrupts: 8.0,
        };
        assert!((cost.whole_path() - 15.0).abs() < 1e-9);
    }
}
