//! Direct flows over eBPF maps.

use std::collections::HashMap as Memory;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError, RingBuf};
use mesh_common::direct::{ClosedFlow, Counted, DirectKey, Ends, Flow, Verdict};
use mesh_common::layout::Addr;
use mesh_common::map::MapName;
use parking_lot::Mutex;

use crate::kernel::capacity::{Capacity, Overflows};
use crate::kernel::direct::{DirectTable, leads_to};
use crate::kernel::error::{KernelError, map_failed as failed};
use crate::kernel::flow_table::absent_is_fine;
use crate::kernel::loader::Programs;
use crate::pod::netns::NetnsCookie;

/// The maps of direct flows. One lock: only the control thread comes here, some times a second.
pub(in crate::kernel) struct EbpfDirect {
    maps: Mutex<Maps>,
    overflows: Arc<Overflows>,
    most_flows: usize,
}

struct Maps {
    verdicts: HashMap<MapData, DirectKey, Verdict>,
    /// What the map holds; `None` before it was read, and after a write failed.
    allowed: Option<Memory<DirectKey, Verdict>>,
    flows: HashMap<MapData, Ends, Flow>,
    closed: RingBuf<MapData>,
    counted: HashMap<MapData, Ends, Counted>,
}

impl EbpfDirect {
    pub(in crate::kernel) fn open(
        programs: &mut Programs,
        overflows: &Arc<Overflows>,
        capacity: Capacity,
    ) -> Result<Self, KernelError> {
        let maps = Maps {
            verdicts: programs.map(DIRECT)?,
            allowed: None,
            flows: programs.map(FLOWS)?,
            closed: programs.map("CLOSED_FLOWS")?,
            counted: programs.map(COUNTED)?,
        };
        Ok(Self {
            maps: Mutex::new(maps),
            overflows: Arc::clone(overflows),
            most_flows: capacity.most(MapName::Flows),
        })
    }
}

impl DirectTable for EbpfDirect {
    fn most_flows(&self) -> usize {
        self.most_flows
    }

    fn allow(&self, wanted: &Memory<DirectKey, Verdict>) -> Result<(), KernelError> {
        let changed = self.maps.lock().change(|allowed| {
            let gone = allowed.keys().filter(|key| !wanted.contains_key(*key)).copied();
            let new = wanted
                .iter()
                .filter(|(key, verdict)| allowed.get(*key) != Some(*verdict));
            (
                gone.collect(),
                new.map(|(key, verdict)| (*key, *verdict)).collect(),
            )
        });
        self.overflows.noted(changed)
    }

    fn withdraw(&self, netns: NetnsCookie, addrs: &[IpAddr]) -> Result<(), KernelError> {
        let addrs: Vec<Addr> = addrs.iter().copied().map(Addr::from).collect();
        self.maps.lock().change(|allowed| {
            let of_pod = allowed
                .iter()
                .filter(|(key, verdict)| key.netns == netns.0 || leads_to(verdict, &addrs));
            (of_pod.map(|(key, _)| *key).collect(), Vec::new())
        })
    }

    fn flows(&self) -> Result<Vec<(Ends, Flow)>, KernelError> {
        entries(&self.maps.lock().flows).map_err(failed("read", FLOWS))
    }

    fn closed(&self) -> Result<Vec<ClosedFlow>, KernelError> {
        let mut maps = self.maps.lock();
        let mut closed = Vec::new();
        while let Some(item) = maps.closed.next() {
            if let Some(flow) = ClosedFlow::from_bytes(&item) {
                closed.push(flow);
            } else {
                tracing::error!(bytes = item.len(), "a report of a direct flow is of another size");
            }
        }
        Ok(closed)
    }

    fn forget(&self, ends: &Ends) -> Result<bool, KernelError> {
        // In one operation: a hook may report and remove it at the same time.
        let removed = self.maps.lock().flows.remove(ends);
        let was_there = removed.is_ok();
        absent_is_fine(removed).map_err(failed("remove", FLOWS))?;
        Ok(was_there)
    }

    fn counted(&self, ends: &Ends) -> Result<Option<Counted>, KernelError> {
        read(&self.maps.lock().counted, ends).map_err(failed("read", COUNTED))
    }

    fn count(&self, ends: &Ends, counted: Option<Counted>) -> Result<(), KernelError> {
        let map = &mut self.maps.lock().counted;
        match counted {
            Some(counted) => {
                let put = map.insert(ends, counted, 0).map_err(failed("put", COUNTED));
                self.overflows.noted(put)
            }
            None => absent_is_fine(map.remove(ends)).map_err(failed("remove", COUNTED)),
        }
    }
}

impl Maps {
    /// Removes the first, then puts the second of what `plan` makes of the verdicts that are there.
    fn change(
        &mut self,
        plan: impl FnOnce(&Memory<DirectKey, Verdict>) -> (Vec<DirectKey>, Vec<(DirectKey, Verdict)>),
    ) -> Result<(), KernelError> {
        let mut allowed = match self.allowed.take() {
            Some(allowed) => allowed,
            None => entries(&self.verdicts)
                .map_err(failed("read", DIRECT))?
                .into_iter()
                .collect(),
        };
        let (gone, new) = plan(&allowed);
        for key in gone {
            absent_is_fine(self.verdicts.remove(&key)).map_err(failed("remove", DIRECT))?;
            allowed.remove(&key);
        }
        for (key, verdict) in new {
            self.verdicts
                .insert(key, verdict, 0)
                .map_err(failed("put", DIRECT))?;
            allowed.insert(key, verdict);
        }
        self.allowed = Some(allowed);
        Ok(())
    }
}

impl fmt::Debug for EbpfDirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfDirect").finish_non_exhaustive()
    }
}

/// Everything in a map that others write to meanwhile: what is removed on the way is left out, and when the walk loses
/// its place the kernel begins anew, so that something may be seen twice.
fn entries<K: Pod + Eq + std::hash::Hash, V: Pod>(
    map: &HashMap<MapData, K, V>,
) -> Result<Vec<(K, V)>, MapError> {
    let mut found = Memory::new();
    for key in map.keys() {
        let key = key?;
        if let Some(value) = read(map, &key)? {
            found.insert(key, value);
        }
    }
    Ok(found.into_iter().collect())
}

fn read<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, key: &K) -> Result<Option<V>, MapError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

const DIRECT: &str = "DIRECT";
const FLOWS: &str = "FLOWS";
const COUNTED: &str = "COUNTED";
