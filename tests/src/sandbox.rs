//! Programs inside pods and nodes: in the right cgroup, network namespace and mount namespace before they begin.
//!
//! A pod has one holder process that keeps the namespaces in which its host name, `/etc/hosts` and `/etc/resolv.conf`
//! are its own. It must not know what the programs do.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent;
use crate::process::{self, ProcessId};
use crate::site::Site;

/// Where a program is to run.
#[derive(Debug, Clone)]
pub struct Place {
    /// The cgroup it is put into.
    pub cgroup: PathBuf,
    /// The network namespace that it enters.
    pub netns: PathBuf,
    /// The process whose mount and host-name namespaces it enters; none keeps the machine's.
    pub mounts_of: Option<ProcessId>,
    /// Its working directory.
    pub cwd: PathBuf,
}

impl Place {
    /// A command that joins this place and then becomes `program`.
    ///
    /// `ip netns exec` is not used: it mounts another `/sys`, which hides the cgroups.
    pub fn command(&self, program: &[String]) -> Result<Command> {
        let mut command = Command::new("/bin/sh");
        // Joins the cgroup while still outside of every namespace, where the path is known to be visible.
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        command.arg(self.cgroup.join("cgroup.procs"));
        command
            .arg("nsenter")
            .arg(format!("--net={}", self.netns.display()));
        if let Some(holder) = self.mounts_of {
            if !holder.is_alive() {
                bail!(
                    "the holder process of {} is gone: take the lab down and up again",
                    self.netns.display()
                );
            }
            command.arg(format!("--mount=/proc/{}/ns/mnt", holder.pid));
            command.arg(format!("--uts=/proc/{}/ns/uts", holder.pid));
            command.arg(format!("--wdns={}", self.cwd.display()));
        } else {
            command.current_dir(&self.cwd);
        }
        command.arg("--").args(program);
        Ok(command)
    }
}

/// Starts a program that outlives this command, with its output in files.
pub fn start(mut command: Command, stdout: &Path, stderr: &Path) -> Result<Child> {
    let open = |path: &Path| {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("open {}", path.display()))
    };
    command
        .stdin(Stdio::null())
        .stdout(open(stdout)?)
        .stderr(open(stderr)?)
        // Its own group: Ctrl-C in the terminal is for the lab, which then ends its programs in order.
        .process_group(0);
    command.spawn().with_context(|| format!("start {command:?}"))
}

/// Starts the holder process of a pod: it idles in the pod's cgroup and namespaces, with the pod's own host name and files.
pub fn hold(place: &Place, hostname: &str, hosts: &Path, resolv_conf: &Path, log: &Path) -> Result<Child> {
    let script = r#"
        mount --bind "$0" /etc/hosts || exit 1
        if [ -e /etc/resolv.conf ]; then mount --bind "$1" /etc/resolv.conf || exit 1; fi
        [ "$(readlink /proc/self/ns/uts)" != "$3" ] && hostname "$2" || exit 1
        exec sleep infinity"#;
    let program = [
        "unshare",
        "--mount",
        "--uts",
        "--propagation",
        "slave",
        "--",
        "/bin/sh",
        "-c",
        script,
    ];
    let mut program = program.map(str::to_owned).to_vec();
    program.extend([hosts, resolv_conf].map(|path| path.display().to_string()));
    program.push(hostname.to_owned());
    // The machine's own host name must not be touched, whatever becomes of the lines above.
    let machine = fs::read_link("/proc/self/ns/uts").context("read this process's host-name namespace")?;
    program.push(machine.display().to_string());
    let mut child = start(place.command(&program)?, log, log)?;
    match wait_until_held(place, &mut child, log) {
        Ok(()) => Ok(child),
        Err(error) => {
            process::reap(&mut child)?;
            Err(error)
        }
    }
}

/// The holder takes its last name only after all else is done.
pub(crate) fn wait_until_held(place: &Place, child: &mut Child, log: &Path) -> Result<()> {
    let comm = format!("/proc/{}/comm", child.id());
    let held = process::wait_until(Duration::from_secs(10), || {
        if let Some(status) = child.try_wait().context("wait for a holder process")? {
            bail!(
                "the holder process of {} ended with {status}:\n{}",
                place.netns.display(),
                agent::tail(log, 5)
            );
        }
        Ok(fs::read_to_string(&comm)
            .is_ok_and(|name| name.trim() == "sleep")
            .then_some(()))
    })?;
    held.with_context(|| {
        format!(
            "the holder process of {} did not get ready",
            place.netns.display()
        )
    })
}

/// True when something listens on a TCP port in the namespace of a process. Looks, does not connect.
pub fn listens(inside: ProcessId, port: u16) -> Result<bool> {
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{}/net/{table}", inside.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        if has_listener(&text, port) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_listener(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (
            fields.next().unwrap_or_default(),
            fields.nth(1).unwrap_or_default(),
        );
        // 0A is TCP_LISTEN.
        state == "0A" && local.ends_with(&suffix)
    })
}

/// The place of a tool that looks at a network namespace from outside of every pod.
pub fn observer(site: &Site, netns: &str) -> Place {
    Place {
        cgroup: site.observer_cgroup(),
        netns: Site::netns_path(netns),
        mounts_of: None,
        cwd: site.run_dir().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
        \x20  0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0 0 1\n\
        \x20  1: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0 0 2\n";

    #[test]
    fn sees_a_listener_by_its_port() {
        assert!(has_listener(TABLE, 8080));
        assert!(!has_listener(TABLE, 8081));
    }

    #[test]
    fn a_connection_is_no_listener() {
        assert!(!has_listener(TABLE, 80));
    }
}
