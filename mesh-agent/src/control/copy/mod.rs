//! A copy on disk of the objects that a reading was made of, so that an agent can begin without its source.
//!
//! Place in the walk: beside a source that lies elsewhere. Must not know: which source, what any kind means.
//!
//! One file, replaced as a whole: a line that says since when it holds, one line for each object, and a last one with
//! their number and a digest. What changes is gathered and joined with the file, so that memory holds no second copy.
//! Before everything was told once another file grows by what is told, so that the copy of an earlier agent stays until
//! then; a source waits where it is told faster than that is written. The copy is private to the agent and holds no
//! Secret, as no source reads any.

mod file;

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use self::file::{Changes, Growing, join, objects_of, verify};

/// The copy of one source.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    base: Base,
    pending: Changes,
    pending_bytes: usize,
    /// What has changed of objects that the growing file has already.
    changed_since: Changes,
    writing: Option<Writing>,
    not_before: Instant,
    /// Everything was told once: only then the copy stands for all there is.
    is_whole: bool,
    /// Somebody has taken away or changed what was written: what it held is not told again.
    is_lost: bool,
    complaint: Option<String>,
    /// No other agent of the node writes it.
    is_ours: bool,
}

/// What was told so far.
#[derive(Debug)]
enum Base {
    /// Each object as it was told first; none before the first was written.
    Growing(Option<Growing>),
    /// All, as of some moment.
    Whole(PathBuf),
    /// It is being written.
    Away,
}

#[derive(Debug)]
struct Writing {
    changes: Arc<Changes>,
    begun: Instant,
    task: JoinHandle<(Base, Result<(), CopyError>)>,
}

