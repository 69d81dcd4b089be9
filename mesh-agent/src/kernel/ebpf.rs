//! The real kernel: programs, maps and the links of every pod.

use std::collections::HashMap as Memory;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, SockHash};
use aya::util::nr_cpus;
use mesh_common::counter::Counter;
use mesh_common::layout::{Addr, Pod, PodAddr};

use crate::kernel::dns::DnsMaps;
use crate::kernel::error::KernelError;
use crate::kernel::exclusions::ExclusionMaps;
use crate::kernel::flow_table::{EbpfFlows, absent_is_fine};
use crate::kernel::links::PodLinks;
use crate::kernel::loader::Programs;
use crate::kernel::pins::Pins;
use crate::kernel::preflight::Preflight;
use crate::kernel::pulse::EbpfPulse;
use crate::kernel::site::Site;
use crate::kernel::{Entry, Hook, Kernel, Orphan, Pulse};
use crate::mesh::exclusions::Exclusions;
use crate::mesh::workload::{FailMode, Placement};
use crate::pod::flows::FlowTable;
use crate::pod::netns::NetnsCookie;

/// Pods hooked up by eBPF. Maps and links are pinned and stay when it is dropped, or when the agent dies.
#[derive(Debug)]
pub struct EbpfKernel {
    found: Preflight,
    pins: Pins,
    pods: Memory<NetnsCookie, Hooked>,
    programs: Programs,
    maps: PodMaps,
    exclusions: ExclusionMaps,
    dns: DnsMaps,
    flows: Arc<EbpfFlows>,
    pulse: Arc<EbpfPulse>,
}

#[derive(Debug)]
struct Hooked {
    links: PodLinks,
    addrs: Vec<IpAddr>,
}

impl EbpfKernel {
    /// Checks the machine, then loads the programs over the maps that are pinned for `node` on the BPF file system at
    /// `bpf_dir`, which is mounted when absent. Errors are one line that says what is missing.
    pub fn load(bpf_dir: &Path, node: &str) -> Result<Self, KernelError> {
        let found = Preflight::run()?;
        let pins = Pins::make(bpf_dir, node)?;
        let mut programs = Programs::load(&found, &pins)?;
        let flows = Arc::new(EbpfFlows::open(&mut programs)?);
        let pulse = Arc::new(EbpfPulse::open(&mut programs)?);
        let maps = PodMaps::open(&mut programs)?;
        let exclusions = ExclusionMaps::open(&mut programs)?;
        let dns = DnsMaps::open(&mut programs)?;
        Ok(Self {
            found,
            pins,
            pods: Memory::new(),
            programs,
            maps,
            exclusions,
            dns,
            flows,
            pulse,
        })
    }
}

impl Kernel for EbpfKernel {
    fn flows(&self) -> Arc<dyn FlowTable> {
        Arc::<EbpfFlows>::clone(&self.flows)
    }

    fn open(&self, placement: &Placement) -> Result<Site, KernelError> {
        Site::open(placement, &self.found.agent_cgroup)
    }

    fn put(
        &mut self,
        site: &Site,
        fail_mode: FailMode,
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        let cookie = site.netns.cookie();
        let (cgroup, netns) = site.files().ok_or(KernelError::ForeignSite(cookie))?;
        let addrs: Vec<IpAddr> = inbound.iter().map(|(addr, _)| *addr).collect();
        let dir = self.pins.links_of(cookie);
        let was_hooked = dir.exists();
        if was_hooked {
            self.flows.sweep_peers(cookie)?;
        }
        let linked = match self.maps.put(cookie, fail_mode, inbound) {
            Ok(()) => PodLinks::attach(&mut self.programs, &dir, cgroup, netns),
            Err(error) => Err(error),
        };
        match linked {
            Ok(links) => {
                self.pods.insert(cookie, Hooked { links, addrs });
                Ok(())
            }
            // Without its entries an adopted pod would be left alone by its hooks, and leak.
            Err(error) if was_hooked => Err(error),
            Err(error) => {
                if let Err(left) = self.maps.remove(cookie, &addrs) {
                    tracing::warn!(error = %left, netns = cookie.0, "map entries stay behind a failed enrolment");
                }
                Err(error)
            }
        }
    }

