//! One agent for one state directory.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

/// Held for as long as the agent runs; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// Errors: the directory cannot be made, or another agent holds it.
    pub(super) fn take(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the state directory {}", dir.display()))?;
        let path = dir.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .with_context(|| {
                format!(
                    "another agent uses {}; stop it, or give this one its own --state-dir",
                    dir.display()
                )
            })?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_one_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        let refused = StateLock::take(dir.path()).unwrap_err();
        assert!(
            format!("{refused:#}").contains("another agent uses"),
            "{refused:#}"
        );
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
