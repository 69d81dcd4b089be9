//! Whose DNS the hooks send to the agent, as maps.
//!
//! Must not know: annotations, messages.

use std::fmt;

use aya::maps::{HashMap, MapData, MapError};
use mesh_common::layout::{Addr, SocketKey};

use crate::kernel::error::KernelError;
use crate::kernel::flow_table::absent_is_fine;
use crate::kernel::loader::Programs;
use crate::pod::netns::NetnsCookie;

/// The maps of DNS capture. They are their own memory: nothing is kept here that a restart could lose.
pub(in crate::kernel) struct DnsMaps {
    pods: HashMap<MapData, u64, u32>,
    resolvers: HashMap<MapData, SocketKey, Addr>,
}

impl DnsMaps {
    /// Takes the maps over; after the flow table has its handle.
    pub(in crate::kernel) fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self {
            pods: programs.map(PODS)?,
            resolvers: programs.map(RESOLVERS)?,
        })
    }

    /// Whether the DNS of the pod `netns` goes to the agent from now on.
    pub(in crate::kernel) fn set(
        &mut self,
        netns: NetnsCookie,
        is_captured: bool,
    ) -> Result<(), KernelError> {
        let set = if is_captured {
            self.pods.insert(netns.0, 0, 0)
        } else {
            absent_is_fine(self.pods.remove(&netns.0))
        };
        set.map_err(failed("put", PODS))
    }

    /// Forgets a pod that is unhooked. Goes on after an error.
    pub(in crate::kernel) fn remove(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        let unset = self.set(netns, false);
        let mut listeners = Vec::new();
        for listener in self.resolvers.keys() {
            let listener = listener.map_err(failed("sweep", RESOLVERS))?;
            if listener.netns == netns.0 {
                listeners.push(listener);
            }
        }
        let swept = listeners
            .iter()
            .try_for_each(|listener| absent_is_fine(self.resolvers.remove(listener)));
        unset.and(swept.map_err(failed("sweep", RESOLVERS)))
    }
}

impl fmt::Debug for DnsMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsMaps").finish_non_exhaustive()
    }
}

fn failed(operation: &'static str, map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map {
        operation,
        map,
        source,
    }
}

const PODS: &str = "DNS_PODS";
/// Read by the flow table too.
pub(in crate::kernel) const RESOLVERS: &str = "RESOLVERS";
