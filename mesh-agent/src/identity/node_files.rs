//! Files of the node that policies of tenants may name: below one directory, each namespace below its own part of it.
//!
//! Place in the walk: read when a handshake with an application is prepared. Must not know: what is in them.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use zeroize::Zeroizing;

use crate::mesh::backend_tls::NodeFile;

/// The directory, if the node has one. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct NodeFiles(Option<Arc<Path>>);

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    /// Nobody has opted in to files.
    #[error("policies name files, and this node has no tls_files_dir")]
    NoDirectory,
    /// It is not there, leads out of its namespace's part, or the system says no.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file, as if no link led elsewhere.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What tells the content of a file from an earlier one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file that was opened, and can be read only once.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    path: PathBuf,
    pub(super) stamp: Stamp,
}

impl NodeFiles {
    /// Files below `dir`; without it there are none.
    pub fn new(dir: Option<&Path>) -> Self {
        Self(dir.map(Into::into))
    }

    /// Opens a regular file. Links are followed as long as they stay below the namespace's directory, as those of a mounted
    /// Secret do (openat2(2), `RESOLVE_BENEATH`).
    pub(super) fn open(&self, file: &NodeFile) -> Result<Opened, NodeFileError> {
        let dir = self.0.as_deref().ok_or(NodeFileError::NoDirectory)?;
        let path = dir.join(file.namespace()).join(file.path());
        let opened = open_below(dir, file).and_then(|file| {
            let found = file.metadata()?;
            if !found.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
            }
            if found.len() > MAX_FILE {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok((Stamp::of(&found), file))
        });
        match opened {
            Ok((stamp, file)) => Ok(Opened { file, path, stamp }),
            Err(source) => Err(NodeFileError::Read { path, source }),
        }
    }
}

impl Opened {
    /// All of it; wiped when it is dropped, since it may be a key.
    pub(super) fn read(self) -> Result<Zeroizing<Vec<u8>>, NodeFileError> {
        // As long as the file, so that no copy of a key is left behind by growing.
        let room = usize::try_from(self.stamp.size).unwrap_or_default() + 1;
        let mut content = Zeroizing::new(Vec::with_capacity(room));
        let read = self.file.take(MAX_FILE).read_to_end(&mut content);
        match read {
            Ok(_) => Ok(content),
            Err(source) => Err(NodeFileError::Read {
                path: self.path,
                source,
            }),
        }
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

fn open_below(dir: &Path, file: &NodeFile) -> io::Result<File> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(dir, directory, Mode::empty())?;
    let of_namespace = openat2(root.as_fd(), file.namespace(), below(directory))?;
    // A pipe must not make anybody wait.
    let reading = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    Ok(openat2(of_namespace.as_fd(), file.path(), below(reading))?.into())
}

fn below(flags: OFlag) -> OpenHow {
    let how = OpenHow::new().flags(flags);
    how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// More than any bundle of roots or list of what is revoked has.
const MAX_FILE: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;

    fn lab() -> (TempDir, NodeFiles) {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("shop/etc/a.pem", "a"),
            ("pay/etc/b.pem", "b"),
            ("outside.pem", "c"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let files = NodeFiles::new(Some(dir.path()));
        (dir, files)
    }

    fn read(files: &NodeFiles, path: &str) -> Result<String, NodeFileError> {
        let opened = files.open(&NodeFile::new("shop", path).unwrap())?;
        Ok(String::from_utf8(opened.read()?.to_vec()).unwrap())
    }

    #[test]
    fn a_file_is_read_below_the_part_of_its_namespace_links_within_included() {
        let (dir, files) = lab();
        symlink("etc", dir.path().join("shop/..data")).unwrap();
        symlink("..data/a.pem", dir.path().join("shop/link.pem")).unwrap();
        for path in ["/etc/a.pem", "/..data/a.pem", "/link.pem"] {
            assert_eq!(read(&files, path).unwrap(), "a", "{path}");
        }
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_file_is_not_read() {
        let (dir, files) = lab();
        let shop = dir.path().join("shop");
        symlink("../pay/etc/b.pem", shop.join("neighbour.pem")).unwrap();
        symlink(dir.path().join("outside.pem"), shop.join("absolute.pem")).unwrap();
        symlink(dir.path().join("pay"), shop.join("pay")).unwrap();
        mkfifo(&shop.join("pipe"), Mode::S_IRWXU).unwrap();
        for path in [
            "/neighbour.pem",
            "/absolute.pem",
            "/pay/etc/b.pem",
            "/pipe",
            "/etc",
            "/gone",
        ] {
            assert!(
                matches!(read(&files, path), Err(NodeFileError::Read { .. })),
                "{path}"
            );
        }
    }

    #[test]
    fn without_a_directory_nothing_is_read() {
        let nowhere = read(&NodeFiles::default(), "/etc/a.pem");
        assert!(matches!(nowhere, Err(NodeFileError::NoDirectory)));
    }

    #[test]
    fn other_content_has_another_stamp() {
        let (dir, files) = lab();
        let file = NodeFile::new("shop", "/etc/a.pem").unwrap();
        let first = files.open(&file).unwrap().stamp;
        assert_eq!(files.open(&file).unwrap().stamp, first);
        let aside = dir.path().join("aside");
        fs::write(&aside, "z").unwrap();
        fs::rename(aside, dir.path().join("shop/etc/a.pem")).unwrap();
        assert_ne!(files.open(&file).unwrap().stamp, first);
    }
}
