//! Go: the one of this machine where it is new enough, else a toolchain as Go itself would fetch it, in the user's cache.
//!
//! It must not know what is built with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::apt;
use crate::shell::{command, find, read, show, step};
use crate::workspace;

/// Where the program `go` is; installs it where there is none, or one that is too old for the modules of this repository.
pub(crate) fn program() -> Result<PathBuf> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    for found in find("go").into_iter().chain(usual.is_file().then_some(usual)) {
        let said = read(&mut command(&found.display().to_string(), &["version"]), LIMIT)?;
        if version_in(&said).is_some_and(|version| version >= AT_LEAST) {
            return Ok(found);
        }
    }
    let dir = workspace::cache("go")?.join(VERSION);
    let program = dir.join("bin/go");
    if !program.exists() {
        step(&format!("{VERSION} into {}", dir.display()), || install(&dir))?;
    }
    Ok(program)
}

/// Fetches the toolchain as the module that it is published as, and does to it what Go does.
fn install(dir: &Path) -> Result<()> {
    apt::install(&["ca-certificates", "curl", "python3"])?;
    let (platform, sum) = match std::env::consts::ARCH {
        "aarch64" => ("linux-arm64", SUM_ARM64),
        _ => ("linux-amd64", SUM_AMD64),
    };
    // Beside, then renamed: an installation that was cut leaves nothing that looks whole.
    let aside = dir.with_extension(format!("part-{}", std::process::id()));
    fs::create_dir_all(&aside).with_context(|| format!("make {}", aside.display()))?;
    let (zip, unpacked) = (aside.join("go.zip"), aside.join("unpacked"));
    let (zip, unpacked) = (zip.display().to_string(), unpacked.display().to_string());
    let module = format!("toolchain@v0.0.1-{VERSION}.{platform}");
    let from = format!("{}/golang.org/{}.zip", proxy(), module.replace('@', "/@v/"));
    let quietly = ["--fail", "--silent", "--show-error", "--location", "--retry", "3"];
    show(command("curl", &quietly).args(["--output", &zip, &from]), LIMIT)?;
    let said = read(&mut command("sha256sum", &[&zip]), LIMIT)?;
    ensure!(
        said.starts_with(sum),
        "{from} is not what it was: its sum is {said}"
    );
    show(
        &mut command("python3", &["-m", "zipfile", "-e", &zip, &unpacked]),
        LIMIT,
    )?;
    let toolchain = aside.join("unpacked/golang.org").join(module);
    make_whole(&toolchain)?;
    // Who was first wins, and both fetched the same.
    if fs::rename(&toolchain, dir).is_err() {
        ensure!(
            dir.exists(),
            "cannot name {} {}",
            toolchain.display(),
            dir.display()
        );
    }
    fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))
}

/// Where modules come from: what Go would ask first.
fn proxy() -> String {
    let asked_for = std::env::var_os("GOPROXY").unwrap_or_default();
    let asked_for = asked_for.to_string_lossy();
    let mut hosts = asked_for.split([',', '|']);
    let host = hosts.find(|host| host.contains("://")).unwrap_or(PROXY);
    host.trim_end_matches('/').to_owned()
}

/// A module holds no other module, and nothing that may be run: hence `_go.mod`, and modes that have to be given.
fn make_whole(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        if path.is_dir() {
            make_whole(&path)?;
        } else if path.ends_with("_go.mod") {
            fs::copy(&path, path.with_file_name("go.mod")).with_context(|| path.display().to_string())?;
        } else if path
            .ancestors()
            .any(|dir| dir.ends_with("pkg/tool") || dir.ends_with("bin"))
        {
            fs::set_permissions(&path, Permissions::from_mode(0o755))
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The version in `go version go1.26.8 linux/amd64`; a candidate of a release is none.
fn version_in(said: &str) -> Option<[u32; 3]> {
    let version = said.strip_prefix("go version go")?.split_whitespace().next()?;
    let mut numbers = version.split('.').map(str::parse);
    let mut next = || numbers.next().transpose().ok();
    Some([next()??, next()??, next()?.unwrap_or_default()])
}

/// What `go.mod` of tests/programs asks for.
const AT_LEAST: [u32; 3] = [1, 26, 8];
const VERSION: &str = "go1.26.8";
const PROXY: &str = "https://proxy.golang.org";
const SUM_AMD64: &str = "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7";
const SUM_ARM64: &str = "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99";
/// Seventy megabytes come, and two hundred are written.
const LIMIT: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_of_go_and_takes_nothing_else_for_one() {
        assert_eq!(version_in("go version go1.26.8 linux/amd64\n"), Some([1, 26, 8]));
        assert_eq!(version_in("go version go1.27 linux/amd64"), Some([1, 27, 0]));
        assert_eq!(version_in("go version go1.27rc1 linux/amd64"), None);
        assert_eq!(version_in("go version devel go1.27-abc"), None);
        assert_eq!(version_in("go version go1"), None);
    }

    #[test]
    fn the_version_that_is_installed_is_the_one_that_is_asked_for() {
        let [major, minor, patch] = AT_LEAST;
        assert_eq!(VERSION, format!("go{major}.{minor}.{patch}"));
        let go_mod = fs::read_to_string(workspace::root().join("tests/programs/go.mod")).unwrap();
        assert!(go_mod.contains(&format!("\ngo {major}.{minor}.{patch}\n")));
    }
}
