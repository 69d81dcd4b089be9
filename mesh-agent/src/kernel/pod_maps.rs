//! The maps that say which pods and addresses are hooked.
//!
//! Must not know: links, annotations.

use std::collections::HashMap as Memory;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, SockHash};
use aya::sys::SyscallError;
use aya::util::nr_cpus;
use mesh_common::counter::Counter;
use mesh_common::layout::{Addr, Pod, PodAddr};
use mesh_common::map::MapName;

use crate::kernel::Part;
use crate::kernel::error::{KernelError, map_failed as failed};
use crate::kernel::flow_table::absent_is_fine;
use crate::kernel::loader::Programs;
use crate::mesh::workload::FailMode;
use crate::pod::netns::NetnsCookie;

/// The maps that say which pods and addresses are hooked.
pub(in crate::kernel) struct PodMaps {
    pods: HashMap<MapData, u64, Pod>,
    addrs: HashMap<MapData, Addr, PodAddr>,
    inbound: SockHash<MapData, Addr>,
    counters: PerCpuArray<MapData, u64>,
    overflows: PerCpuArray<MapData, u64>,
    bypassed: PerCpuHashMap<MapData, u64, u64>,
    /// Which pod an address means: a later pod may have taken it over.
    owners: Memory<IpAddr, NetnsCookie>,
}

/// What the hooks are told of a pod, besides its addresses.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernel) struct Terms {
    pub(in crate::kernel) fail_mode: FailMode,
    /// Where its captured connections go.
    pub(in crate::kernel) outbound_port: u16,
}

