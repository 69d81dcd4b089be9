//! The real kernel: programs, maps and the links of every pod.

use std::collections::{BTreeSet, HashMap as Memory};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use mesh_common::counter::Counter;
use mesh_common::map::MapName;

use crate::kernel::budget::Verified;
use crate::kernel::capacity::{Capacity, Overflows};
use crate::kernel::direct::{DirectTable, EbpfDirect};
use crate::kernel::dns::DnsMaps;
use crate::kernel::error::KernelError;
use crate::kernel::exceptions::ExceptionMaps;
use crate::kernel::flow_table::EbpfFlows;
use crate::kernel::links::PodLinks;
use crate::kernel::loader::Programs;
use crate::kernel::pins::Pins;
use crate::kernel::pod_maps::{PodMaps, Terms};
use crate::kernel::preflight::Preflight;
use crate::kernel::pulse::EbpfPulse;
use crate::kernel::site::Site;
use crate::kernel::splice::legs::Legs;
use crate::kernel::splice::{self, SpliceSwitch};
use crate::kernel::{Entry, Exceptions, Kernel, Orphan, Part, Pulse};
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
    exceptions: ExceptionMaps,
    dns: DnsMaps,
    flows: Arc<EbpfFlows>,
    legs: Arc<Legs>,
    direct: Arc<EbpfDirect>,
    pulse: Arc<EbpfPulse>,
    overflows: Arc<Overflows>,
    /// Another agent has connections of these pods still.
    has_predecessor: bool,
}

#[derive(Debug)]
struct Hooked {
    links: PodLinks,
    addrs: Vec<IpAddr>,
    terms: Terms,
}

impl EbpfKernel {
    /// Checks the machine, then loads the programs over the maps that are pinned for `node` on the BPF file system at
    /// `bpf_dir`, which is mounted when absent. Maps that are pinned with another `capacity` are replaced. Errors are
    /// one line that says what is missing.
    pub fn load(bpf_dir: &Path, node: &str, capacity: Capacity) -> Result<Self, KernelError> {
        let found = Preflight::run()?;
        let pins = Pins::make(bpf_dir, node)?;
        let mut programs = Programs::load(&found, &pins, capacity)?;
        let overflows = Arc::new(Overflows::default());
        let legs = Arc::new(Legs::open(&mut programs)?);
        let flows = Arc::new(EbpfFlows::open(&mut programs, &legs, &overflows)?);
        let direct = Arc::new(EbpfDirect::open(&mut programs, &overflows, capacity)?);
        let pulse = Arc::new(EbpfPulse::open(&mut programs)?);
        let maps = PodMaps::open(&mut programs)?;
        let exceptions = ExceptionMaps::open(&mut programs)?;
        let dns = DnsMaps::open(&mut programs)?;
        Ok(Self {
            found,
            pins,
            pods: Memory::new(),
            programs,
            maps,
            exceptions,
            dns,
            flows,
            legs,
            direct,
            pulse,
            overflows,
            has_predecessor: false,
        })
    }

    /// Finds out whether this machine and kernel would take what [`EbpfKernel::load`] loads. Small maps are made for it
    /// and go again; nothing is pinned or linked, and what another agent has is not touched.
    pub fn rehearse() -> Result<(), KernelError> {
        Programs::rehearse(&Preflight::run()?)
    }

    /// As after [`EbpfKernel::load`], while the agent that had the pods before still lives: what it filed of its connections
    /// stays, and it splices. Until [`Kernel::alone`].
    #[must_use]
    pub fn after_one_that_lives(self) -> Self {
        Self {
            has_predecessor: true,
            ..self
        }
    }

    /// What the verifier needed for each program.
    pub fn verified(&self) -> Result<Vec<Verified>, KernelError> {
        self.programs.verified()
    }

    /// The switch of the splice, turned off: what an earlier agent found out may not hold any more.
    pub fn splice_switch(&mut self) -> Result<SpliceSwitch, KernelError> {
        SpliceSwitch::open(&mut self.programs)
    }

    /// Attaches what splices. The programs stay attached as long as `self`; without them everything takes TCP.
    ///
    /// Errors: this kernel cannot splice, and why.
    pub fn attach_splice(&mut self) -> Result<(), KernelError> {
        splice::attach(&self.found, self.programs.object()).map(drop)
    }

    /// Attaches what joins the connections between applications and this agent, likewise. After
    /// [`attach_splice`](Self::attach_splice).
    ///
    /// Errors: they cannot be told from others, and why.
    pub fn attach_legs(&mut self) -> Result<Arc<Legs>, KernelError> {
        splice::legs::attach(&self.found, self.programs.object())?;
        Ok(Arc::clone(&self.legs))
    }
}

