//! Cgroup v2: one subtree a lab, one group a pod, one for each agent.
//!
//! The mesh attaches its programs to these groups; here they are only made, filled and removed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or elsewhere on hosts that keep v1 too.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    find_cgroup2(&mounts)
        .context("no cgroup v2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// Makes a group and all above it.
pub fn create(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("make cgroup {}", group.display()))
}

/// Processes in a group and in all below it.
pub fn processes(group: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for group in subtree(group)? {
        match fs::read_to_string(group.join("cgroup.procs")) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("read processes of {}", group.display()));
            }
        }
    }
    Ok(found)
}

/// Ends every process in a group and below. Only the lab puts processes there, so none is ever mistaken.
pub fn kill(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    // Again and again: a program that was just being started may join its group after the first time.
    let gone = process::wait_until(Duration::from_secs(10), || {
        if processes(group)?.is_empty() {
            return Ok(Some(()));
        }
        fs::write(group.join("cgroup.kill"), "1")
            .with_context(|| format!("end the processes of {}", group.display()))?;
        Ok(None)
    })?;
    if gone.is_none() {
        bail!(
            "processes {:?} of {} do not end",
            processes(group)?,
            group.display()
        );
    }
    Ok(())
}

/// Removes a group and all below it; there must be no process left in them.
pub fn remove(group: &Path) -> Result<()> {
    for group in subtree(group)?.iter().rev() {
        let removed = process::wait_until(Duration::from_secs(5), || match fs::remove_dir(group) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(error).with_context(|| format!("remove cgroup {}", group.display())),
        })?;
        if removed.is_none() {
            bail!("cgroup {} stays busy", group.display());
        }
    }
    Ok(())
}

/// The group and all below it, parents first.
fn subtree(group: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![group.to_owned()];
    let mut next = 0;
    while let Some(group) = found.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("list cgroup {}", group.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("list cgroup {}", group.display()))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_a_hybrid_host() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            find_cgroup2(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
    }

    #[test]
    fn finds_none_where_only_v1_is_mounted() {
        assert_eq!(
            find_cgroup2("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"),
            None
        );
    }
}
