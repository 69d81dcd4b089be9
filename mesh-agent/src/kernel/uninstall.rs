//! Removes every link, map and pin of the mesh on a node, and asks the kernel whether they are gone.
//!
//! Must not know: who the agent is, whether it runs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapError, MapInfo, loaded_maps};
use aya::programs::links::LinkError;
use aya::programs::{ProgramError, loaded_links, loaded_programs};

use crate::kernel::error::{KernelError, spelled};
use crate::kernel::links::PodLinks;
use crate::kernel::pins::{Pins, remove_pin};
use crate::kernel::splice::{SWITCH, SpliceSwitch};

/// What was removed from a node, and what could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Pods that had links.
    pub pods: usize,
    /// Links.
    pub links: usize,
    /// Programs that the links held.
    pub programs: usize,
    /// Maps.
    pub maps: usize,
    /// Each thing that is still there, in words.
    pub left: Vec<String>,
}

/// Numbers of objects of this boot.
#[derive(Debug, Default)]
struct Known {
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

/// Removes everything that is pinned for `node` at `bpf_dir`, whoever uses it, and waits for the kernel to free it.
///
/// Goes on after an error, which is then among what is left.
pub fn uninstall(bpf_dir: &Path, node: &str) -> Result<Removed, KernelError> {
    let pins = Pins::at(bpf_dir, node);
    let mut known = Known::default();
    let mut left = Vec::new();
    let mut note =
        |outcome: Result<(), KernelError>| left.extend(outcome.err().map(|error| error.to_string()));
    let pods = pins.pods()?;
    for pod in &pods {
        let links = PodLinks::pinned(&pins.links_of(*pod))?;
        for facts in links.facts()? {
            known.links.extend(facts.id);
            known.programs.extend(facts.program);
        }
        note(links.remove());
    }
    let maps = pins.all_maps()?;
    // Connections that are spliced keep what splices until they end: from here on they take TCP.
    for switch in maps.iter().filter(|map| map.ends_with(SWITCH)) {
        note(SpliceSwitch::pinned(switch).and_then(|switch| switch.set(false)));
    }
    for map in maps {
        let info = MapInfo::from_pin(&map).map_err(|source| KernelError::Map {
            operation: "look at",
            map: "pinned",
            source,
        })?;
        known.maps.insert(info.id());
        note(remove_pin(&map));
    }
    note(known.add_users_of_maps());
    note(pins.remove_dirs());
    left.extend(known.still_there()?);
    Ok(Removed {
        pods: pods.len(),
        links: known.links.len(),
        programs: known.programs.len(),
        maps: known.maps.len(),
        left,
    })
}

impl Known {
    /// A program that uses one of the maps is the mesh's, too, though no link holds it.
    fn add_users_of_maps(&mut self) -> Result<(), KernelError> {
        for program in loaded_programs() {
            let used = match program {
                Ok(program) => program
                    .map_ids()
                    .map(|maps| (program.id(), maps.unwrap_or_default())),
                Err(error) => Err(error),
            };
            match used {
                Ok((id, maps)) if maps.iter().any(|map| self.maps.contains(map)) => {
                    self.programs.insert(id);
                }
                Ok(_) => {}
                Err(error) => unless_gone(error)?,
            }
        }
        Ok(())
    }

    /// What the kernel still has when it was given time: it frees programs and maps behind a grace period.
    fn still_there(&self) -> Result<Vec<String>, KernelError> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let left = self.look()?;
            if left.is_empty() || Instant::now() >= patience {
                return Ok(left);
            }
            thread::sleep(PAUSE);
        }
    }

    fn look(&self) -> Result<Vec<String>, KernelError> {
        let mut left = Vec::new();
        for link in loaded_links() {
            match link {
                Ok(link) if self.links.contains(&link.id()) => left.push(format!("link {}", link.id())),
                Ok(_) => {}
                Err(error) => unless_gone(error)?,
            }
        }
        for program in loaded_programs() {
            match program {
                Ok(program) if self.programs.contains(&program.id()) => {
                    let name = program.name_as_str().unwrap_or_default();
                    left.push(format!("program {} {name}", program.id()));
                }
                Ok(_) => {}
                Err(error) => unless_gone(error)?,
            }
        }
        for map in loaded_maps() {
            match map {
                Ok(map) if self.maps.contains(&map.id()) => {
                    let name = map.name_as_str().unwrap_or_default();
                    left.push(format!("map {} {name}", map.id()));
                }
                Ok(_) => {}
                Err(error) => unless_gone(error)?,
            }
        }
        Ok(left)
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "removed {} links of {} pods, {} programs, {} maps",
            self.links, self.pods, self.programs, self.maps
        )?;
        if self.left.is_empty() {
            return write!(f, "; the kernel has none of them any more");
        }
        self.left.iter().try_for_each(|left| write!(f, "\nleft: {left}"))
    }
}

/// An object that goes while the list is read is none of ours; any other error would make the proof worthless.
fn unless_gone(error: impl Into<ListError>) -> Result<(), KernelError> {
    let error: ListError = error.into();
    let text = spelled(&*error.0);
    if text.contains("(os error 2)") {
        return Ok(());
    }
    Err(KernelError::Told(format!(
        "list what the kernel has loaded: {text}"
    )))
}

/// Any of aya's errors of a list.
struct ListError(Box<dyn std::error::Error>);

macro_rules! from {
    ($($error:ty),+) => {
        $(impl From<$error> for ListError {
            fn from(error: $error) -> Self {
                Self(Box::new(error))
            }
        })+
    };
}
from!(LinkError, ProgramError, MapError);

const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_removed_and_what_is_left() {
        let mut removed = Removed {
            pods: 2,
            links: 12,
            programs: 6,
            maps: 8,
            left: Vec::new(),
        };
        assert_eq!(
            removed.to_string(),
            "removed 12 links of 2 pods, 6 programs, 8 maps; the kernel has none of them any more"
        );
        removed.left.push("program 7 mesh_connect4".into());
        assert!(removed.to_string().ends_with("\nleft: program 7 mesh_connect4"));
    }
}
