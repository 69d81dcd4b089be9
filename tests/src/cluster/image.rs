//! Container images made by hand from files of this machine; nothing is pulled.
//!
//! It must not know how they are archived (`archive.rs`), what the programs in them do, nor which cluster imports them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// The kind of machine that an image's programs run on. The operating system is Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    /// `linux/amd64`.
    Amd64,
    /// `linux/arm64`.
    Arm64,
}

impl Platform {
    /// All that the agent is built for.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// That of this machine.
    ///
    /// Errors: the agent is not built for such machines.
    pub fn here() -> Result<Self> {
        let here = Self::ALL
            .into_iter()
            .find(|platform| platform.machine() == std::env::consts::ARCH);
        here.with_context(|| format!("images of {} are not made", std::env::consts::ARCH))
    }

    /// What images call the architecture.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What compilers and kernels call it.
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

impl std::str::FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |platform: &Self| text.strip_prefix("linux/") == Some(platform.architecture());
        let found = Self::ALL.into_iter().find(known);
        found.ok_or_else(|| format!("{text} is neither linux/amd64 nor linux/arm64"))
    }
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name with registry and tag, such as `localhost/mesh-agent:dev`.
    pub name: String,
    /// What its programs run on.
    pub platform: Platform,
    /// Empty directories, by where they are in the image.
    pub dirs: Vec<String>,
    /// Files of this machine, and where they are in the image. Everybody may read, and execute what is executable here; owners are root.
    pub files: Vec<(PathBuf, String)>,
    /// Directories of this machine with all that is in them, and where they are in the image.
    pub trees: Vec<(PathBuf, String)>,
    /// Symbolic links, as where they are in the image and what they name.
    pub links: Vec<(String, String)>,
    /// The program that a container starts, and its first arguments.
    pub entrypoint: Vec<String>,
    /// Variables of the environment, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// Whom a container runs as, as `UID:GID`; root where it is empty.
    pub user: String,
    /// What is said of the image, by key.
    pub labels: BTreeMap<String, String>,
    /// When it was made, and what all its files are dated, in seconds since 1970.
    pub created: u64,
    /// Whether layers are compressed, as registries keep them. What a cluster of this machine imports is not: that would only take time.
    pub is_compressed: bool,
}

impl Image {
    /// An image for this machine with an empty `/tmp`, whose containers start `entrypoint` as root.
    pub fn new(name: &str, entrypoint: &[&str]) -> Result<Self> {
        Ok(Self {
            dirs: vec!["/tmp".to_owned()],
            ..Self::empty(name, Platform::here()?, entrypoint)
        })
    }

    /// An image with nothing in it, whose containers start `entrypoint` as root.
    pub fn empty(name: &str, platform: Platform, entrypoint: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            platform,
            dirs: Vec::new(),
            files: Vec::new(),
            trees: Vec::new(),
            links: Vec::new(),
            entrypoint: entrypoint.iter().copied().map(str::to_owned).collect(),
            env: Vec::new(),
            user: String::new(),
            labels: BTreeMap::new(),
            created: 0,
            is_compressed: false,
        }
    }

    /// Adds a file.
    #[must_use]
    pub fn with(mut self, file: &Path, at: &str) -> Self {
        self.files.push((file.to_owned(), at.to_owned()));
        self
    }

    /// Adds a directory with all that is in it.
    #[must_use]
    pub fn with_tree(mut self, dir: &Path, at: &str) -> Self {
        self.trees.push((dir.to_owned(), at.to_owned()));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, at: &str, target: &str) -> Self {
        self.links.push((at.to_owned(), target.to_owned()));
        self
    }

    /// Adds a program and the shared libraries that it loads, each where the loader looks for it.
    pub fn with_program(mut self, program: &Path, at: &str) -> Result<Self> {
        for library in libraries(program)? {
            let at = library.display().to_string();
            self = self.with(&library, &at);
        }
        Ok(self.with(program, at))
    }

    /// Lays out the image's files below `root`, which is made.
    pub(super) fn lay_out(&self, root: &Path) -> Result<()> {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        for dir in &self.dirs {
            let to = inside(root, dir)?;
            fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
        }
        for (file, at) in &self.files {
            let to = inside(root, at)?;
            fs::copy(file, &to).with_context(|| format!("copy {} to {}", file.display(), to.display()))?;
        }
        for (dir, at) in &self.trees {
            let mut copy = Command::new("cp");
            copy.args(["--archive", "--no-target-directory"])
                .arg(dir)
                .arg(inside(root, at)?);
            process::run(&mut copy, LIMIT)?.success()?;
        }
        for (at, target) in &self.links {
            let to = inside(root, at)?;
            std::os::unix::fs::symlink(target, &to).with_context(|| format!("link {}", to.display()))?;
        }
        Ok(())
    }
}

/// The shared libraries that a program of this machine loads, its loader too; none of a static one.
pub fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = process::run(Command::new("ldd").arg(program), LIMIT)?;
    if !output.is_success() {
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            said.contains("not a dynamic executable"),
            "ldd {}: {}",
            program.display(),
            said.trim()
        );
        return Ok(BTreeSet::new());
    }
    libraries_in(&output.stdout).with_context(|| format!("ldd {}", program.display()))
}

/// Each line is `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)`, or names what the kernel provides.
fn libraries_in(said: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in said.lines() {
        ensure!(!line.contains("not found"), "a library is missing:{line}");
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
}

/// Where `at` is below `root`, with the directories above it made.
fn inside(root: &Path, at: &str) -> Result<PathBuf> {
    let within = at.trim_start_matches('/');
    if within.split('/').any(|part| part == "..") {
        bail!("{at} leads out of the image");
    }
    let to = root.join(within);
    let dir = to.parent().context("a file in an image has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(to)
}

const LIMIT: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_libraries_and_the_loader_but_not_what_the_kernel_provides() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries_in(said).unwrap().into_iter().collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = libraries_in("\tlibssl.so.3 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libssl.so.3"), "{error}");
    }

    #[test]
    fn a_platform_is_what_builders_call_it() {
        assert_eq!("linux/arm64".parse(), Ok(Platform::Arm64));
        assert_eq!("linux/amd64".parse(), Ok(Platform::Amd64));
        for other in ["arm64", "linux/aarch64", "windows/amd64", "linux/riscv64", ""] {
            assert!(other.parse::<Platform>().is_err(), "{other}");
        }
    }
}
