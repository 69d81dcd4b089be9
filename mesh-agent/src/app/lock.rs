//! One agent for one state directory, and one more that waits to take its place.
//!
//! Each of four files is locked by whom it speaks of: `lock` by the agent that serves, `standby` by the one that waits,
//! `prepared` by the same while it could serve at once, `leaving` by those that were succeeded and still end their
//! connections. The kernel lets go of them however a process ends, so that none of them can be wrong. Must not know: what
//! serving is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{sleep, timeout};

use crate::config::HandoverMode;

/// Held for as long as the agent serves.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: Flock<File>,
}

/// What an agent that starts is.
#[derive(Debug)]
pub(super) enum Place {
    /// The one that serves.
    Owner(StateLock),
    /// The one that waits until another one does not serve any more.
    Standby(Standby),
}

/// The one agent that waits.
#[derive(Debug)]
pub(super) struct Standby {
    dir: PathBuf,
    _place: Flock<File>,
    prepared: Option<Flock<File>>,
}

/// Held by an agent that was succeeded, until it ends.
#[derive(Debug)]
pub(super) struct Leaving {
    _file: Flock<File>,
}

/// What became of a hand-over.
#[derive(Debug)]
pub(super) enum Succession {
    /// Another agent serves.
    Taken,
    /// The agent that waited did not get so far: the lock is this agent's again.
    Lost(StateLock),
}

impl Place {
    /// Errors: the directory cannot be made; another agent serves and this one may not wait, or a third waits already.
    pub(super) fn claim(dir: &Path, mode: HandoverMode) -> anyhow::Result<Self> {
        if mode == HandoverMode::Refuse {
            return StateLock::take(dir).map(Self::Owner);
        }
        match StateLock::try_take(dir)? {
            Some(lock) => Ok(Self::Owner(lock)),
            None => Standby::queue(dir).map(Self::Standby),
        }
    }
}

impl StateLock {
    /// Errors: the directory cannot be made, or another agent holds it.
    pub(super) fn take(dir: &Path) -> anyhow::Result<Self> {
        Self::try_take(dir)?.with_context(|| {
            format!(
                "another agent uses {}; stop it, or give this one its own --state-dir, or let it wait with --handover wait",
                dir.display()
            )
        })
    }

    fn try_take(dir: &Path) -> anyhow::Result<Option<Self>> {
        let file = try_lock(dir, SERVES, FlockArg::LockExclusiveNonblock)?;
        Ok(file.map(|file| Self { _file: file }))
    }

