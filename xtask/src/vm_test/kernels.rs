//! Debian kernels: which ones, and how they get onto this machine without its apt knowing.
//!
//! It must not change anything outside of Cargo's build directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell::{command, read, show};
use crate::workspace;

/// A line of Debian kernels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// What `--kernel` calls it.
    pub(crate) name: &'static str,
    /// The suite that has it.
    suite: &'static str,
    /// Whether the agent serves pods there; otherwise it refuses in one line.
    pub(crate) is_served: bool,
}

/// Every line, oldest first. Debian never had 5.15 to 5.17 in a release: kernels that the mesh serves, but where a
/// refused connect cannot tell why.
pub(crate) const LINES: &[Line] = &[
    Line {
        name: "5.10",
        suite: "bullseye",
        is_served: false,
    },
    Line {
        name: "6.1",
        suite: "bookworm",
        is_served: true,
    },
    Line {
        name: "6.12",
        suite: "trixie",
        is_served: true,
    },
    Line {
        name: "newest",
        suite: "sid",
        is_served: true,
    },
];

/// A kernel on this machine.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says.
    pub(crate) release: String,
    /// The Debian package's version.
    pub(crate) version: String,
    /// The compressed kernel.
    pub(crate) image: PathBuf,
    /// The modules that are asked for and all that they need, in the order in which they are loaded.
    pub(crate) modules: Vec<PathBuf>,
}

/// Takes the newest kernel of a line from Debian's mirror, unless it is there already.
pub(crate) fn fetch(line: &Line) -> Result<Kernel> {
    let apt = Apt::of(line.suite)?;
    show(apt.get(&["update"]).env("LC_ALL", "C"), LIMIT)?;
    let meta = apt.show(META)?;
    let package = named(&meta, "Depends", "linux-image-")?;
    let version = field(&meta, "Version")
        .context("a package without a version")?
        .to_owned();
    let release = package
        .strip_prefix("linux-image-")
        .context("a kernel has another name")?
        .to_owned();
    let root = apt.dir.join(format!("{release}_{version}"));
    if !root.exists() {
        apt.unpack(&package, &root)?;
    }
    let in_modules = root.join("usr/lib/modules").join(&release).join("vmlinuz");
    let in_boot = root.join("boot").join(format!("vmlinuz-{release}"));
    let image = [in_boot, in_modules].into_iter().find(|file| file.is_file());
    let image = image.with_context(|| format!("there is no kernel in {package}"))?;
    Ok(Kernel {
        modules: modules(&root, &release)?,
        release,
        version,
        image,
    })
}

