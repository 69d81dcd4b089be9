//! The file that holds the embedded CA's root: certificate and key in one, so that they always fit each other.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Text with a key in it.
pub(super) type Secret = zeroize::Zeroizing<String>;

/// Which file operation failed, and on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct RootFileError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the root file holds, made by `make` if there is none yet.
///
/// Agents that start at the same moment agree: only who holds the lock looks and makes. The file appears complete
/// or not at all (written aside, synced, renamed).
pub(super) fn read_or_make<E>(dir: &Path, make: impl FnOnce() -> Result<Secret, E>) -> Result<Secret, E>
where
    E: From<RootFileError>,
{
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(on("make directory", dir))?;
    let lock_path = dir.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(on("open", &lock_path))?;
    // Released when `lock` is closed, by a crash too.
    lock.lock().map_err(on("lock", &lock_path))?;

    let path = path(dir);
    match File::open(&path) {
        Ok(file) => Ok(read(file, &path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let content = make()?;
            write(dir, &path, &content)?;
            Ok(content)
        }
        Err(error) => Err(on("open", &path)(error).into()),
    }
}

/// Where the root lies.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(ROOT)
}

fn read(mut file: File, path: &Path) -> Result<Secret, RootFileError> {
    let mode = file.metadata().map_err(on("look at", path))?.permissions().mode();
    if mode & 0o077 != 0 {
        let reason = format!("others may use it (mode {:03o}); set it to 600", mode & 0o777);
        return Err(on("trust the key in", path)(io::Error::other(reason)));
    }
    // As long as the file, so that no copy of the key is left behind by growing.
    let length = file.metadata().map_err(on("look at", path))?.len();
    let mut content = Secret::new(String::with_capacity(
        usize::try_from(length).unwrap_or_default() + 1,
    ));
    file.read_to_string(&mut content).map_err(on("read", path))?;
    Ok(content)
}

fn write(dir: &Path, path: &Path, content: &str) -> Result<(), RootFileError> {
    let aside = dir.join(ASIDE);
    match fs::remove_file(&aside) {
        Ok(()) => tracing::warn!(path = %aside.display(), "removed what a crashed agent left"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(on("remove", &aside)(error)),
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&aside)
        .map_err(on("make", &aside))?;
    file.write_all(content.as_bytes()).map_err(on("write", &aside))?;
    file.sync_all().map_err(on("sync", &aside))?;
    fs::rename(&aside, path).map_err(on("rename to", path))?;
    // The rename itself is durable only once the directory is.
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(on("sync", dir))
}

fn on(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootFileError {
    let path = path.to_owned();
    move |source| RootFileError {
        operation,
        path,
        source,
    }
}

const ROOT: &str = "root.pem";
const LOCK: &str = "root.lock";
const ASIDE: &str = "root.pem.new";
