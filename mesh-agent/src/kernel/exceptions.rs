//! What the hooks let past the agent for each pod, as maps: exclusions, and probes of the node's kubelet.
//!
//! Must not know: annotations, which probes there are.

use std::collections::{BTreeSet, HashMap as Memory};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use mesh_common::exclusion::{OutboundBlock, OutboundPort};
use mesh_common::layout::{Addr, Endpoint};

use crate::kernel::error::{KernelError, map_failed as failed};
use crate::kernel::flow_table::absent_is_fine;
use crate::kernel::loader::Programs;
use crate::kernel::{Exceptions, Part};
use crate::pod::netns::NetnsCookie;

/// The maps of exceptions, and what they should hold by now.
pub(in crate::kernel) struct ExceptionMaps {
    ports: HashMap<MapData, OutboundPort, u32>,
    blocks: LpmTrie<MapData, OutboundBlock, u32>,
    inbound: HashMap<MapData, Endpoint, u32>,
    probes: HashMap<MapData, Endpoint, u32>,
    node: HashMap<MapData, Addr, u32>,
    told: Memory<NetnsCookie, Told>,
}

#[derive(Debug, Clone)]
struct Told {
    addrs: Vec<IpAddr>,
    wanted: Exceptions,
}

/// What the maps hold, listed once, by the pod or address that it belongs to.
struct Present {
    ports: Memory<u64, Vec<OutboundPort>>,
    blocks: Memory<u64, Vec<Block>>,
    inbound: Memory<IpAddr, Vec<Endpoint>>,
    probes: Memory<IpAddr, Vec<Endpoint>>,
}

type Block = (u32, OutboundBlock);

impl ExceptionMaps {
    pub(in crate::kernel) fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self {
            ports: programs.map(PORTS)?,
            blocks: programs.map(BLOCKS)?,
            inbound: programs.map(INBOUND)?,
            probes: programs.map(PROBES)?,
            node: programs.map(NODE)?,
            told: Memory::new(),
        })
    }

    /// Makes what is let past for the pod `netns` with these addresses equal to `wanted`. What comes is put before
    /// what goes is removed. After an error the maps hold a part of it; calling again is safe.
    pub(in crate::kernel) fn put(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
        wanted: &Exceptions,
    ) -> Result<(), KernelError> {
        let told = Told {
            addrs: addrs.to_vec(),
            wanted: wanted.clone(),
        };
        let mut present = self.list()?;
        self.settle_pod(netns, &told, &mut present)?;
        // An address has one owner: what an elder was told of it is over.
        for elder in self.told.values_mut() {
            elder.addrs.retain(|addr| !addrs.contains(addr));
        }
        self.told.insert(netns, told);
        Ok(())
    }

    /// Lets nothing past any more for a pod that had these addresses.
    pub(in crate::kernel) fn forget(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
    ) -> Result<(), KernelError> {
        self.told.remove(&netns);
        let nothing = Told {
            addrs: addrs.to_vec(),
            wanted: Exceptions::default(),
        };
        let mut present = self.list()?;
        self.settle_pod(netns, &nothing, &mut present).map(drop)
    }

    /// Makes every pod's entries what was told last, and says of which pods and maps they were not.
    pub(in crate::kernel) fn repair(&mut self) -> Result<Vec<(NetnsCookie, Part)>, KernelError> {
        let mut present = self.list()?;
        let mut repaired = Vec::new();
        for (netns, told) in self.told.clone() {
            let parts = self.settle_pod(netns, &told, &mut present)?;
            repaired.extend(parts.into_iter().map(|map| (netns, Part::Entry(map))));
        }
        Ok(repaired)
    }

    /// Makes the addresses of the node equal to `addrs`.
    pub(in crate::kernel) fn know_node(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        let wanted: Vec<_> = addrs.iter().copied().map(Addr::from).collect();
        let listed: Result<Vec<_>, _> = self.node.keys().collect();
        let present = listed.map_err(failed(PUT, NODE))?;
        settle(&wanted, &present, &mut self.node)
            .map(drop)
            .map_err(failed(PUT, NODE))
    }

    /// The maps that did not hold what they should.
    fn settle_pod(
        &mut self,
        netns: NetnsCookie,
        told: &Told,
        present: &mut Present,
    ) -> Result<Vec<&'static str>, KernelError> {
        let mut changed = Vec::new();
        let there = present.ports.remove(&netns.0).unwrap_or_default();
        let is_new = settle(&told.ports(netns), &there, &mut self.ports).map_err(failed(PUT, PORTS))?;
        changed.extend(is_new.then_some(PORTS));
        let there = present.blocks.remove(&netns.0).unwrap_or_default();
        let is_new = settle(&told.blocks(netns), &there, &mut self.blocks).map_err(failed(PUT, BLOCKS))?;
        changed.extend(is_new.then_some(BLOCKS));
        let there = taken(&mut present.inbound, &told.addrs);
        let wanted = told.ends(&told.wanted.exclusions.inbound_ports);
        let is_new = settle(&wanted, &there, &mut self.inbound).map_err(failed(PUT, INBOUND))?;
        changed.extend(is_new.then_some(INBOUND));
        let there = taken(&mut present.probes, &told.addrs);
        let wanted = told.ends(&told.wanted.probe_ports);
        let is_new = settle(&wanted, &there, &mut self.probes).map_err(failed(PUT, PROBES))?;
        changed.extend(is_new.then_some(PROBES));
        Ok(changed)
    }

    fn list(&self) -> Result<Present, KernelError> {
        let blocks = self
            .blocks
            .keys()
            .map(|key| key.map(|key| (key.prefix_len(), key.data())));
        Ok(Present {
            ports: grouped(self.ports.keys(), |key| key.netns).map_err(failed(PUT, PORTS))?,
            blocks: grouped(blocks, |(_, block)| block.netns).map_err(failed(PUT, BLOCKS))?,
            inbound: grouped(self.inbound.keys(), |end| end.addr.into()).map_err(failed(PUT, INBOUND))?,
            probes: grouped(self.probes.keys(), |end| end.addr.into()).map_err(failed(PUT, PROBES))?,
        })
    }
}