/// An apt of its own for one suite: it shares nothing with the machine's but the keys.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn of(suite: &str) -> Result<Self> {
        let dir = workspace::target().join("vm").join(suite);
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "etc/preferences.d",
            "etc/apt.conf.d",
        ] {
            fs::create_dir_all(dir.join(part)).with_context(|| dir.display().to_string())?;
        }
        let sources = format!("deb [arch=amd64 signed-by={KEYS}] {MIRROR} {suite} main\n");
        fs::write(dir.join("etc/sources.list"), sources).context("write sources.list")?;
        fs::write(dir.join("status"), "").context("write an empty status")?;
        Ok(Self { dir })
    }

    fn get(&self, args: &[&str]) -> Command {
        let mut apt = command("apt-get", &["--quiet", "--quiet"]);
        apt.args(self.options()).args(args);
        apt
    }

    /// The newest version's description.
    fn show(&self, package: &str) -> Result<String> {
        let mut apt = command("apt-cache", &["show", "--no-all-versions", package]);
        read(apt.args(self.options()), LIMIT)
    }

    fn options(&self) -> Vec<String> {
        let dir = self.dir.display();
        vec![
            format!("--option=Dir::Etc={dir}/etc"),
            format!("--option=Dir::State={dir}"),
            format!("--option=Dir::State::lists={dir}/lists"),
            format!("--option=Dir::State::status={dir}/status"),
            format!("--option=Dir::Cache={dir}/cache"),
            "--option=APT::Architecture=amd64".to_owned(),
        ]
    }

    /// Downloads the kernel, and the packages that newer ones are split into, and unpacks them.
    fn unpack(&self, package: &str, root: &Path) -> Result<()> {
        let image = self.show(package)?;
        let mut packages = vec![package.to_owned()];
        packages.extend(
            PARTS
                .iter()
                .filter_map(|part| named(&image, "Depends", part).ok()),
        );
        let staging = self.dir.join("staging");
        if staging.exists() {
            fs::remove_dir_all(&staging).context("remove what an earlier attempt left")?;
        }
        fs::create_dir_all(&staging).context("make a folder to unpack in")?;
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        let mut download = self.get(&["download"]);
        // As root, apt downloads as another user, who may not write here.
        download.args(&names).arg("--option=APT::Sandbox::User=root");
        show(download.current_dir(&staging), LIMIT)?;
        for entry in fs::read_dir(&staging).context("list the packages")? {
            let deb = entry.context("list the packages")?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                let deb = deb.display().to_string();
                show(command("dpkg-deb", &["--extract", &deb]).arg(&staging), LIMIT)?;
                fs::remove_file(&deb).with_context(|| deb.clone())?;
            }
        }
        // The name appears when all is there.
        fs::rename(&staging, root).context("name what was unpacked")
    }
}

/// The modules that a guest needs, with what they depend on; what is built in needs no file.
fn modules(root: &Path, release: &str) -> Result<Vec<PathBuf>> {
    // Where /lib and /usr/lib are one, Debian puts them into the latter.
    let usr = root.join("usr");
    let base = if usr.join("lib/modules").is_dir() {
        &usr
    } else {
        root
    };
    let base_text = base.display().to_string();
    show(&mut command("depmod", &["--basedir", &base_text, release]), LIMIT)?;
    let args = [
        "--dirname",
        &base_text,
        "--set-version",
        release,
        "--show-depends",
        "--all",
    ];
    let listed = read(command("modprobe", &args).args(MODULES), LIMIT)?;
    let mut files: Vec<PathBuf> = Vec::new();
    for line in listed.lines() {
        let file = line
            .strip_prefix("insmod ")
            .map(|file| PathBuf::from(file.trim()));
        files.extend(file.filter(|file| !files.contains(file)));
    }
    Ok(files)
}

/// The first package in a field of a package's description whose name begins so.
fn named(description: &str, name: &str, prefix: &str) -> Result<String> {
    let list = field(description, name).with_context(|| format!("no {name}"))?;
    let found = list
        .split(',')
        .map(str::trim)
        .find(|package| package.starts_with(prefix));
    let package = found.and_then(|package| package.split_whitespace().next());
    package
        .map(str::to_owned)
        .with_context(|| format!("no {prefix} in {list}"))
}

fn field<'d>(description: &'d str, name: &str) -> Option<&'d str> {
    let line = description.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(": ")
}

/// The flavour for virtual machines: the same kernel with few drivers.
const META: &str = "linux-image-cloud-amd64";
/// Since 7.0 a kernel comes in parts, and lies with its modules.
const PARTS: &[&str] = &["linux-binary-", "linux-modules-"];
/// What the lab needs and Debian does not build in.
const MODULES: &[&str] = &["veth", "inet_diag", "tcp_diag"];
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIMIT: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_kernel_behind_a_meta_package() {
        let meta = "Package: linux-image-cloud-amd64\nVersion: 7.2.13-1\n\
                    Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        let image = named(meta, "Depends", "linux-image-").unwrap();
        assert_eq!(image, "linux-image-7.2.13+deb14-cloud-amd64");
        assert_eq!(field(meta, "Version"), Some("7.2.13-1"));
        assert!(named(meta, "Depends", "linux-modules-").is_err());
        assert!(named(meta, "Recommends", "linux-image-").is_err());
    }
}