/// Why a copy is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// There is none.
    #[error("there is no copy")]
    Absent,
    /// It is not what was written.
    #[error("the copy is damaged: {0}")]
    Damaged(&'static str),
    /// It cannot be read.
    #[error("the copy cannot be read")]
    Unreadable(#[from] io::Error),
}

impl Copy {
    /// The copy at a path, there or not.
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            base: Base::Growing(None),
            pending: Changes::new(),
            pending_bytes: 0,
            changed_since: Changes::new(),
            writing: None,
            not_before: Instant::now(),
            is_whole: false,
            is_lost: false,
            complaint: None,
            is_ours: true,
        }
    }

    /// Whatever is noted, the copy stays as it is while somebody else writes it.
    pub(super) fn hold_back(mut self) -> Self {
        self.is_ours = false;
        self
    }

    /// Nobody else writes it any more.
    pub(super) fn keep(&mut self) {
        self.is_ours = true;
    }

    /// Hands over every object of a good copy, and says when it was written. Those that `take` says are news are noted.
    /// Blocks.
    pub(super) fn read(
        &mut self,
        mut take: impl FnMut(&str, Value) -> bool,
    ) -> Result<SystemTime, CopyError> {
        let written = verify(&self.path)?;
        for line in objects_of(&self.path)? {
            let line = line?;
            let (name, object) = line
                .split_once('\t')
                .ok_or(CopyError::Damaged("a line without a name"))?;
            let value =
                serde_json::from_str(object).map_err(|_| CopyError::Damaged("a line that is no JSON"))?;
            if take(name, value) {
                self.note(&name.into(), Some(object.into()), true);
                self.grow_at_once();
            }
        }
        Ok(written)
    }

    /// Notes an object as it is now, `None` when it is gone; `is_new` where none of its name was there before.
    pub(super) fn note(&mut self, name: &Arc<str>, object: Option<Box<str>>, is_new: bool) {
        if self.is_lost {
            return;
        }
        let is_growing = !self.is_whole || !matches!(self.base, Base::Whole(_));
        let is_unwritten =
            is_new && !self.changed_since.contains_key(name) || self.pending.contains_key(name);
        if is_growing && !is_unwritten {
            self.changed_since.insert(Arc::clone(name), object);
            return;
        }
        self.pending_bytes += object.as_ref().map_or(0, |object| object.len());
        if let Some(Some(before)) = self.pending.insert(Arc::clone(name), object) {
            self.pending_bytes = self.pending_bytes.saturating_sub(before.len());
        }
    }

    /// Everything was told.
    pub(super) fn is_whole_now(&mut self) {
        self.is_whole = true;
    }

    /// More was noted than is gathered while something is written: whoever notes waits for [`Copy::tend`].
    pub(super) fn is_full(&self) -> bool {
        self.writing.is_some() && self.pending_bytes >= MUCH
    }

    /// Writes what was noted when it is time, and returns when that is done. Cancel-safe.
    pub(super) async fn tend(&mut self) {
        if self.writing.is_none() {
            if !self.is_behind() {
                std::future::pending::<()>().await;
            }
            // A disk that does not take it is not asked all the time.
            if self.pending_bytes < MUCH || self.complaint.is_some() {
                sleep_until(self.not_before).await;
            }
            self.begin();
        }
        self.written().await;
    }

    /// Writes what was noted, and waits for it.
    pub(super) async fn finish(&mut self) {
        self.written().await;
        // What has grown until everything was told is not under its name yet.
        for _ in 0..2 {
            if self.is_behind() {
                self.begin();
                self.written().await;
            }
        }
    }

    /// Something was noted that is not on disk, or all is there and not under its name.
    fn is_behind(&self) -> bool {
        let is_behind = match &self.base {
            Base::Growing(_) => !self.pending.is_empty() || self.is_whole,
            Base::Whole(path) => self.is_ours && (!self.pending.is_empty() || *path != self.path),
            Base::Away => false,
        };
        is_behind && !self.is_lost
    }

    fn begin(&mut self) {
        let changes = Arc::new(mem::take(&mut self.pending));
        self.pending_bytes = 0;
        let (base, noted) = (mem::replace(&mut self.base, Base::Away), Arc::clone(&changes));
        let (grown, path, is_whole) = (self.grown(), self.path.clone(), self.is_whole);
        let task = spawn_blocking(move || match base {
            Base::Growing(growing) => grow(growing, &grown, &noted, is_whole),
            Base::Whole(base) => match join(&base, &noted, &path) {
                Ok(()) => (Base::Whole(path), Ok(())),
                Err(error) => (Base::Whole(base), Err(error)),
            },
            Base::Away => (Base::Away, Ok(())),
        });
        self.writing = Some(Writing {
            changes,
            begun: Instant::now(),
            task,
        });
    }

    /// While a copy is read all of it is noted at once. Blocks; what cannot be written now is written later.
    fn grow_at_once(&mut self) {
        if self.pending_bytes < MUCH || self.complaint.is_some() {
            return;
        }
        let path = self.grown();
        if let Base::Growing(growing) = &mut self.base {
            let changes = mem::take(&mut self.pending);
            let outcome = grow(growing.take(), &path, &changes, false);
            self.settle(outcome, &changes);
        }
    }

    /// Waits for what is being written. Cancel-safe.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else {
            return;
        };
        let outcome = (&mut writing.task).await;
        let outcome =
            outcome.unwrap_or_else(|_| (Base::Away, Err(CopyError::Damaged("its writing was cut short"))));
        let Some(writing) = self.writing.take() else {
            return;
        };
        // A large copy is written less often.
        self.not_before = Instant::now() + PAUSE.max(writing.begun.elapsed() * 20);
        self.settle(outcome, &writing.changes);
    }

    /// What could not be written is noted again.
    fn settle(&mut self, (base, outcome): (Base, Result<(), CopyError>), changes: &Changes) {
        self.base = base;
        match outcome {
            Ok(()) => self.complaint = None,
            Err(CopyError::Unreadable(error)) => {
                for (name, object) in changes {
                    let later = self.pending.entry(Arc::clone(name));
                    later.or_insert_with(|| object.clone());
                }
                self.complain(&error.to_string());
            }
            Err(error @ (CopyError::Absent | CopyError::Damaged(_))) => {
                self.is_lost = true;
                (self.pending, self.changed_since) = (Changes::new(), Changes::new());
                self.complain(&format!("{error}; given up until the agent starts again"));
            }
        }
        if matches!(self.base, Base::Whole(_)) {
            self.pending.extend(mem::take(&mut self.changed_since));
        }
        let objects = self.pending.values().flatten();
        self.pending_bytes = objects.map(|object| object.len()).sum();
    }

    /// The file that grows until everything was told.
    fn grown(&self) -> PathBuf {
        self.path.with_extension(if self.is_ours { PART } else { NEXT })
    }

    fn complain(&mut self, said: &str) {
        if self.complaint.as_deref() != Some(said) {
            tracing::error!(path = %self.path.display(), error = said, "the copy of the configuration cannot be written");
            self.complaint = Some(said.to_owned());
        }
    }
}

/// Adds what is told for the first time. Blocks.
fn grow(
    growing: Option<Growing>,
    path: &Path,
    told: &Changes,
    is_last: bool,
) -> (Base, Result<(), CopyError>) {
    let growing = growing.map_or_else(|| Growing::begin(path), Ok);
    let mut growing = match growing {
        Ok(growing) => growing,
        Err(error) => return (Base::Growing(None), Err(error.into())),
    };
    match growing.add(told, is_last) {
        Ok(()) if is_last => (Base::Whole(growing.into_path()), Ok(())),
        outcome => (Base::Growing(Some(growing)), outcome),
    }
}

/// What an agent has been told while it is the only one of its node.
const PART: &str = "part";
/// What one has been told that stands by for another.
const NEXT: &str = "next";
/// Between two writings.
const PAUSE: Duration = Duration::from_secs(3);
/// Noted changes of so many bytes are written at once.
const MUCH: usize = 4 << 20;

#[cfg(test)]
mod tests;