impl fmt::Debug for ExceptionMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExceptionMaps")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl Told {
    fn ports(&self, netns: NetnsCookie) -> Vec<OutboundPort> {
        let ports = self.wanted.exclusions.outbound_ports.iter();
        ports.map(|port| OutboundPort::new(netns.0, *port)).collect()
    }

    fn blocks(&self, netns: NetnsCookie) -> Vec<Block> {
        let cidrs = self.wanted.exclusions.outbound_cidrs.iter();
        cidrs
            .map(|cidr| OutboundBlock::keyed(netns.0, cidr.first(), cidr.bits()))
            .collect()
    }

    fn ends(&self, ports: &BTreeSet<u16>) -> Vec<Endpoint> {
        let ends = ports.iter().flat_map(|port| {
            let port = u32::from(*port);
            self.addrs.iter().map(move |addr| Endpoint {
                addr: Addr::from(*addr),
                port,
            })
        });
        ends.collect()
    }
}

/// A map of which only the keys mean something.
trait Keys<K> {
    fn add(&mut self, key: &K) -> Result<(), MapError>;
    fn take(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: aya::Pod> Keys<K> for HashMap<MapData, K, u32> {
    fn add(&mut self, key: &K) -> Result<(), MapError> {
        self.insert(key, 0, 0)
    }

    fn take(&mut self, key: &K) -> Result<(), MapError> {
        absent_is_fine(self.remove(key))
    }
}

impl Keys<Block> for LpmTrie<MapData, OutboundBlock, u32> {
    fn add(&mut self, (length, block): &Block) -> Result<(), MapError> {
        self.insert(&Key::new(*length, *block), 0, 0)
    }

    fn take(&mut self, (length, block): &Block) -> Result<(), MapError> {
        absent_is_fine(self.remove(&Key::new(*length, *block)))
    }
}

/// Adds what is wanted and not present, then takes what is present and not wanted; whether there was any. Both are short.
fn settle<K: PartialEq>(wanted: &[K], present: &[K], keys: &mut impl Keys<K>) -> Result<bool, MapError> {
    let missing: Vec<_> = wanted.iter().filter(|key| !present.contains(key)).collect();
    let stray: Vec<_> = present.iter().filter(|key| !wanted.contains(key)).collect();
    missing.iter().try_for_each(|key| keys.add(key))?;
    stray.iter().try_for_each(|key| keys.take(key))?;
    Ok(!missing.is_empty() || !stray.is_empty())
}

fn grouped<K, O: Eq + Hash>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    owner: impl Fn(&K) -> O,
) -> Result<Memory<O, Vec<K>>, MapError> {
    let mut groups: Memory<O, Vec<K>> = Memory::new();
    for key in keys {
        let key = key?;
        groups.entry(owner(&key)).or_default().push(key);
    }
    Ok(groups)
}

fn taken(groups: &mut Memory<IpAddr, Vec<Endpoint>>, addrs: &[IpAddr]) -> Vec<Endpoint> {
    let groups = addrs.iter().filter_map(|addr| groups.remove(addr));
    groups.flatten().collect()
}

const PUT: &str = "put";
const PORTS: &str = "EXCLUDED_PORTS";
const BLOCKS: &str = "EXCLUDED_BLOCKS";
const INBOUND: &str = "EXCLUDED_INBOUND";
const PROBES: &str = "PROBE_PORTS";
const NODE: &str = "NODE_ADDRS";
