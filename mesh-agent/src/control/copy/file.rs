//! A copy of objects on disk, and a collection that grows into one.
//!
//! Place in the walk: below the copy, which says what is in it and when. Must not know: what is told again, or why.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek as _, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};

use super::CopyError;

/// What has changed, by `Kind NAMESPACE/NAME`: an object as JSON, or `None` where it is gone.
pub(super) type Changes = HashMap<Arc<str>, Option<Box<str>>>;

/// A file to which objects are added until it is closed; no copy before that.
#[derive(Debug)]
pub(super) struct Growing {
    path: PathBuf,
    out: Out,
}

impl Growing {
    /// An empty one. Whoever wrote another of this name goes on with a file without a name. Blocks.
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut out = Out::new(create(path)?);
        out.line(&[MAGIC, &now().to_string()])?;
        Ok(Self {
            path: path.to_owned(),
            out,
        })
    }

    /// Adds objects, none of which it has, and makes a copy of it after the last; all is done or, on failure, nothing.
    /// Blocks.
    pub(super) fn add(&mut self, objects: &Changes, is_last: bool) -> Result<(), CopyError> {
        let before = self.out.written.clone();
        let added = self.out.objects_of(objects);
        let added = added.and_then(|()| {
            if is_last {
                self.out.close()
            } else {
                self.out.file.flush()
            }
        });
        if added.is_err() && self.out.back_to(before).is_err() {
            return Err(CopyError::Damaged(
                "what was written by half cannot be taken back",
            ));
        }
        Ok(added?)
    }

    /// Where it is.
    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// Since when a copy holds, as its first line says.
fn written_at(line: &str) -> Option<SystemTime> {
    let seconds = line.strip_prefix(MAGIC)?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Joins changes with what one file holds into another, which is replaced at once. Blocks.
pub(super) fn join(base: &Path, changes: &Changes, to: &Path) -> Result<(), CopyError> {
    verify(base)?;
    if changes.is_empty() {
        return replace(base, to);
    }
    let aside = to.with_extension("new");
    let mut out = Out::new(create(&aside)?);
    out.line(&[MAGIC, &now().to_string()])?;
    for line in objects_of(base)? {
        let line = line?;
        let is_changed = line
            .split_once('\t')
            .is_some_and(|(name, _)| changes.contains_key(name));
        if !is_changed {
            out.object(&[&line])?;
        }
    }
    out.objects_of(changes)?;
    out.close()?;
    replace(&aside, to)?;
    if base != to {
        fs::remove_file(base)?;
    }
    Ok(())
}

/// Gives a file another's name. Blocks.
fn replace(file: &Path, other: &Path) -> Result<(), CopyError> {
    fs::rename(file, other)?;
    other
        .parent()
        .map_or(Ok(()), |dir| Ok(File::open(dir)?.sync_all()?))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A file that is being written.
#[derive(Debug)]
struct Out {
    file: BufWriter<File>,
    written: Written,
    /// So many bytes it may be.
    most: u64,
}

/// What a file holds so far.
#[derive(Clone)]
struct Written {
    digest: Context,
    objects: usize,
    bytes: u64,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects in {} bytes", self.objects, self.bytes)
    }
}

impl Out {
    fn new(file: File) -> Self {
        Self {
            file: BufWriter::new(file),
            written: Written {
                digest: Context::new(&SHA256),
                objects: 0,
                bytes: 0,
            },
            most: MOST,
        }
    }

    fn objects_of(&mut self, changes: &Changes) -> io::Result<()> {
        for (name, object) in changes {
            if let Some(object) = object {
                self.object(&[name, "\t", object])?;
            }
        }
        Ok(())
    }

    fn object(&mut self, parts: &[&str]) -> io::Result<()> {
        self.written.objects += 1;
        self.line(parts)
    }

    fn line(&mut self, parts: &[&str]) -> io::Result<()> {
        let written = &mut self.written;
        for part in parts.iter().chain(&["\n"]) {
            written.bytes += u64::try_from(part.len()).unwrap_or(u64::MAX);
            written.digest.update(part.as_bytes());
            self.file.write_all(part.as_bytes())?;
        }
        if written.bytes > self.most {
            return Err(io::Error::other(format!(
                "it would take more than {} bytes",
                self.most
            )));
        }
        Ok(())
    }

    /// Forgets what was written since `before`, in the file too.
    fn back_to(&mut self, before: Written) -> io::Result<()> {
        let mut file = self.file.get_ref().try_clone()?;
        file.set_len(before.bytes)?;
        file.seek(SeekFrom::Start(before.bytes))?;
        // What is in the old buffer is not wanted.
        let (_, _unwritten) = mem::replace(&mut self.file, BufWriter::new(file)).into_parts();
        self.written = before;
        Ok(())
    }

    /// Writes the last line.
    fn close(&mut self) -> io::Result<()> {
        let Written { digest, objects, .. } = self.written.clone();
        writeln!(self.file, "{}", last_line(objects, digest.finish().as_ref()))?;
        self.file.flush()?;
        self.file.get_ref().sync_all()
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
pub(super) fn verify(path: &Path) -> Result<SystemTime, CopyError> {
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
pub(super) fn objects_of(path: &Path) -> Result<impl Iterator<Item = io::Result<String>> + use<>, CopyError> {
    let lines = lines_of(path)?.skip(1);
    Ok(lines.take_while(|line| !line.as_ref().is_ok_and(|line| line.starts_with(END))))
}

/// No object's name begins so: kinds begin with a capital letter.
const END: &str = "end ";
const MAGIC: &str = "mesh-agent objects 1 ";
/// Some ten times what a cluster of 100,000 pods takes.
const MOST: u64 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_by_half_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let told = |one: &str, object: &str| Changes::from([(one.into(), Some(object.into()))]);
        let mut growing = Growing::begin(&path).unwrap();
        growing.out.most = 1 << 20;
        growing.add(&told("A a", "1"), false).unwrap();
        let refused = growing.add(&told("A b", &"x".repeat(1 << 20)), false);
        assert!(matches!(refused, Err(CopyError::Unreadable(_))), "{refused:?}");
        growing.add(&told("A c", "3"), true).unwrap();
        verify(&path).unwrap();
        let lines: Vec<_> = objects_of(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(lines, ["A a\t1", "A c\t3"]);
    }
}
