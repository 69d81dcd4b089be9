//! Finds and reads the manifest files of a directory.
//!
//! Place in the walk: below [`super::file`]. Must not know: what the files say.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::manifest::{self, Document};
use crate::mesh::facts::Rejection;

/// The state of all manifest files, to tell whether any of them changed without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, u64, u64, i64, i64)>);

/// The files of a directory, sorted by path, and those that could not be looked at.
#[derive(Debug)]
pub(super) struct Listing {
    dir: PathBuf,
    files: Vec<(PathBuf, Metadata)>,
    rejections: Vec<Rejection>,
}

/// What the files of a directory say.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) documents: Vec<Document>,
    pub(super) rejections: Vec<Rejection>,
    /// SHA-256, in hexadecimal digits, of the names and texts of all files that could be read.
    pub(super) digest: String,
}

impl Listing {
    /// Lists `*.yaml`, `*.yml` and `*.json` below `dir`; names that begin with a dot are skipped, links followed.
    ///
    /// Fails only if `dir` itself cannot be listed.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let mut listing = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
            rejections: Vec::new(),
        };
        let mut visited = HashSet::new();
        let top = fs::metadata(dir)?;
        visited.insert((top.dev(), top.ino()));
        let mut pending = vec![dir.to_owned()];
        let mut is_top = true;
        while let Some(dir) = pending.pop() {
            match listing.list(&dir, &mut visited) {
                Ok(below) => pending.extend(below),
                Err(error) if is_top => return Err(error),
                Err(error) => listing.rejections.push(unreadable(&dir, &error)),
            }
            is_top = false;
        }
        listing.files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let of_file = |(path, metadata): &(PathBuf, Metadata)| {
            let at = (metadata.mtime(), metadata.mtime_nsec());
            (path.clone(), metadata.ino(), metadata.size(), at.0, at.1)
        };
        Fingerprint(self.files.iter().map(of_file).collect())
    }

    /// Reads all files; a file that cannot be read is named and left out.
    pub(super) fn read(self) -> Contents {
        let mut documents = Vec::new();
        let mut rejections = self.rejections;
        let mut digest = Context::new(&SHA256);
        for (path, _) in &self.files {
            match read_file(path) {
                Ok(text) => {
                    let name = path.strip_prefix(&self.dir).unwrap_or(path);
                    // With the lengths no two directories are written alike.
                    for part in [name.as_os_str().as_encoded_bytes(), text.as_bytes()] {
                        digest.update(&part.len().to_le_bytes());
                        digest.update(part);
                    }
                    let is_json = path.extension().is_some_and(|extension| extension == "json");
                    let (found, wrong) = manifest::documents(&path.display().to_string(), &text, is_json);
                    documents.extend(found);
                    rejections.extend(wrong);
                }
                // Gone since it was listed: as if it had been deleted before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => rejections.push(unreadable(path, &error)),
            }
        }
        Contents {
            documents,
            rejections,
            digest: hexadecimal(digest.finish().as_ref()),
        }
    }

    /// Files the entries of one directory; returns the directories in it that were not visited yet.
    fn list(&mut self, dir: &Path, visited: &mut HashSet<(u64, u64)>) -> io::Result<Vec<PathBuf>> {
        let mut below = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
            {
                continue;
            }
            match fs::metadata(&path) {
                // Links may lead round in a circle.
                Ok(metadata) if metadata.is_dir() => {
                    if visited.insert((metadata.dev(), metadata.ino())) {
                        below.push(path);
                    }
                }
                // Opening a pipe or device could block or never end, so only plain files count.
                Ok(metadata) if metadata.is_file() && is_manifest(&path) => self.files.push((path, metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
                Err(error) if is_manifest(&path) => self.rejections.push(unreadable(&path, &error)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(below)
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than allowed, to tell a full file from one that is too large.
    let length = File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        return Ok(text);
    }
    let limit = MAX_FILE_BYTES / (1024 * 1024);
    Err(io::Error::other(format!(
        "the file is larger than {limit} MiB; split it"
    )))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16));
    bytes.iter().flat_map(digits).flatten().collect()
}

fn unreadable(path: &Path, error: &io::Error) -> Rejection {
    Rejection {
        origin: path.display().to_string(),
        object: "file".to_owned(),
        field: String::new(),
        reason: format!("cannot be read: {error}"),
    }
}

/// The memory that a file takes while it is parsed is a multiple of its size.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lists_manifests_below_the_directory_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("sub/deep")).unwrap();
        fs::create_dir_all(at("..2026_01_01")).unwrap();
        for name in [
            "a.yaml",
            "sub/b.yml",
            "sub/deep/c.json",
            "notes.txt",
            ".hidden.yaml",
            "..2026_01_01/d.yaml",
        ] {
            fs::write(at(name), "").unwrap();
        }
        // As kubelet mounts a ConfigMap.
        symlink("..2026_01_01", at("..data")).unwrap();
        symlink("..data/d.yaml", at("d.yaml")).unwrap();
        symlink("..", at("sub/round")).unwrap();
        let listing = Listing::of(dir.path()).unwrap();
        assert_eq!(listing.rejections, []);
        let names: Vec<_> = listing
            .files
            .iter()
            .map(|(path, _)| path.strip_prefix(dir.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a.yaml", "d.yaml", "sub/b.yml", "sub/deep/c.json"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("good.yaml"), "kind: A").unwrap();
        fs::write(dir.path().join("latin.yaml"), b"kind: \xff").unwrap();
        symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
        let large = File::create(dir.path().join("large.yaml")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        let Contents {
            documents,
            rejections,
            ..
        } = Listing::of(dir.path()).unwrap().read();
        assert_eq!(documents.len(), 1);
        let mut named: Vec<_> = rejections
            .iter()
            .map(|r| r.origin.rsplit('/').next().unwrap())
            .collect();
        named.sort_unstable();
        assert_eq!(named, ["dangling.yaml", "large.yaml", "latin.yaml"]);
    }

    #[test]
    fn the_digest_tells_directories_apart_by_names_and_texts_alone() {
        let digest = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(dir.path().join(name), text).unwrap();
            }
            Listing::of(dir.path()).unwrap().read().digest
        };
        let known = digest(&[("a.yaml", "kind: A"), ("b.yaml", "")]);
        assert_eq!(known, digest(&[("b.yaml", ""), ("a.yaml", "kind: A")]));
        assert_eq!(
            known,
            digest(&[("a.yaml", "kind: A"), ("b.yaml", ""), ("c.txt", "x")])
        );
        for other in [
            vec![("a.yaml", "kind: B"), ("b.yaml", "")],
            vec![("a.yaml", "kind: A"), ("c.yaml", "")],
            vec![("a.yaml", "kind: A")],
            vec![("a.yaml", "kind: "), ("b.yaml", "A")],
        ] {
            assert_ne!(known, digest(&other), "{other:?}");
        }
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Listing::of(&dir.path().join("none")).is_err());
    }
}