    fn set_fail_mode(&mut self, netns: NetnsCookie, fail_mode: FailMode) -> Result<(), KernelError> {
        let hooked = self.pods.get(&netns).ok_or(KernelError::ForeignSite(netns))?;
        self.maps.describe(netns, fail_mode, &hooked.addrs)
    }

    fn pulse(&self) -> Arc<dyn Pulse> {
        Arc::<EbpfPulse>::clone(&self.pulse)
    }

    fn exclude(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
        wanted: &Exclusions,
    ) -> Result<(), KernelError> {
        self.exclusions.put(netns, addrs, wanted)
    }

    fn capture_dns(&mut self, netns: NetnsCookie, is_captured: bool) -> Result<(), KernelError> {
        self.dns.set(netns, is_captured)
    }

    fn repair(&mut self, site: &Site) -> Result<Vec<Hook>, KernelError> {
        let cookie = site.netns.cookie();
        let (cgroup, netns) = site.files().ok_or(KernelError::ForeignSite(cookie))?;
        let hooked = self
            .pods
            .get_mut(&cookie)
            .ok_or(KernelError::ForeignSite(cookie))?;
        hooked.links.repair(&mut self.programs, cgroup, netns)
    }

    fn remove(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        let dir = self.pins.links_of(netns);
        let (links, addrs) = match self.pods.remove(&netns) {
            Some(hooked) => (hooked.links, hooked.addrs),
            None if dir.exists() => (PodLinks::pinned(&dir)?, self.maps.addrs_of(netns)?),
            None => return Ok(()),
        };
        let unlinked = links.remove();
        // What an address means to another pod by now stays.
        let own: Vec<_> = addrs
            .iter()
            .copied()
            .filter(|addr| self.maps.is_owner(netns, addr))
            .collect();
        let included = self.exclusions.put(netns, &own, &Exclusions::default());
        let forgotten = self.dns.remove(netns);
        let removed = self.maps.remove(netns, &addrs);
        self.flows
            .sweep(netns)
            .and(unlinked)
            .and(removed)
            .and(included)
            .and(forgotten)
    }

    fn orphans(&self) -> Result<Vec<Orphan>, KernelError> {
        let pinned = self.pins.pods()?;
        let left = pinned.into_iter().filter(|netns| !self.pods.contains_key(netns));
        left.map(|netns| {
            Ok(Orphan {
                netns,
                addrs: self.maps.addrs_of(netns)?,
            })
        })
        .collect()
    }

    fn entries(&self) -> Vec<Entry> {
        self.pods
            .iter()
            .map(|(netns, hooked)| Entry {
                netns: *netns,
                hooks: hooked.links.hooks(),
                bypassed: self.maps.bypassed_by(*netns),
            })
            .collect()
    }

    fn counters(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        Counter::ALL
            .into_iter()
            .map(|counter| Ok((counter.name(), self.maps.count(counter)?)))
            .collect()
    }
}

/// The maps that say which pods and addresses are hooked.
struct PodMaps {
    pods: HashMap<MapData, u64, Pod>,
    addrs: HashMap<MapData, Addr, PodAddr>,
    inbound: SockHash<MapData, Addr>,
    counters: PerCpuArray<MapData, u64>,
    bypassed: PerCpuHashMap<MapData, u64, u64>,
    /// Which pod an address means: a later pod may have taken it over.
    owners: Memory<IpAddr, NetnsCookie>,
}

