//! Direct flows in memory, for in-process tests; a test plays the hooks.

use std::collections::HashMap;
use std::net::IpAddr;

use mesh_common::direct::{ClosedFlow, Counted, DirectKey, Ends, Flow, Verdict};
use mesh_common::layout::Addr;
use parking_lot::Mutex;

use crate::kernel::direct::{DirectTable, leads_to};
use crate::kernel::error::KernelError;
use crate::pod::netns::NetnsCookie;

/// The fake.
#[derive(Debug, Default)]
pub struct FakeDirect(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    allowed: HashMap<DirectKey, Verdict>,
    flows: HashMap<Ends, Flow>,
    closed: Vec<ClosedFlow>,
    counted: HashMap<Ends, Counted>,
}

impl FakeDirect {
    /// Plays `sock_ops`: a flow lives, or goes on.
    pub fn live(&self, ends: Ends, flow: Flow) {
        self.0.lock().flows.insert(ends, flow);
    }

    /// Plays `sock_ops`: a flow ended.
    pub fn end(&self, ends: Ends, flow: Flow) {
        let mut state = self.0.lock();
        state.flows.remove(&ends);
        state.closed.push(ClosedFlow { ends, flow });
    }

    /// What the connect hook would read.
    pub fn allowed(&self) -> HashMap<DirectKey, Verdict> {
        self.0.lock().allowed.clone()
    }
}

/// Room for flows in the fake.
pub const MOST_FLOWS: u32 = 1024;

impl DirectTable for FakeDirect {
    fn most_flows(&self) -> usize {
        usize::try_from(MOST_FLOWS).unwrap_or(usize::MAX)
    }

    fn allow(&self, wanted: &HashMap<DirectKey, Verdict>) -> Result<(), KernelError> {
        self.0.lock().allowed.clone_from(wanted);
        Ok(())
    }

    fn withdraw(&self, netns: NetnsCookie, addrs: &[IpAddr]) -> Result<(), KernelError> {
        let addrs: Vec<Addr> = addrs.iter().copied().map(Addr::from).collect();
        let allowed = &mut self.0.lock().allowed;
        allowed.retain(|key, verdict| key.netns != netns.0 && !leads_to(verdict, &addrs));
        Ok(())
    }

    fn flows(&self) -> Result<Vec<(Ends, Flow)>, KernelError> {
        let state = self.0.lock();
        Ok(state.flows.iter().map(|(ends, flow)| (*ends, *flow)).collect())
    }

    fn closed(&self) -> Result<Vec<ClosedFlow>, KernelError> {
        Ok(std::mem::take(&mut self.0.lock().closed))
    }

    fn forget(&self, ends: &Ends) -> Result<bool, KernelError> {
        Ok(self.0.lock().flows.remove(ends).is_some())
    }

    fn counted(&self, ends: &Ends) -> Result<Option<Counted>, KernelError> {
        Ok(self.0.lock().counted.get(ends).copied())
    }

    fn count(&self, ends: &Ends, counted: Option<Counted>) -> Result<(), KernelError> {
        let map = &mut self.0.lock().counted;
        match counted {
            Some(counted) => map.insert(*ends, counted),
            None => map.remove(ends),
        };
        Ok(())
    }
}
