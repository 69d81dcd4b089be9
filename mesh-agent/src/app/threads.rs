//! The threads of the agent, and which of them the kernel lets run first.
//!
//! Place in the walk: made before everything else, ended last. Must not know: what runs on them.

use std::io;
use std::time::Duration;

use anyhow::Context;
use mesh_common::scheduling::{set_nice, set_time_slice};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::sleep;

use crate::config::Config;

/// The runtimes beside the control thread.
pub(super) struct Threads {
    data: Runtime,
    bulk: Runtime,
    workshop: Runtime,
}

impl Threads {
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            data: runtime("data", config.data_threads, at_once)?,
            bulk: runtime("bulk", config.data_threads, after_others)?,
            // As handshakes are computed beside the data threads, a storm of them takes half as much of the machine at most.
            workshop: runtime("handshakes", (config.data_threads / 2).max(1), || ())?,
        })
    }

    /// Where the traffic of pods runs, and all that looks after it.
    pub(super) fn data(&self) -> &Handle {
        self.data.handle()
    }

    /// Where that of pods runs which want much.
    pub(super) fn bulk(&self) -> &Handle {
        self.bulk.handle()
    }

    /// Where handshakes are computed.
    pub(super) fn workshop(&self) -> &Handle {
        self.workshop.handle()
    }

    /// Ends them, whatever still runs there.
    pub(super) fn end(self) {
        for runtime in [self.data, self.bulk, self.workshop] {
            runtime.shutdown_timeout(Duration::from_millis(200));
        }
    }
}

fn runtime(name: &'static str, threads: usize, begin: fn()) -> anyhow::Result<Runtime> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(begin)
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the {name} threads"))?;
    keep_a_timer(&runtime);
    Ok(runtime)
}

/// A timer that is due before all that were known when tokio's driver last slept wakes the driver by a system call, from its
/// own thread too. Where none is known, as beside connections of one request each, that were one for each connection.
fn keep_a_timer(runtime: &Runtime) {
    drop(runtime.spawn(async {
        loop {
            sleep(KEPT).await;
        }
    }));
}

/// A thread that is woken need not wait until one of the same agent, or of an application, has used up its slice.
fn at_once() {
    if let Err(errno) = set_time_slice(SLICE) {
        let error = io::Error::from_raw_os_error(errno);
        tracing::debug!(%error, "data threads have the time slice of all others");
    }
}

/// A thread counts for little beside the data threads of its core, so that these hardly ever count as having had their share.
fn after_others() {
    if let Err(errno) = set_nice(NICE) {
        let error = io::Error::from_raw_os_error(errno);
        tracing::debug!(%error, "bulk threads count for as much as all others");
    }
}

/// Before nearly all that requests wait for at most, and too seldom to cost anything.
const KEPT: Duration = Duration::from_secs(1);
/// Nanoseconds: half of what the kernel gives others on two cores. Whoever has used up a shorter one when the tick comes is put
/// behind a bulk thread until the next.
const SLICE: u64 = 700_000;
/// A tenth of a core is left where data threads want all of it.
const NICE: i32 = 10;
