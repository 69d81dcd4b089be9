//! A kernel without a kernel: hooks pods up in memory, for in-process tests of the agent.
//!
//! Every pod lives in the namespace of the process under a cookie of its own; a test plays the hooks by filing what
//! they would have filed and dialling the pod's listeners.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::direct::DirectTable;
use crate::kernel::direct::fake::FakeDirect;
use crate::kernel::error::KernelError;
use crate::kernel::site::{Lineage, Site};
use crate::kernel::splice::legs::Legs;
use crate::kernel::{Entry, Exceptions, Hook, Kernel, Orphan, Part, Pulse};
use crate::mesh::workload::{FailMode, Placement};
use crate::pod::flows::FlowTable;
use crate::pod::netns::NetnsCookie;

/// The fake; its clones are one kernel.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    state: Arc<Mutex<State>>,
    flows: Arc<FakeFlows>,
    direct: Arc<FakeDirect>,
}

#[derive(Debug, Default)]
struct State {
    cookies: HashMap<PathBuf, NetnsCookie>,
    hooked: HashMap<NetnsCookie, Vec<IpAddr>>,
    refusing: BTreeSet<u64>,
    cgroups: HashMap<PathBuf, u64>,
    excepted: HashMap<NetnsCookie, Exceptions>,
    tampered: Vec<(NetnsCookie, Part)>,
    node: BTreeSet<IpAddr>,
    orphans: HashMap<NetnsCookie, Vec<IpAddr>>,
    fail_modes: HashMap<NetnsCookie, FailMode>,
    outbound_ports: HashMap<NetnsCookie, u16>,
    dns: HashMap<NetnsCookie, bool>,
    broken: Vec<Part>,
    refusal: Option<String>,
}

impl FakeKernel {
    /// Refuses every `put`, `except` and `repair` that is due from now on with `reason`; `None` ends it.
    pub fn refuse(&self, reason: Option<&str>) {
        self.lock().refusal = reason.map(str::to_owned);
    }

    /// The name of the namespace at `path`, once it was opened.
    pub fn cookie_of(&self, path: &str) -> Option<NetnsCookie> {
        self.lock().cookies.get(std::path::Path::new(path)).copied()
    }

    /// The addresses that are hooked for the namespace.
    pub fn hooked(&self, netns: NetnsCookie) -> Option<Vec<IpAddr>> {
        self.lock().hooked.get(&netns).cloned()
    }

    /// Whether all connections of a hooked pod are refused.
    pub fn is_refusing(&self, netns: NetnsCookie) -> bool {
        self.lock().refusing.contains(&netns.0)
    }

    /// What is let past for the namespace, if that was ever said.
    pub fn excepted(&self, netns: NetnsCookie) -> Option<Exceptions> {
        self.lock().excepted.get(&netns).cloned()
    }

    /// The addresses of the node.
    pub fn node(&self) -> BTreeSet<IpAddr> {
        self.lock().node.clone()
    }

    /// Takes parts away from the pod that is looked at next, as somebody with `bpftool` may.
    pub fn take_away(&self, parts: &[Part]) {
        self.lock().broken = parts.to_vec();
    }

    /// Changes what is let past for a pod.
    pub fn tamper(&self, netns: NetnsCookie, map: &'static str) {
        self.lock().tampered.push((netns, Part::Entry(map)));
    }

