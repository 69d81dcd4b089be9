//! Container images packed by hand from files of this machine, as archives that containerd imports; nothing is pulled.
//!
//! It must not know what the programs in an image do, nor which cluster imports it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::process;

/// What an image is made of.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Its name with registry and tag, such as `localhost/mesh-agent:dev`.
    pub name: String,
    /// Files of this machine, and where they are in the image. Permissions are kept, owners are root.
    pub files: Vec<(PathBuf, String)>,
    /// Directories of this machine with all that is in them, and where they are in the image.
    pub trees: Vec<(PathBuf, String)>,
    /// Symbolic links, as where they are in the image and what they name.
    pub links: Vec<(String, String)>,
    /// The program that a container starts, and its first arguments.
    pub entrypoint: Vec<String>,
    /// Variables of the environment, as `NAME=VALUE`.
    pub env: Vec<String>,
}

impl Image {
    /// An image whose containers start `entrypoint`.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().copied().map(str::to_owned).collect(),
            ..Self::default()
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

    /// Writes the image to `archive`, in the format of `docker save`. `staging` is made and removed.
    pub fn pack(&self, archive: &Path, staging: &Path) -> Result<()> {
        if staging.exists() {
            fs::remove_dir_all(staging).with_context(|| format!("clear {}", staging.display()))?;
        }
        let root = staging.join("root");
        fs::create_dir_all(root.join("tmp")).with_context(|| format!("make {}", root.display()))?;
        for (file, at) in &self.files {
            let to = inside(&root, at)?;
            fs::copy(file, &to).with_context(|| format!("copy {} to {}", file.display(), to.display()))?;
        }
        for (dir, at) in &self.trees {
            let mut copy = Command::new("cp");
            copy.args(["--archive", "--no-target-directory"])
                .arg(dir)
                .arg(inside(&root, at)?);
            process::run(&mut copy, LIMIT)?.success()?;
        }
        for (at, target) in &self.links {
            let to = inside(&root, at)?;
            std::os::unix::fs::symlink(target, &to).with_context(|| format!("link {}", to.display()))?;
        }
        let layer = staging.join("layer.tar");
        tar(&layer, &root, ".")?;
        let config = json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Env": self.env },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
        });
        let manifest = json!([{ "Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"] }]);
        for (name, value) in [("config.json", config), ("manifest.json", manifest)] {
            fs::write(staging.join(name), value.to_string()).with_context(|| format!("write {name}"))?;
        }
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
        tar(archive, staging, ".")?;
        fs::remove_dir_all(staging).with_context(|| format!("remove {}", staging.display()))
    }
}

/// The shared libraries that a program loads, its loader too; none of a static one.
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
    let to = root.join(at.trim_start_matches('/'));
    let dir = to.parent().context("a file in an image has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(to)
}

/// The same bytes for the same files, whoever packs them and when.
fn tar(archive: &Path, dir: &Path, what: &str) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"])
        .arg("--numeric-owner")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(dir)
        .arg(what);
    process::run(&mut command, LIMIT)?.success().map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let output = process::run(Command::new("sha256sum").arg(file), LIMIT)?.success()?;
    let sum = output.stdout.split_whitespace().next();
    sum.map(str::to_owned).context("sha256sum says nothing")
}

/// What images call the architecture of this machine.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("images of {other} are not packed here"),
    }
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
}
