//! A copy on disk of the objects that a reading was made of, so that an agent can begin without its source.
//!
//! Place in the walk: beside a source that lies elsewhere. Must not know: which source, what any kind means.
//!
//! One file, replaced as a whole: a line that says since when it holds, one line for each object, and a last one with
//! their number and a digest. What changes is gathered and joined with the file, so that memory holds no second copy;
//! before everything was told once it is another file, so that the copy of an earlier agent stays until then. It is
//! private to the agent and holds no Secret, as no source reads any.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

/// What has changed, by `Kind NAMESPACE/NAME`: an object as JSON, or `None` where it is gone.
type Changes = HashMap<Arc<str>, Option<Box<str>>>;

/// The copy of one source.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    /// The file that holds what was told so far; none before the first.
    base: Option<PathBuf>,
    pending: Changes,
    pending_bytes: usize,
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

#[derive(Debug)]
struct Writing {
    changes: Arc<Changes>,
    to: PathBuf,
    begun: Instant,
    task: JoinHandle<Result<(), CopyError>>,
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
            base: None,
            pending: Changes::new(),
            pending_bytes: 0,
            writing: None,
            not_before: Instant::now(),
            is_whole: false,
            is_lost: false,
            complaint: None,
            is_ours: true,
        }
    }

    /// What is noted is not written while somebody else writes the same file.
    pub(super) fn hold_back(mut self) -> Self {
        self.is_ours = false;
        self
    }

    /// Nobody else writes it any more.
    pub(super) fn keep(&mut self) {
        self.is_ours = true;
    }

    /// Hands over every object of a good copy, and says when it was written; what changes is joined with it. Blocks.
    pub(super) fn read(&mut self, mut take: impl FnMut(&str, Value)) -> Result<SystemTime, CopyError> {
        let written = verify(&self.path)?;
        for line in objects_of(&self.path)? {
            let line = line?;
            let (name, object) = line
                .split_once('\t')
                .ok_or(CopyError::Damaged("a line without a name"))?;
            take(
                name,
                serde_json::from_str(object).map_err(|_| CopyError::Damaged("a line that is no JSON"))?,
            );
        }
        self.base = Some(self.path.clone());
        Ok(written)
    }

    /// Notes an object as it is now; `None` when it is gone.
    pub(super) fn note(&mut self, name: &Arc<str>, object: Option<Box<str>>) {
        if self.is_lost {
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

    /// Writes now and then what was noted; never returns. Cancel-safe.
    pub(super) async fn tend(&mut self) {
        loop {
            self.written().await;
            if !self.is_behind() {
                std::future::pending::<()>().await;
            }
            if self.pending_bytes < MUCH {
                sleep_until(self.not_before).await;
            }
            self.begin();
        }
    }

    /// Writes what was noted, and waits for it.
    pub(super) async fn finish(&mut self) {
        self.written().await;
        if self.is_behind() {
            self.begin();
            self.written().await;
        }
    }

    /// Something was noted that is not on disk, or all is there and not under its name.
    fn is_behind(&self) -> bool {
        let is_unnamed = self.is_whole && !self.is_lost && self.base.as_ref() != Some(&self.path);
        self.is_ours && (!self.pending.is_empty() || is_unnamed)
    }

    fn begin(&mut self) {
        let changes = Arc::new(mem::take(&mut self.pending));
        self.pending_bytes = 0;
        let to = if self.is_whole {
            self.path.clone()
        } else {
            self.path.with_extension("part")
        };
        let (base, written, into) = (self.base.clone(), Arc::clone(&changes), to.clone());
        let task = spawn_blocking(move || join(base.as_deref(), &written, &into));
        self.writing = Some(Writing {
            changes,
            to,
            begun: Instant::now(),
            task,
        });
    }

    /// Waits for what is being written. What could not be written is noted again.
    async fn written(&mut self) {
        let Some(writing) = &mut self.writing else {
            return;
        };
        let outcome = (&mut writing.task).await;
        let outcome = outcome.unwrap_or_else(|cut| Err(io::Error::other(cut).into()));
        let Some(writing) = self.writing.take() else {
            return;
        };
        // A large copy is written less often, and a disk that does not take it is not asked all the time.
        let took = writing.begun.elapsed();
        self.not_before = Instant::now() + PAUSE.max(took * 20);
        match outcome {
            Ok(()) => {
                self.base = Some(writing.to);
                self.complaint = None;
            }
            Err(CopyError::Unreadable(error)) => {
                for (name, object) in writing.changes.iter() {
                    let later = self.pending.entry(Arc::clone(name));
                    later.or_insert_with(|| object.clone());
                }
                self.complain(&error.to_string());
            }
            Err(error @ (CopyError::Absent | CopyError::Damaged(_))) => {
                self.is_lost = true;
                self.pending = Changes::new();
                self.complain(&format!("{error}; given up until the agent starts again"));
            }
        }
    }

    fn complain(&mut self, said: &str) {
        if self.complaint.as_deref() != Some(said) {
            tracing::error!(path = %self.path.display(), error = said, "the copy of the configuration cannot be written");
            self.complaint = Some(said.to_owned());
        }
    }
}

/// Since when a copy holds, as its first line says.
fn written_at(line: &str) -> Option<SystemTime> {
    let seconds = line.strip_prefix(MAGIC)?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Joins changes with what one file holds into another, which is replaced at once. Blocks.
fn join(base: Option<&Path>, changes: &Changes, to: &Path) -> Result<(), CopyError> {
    base.map(verify).transpose()?;
    let aside = to.with_extension("new");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    let mut out = Out::new(file);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    out.line(&[MAGIC, &now.to_string()])?;
    for line in base.map(objects_of).transpose()?.into_iter().flatten() {
        let line = line?;
        let is_changed = line
            .split_once('\t')
            .is_some_and(|(name, _)| changes.contains_key(name));
        if !is_changed {
            out.object(&[&line])?;
        }
    }
    for (name, object) in changes {
        if let Some(object) = object {
            out.object(&[name, "\t", object])?;
        }
    }
    out.close()?;
    fs::rename(&aside, to)?;
    if let Some(base) =
        base.filter(|base| *base != to && base.extension().is_some_and(|extension| extension == "part"))
    {
        fs::remove_file(base)?;
    }
    to.parent().map_or(Ok(()), |dir| Ok(File::open(dir)?.sync_all()?))
}

/// A file that is being written.
struct Out {
    file: BufWriter<File>,
    digest: Context,
    objects: usize,
    bytes: usize,
}

impl Out {
    fn new(file: File) -> Self {
        Self {
            file: BufWriter::new(file),
            digest: Context::new(&SHA256),
            objects: 0,
            bytes: 0,
        }
    }

    fn object(&mut self, parts: &[&str]) -> io::Result<()> {
        self.objects += 1;
        self.line(parts)
    }

    fn line(&mut self, parts: &[&str]) -> io::Result<()> {
        for part in parts.iter().chain(&["\n"]) {
            self.bytes += part.len();
            self.digest.update(part.as_bytes());
            self.file.write_all(part.as_bytes())?;
        }
        if self.bytes > MOST {
            return Err(io::Error::other(format!("it would take more than {MOST} bytes")));
        }
        Ok(())
    }

    fn close(mut self) -> io::Result<()> {
        let digest = self.digest.finish();
        writeln!(self.file, "{}", last_line(self.objects, digest.as_ref()))?;
        self.file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()
    }
}

fn last_line(objects: usize, digest: &[u8]) -> String {
    let mut line = format!("{END}{objects} ");
    for half in digest.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        line.extend(char::from_digit(half.into(), 16));
    }
    line
}

/// Reads a file through once; it is what was written, or not used.
fn verify(path: &Path) -> Result<SystemTime, CopyError> {
    let mut lines = lines_of(path)?;
    let first = lines.next().ok_or(CopyError::Damaged("it is empty"))??;
    let written = written_at(&first).ok_or(CopyError::Damaged("it does not begin as a copy does"))?;
    let mut digest = Context::new(&SHA256);
    let mut update = |line: &str| {
        digest.update(line.as_bytes());
        digest.update(b"\n");
    };
    update(&first);
    let (mut objects, mut end) = (0_usize, None);
    for line in lines {
        let line = line?;
        if end.is_some() {
            return Err(CopyError::Damaged("something follows its end"));
        }
        if line.starts_with(END) {
            end = Some(line);
        } else {
            update(&line);
            objects += 1;
        }
    }
    let end = end.ok_or(CopyError::Damaged("its end is missing"))?;
    if end == last_line(objects, digest.finish().as_ref()) {
        Ok(written)
    } else {
        Err(CopyError::Damaged("its digest does not fit"))
    }
}

type Lines = io::Lines<BufReader<File>>;

fn lines_of(path: &Path) -> Result<Lines, CopyError> {
    match File::open(path) {
        Ok(file) => Ok(BufReader::new(file).lines()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CopyError::Absent),
        Err(error) => Err(error.into()),
    }
}

/// The lines between the first and the last.
fn objects_of(path: &Path) -> Result<impl Iterator<Item = io::Result<String>>, CopyError> {
    let lines = lines_of(path)?.skip(1);
    Ok(lines.take_while(|line| !line.as_ref().is_ok_and(|line| line.starts_with(END))))
}

/// No object's name begins so: kinds begin with a capital letter.
const END: &str = "end ";
const MAGIC: &str = "mesh-agent objects 1 ";
/// Between two writings.
const PAUSE: Duration = Duration::from_secs(3);
/// Noted changes of so many bytes are written at once.
const MUCH: usize = 4 << 20;
/// Some ten times what a cluster of 100,000 pods takes.
const MOST: usize = 512 << 20;

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
