//! What a lab has made, on disk, so that any later command finds it; also after a crash of the one that made it.
//!
//! It must not be needed for taking down: names alone (`site`) find namespaces, cgroups and processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::input::PodName;
use crate::process::ProcessId;
use crate::site::Site;

/// A lab on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// The directory that it was made from.
    pub input: PathBuf,
    /// True when this lab was the first on the machine to need `/run/netns`.
    pub made_netns_dir: bool,
    /// Directories searched for programs before the machine's own.
    pub tools: Vec<PathBuf>,
    /// The nodes, and their agents' processes where there are agents.
    pub nodes: BTreeMap<String, Option<ProcessId>>,
    /// The pods.
    pub pods: BTreeMap<PodName, PodState>,
}

/// A pod on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodState {
    /// The node it is on.
    pub node: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its network namespace, by name.
    pub netns: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The process that holds its namespaces.
    pub holder: ProcessId,
    /// Its program, if it has one.
    pub program: Option<ProcessId>,
}

const FILE: &str = "state.json";

impl State {
    /// The state of a lab; `None` when there is none.
    pub fn load(site: &Site) -> Result<Option<Self>> {
        let path = site.run_dir().join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| path.display().to_string())
                .map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Writes the state, as a whole or not at all.
    pub fn save(&self, site: &Site) -> Result<()> {
        let staged = site.staging().join(FILE);
        let text = serde_json::to_string_pretty(self).context("write the lab's state")?;
        fs::write(&staged, text).with_context(|| staged.display().to_string())?;
        fs::rename(&staged, site.run_dir().join(FILE)).with_context(|| format!("rename {}", staged.display()))
    }
}