impl PodMaps {
    fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self {
            pods: programs.map("PODS")?,
            addrs: programs.map("POD_ADDRS")?,
            inbound: programs.map("INBOUND")?,
            counters: programs.map("COUNTERS")?,
            bypassed: programs.map("BYPASSED")?,
            owners: Memory::new(),
        })
    }

    fn put(
        &mut self,
        netns: NetnsCookie,
        fail_mode: FailMode,
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        self.start_bypassed(netns)?;
        for (ip, listener) in inbound {
            self.owners.insert(*ip, netns);
            self.inbound
                .insert(Addr::from(*ip), listener.as_raw_fd(), 0)
                .map_err(failed("put", "INBOUND"))?;
        }
        let addrs: Vec<IpAddr> = inbound.iter().map(|(ip, _)| *ip).collect();
        self.describe(netns, fail_mode, &addrs)
    }

    /// Says what a pod is and what becomes of its connections without an agent.
    fn describe(
        &mut self,
        netns: NetnsCookie,
        fail_mode: FailMode,
        addrs: &[IpAddr],
    ) -> Result<(), KernelError> {
        let fails_open = u32::from(fail_mode == FailMode::Open);
        let value = PodAddr {
            netns: netns.0,
            fails_open,
            reserved: 0,
        };
        for ip in addrs {
            self.addrs
                .insert(Addr::from(*ip), value, 0)
                .map_err(failed("put", "POD_ADDRS"))?;
        }
        let of_family = |is_v4: bool| {
            let mut ips = addrs.iter();
            ips.find(|ip| ip.is_ipv4() == is_v4)
                .map_or(NO_ADDR, |ip| Addr::from(*ip))
        };
        let pod = Pod {
            v4: of_family(true),
            v6: of_family(false),
            fails_open,
            reserved: 0,
        };
        self.pods.insert(netns.0, pod, 0).map_err(failed("put", "PODS"))
    }

    /// Makes the count of a pod's bypasses; what an earlier agent's absence counted stays.
    fn start_bypassed(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        match self.bypassed.get(&netns.0, 0) {
            Ok(_) => return Ok(()),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed("read", "BYPASSED")(error)),
        }
        let cpus = nr_cpus().map_err(|(path, source)| KernelError::Open {
            path: path.into(),
            source,
        })?;
        let zero = PerCpuValues::try_from(vec![0; cpus]).map_err(|source| KernelError::Open {
            path: "/sys/devices/system/cpu/possible".into(),
            source,
        })?;
        self.bypassed
            .insert(netns.0, zero, 0)
            .map_err(failed("put", "BYPASSED"))
    }

    fn bypassed_by(&self, netns: NetnsCookie) -> u64 {
        match self.bypassed.get(&netns.0, 0) {
            Ok(of_each_cpu) => of_each_cpu.iter().sum(),
            Err(error) => {
                tracing::warn!(%error, netns = netns.0, "cannot read how often a pod's connections bypassed the agent");
                0
            }
        }
    }

    /// The addresses that a pod was put with, by this agent or an earlier one.
    fn addrs_of(&self, netns: NetnsCookie) -> Result<Vec<IpAddr>, KernelError> {
        let pod = match self.pods.get(&netns.0, 0) {
            Ok(pod) => pod,
            Err(MapError::KeyNotFound) => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", "PODS")(error)),
        };
        let addrs = [pod.v4, pod.v6].into_iter().filter(|addr| !addr.is_absent());
        Ok(addrs.map(IpAddr::from).collect())
    }

    /// Whether an address means this pod. One without an owner was put by an earlier agent.
    fn is_owner(&self, netns: NetnsCookie, addr: &IpAddr) -> bool {
        self.owners.get(addr).is_none_or(|owner| *owner == netns)
    }

    /// Goes on after an error: what can be removed is.
    fn remove(&mut self, netns: NetnsCookie, addrs: &[IpAddr]) -> Result<(), KernelError> {
        let mut outcome = absent_is_fine(self.pods.remove(&netns.0))
            .map_err(failed("remove", "PODS"))
            .and(absent_is_fine(self.bypassed.remove(&netns.0)).map_err(failed("remove", "BYPASSED")));
        let own: Vec<_> = addrs.iter().filter(|ip| self.is_owner(netns, ip)).collect();
        for ip in own {
            let addr = Addr::from(*ip);
            outcome = outcome
                .and(absent_is_fine(self.addrs.remove(&addr)).map_err(failed("remove", "POD_ADDRS")))
                .and(absent_is_fine(self.inbound.remove(&addr)).map_err(failed("remove", "INBOUND")));
        }
        self.owners.retain(|_, owner| *owner != netns);
        outcome
    }

    fn count(&self, counter: Counter) -> Result<u64, KernelError> {
        let of_each_cpu = self
            .counters
            .get(&counter.slot(), 0)
            .map_err(failed("read", "COUNTERS"))?;
        Ok(of_each_cpu.iter().sum())
    }
}

impl fmt::Debug for PodMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodMaps")
            .field("owners", &self.owners)
            .finish_non_exhaustive()
    }
}

fn failed(operation: &'static str, map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map {
        operation,
        map,
        source,
    }
}

const NO_ADDR: Addr = Addr([0; 4]);