    /// As when the agent was killed and another one starts: what is hooked stays.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.orphans = std::mem::take(&mut state.hooked);
    }

    /// What becomes of a pod's connections without an agent.
    pub fn fail_mode(&self, netns: NetnsCookie) -> Option<FailMode> {
        self.lock().fail_modes.get(&netns).copied()
    }

    /// Where a pod's captured connections go.
    pub fn outbound_port(&self, netns: NetnsCookie) -> Option<u16> {
        self.lock().outbound_ports.get(&netns).copied()
    }

    /// Whether the namespace's DNS goes to the agent, if that was ever said.
    pub fn captures_dns(&self, netns: NetnsCookie) -> Option<bool> {
        self.lock().dns.get(&netns).copied()
    }

    /// What the hooks would remember.
    pub fn fake_flows(&self) -> Arc<FakeFlows> {
        Arc::clone(&self.flows)
    }

    /// Its direct flows.
    pub fn fake_direct(&self) -> Arc<FakeDirect> {
        Arc::clone(&self.direct)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    fn flows(&self) -> Arc<dyn FlowTable> {
        self.fake_flows()
    }

    fn direct(&self) -> Arc<dyn DirectTable> {
        self.fake_direct()
    }

    fn open(&self, placement: &Placement) -> Result<Site, KernelError> {
        let mut state = self.lock();
        let next = NetnsCookie(
            u64::try_from(state.cookies.len())
                .unwrap_or(u64::MAX)
                .saturating_add(1),
        );
        let cookie = *state.cookies.entry(placement.netns.clone()).or_insert(next);
        let lineage = placement.cgroup.ancestors().map(|cgroup| {
            let next = u64::try_from(state.cgroups.len()).unwrap_or(u64::MAX);
            (0, *state.cgroups.entry(cgroup.to_owned()).or_insert(next))
        });
        let lineage = Lineage(lineage.collect());
        Ok(Site::stand_in(cookie, lineage))
    }

    fn put(
        &mut self,
        site: &Site,
        fail_mode: FailMode,
        outbound_port: u16,
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        let mut state = self.lock();
        if let Some(reason) = &state.refusal {
            return Err(KernelError::Told(reason.clone()));
        }
        state.orphans.remove(&site.netns.cookie());
        state.refusing.remove(&site.netns.cookie().0);
        state.fail_modes.insert(site.netns.cookie(), fail_mode);
        state.outbound_ports.insert(site.netns.cookie(), outbound_port);
        state
            .hooked
            .insert(site.netns.cookie(), inbound.iter().map(|(ip, _)| *ip).collect());
        Ok(())
    }

    fn set_fail_mode(&mut self, netns: NetnsCookie, fail_mode: FailMode) -> Result<(), KernelError> {
        self.lock().fail_modes.insert(netns, fail_mode);
        Ok(())
    }

    fn alone(&mut self) {}

    fn splice(&mut self) -> Result<Result<Arc<Legs>, KernelError>, KernelError> {
        Err(KernelError::Told("there is no kernel".to_owned()))
    }

    fn pulse(&self) -> Arc<dyn Pulse> {
        Arc::new(FakePulse)
    }

    fn refuse(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        let mut state = self.lock();
        if let Some(reason) = &state.refusal {
            return Err(KernelError::Told(reason.clone()));
        }
        state.refusing.insert(netns.0);
        Ok(())
    }

    fn except(
        &mut self,
        netns: NetnsCookie,
        _addrs: &[IpAddr],
        wanted: &Exceptions,
    ) -> Result<(), KernelError> {
        let mut state = self.lock();
        if let Some(reason) = &state.refusal {
            return Err(KernelError::Told(reason.clone()));
        }
        state.excepted.insert(netns, wanted.clone());
        Ok(())
    }

    fn capture_dns(&mut self, netns: NetnsCookie, is_captured: bool) -> Result<(), KernelError> {
        let mut state = self.lock();
        if let Some(reason) = &state.refusal {
            return Err(KernelError::Told(reason.clone()));
        }
        state.dns.insert(netns, is_captured);
        Ok(())
    }

    fn repair(&mut self, _: &Site, _: &[(IpAddr, BorrowedFd<'_>)]) -> Result<Vec<Part>, KernelError> {
        let mut state = self.lock();
        match &state.refusal {
            Some(reason) if !state.broken.is_empty() => Err(KernelError::Told(reason.clone())),
            _ => Ok(std::mem::take(&mut state.broken)),
        }
    }

    fn repair_exceptions(&mut self) -> Result<Vec<(NetnsCookie, Part)>, KernelError> {
        Ok(std::mem::take(&mut self.lock().tampered))
    }

    fn know_node(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        self.lock().node.clone_from(addrs);
        Ok(())
    }

    fn remove(&mut self, netns: NetnsCookie) -> Result<(), KernelError> {
        let mut state = self.lock();
        let addrs = state.hooked.remove(&netns).unwrap_or_default();
        self.direct.withdraw(netns, &addrs)?;
        state.excepted.remove(&netns);
        state.refusing.remove(&netns.0);
        state.dns.remove(&netns);
        state.orphans.remove(&netns);
        Ok(())
    }

    fn orphans(&self) -> Result<Vec<Orphan>, KernelError> {
        let state = self.lock();
        let orphans = state.orphans.iter().map(|(netns, addrs)| Orphan {
            netns: *netns,
            addrs: addrs.clone(),
        });
        Ok(orphans.collect())
    }

    fn entries(&self) -> Vec<Entry> {
        self.lock()
            .hooked
            .keys()
            .map(|netns| Entry {
                netns: *netns,
                hooks: Hook::ALL.to_vec(),
                bypassed: 0,
            })
            .collect()
    }

    fn counters(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        Ok(Vec::new())
    }

    fn overflows(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        Ok(Vec::new())
    }
}

/// Nobody listens to it: the fake has no hooks that could.
#[derive(Debug)]
struct FakePulse;

impl Pulse for FakePulse {
    fn beat(&self) -> Result<(), KernelError> {
        Ok(())
    }

    fn stop(&self) -> Result<(), KernelError> {
        Ok(())
    }
}

/// A flow table in memory.
#[derive(Debug, Default)]
pub struct FakeFlows {
    original: Mutex<HashMap<(NetnsCookie, SocketAddr), SocketAddr>>,
    true_peer: Mutex<HashMap<(NetnsCookie, SocketAddr), SocketAddr>>,
    resolvers: Mutex<HashMap<(NetnsCookie, SocketAddr), SocketAddr>>,
}

impl FakeFlows {
    /// Plays the hooks: the client whose own end is `local` dialled `original`. Out of the pod `netns` that client
    /// is the application, into it the remote one. Bind, file, connect, so that it is there before the connection.
    pub fn file_original(&self, netns: NetnsCookie, local: SocketAddr, original: SocketAddr) {
        lock(&self.original).insert((netns, local), original);
    }

    /// Plays the hooks: queries for `resolver` go to the DNS listener at `listener`.
    pub fn file_resolver(&self, netns: NetnsCookie, listener: SocketAddr, resolver: SocketAddr) {
        lock(&self.resolvers).insert((netns, listener), resolver);
    }

    /// Plays getpeername: who stands behind `bound`, as the agent filed it.
    pub fn true_peer(&self, netns: NetnsCookie, bound: SocketAddr) -> Option<SocketAddr> {
        lock(&self.true_peer).get(&(netns, bound)).copied()
    }
}

impl FlowTable for FakeFlows {
    fn original_destination(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<Option<SocketAddr>> {
        Ok(lock(&self.original).get(&(netns, local)).copied())
    }

    fn inbound_destination(&self, netns: NetnsCookie, peer: SocketAddr, local: SocketAddr) -> SocketAddr {
        lock(&self.original).get(&(netns, peer)).copied().unwrap_or(local)
    }

    fn file_true_peer(&self, netns: NetnsCookie, bound: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        lock(&self.true_peer).insert((netns, bound), peer);
        Ok(())
    }

    fn resolver_behind(&self, netns: NetnsCookie, listener: SocketAddr) -> io::Result<Option<SocketAddr>> {
        Ok(lock(&self.resolvers).get(&(netns, listener)).copied())
    }

    fn forget_true_peer(&self, netns: NetnsCookie, bound: SocketAddr) -> io::Result<()> {
        lock(&self.true_peer).remove(&(netns, bound));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