    /// Lets go of it, and waits until whoever was prepared serves, or does not live any more, for [`TAKE_OVER`] at most.
    pub(super) async fn hand_over(self, dir: &Path) -> anyhow::Result<Succession> {
        drop(self);
        let taking = async {
            while is_awaited(dir)? {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        match timeout(TAKE_OVER, taking).await {
            Ok(taken) => taken?,
            Err(_elapsed) => tracing::warn!(limit = ?TAKE_OVER, "the next agent takes long to take over"),
        }
        Ok(Self::try_take(dir)?.map_or(Succession::Taken, Succession::Lost))
    }
}

impl Standby {
    fn queue(dir: &Path) -> anyhow::Result<Self> {
        let place = try_lock(dir, WAITS, FlockArg::LockExclusiveNonblock)?;
        let place = place.with_context(|| {
            let dir = dir.display();
            format!("an agent uses {dir}, and another one waits for its place already; stop that one first")
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            _place: place,
            prepared: None,
        })
    }

    /// Says that this agent could serve at once: from now on the one that serves hands over when it is told to end.
    pub(super) async fn prepared(&mut self) -> anyhow::Result<()> {
        while self.prepared.is_none() {
            self.prepared = try_lock(&self.dir, PREPARED, FlockArg::LockExclusiveNonblock)?;
            if self.prepared.is_none() {
                // The one that serves looks at it, for a moment.
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Waits until nobody serves, and is the one that does then. Cancel-safe.
    pub(super) async fn succeeds(&self) -> anyhow::Result<StateLock> {
        loop {
            if let Some(lock) = StateLock::try_take(&self.dir)? {
                return Ok(lock);
            }
            sleep(LOOK).await;
        }
    }
}

impl Leaving {
    /// Said before the lock is let go of. Several may be leaving.
    pub(super) fn say(dir: &Path) -> anyhow::Result<Self> {
        let file = try_lock(dir, LEAVING, FlockArg::LockSharedNonblock)?;
        let file = file.with_context(|| format!("{LEAVING} in {} is locked", dir.display()))?;
        Ok(Self { _file: file })
    }

    /// Whether an agent that served before still lives.
    pub(super) fn is_anybody(dir: &Path) -> anyhow::Result<bool> {
        Ok(try_lock(dir, LEAVING, FlockArg::LockExclusiveNonblock)?.is_none())
    }

    /// Waits until none does. Cancel-safe.
    pub(super) async fn nobody(dir: &Path) -> anyhow::Result<()> {
        while Self::is_anybody(dir)? {
            sleep(LOOK * 5).await;
        }
        Ok(())
    }
}

/// Whether an agent waits that could serve at once.
pub(super) fn is_awaited(dir: &Path) -> anyhow::Result<bool> {
    Ok(try_lock(dir, PREPARED, FlockArg::LockSharedNonblock)?.is_none())
}

/// `None` where somebody else has locked it.
fn try_lock(dir: &Path, name: &str, how: FlockArg) -> anyhow::Result<Option<Flock<File>>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the state directory {}", dir.display()))?;
    let path = dir.join(name);
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, how) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
}

const SERVES: &str = "lock";
const WAITS: &str = "standby";
const PREPARED: &str = "prepared";
const LEAVING: &str = "leaving";
/// Between two looks at a lock, which nobody tells of.
const LOOK: Duration = Duration::from_millis(20);
/// What taking over may take: programs are verified and every pod is adopted, on a machine that is busy.
const TAKE_OVER: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(dir: &Path) -> StateLock {
        match Place::claim(dir, HandoverMode::Wait).unwrap() {
            Place::Owner(lock) => lock,
            Place::Standby(_) => panic!("nobody serves"),
        }
    }

    fn standby(dir: &Path) -> Standby {
        match Place::claim(dir, HandoverMode::Wait).unwrap() {
            Place::Standby(standby) => standby,
            Place::Owner(_) => panic!("somebody serves"),
        }
    }

    #[test]
    fn a_second_agent_on_one_directory_is_refused_unless_it_may_wait() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        let refused = Place::claim(dir.path(), HandoverMode::Refuse).unwrap_err();
        assert!(
            format!("{refused:#}").contains("another agent uses"),
            "{refused:#}"
        );
        drop(standby(dir.path()));
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_third_agent_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let _first = owner(dir.path());
        let second = standby(dir.path());
        let refused = Place::claim(dir.path(), HandoverMode::Wait).unwrap_err();
        let said = format!("{refused:#}");
        assert!(said.contains("waits for its place already"), "{said}");
        assert!(!said.contains('\n'), "{said}");
        drop(second);
        standby(dir.path());
    }

    #[tokio::test]
    async fn only_one_that_is_prepared_is_handed_over_to() {
        let dir = tempfile::tempdir().unwrap();
        let _first = owner(dir.path());
        let mut second = standby(dir.path());
        assert!(!is_awaited(dir.path()).unwrap());
        second.prepared().await.unwrap();
        assert!(is_awaited(dir.path()).unwrap());
        drop(second);
        assert!(!is_awaited(dir.path()).unwrap());
    }

    #[tokio::test]
    async fn the_first_hears_when_the_second_serves() {
        let dir = tempfile::tempdir().unwrap();
        let first = owner(dir.path());
        let mut second = standby(dir.path());
        second.prepared().await.unwrap();
        let (succession, lock) = tokio::join!(first.hand_over(dir.path()), async {
            let lock = second.succeeds().await.unwrap();
            // It takes over now, and says so at last.
            assert!(is_awaited(dir.path()).unwrap());
            drop(second);
            lock
        });
        assert!(matches!(succession.unwrap(), Succession::Taken));
        assert!(StateLock::try_take(dir.path()).unwrap().is_none());
        drop(lock);
    }

    #[tokio::test]
    async fn the_first_has_the_lock_again_when_the_second_dies_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = owner(dir.path());
        let mut second = standby(dir.path());
        second.prepared().await.unwrap();
        let (succession, ()) = tokio::join!(first.hand_over(dir.path()), async {
            let lock = second.succeeds().await.unwrap();
            // As the kernel does for a process that is killed.
            drop(lock);
            drop(second);
        });
        let Succession::Lost(_lock) = succession.unwrap() else {
            panic!("nobody serves");
        };
        assert!(StateLock::try_take(dir.path()).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_first_that_is_killed_is_succeeded_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = owner(dir.path());
        let second = standby(dir.path());
        drop(first);
        second.succeeds().await.unwrap();
    }

    #[tokio::test]
    async fn whoever_leaves_is_seen_until_the_last_of_them_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Leaving::is_anybody(dir.path()).unwrap());
        let (one, other) = (
            Leaving::say(dir.path()).unwrap(),
            Leaving::say(dir.path()).unwrap(),
        );
        drop(one);
        assert!(Leaving::is_anybody(dir.path()).unwrap());
        drop(other);
        Leaving::nobody(dir.path()).await.unwrap();
    }
}
