//! Who lives in a pod: a process by which its network namespace is reached.
//!
//! Must not know: how the pod's group was found.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::kernel::error::KernelError;

/// A process of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inhabitant {
    pid: u32,
    group: PathBuf,
}

impl Inhabitant {
    /// A process of the pod, of its eldest container if that has one: the sandbox, whose namespace is the pod's. One
    /// that a container made for itself lies deeper.
    pub(super) fn of(pod: &Path) -> Result<Self, KernelError> {
        let mut level = vec![pod.to_owned()];
        for _ in 0..DEEPEST {
            let mut next = Vec::new();
            for group in &level {
                if let Some(pid) = processes(group)?.into_iter().min() {
                    return Ok(Self {
                        pid,
                        group: group.clone(),
                    });
                }
                next.extend(children(group)?);
            }
            // Times of two directories made within one tick are equal: their names decide, so that the choice is stable.
            next.sort();
            level = next.into_iter().map(|(_, _, group)| group).collect();
        }
        Err(KernelError::NoProcess(pod.to_owned()))
    }

    /// Where its network namespace is opened.
    pub(super) fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Whether it still is a process of the pod.
    pub(super) fn is_of(&self, pod: &Path) -> bool {
        self.group.starts_with(pod) && processes(&self.group).is_ok_and(|pids| pids.contains(&self.pid))
    }
}

/// The processes in a group; none in one that is gone. Those of other process namespaces are 0 and of no use.
fn processes(group: &Path) -> Result<Vec<u32>, KernelError> {
    let path = group.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        // ENODEV: the group went after it was opened. EOPNOTSUPP: a threaded group, whose processes stand above it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {
            return Ok(Vec::new());
        }
        text => text.map_err(|source| KernelError::Open { path, source })?,
    };
    let pids = text.lines().filter_map(|line| line.trim().parse().ok());
    Ok(pids.filter(|pid| *pid != 0).collect())
}

type Child = (SystemTime, u64, PathBuf);

/// The groups in a group, by when they were made.
fn children(group: &Path) -> Result<Vec<Child>, KernelError> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| KernelError::Open {
            path: group.to_owned(),
            source,
        })?,
    };
    let child = |entry: fs::DirEntry| {
        let found = entry.metadata().ok().filter(fs::Metadata::is_dir)?;
        Some((made(&found), found.ino(), entry.path()))
    };
    Ok(entries.filter_map(|entry| child(entry.ok()?)).collect())
}

/// cgroup v2 keeps no time of birth; processes that come and go leave that of modification alone.
fn made(found: &fs::Metadata) -> SystemTime {
    found.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The pod's group, its containers' and two of theirs: an init system in a container keeps its processes there.
const DEEPEST: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn group(pod: &Path, name: &str, pids: &str) -> PathBuf {
        let group = pod.join(name);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), pids).unwrap();
        group
    }

    #[test]
    fn a_process_of_the_outermost_group_that_has_any_is_taken() {
        for (groups, pid) in [
            (&[("sandbox", "12\n")][..], Some(12)),
            (&[("sandbox", "")], None),
            (&[("sandbox", "0\n")], None),
            (&[("sandbox", "31\n30\n")], Some(30)),
            (&[("sandbox", ""), ("app", "40\n")], Some(40)),
            (
                &[("app", ""), ("app/init.scope", "41\n"), ("app/deep/er", "9\n")],
                Some(41),
            ),
            (&[("app/inner", "5\n"), ("sandbox", "50\n")], Some(50)),
            (&[("a/b/c/d", "7\n")], None),
        ] {
            let pod = tempfile::tempdir().unwrap();
            for (name, pids) in groups {
                group(pod.path(), name, pids);
            }
            let found = Inhabitant::of(pod.path());
            match pid {
                Some(pid) => assert_eq!(found.unwrap().pid, pid, "{groups:?}"),
                None => assert!(matches!(found, Err(KernelError::NoProcess(_))), "{groups:?}"),
            }
        }
    }

    #[test]
    fn a_process_that_left_the_pod_is_none_of_it() {
        let pod = tempfile::tempdir().unwrap();
        let sandbox = group(pod.path(), "sandbox", "12\n");
        let found = Inhabitant::of(pod.path()).unwrap();
        assert!(found.is_of(pod.path()));
        assert!(!found.is_of(Path::new("/another")));
        fs::write(sandbox.join("cgroup.procs"), "13\n").unwrap();
        assert!(!found.is_of(pod.path()));
    }

    #[test]
    fn a_pod_that_is_gone_has_nobody() {
        let pod = tempfile::tempdir().unwrap();
        let gone = pod.path().join("gone");
        assert!(matches!(Inhabitant::of(&gone), Err(KernelError::NoProcess(_))));
    }
}
