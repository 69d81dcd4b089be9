//! The file system of a node: the machine's, with `/etc`, `/opt`, `/run`, `/var` and `/sys/fs/bpf` of its own.
//!
//! Whatever a DaemonSet writes there by `hostPath` touches neither the machine nor another node. It must not know what
//! runs in it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::settings;

/// The plugins that give pods their network.
pub(super) const CNI_PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// What the file system is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct House<'h> {
    /// The directory of this machine that has what is the node's own.
    pub(super) own: &'h Path,
    /// Programs, seen as `/opt/kubernetes`.
    pub(super) programs: &'h Path,
    /// Packed images, seen as `/opt/images`.
    pub(super) images: &'h Path,
}

impl House<'_> {
    /// Makes the directories and files that the node sees in place of the machine's.
    pub(super) fn furnish(self) -> Result<()> {
        for dir in DIRS {
            let dir = self.own.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        std::os::unix::fs::symlink("/run", self.own.join("var/run")).context("link /var/run")?;
        for plugin in CNI_PLUGINS {
            let to = self.own.join("opt/cni/bin").join(plugin);
            fs::copy(self.programs.join(plugin), &to)
                .with_context(|| format!("copy the CNI plugin {plugin}"))?;
        }
        for (number, (_, value)) in settings::KERNEL.iter().enumerate() {
            let shown = self.own.join("sysctl").join(number.to_string());
            fs::write(&shown, format!("{value}\n")).with_context(|| shown.display().to_string())?;
        }
        Ok(())
    }

    /// What a shell does in a mount and a host-name namespace of its own to live here; it stays to hold them.
    pub(super) fn script(self, hostname: &str) -> Result<String> {
        let own = self.own.display();
        // The machine's own host name must not be touched, whatever becomes of the lines before.
        let machine =
            fs::read_link("/proc/self/ns/uts").context("read this process's host-name namespace")?;
        let mut lines = vec![
            format!("mount --bind {} {own}/opt/kubernetes", self.programs.display()),
            format!("mount --bind {} {own}/opt/images", self.images.display()),
            format!(
                "mount -t overlay overlay -o lowerdir=/etc,upperdir={own}/etc,workdir={own}/etc-work /etc"
            ),
        ];
        for (number, (name, _)) in settings::KERNEL.iter().enumerate() {
            lines.push(format!("mount --bind {own}/sysctl/{number} /proc/sys/{name}"));
        }
        lines.extend([
            format!("mount --rbind {own}/opt /opt"),
            format!("mount --rbind {own}/var /var"),
            "mount -t bpf bpf /sys/fs/bpf".to_owned(),
            // After all that is below it on this machine.
            format!("mount --rbind {own}/run /run"),
            // What pods mount for their node is seen by the node.
            "mount --make-rshared /".to_owned(),
            format!(
                "[ \"$(readlink /proc/self/ns/uts)\" != \"{}\" ]",
                machine.display()
            ),
            format!("hostname {hostname}"),
            "exec sleep infinity".to_owned(),
        ]);
        Ok(lines.join("\n"))
    }
}

const DIRS: [&str; 12] = [
    "etc",
    "etc/kubernetes/manifests",
    "etc-work",
    "opt/kubernetes",
    "opt/images",
    "opt/cni/bin",
    "run/containerd",
    "run/netns",
    "var/lib",
    "var/log",
    "var/tmp",
    "sysctl",
];