impl Kernel for EbpfKernel {
    fn flows(&self) -> Arc<dyn FlowTable> {
        Arc::<EbpfFlows>::clone(&self.flows)
    }

    fn direct(&self) -> Arc<dyn DirectTable> {
        Arc::<EbpfDirect>::clone(&self.direct)
    }

    fn open(&self, placement: &Placement) -> Result<Site, KernelError> {
        Site::open(placement, &self.found.agent_cgroup)
    }

    fn put(
        &mut self,
        site: &Site,
        fail_mode: FailMode,
        outbound_port: u16,
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        let cookie = site.netns.cookie();
        let (cgroup, netns) = site.files().ok_or(KernelError::ForeignSite(cookie))?;
        let addrs: Vec<IpAddr> = inbound.iter().map(|(addr, _)| *addr).collect();
        let dir = self.pins.links_of(cookie);
        let was_hooked = dir.exists();
        if was_hooked && !self.has_predecessor {
            self.flows.sweep_peers(cookie)?;
        }
        let terms = Terms {
            fail_mode,
            outbound_port,
        };
        let linked = match self.overflows.noted(self.maps.put(cookie, terms, inbound)) {
            Ok(()) => PodLinks::attach(&mut self.programs, &dir, cgroup, netns),
            Err(error) => Err(error),
        };
        match linked {
            Ok(links) => {
                let hooked = Hooked { links, addrs, terms };
                self.pods.insert(cookie, hooked);
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
        let hooked = self.pods.get_mut(&netns).ok_or(KernelError::ForeignSite(netns))?;
        let terms = Terms {
            fail_mode,
            ..hooked.terms
        };
        self.overflows
            .noted(self.maps.describe(netns, terms, &hooked.addrs))?;
        hooked.terms = terms;
        Ok(())
    }

    fn refuse(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        let hooked = self.pods.get_mut(&netns).ok_or(KernelError::ForeignSite(netns))?;
        hooked.links.refuse(&mut self.programs)
    }

    fn alone(&mut self) {
        self.has_predecessor = false;
    }

    fn splice(&mut self) -> Result<Result<Arc<Legs>, KernelError>, KernelError> {
        self.attach_splice()?;
        Ok(self.attach_legs())
    }

    fn pulse(&self) -> Arc<dyn Pulse> {
        Arc::<EbpfPulse>::clone(&self.pulse)
    }

    fn except(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
        wanted: &Exceptions,
    ) -> Result<(), KernelError> {
        self.overflows.noted(self.exceptions.put(netns, addrs, wanted))
    }

    fn capture_dns(&mut self, netns: NetnsCookie, is_captured: bool) -> Result<(), KernelError> {
        self.overflows.noted(self.dns.set(netns, is_captured))
    }

    fn repair(
        &mut self,
        site: &Site,
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<Vec<Part>, KernelError> {
        let cookie = site.netns.cookie();
        let (cgroup, netns) = site.files().ok_or(KernelError::ForeignSite(cookie))?;
        let hooked = self
            .pods
            .get_mut(&cookie)
            .ok_or(KernelError::ForeignSite(cookie))?;
        // First what the hooks look into: without it they refuse, or leave alone.
        let mended = self.maps.mend(cookie, hooked.terms, &hooked.addrs, inbound);
        let mut mended = self.overflows.noted(mended)?;
        let hooks = hooked.links.repair(&mut self.programs, cgroup, netns)?;
        mended.extend(hooks.into_iter().map(Part::Hook));
        Ok(mended)
    }

    fn repair_exceptions(&mut self) -> Result<Vec<(NetnsCookie, Part)>, KernelError> {
        self.overflows.noted(self.exceptions.repair())
    }

    fn know_node(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        self.overflows.noted(self.exceptions.know_node(addrs))
    }

    fn remove(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        let dir = self.pins.links_of(netns);
        let (links, addrs) = match self.pods.remove(&netns) {
            Some(hooked) => (hooked.links, hooked.addrs),
            None if dir.exists() => (PodLinks::pinned(&dir)?, self.maps.addrs_of(netns)?),
            None => return Ok(()),
        };
        let withdrawn = self.direct.withdraw(netns, &addrs);
        let unlinked = links.remove();
        // What an address means to another pod by now stays.
        let own: Vec<_> = addrs
            .iter()
            .copied()
            .filter(|addr| self.maps.is_owner(netns, addr))
            .collect();
        let included = self.exceptions.forget(netns, &own);
        let forgotten = self.dns.remove(netns);
        let removed = self.maps.remove(netns, &addrs);
        withdrawn
            .and(self.flows.sweep(netns))
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

    fn overflows(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        let maps = MapName::ALL.iter().copied();
        maps.map(|map| {
            Ok((
                map.name(),
                self.maps.overflows_of(map)? + self.overflows.count(map),
            ))
        })
        .collect()
    }
}
