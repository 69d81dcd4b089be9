//! Where the maps and links of a node are pinned, so that they outlive the agent.
//!
//! `BPF-DIR/mesh/NODE/` holds `maps-VERSION/MAP` and `links/NETNS-COOKIE/PROGRAM`. Must not know: what a pin holds.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use mesh_common::layout::LAYOUT_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, fstatfs};

use crate::kernel::error::KernelError;
use crate::pod::netns::NetnsCookie;

/// The pins of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    mesh: PathBuf,
    node: PathBuf,
}

impl Pins {
    /// Where the pins of `node` are, whether there are any or not.
    pub fn at(bpf_dir: &Path, node: &str) -> Self {
        let mesh = bpf_dir.join("mesh");
        // A BPF file system takes no dots (kernel/bpf/inode.c, bpf_lookup); a node's name has no underscore.
        let node = mesh.join(node.replace(['.', '/'], "_"));
        Self { mesh, node }
    }

    /// Makes the directories, on a BPF file system that is mounted at `bpf_dir` when there is none.
    pub fn make(bpf_dir: &Path, node: &str) -> Result<Self, KernelError> {
        let pins = Self::at(bpf_dir, node);
        if !is_bpf_file_system(bpf_dir)? {
            mount(Some("bpf"), bpf_dir, Some("bpf"), MsFlags::empty(), None::<&str>)
                .map_err(|errno| failed("mount a BPF file system at", bpf_dir)(errno.into()))?;
            tracing::info!(at = %bpf_dir.display(), "mounted a BPF file system");
        }
        for dir in [pins.maps(), pins.links()] {
            fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        }
        Ok(pins)
    }

    /// Everything of this node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Maps of the layout that this agent speaks.
    pub fn maps(&self) -> PathBuf {
        self.node.join(format!("maps-{LAYOUT_VERSION}"))
    }

    /// Links, a directory for each pod.
    pub fn links(&self) -> PathBuf {
        self.node.join("links")
    }

    /// Links of one pod.
    pub fn links_of(&self, pod: NetnsCookie) -> PathBuf {
        self.links().join(pod.0.to_string())
    }

    /// Pods that have links here.
    pub fn pods(&self) -> Result<Vec<NetnsCookie>, KernelError> {
        let dirs = entries(&self.links())?;
        let names = dirs
            .iter()
            .filter_map(|dir| dir.file_name()?.to_str()?.parse().ok());
        Ok(names.map(NetnsCookie).collect())
    }

    /// Maps of every layout, by path.
    pub fn all_maps(&self) -> Result<Vec<PathBuf>, KernelError> {
        let mut maps = Vec::new();
        for dir in self.map_dirs()? {
            maps.extend(entries(&dir)?);
        }
        Ok(maps)
    }

    /// Removes the maps of every layout but this agent's, and says how many there were.
    pub fn remove_foreign_maps(&self) -> Result<usize, KernelError> {
        let own = self.maps();
        let mut removed = 0;
        for dir in self.map_dirs()?.into_iter().filter(|dir| *dir != own) {
            removed += remove_files(&dir)?;
            fs::remove_dir(&dir).map_err(failed("remove", &dir))?;
        }
        Ok(removed)
    }

    /// Removes the maps of this agent's layout.
    pub fn remove_own_maps(&self) -> Result<usize, KernelError> {
        remove_files(&self.maps())
    }

    /// Removes the empty directories of this node, and that of the mesh with the last of them.
    pub fn remove_dirs(&self) -> Result<(), KernelError> {
        let mut dirs = self.map_dirs()?;
        dirs.extend([self.links(), self.node.clone()]);
        for dir in dirs {
            remove_dir(&dir)?;
        }
        match remove_dir(&self.mesh) {
            // Another node's agent of this machine pins there, too.
            Err(KernelError::Pin { source, .. }) if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Ok(())
            }
            other => other,
        }
    }

    fn map_dirs(&self) -> Result<Vec<PathBuf>, KernelError> {
        let mut dirs = entries(&self.node)?;
        dirs.retain(|dir| {
            let name = dir.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("maps-"))
        });
        Ok(dirs)
    }
}

/// Removes a directory; one that is not there is as good as removed.
pub(in crate::kernel) fn remove_dir(dir: &Path) -> Result<(), KernelError> {
    absent_is_fine(fs::remove_dir(dir)).map_err(failed("remove", dir))
}

/// Removes a pin; one that is not there is as good as removed.
pub(in crate::kernel) fn remove_pin(path: &Path) -> Result<(), KernelError> {
    absent_is_fine(fs::remove_file(path)).map_err(failed("remove", path))
}

/// Names the pin in an error.
pub(in crate::kernel) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Pin {
        operation,
        path,
        source,
    }
}

/// What is in a directory, in order; nothing where there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed("list", dir))?,
    };
    let mut paths = listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed("list", dir))?;
    paths.sort();
    Ok(paths)
}

fn remove_files(dir: &Path) -> Result<usize, KernelError> {
    let files = entries(dir)?;
    for file in &files {
        remove_pin(file)?;
    }
    Ok(files.len())
}

fn is_bpf_file_system(dir: &Path) -> Result<bool, KernelError> {
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let dir_file = fs::File::open(dir).map_err(failed("open", dir))?;
    let found = fstatfs(dir_file.as_fd()).map_err(|errno| failed("look at", dir)(errno.into()))?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories of any file system do for everything but the pins themselves.
    fn made(dir: &Path) -> Pins {
        let pins = Pins::at(dir, "ip-10-0-0-1.example");
        for dir in [
            pins.maps(),
            pins.links_of(NetnsCookie(7)),
            pins.node().join("maps-0"),
        ] {
            fs::create_dir_all(&dir).unwrap();
        }
        for map in [pins.maps().join("PODS"), pins.node().join("maps-0/OLD")] {
            fs::write(map, "").unwrap();
        }
        pins
    }

    #[test]
    fn a_name_has_no_dot_and_no_way_out() {
        let pins = Pins::at(Path::new("/b"), "a.b/../c");
        assert_eq!(pins.node(), Path::new("/b/mesh/a_b____c"));
    }

    #[test]
    fn pods_and_maps_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let pins = made(dir.path());
        assert_eq!(pins.pods().unwrap(), [NetnsCookie(7)]);
        assert_eq!(pins.all_maps().unwrap().len(), 2);
        let none = Pins::at(dir.path(), "other");
        assert_eq!((none.pods().unwrap(), none.all_maps().unwrap()), (vec![], vec![]));
    }

    #[test]
    fn maps_of_another_layout_go_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pins = made(dir.path());
        assert_eq!(pins.remove_foreign_maps().unwrap(), 1);
        assert_eq!(pins.all_maps().unwrap(), [pins.maps().join("PODS")]);
    }

    #[test]
    fn directories_go_only_when_empty_and_the_neighbours_stay() {
        let dir = tempfile::tempdir().unwrap();
        let pins = made(dir.path());
        assert!(pins.remove_dirs().is_err());
        pins.remove_own_maps().unwrap();
        pins.remove_foreign_maps().unwrap();
        remove_dir(&pins.links_of(NetnsCookie(7))).unwrap();
        let neighbour = Pins::at(dir.path(), "neighbour");
        fs::create_dir_all(neighbour.links()).unwrap();
        pins.remove_dirs().unwrap();
        assert!(!pins.node().exists() && neighbour.links().exists());
        neighbour.remove_dirs().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
