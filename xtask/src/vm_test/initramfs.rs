//! The root file system of a guest: files of this machine, packed as the kernel unpacks them.
//!
//! It must not know what a guest does with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::shell::{command, read};

/// Files by their path in the guest.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    files: BTreeMap<PathBuf, File>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    /// Of the source: Python takes a compiled file only if it is of the source's time.
    modified: u32,
    mode: u32,
}

impl Initramfs {
    /// An empty directory, to mount something on.
    pub(crate) fn dir(&mut self, path: &str) {
        self.dirs.insert(PathBuf::from(path));
    }

    /// A file with these bytes.
    pub(crate) fn text(&mut self, path: &str, text: &str, mode: u32) {
        let bytes = text.as_bytes().to_vec();
        self.put(
            Path::new(path),
            File {
                bytes,
                modified: 0,
                mode,
            },
        );
    }

    /// A copy of a file of this machine.
    pub(crate) fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        let facts = fs::metadata(from).with_context(|| from.display().to_string())?;
        let modified = u32::try_from(facts.mtime()).unwrap_or_default();
        self.put(
            to,
            File {
                bytes,
                modified,
                mode: facts.mode() & 0o777,
            },
        );
        Ok(())
    }

    /// A copy of a program or shared object, with every library that it is linked to, each at its own place.
    pub(crate) fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.copy(from, to)?;
        let path = from.display().to_string();
        let listed = read(&mut command("ldd", &[&path]), LIMIT)?;
        ensure!(!listed.contains("not found"), "{path} lacks a library:\n{listed}");
        for library in libraries(&listed) {
            if !self.files.contains_key(&library) {
                self.copy(&library, &library)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &Path, file: File) {
        let parents = path.ancestors().skip(1);
        self.dirs.extend(parents.map(Path::to_path_buf));
        self.files.insert(path.to_path_buf(), file);
    }

    /// Writes the archive, in the format "newc" of Documentation/driver-api/early-userspace/buffer-format.rst.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<()> {
        let mut number = 0;
        let dirs = self.dirs.iter().filter(|dir| dir.parent().is_some());
        for dir in dirs {
            number += 1;
            entry(out, number, dir, (S_IFDIR | 0o755, 0), &[])?;
        }
        for (path, file) in &self.files {
            number += 1;
            entry(
                out,
                number,
                path,
                (S_IFREG | file.mode, file.modified),
                &file.bytes,
            )?;
        }
        entry(out, 0, Path::new("TRAILER!!!"), (0, 0), &[])?;
        Ok(())
    }
}

/// Absolute paths in what `ldd` says: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let words = listed.lines().filter_map(|line| {
        let place = line.rsplit("=>").next()?.trim();
        place.split_whitespace().next()
    });
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn entry(
    out: &mut impl Write,
    number: u32,
    path: &Path,
    (mode, modified): (u32, u32),
    bytes: &[u8],
) -> io::Result<()> {
    let name = path.strip_prefix("/").unwrap_or(path).display().to_string();
    let too_large = |_| io::Error::other("too large for a cpio archive");
    let size = u32::try_from(bytes.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    // Inode, mode, user, group, links, time, size, four device numbers, length of the name, checksum.
    let fields = [number, mode, 0, 0, 1, modified, size, 0, 0, 0, 0, name_size, 0];
    let fields: String = fields.into_iter().map(hex).collect();
    let head = format!("070701{fields}{name}\0");
    out.write_all(head.as_bytes())?;
    pad(out, head.len())?;
    out.write_all(bytes)?;
    pad(out, bytes.len())
}

fn hex(field: u32) -> String {
    format!("{field:08x}")
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    let zeros = [0; 4];
    out.write_all(
        zeros
            .get(..written.next_multiple_of(4) - written)
            .unwrap_or_default(),
    )
}

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_directories_before_files_and_ends_with_its_trailer() {
        let mut tree = Initramfs::default();
        tree.text("/a/b", "hello", 0o755);
        tree.dir("/proc");
        let mut archive = Vec::new();
        tree.write(&mut archive).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8(archive).unwrap();
        let heads: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        let names: Vec<&str> = heads
            .iter()
            .map(|at| text[at + 110..].split('\0').next().unwrap())
            .collect();
        assert_eq!(names, ["a", "proc", "a/b", "TRAILER!!!"]);
        assert!(heads.iter().all(|at| at % 4 == 0), "{heads:?}");
        let file = heads[2];
        assert_eq!(&text[file + 14..file + 22], "000081ed", "a regular file, 0755");
        assert_eq!(&text[file + 54..file + 62], "00000005", "its size");
        // Head of 110 and four bytes of name make 114, and two of padding.
        assert_eq!(&text[file + 116..file + 121], "hello");
    }

    #[test]
    fn reads_what_ldd_says() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let paths = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(listed), paths);
    }
}
