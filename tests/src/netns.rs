//! Work done inside a network namespace, on a thread of its own that ends with it.
//!
//! It must not be used for what an application does: programs run in a pod, with its cgroup, by `sandbox`.

use std::fs::File;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Runs `work` inside the namespace that `path` holds open.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(path).with_context(|| format!("open network namespace {}", path.display()))?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter network namespace {}: labs need root", path.display()))?;
            work()
        });
        match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("the work inside {} panicked", path.display()),
        }
    })
}