impl PodMaps {
    pub(in crate::kernel) fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self {
            pods: programs.map("PODS")?,
            addrs: programs.map("POD_ADDRS")?,
            inbound: programs.map("INBOUND")?,
            counters: programs.map("COUNTERS")?,
            overflows: programs.map("OVERFLOWS")?,
            bypassed: programs.map("BYPASSED")?,
            owners: Memory::new(),
        })
    }

    pub(in crate::kernel) fn put(
        &mut self,
        netns: NetnsCookie,
        terms: Terms,
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
        self.describe(netns, terms, &addrs)
    }

    /// Says what a pod is and what becomes of its connections without an agent. An address that means another pod by now
    /// is left to that.
    pub(in crate::kernel) fn describe(
        &mut self,
        netns: NetnsCookie,
        terms: Terms,
        addrs: &[IpAddr],
    ) -> Result<(), KernelError> {
        self.mend_description(netns, terms, addrs).map(drop)
    }

    /// Makes the entries of a pod what they should be and says in which maps they were not. `inbound` are the listeners
    /// of a pod that is served; another has none.
    pub(in crate::kernel) fn mend(
        &mut self,
        netns: NetnsCookie,
        terms: Terms,
        addrs: &[IpAddr],
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<Vec<Part>, KernelError> {
        let mut mended = self.mend_description(netns, terms, addrs)?;
        for (ip, listener) in inbound {
            if !self.is_owner(netns, ip) {
                continue;
            }
            // The kernel does not tell user space which sockets a map of this kind holds.
            match self
                .inbound
                .insert(Addr::from(*ip), listener.as_raw_fd(), BPF_NOEXIST)
            {
                Ok(()) => mended.push(Part::Entry("INBOUND")),
                Err(error) if is_there_already(&error) => {}
                Err(error) => return Err(failed("put", "INBOUND")(error)),
            }
        }
        if self.start_bypassed(netns)? {
            mended.push(Part::Entry("BYPASSED"));
        }
        mended.dedup();
        Ok(mended)
    }

    fn mend_description(
        &mut self,
        netns: NetnsCookie,
        terms: Terms,
        addrs: &[IpAddr],
    ) -> Result<Vec<Part>, KernelError> {
        let mut mended = Vec::new();
        let fails_open = u32::from(terms.fail_mode == FailMode::Open);
        let value = PodAddr {
            netns: netns.0,
            fails_open,
            reserved: 0,
        };
        for ip in addrs
            .iter()
            .filter(|ip| self.is_owner(netns, ip))
            .copied()
            .collect::<Vec<_>>()
        {
            let addr = Addr::from(ip);
            if !says(self.addrs.get(&addr, 0), &value).map_err(failed("read", "POD_ADDRS"))? {
                self.addrs
                    .insert(addr, value, 0)
                    .map_err(failed("put", "POD_ADDRS"))?;
                mended.push(Part::Entry("POD_ADDRS"));
            }
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
            outbound_port: terms.outbound_port.into(),
        };
        if !says(self.pods.get(&netns.0, 0), &pod).map_err(failed("read", "PODS"))? {
            self.pods.insert(netns.0, pod, 0).map_err(failed("put", "PODS"))?;
            mended.push(Part::Entry("PODS"));
        }
        Ok(mended)
    }

    /// Makes the count of a pod's bypasses where there is none, and says so; what an earlier agent's absence counted stays.
    fn start_bypassed(&mut self, netns: NetnsCookie) -> Result<bool, KernelError> {
        match self.bypassed.get(&netns.0, 0) {
            Ok(_) => return Ok(false),
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
            .map_err(failed("put", "BYPASSED"))?;
        Ok(true)
    }

    pub(in crate::kernel) fn bypassed_by(&self, netns: NetnsCookie) -> u64 {
        match self.bypassed.get(&netns.0, 0) {
            Ok(of_each_cpu) => of_each_cpu.iter().sum(),
            Err(error) => {
                tracing::warn!(%error, netns = netns.0, "cannot read how often a pod's connections bypassed the agent");
                0
            }
        }
    }

    /// The addresses that a pod was put with, by this agent or an earlier one.
    pub(in crate::kernel) fn addrs_of(&self, netns: NetnsCookie) -> Result<Vec<IpAddr>, KernelError> {
        let pod = match self.pods.get(&netns.0, 0) {
            Ok(pod) => pod,
            Err(MapError::KeyNotFound) => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", "PODS")(error)),
        };
        let addrs = [pod.v4, pod.v6].into_iter().filter(|addr| !addr.is_absent());
        Ok(addrs.map(IpAddr::from).collect())
    }

    /// Whether an address means this pod. One without an owner was put by an earlier agent.
    pub(in crate::kernel) fn is_owner(&self, netns: NetnsCookie, addr: &IpAddr) -> bool {
        self.owners.get(addr).is_none_or(|owner| *owner == netns)
    }

    /// Goes on after an error: what can be removed is.
    pub(in crate::kernel) fn remove(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
    ) -> Result<(), KernelError> {
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

    pub(in crate::kernel) fn count(&self, counter: Counter) -> Result<u64, KernelError> {
        let of_each_cpu = self
            .counters
            .get(&counter.slot(), 0)
            .map_err(failed("read", "COUNTERS"))?;
        Ok(of_each_cpu.iter().sum())
    }

    /// The entries for which the hooks found no room in `map`.
    pub(in crate::kernel) fn overflows_of(&self, map: MapName) -> Result<u64, KernelError> {
        let of_each_cpu = self
            .overflows
            .get(&map.slot(), 0)
            .map_err(failed("read", "OVERFLOWS"))?;
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

/// Whether a map holds exactly `wanted`.
fn says<V: PartialEq>(held: Result<V, MapError>, wanted: &V) -> Result<bool, MapError> {
    match held {
        Ok(held) => Ok(held == *wanted),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_there_already(error: &MapError) -> bool {
    let MapError::SyscallError(SyscallError { io_error, .. }) = error else {
        return false;
    };
    io_error.kind() == io::ErrorKind::AlreadyExists
}

const NO_ADDR: Addr = Addr([0; 4]);
/// `include/uapi/linux/bpf.h`: only where there is no entry yet.
const BPF_NOEXIST: u64 = 1;
