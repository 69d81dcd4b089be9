//! What the hooks leave alone for each pod, as maps.
//!
//! Must not know: annotations.

use std::fmt;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use mesh_common::exclusion::{OutboundBlock, OutboundPort};
use mesh_common::layout::{Addr, Endpoint};

use crate::kernel::error::{KernelError, map_failed as failed};
use crate::kernel::flow_table::absent_is_fine;
use crate::kernel::loader::Programs;
use crate::mesh::exclusions::Exclusions;
use crate::pod::netns::NetnsCookie;

/// The maps of exclusions. They are their own memory: nothing is kept here that a restart could lose.
pub(in crate::kernel) struct ExclusionMaps {
    ports: HashMap<MapData, OutboundPort, u32>,
    blocks: LpmTrie<MapData, OutboundBlock, u32>,
    inbound: HashMap<MapData, Endpoint, u32>,
}

impl ExclusionMaps {
    pub(in crate::kernel) fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self {
            ports: programs.map(PORTS)?,
            blocks: programs.map(BLOCKS)?,
            inbound: programs.map(INBOUND)?,
        })
    }

    /// Makes what is excluded for the pod `netns` with these addresses equal to `wanted`. What comes is put before
    /// what goes is removed. After an error the maps hold a part of it; calling again is safe.
    pub(in crate::kernel) fn put(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
        wanted: &Exclusions,
    ) -> Result<(), KernelError> {
        self.put_ports(netns, wanted).map_err(failed(PUT, PORTS))?;
        self.put_blocks(netns, wanted).map_err(failed(PUT, BLOCKS))?;
        self.put_inbound(addrs, wanted).map_err(failed(PUT, INBOUND))
    }

    fn put_ports(&mut self, netns: NetnsCookie, wanted: &Exclusions) -> Result<(), MapError> {
        let ports = wanted.outbound_ports.iter();
        let wanted: Vec<_> = ports.map(|port| OutboundPort::new(netns.0, *port)).collect();
        let present = kept(self.ports.keys(), |key| key.netns == netns.0)?;
        for key in missing(&wanted, &present) {
            self.ports.insert(key, 0, 0)?;
        }
        missing(&present, &wanted).try_for_each(|key| absent_is_fine(self.ports.remove(key)))
    }

    fn put_blocks(&mut self, netns: NetnsCookie, wanted: &Exclusions) -> Result<(), MapError> {
        let cidrs = wanted.outbound_cidrs.iter();
        let wanted: Vec<_> = cidrs
            .map(|cidr| OutboundBlock::keyed(netns.0, cidr.first(), cidr.bits()))
            .collect();
        let present = kept(self.blocks.keys(), |key| key.data().netns == netns.0)?;
        let present: Vec<_> = present.iter().map(|key| (key.prefix_len(), key.data())).collect();
        for (length, block) in missing(&wanted, &present) {
            self.blocks.insert(&Key::new(*length, *block), 0, 0)?;
        }
        missing(&present, &wanted)
            .try_for_each(|(length, block)| absent_is_fine(self.blocks.remove(&Key::new(*length, *block))))
    }

    fn put_inbound(&mut self, addrs: &[IpAddr], wanted: &Exclusions) -> Result<(), MapError> {
        let own: Vec<_> = addrs.iter().copied().map(Addr::from).collect();
        let ports = wanted.inbound_ports.iter().copied().map(u32::from);
        let wanted: Vec<_> = ports
            .flat_map(|port| own.iter().map(move |addr| Endpoint { addr: *addr, port }))
            .collect();
        let present = kept(self.inbound.keys(), |key| own.contains(&key.addr))?;
        for key in missing(&wanted, &present) {
            self.inbound.insert(key, 0, 0)?;
        }
        missing(&present, &wanted).try_for_each(|key| absent_is_fine(self.inbound.remove(key)))
    }
}

impl fmt::Debug for ExclusionMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExclusionMaps").finish_non_exhaustive()
    }
}

fn kept<K>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    is_own: impl Fn(&K) -> bool,
) -> Result<Vec<K>, MapError> {
    keys.filter(|key| key.as_ref().map_or(true, &is_own)).collect()
}

/// Those of `all` that are not in `there`; both are short.
fn missing<'a, K: PartialEq>(all: &'a [K], there: &'a [K]) -> impl Iterator<Item = &'a K> {
    all.iter().filter(|key| !there.contains(key))
}

const PUT: &str = "put";
const PORTS: &str = "EXCLUDED_PORTS";
const BLOCKS: &str = "EXCLUDED_BLOCKS";
const INBOUND: &str = "EXCLUDED_INBOUND";
