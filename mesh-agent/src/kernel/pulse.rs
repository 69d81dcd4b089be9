//! The heartbeat: one number in a map that outlives the agent.
//!
//! Must not know: pods.

use std::fmt;

use aya::maps::{Array, MapData, MapError};
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use crate::kernel::Pulse;
use crate::kernel::error::KernelError;
use crate::kernel::loader::Programs;

/// The heartbeat over an eBPF map.
pub struct EbpfPulse(Mutex<Array<MapData, u64>>);

impl EbpfPulse {
    /// Takes the map over.
    pub fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self(Mutex::new(programs.map("HEARTBEAT")?)))
    }

    fn set(&self, beat: u64) -> Result<(), MapError> {
        self.0.lock().set(0, beat, 0)
    }
}

impl Pulse for EbpfPulse {
    fn beat(&self) -> Result<(), KernelError> {
        self.set(monotonic_ns()?).map_err(failed)
    }

    fn stop(&self) -> Result<(), KernelError> {
        self.set(0).map_err(failed)
    }
}

impl fmt::Debug for EbpfPulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfPulse").finish_non_exhaustive()
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> Result<u64, KernelError> {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| KernelError::Told(errno.to_string()))?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    let rest = u64::try_from(now.tv_nsec()).unwrap_or_default();
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

fn failed(source: MapError) -> KernelError {
    KernelError::Map {
        operation: "put",
        map: "HEARTBEAT",
        source,
    }
}
