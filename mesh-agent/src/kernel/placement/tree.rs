//! The tree of kubelet's cgroups: `kubepods`, below it a group for each quality of service, and a group for each pod.
//!
//! Must not know: processes, namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::kernel::error::KernelError;

/// What was seen of it the last time.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Pods' groups by uid, as kubelet's cgroup drivers write it.
    pods: BTreeMap<String, PathBuf>,
}

impl Tree {
    /// Nothing is looked at before somebody asks.
    pub(super) fn below(root: PathBuf) -> Self {
        Self {
            root,
            pods: BTreeMap::new(),
        }
    }

    /// The group of a pod. Lists the tree where it is not known, or not there any more.
    pub(super) fn find(&mut self, uid: &str) -> Result<PathBuf, KernelError> {
        if let Some(known) = self.pods.get(uid).filter(|known| known.is_dir()) {
            return Ok(known.clone());
        }
        self.pods.clear();
        let mut found = BTreeMap::new();
        search(&self.root, 0, &mut found).map_err(|(path, source)| KernelError::Open { path, source })?;
        self.pods = found;
        self.pods.get(uid).cloned().ok_or_else(|| KernelError::NoCgroup {
            uid: uid.to_owned(),
            root: self.root.clone(),
        })
    }
}

type Failure = (PathBuf, io::Error);

/// Looks for `kubepods`, whatever stands above it: kubelet's `--cgroup-root` puts it deeper.
fn search(group: &Path, depth: usize, pods: &mut BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    for (name, path) in groups(group)? {
        if is_kubepods(&name) {
            collect(&path, 0, pods)?;
        } else if depth < DEEPEST_ROOT {
            search(&path, depth + 1, pods)?;
        }
    }
    Ok(())
}

/// Pods of guaranteed quality stand beside the groups of the other two.
fn collect(group: &Path, depth: usize, pods: &mut BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    for (name, path) in groups(group)? {
        if let Some(uid) = uid_in(&name) {
            pods.insert(uid, path);
        } else if depth == 0 && is_quality(&name) {
            collect(&path, depth + 1, pods)?;
        }
    }
    Ok(())
}

/// The groups in a group; none in one that is gone.
fn groups(group: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| (group.to_owned(), error))?,
    };
    let mut groups = Vec::new();
    for entry in entries {
        // A group may go while its parent is listed.
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            groups.extend(
                entry
                    .file_name()
                    .into_string()
                    .ok()
                    .map(|name| (name, entry.path())),
            );
        }
    }
    Ok(groups)
}

/// With the driver `cgroupfs` and with `systemd`, where a slice has the names of those above it in its own.
fn is_kubepods(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

fn is_quality(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let quality = name.rsplit_once('-').map_or(name, |(_, quality)| quality);
    matches!(quality, "besteffort" | "burstable")
}

/// The uid in `podUID` or `...-podUID.slice`, where systemd has `_` for `-`.
fn uid_in(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let is_uid = !uid.is_empty()
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_uid.then_some(uid)
}

/// Levels between the root of cgroup v2 and what holds `kubepods`: `kubelet.slice/kubelet-NODE.slice` and a container's
/// own group above it, in which whole nodes run.
const DEEPEST_ROOT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups_tell_the_pods_uid() {
        for (name, uid) in [
            ("pod6f1e-4c", Some("6f1e-4c")),
            ("kubepods-pod6f1e_4c.slice", Some("6f1e-4c")),
            ("kubepods-besteffort-pod6f1e_4c.slice", Some("6f1e-4c")),
            ("kubelet-kubepods-burstable-pod6f1e_4c.slice", Some("6f1e-4c")),
            ("pod", None),
            ("pod..", None),
            ("kubepods-besteffort.slice", None),
            ("kubepods-pod.slice", None),
            ("besteffort", None),
            ("cri-containerd-6f1e.scope", None),
        ] {
            assert_eq!(uid_in(name).as_deref(), uid, "{name}");
        }
    }

    #[test]
    fn a_pod_is_found_in_each_layout_and_below_any_prefix() {
        for layout in [
            "kubepods/podUID",
            "kubepods/besteffort/podUID",
            "kubepods/burstable/podUID",
            "kubepods.slice/kubepods-podUID.slice",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID.slice",
            "kubelet/kubepods/besteffort/podUID",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podUID.slice",
            "system.slice/docker-1.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID.slice",
        ] {
            let root = tempfile::tempdir().unwrap();
            let uid = "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b3";
            let written = if layout.contains(".slice") {
                uid.replace('-', "_")
            } else {
                uid.to_owned()
            };
            let group = root.path().join(layout.replace("UID", &written));
            fs::create_dir_all(group.join("container")).unwrap();
            let mut tree = Tree::below(root.path().to_owned());
            assert_eq!(tree.find(uid).unwrap(), group, "{layout}");
        }
    }

    #[test]
    fn what_is_no_pods_group_is_no_pod() {
        let root = tempfile::tempdir().unwrap();
        for group in [
            "poda",
            "system.slice/podb",
            "kubepods/besteffort/podc/podd",
            "kubepods/odd/pode",
        ] {
            fs::create_dir_all(root.path().join(group)).unwrap();
        }
        let mut tree = Tree::below(root.path().to_owned());
        assert!(tree.find("c").is_ok());
        for uid in ["a", "b", "d", "e"] {
            let error = tree.find(uid).unwrap_err();
            assert!(matches!(error, KernelError::NoCgroup { .. }), "{uid}: {error}");
        }
    }

    #[test]
    fn a_pod_that_comes_later_is_found_and_one_that_went_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (
            root.path().join("kubepods/poda"),
            root.path().join("kubepods/podb"),
        );
        fs::create_dir_all(&a).unwrap();
        let mut tree = Tree::below(root.path().to_owned());
        assert!(tree.find("a").is_ok());
        fs::create_dir_all(&b).unwrap();
        assert_eq!(tree.find("b").unwrap(), b);
        fs::remove_dir(&a).unwrap();
        assert!(tree.find("a").is_err());
    }

    #[test]
    fn the_tree_is_not_listed_for_a_pod_that_is_known() {
        let root = tempfile::tempdir().unwrap();
        let a = root.path().join("kubepods/poda");
        fs::create_dir_all(&a).unwrap();
        let mut tree = Tree::below(root.path().to_owned());
        tree.find("a").unwrap();
        fs::create_dir_all(root.path().join("kubepods/podb")).unwrap();
        tree.find("a").unwrap();
        assert_eq!(tree.pods.len(), 1);
    }

    #[test]
    fn a_root_that_is_not_there_is_a_pod_that_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::below(root.path().join("absent"));
        assert!(matches!(tree.find("a"), Err(KernelError::NoCgroup { .. })));
    }
}
