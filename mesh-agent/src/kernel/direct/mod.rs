//! Flows that go past the agent: what may, what does, what did.
//!
//! The connect hook reads what is allowed here; `sock_ops` writes what became of it. Must not know: policies, metrics.

pub mod fake;
pub mod sock_diag;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use mesh_common::direct::{ClosedFlow, Counted, DirectKey, Ends, Flow, MAX_ENDPOINTS, MAX_VERDICTS, Verdict};
use mesh_common::layout::{Addr, Endpoint};

pub(in crate::kernel) use self::table::EbpfDirect;
use crate::kernel::error::KernelError;
use crate::pod::netns::NetnsCookie;
use crate::snapshot::DirectLimits;

/// What the hooks are told of direct flows, and what they tell.
///
/// Calls are synchronous, some map operations each, and made on the control thread. Implemented over eBPF maps, and by a
/// fake in tests. What it holds outlives the agent.
pub trait DirectTable: Send + Sync + fmt::Debug {
    /// Makes the verdicts equal to `wanted`: what is not wanted any more is gone before anything is added. After an error
    /// what was allowed before may hold; calling again is safe.
    fn allow(&self, wanted: &HashMap<DirectKey, Verdict>) -> Result<(), KernelError>;

    /// Removes every verdict that lets the pod dial, or be dialled at one of these addresses.
    fn withdraw(&self, netns: NetnsCookie, addrs: &[IpAddr]) -> Result<(), KernelError>;

    /// How many flows may live at once; more cannot be registered.
    fn most_flows(&self) -> usize;

    /// The flows that live, as far as the hooks saw.
    fn flows(&self) -> Result<Vec<(Ends, Flow)>, KernelError>;

    /// Takes the flows that ended since the last call.
    fn closed(&self) -> Result<Vec<ClosedFlow>, KernelError>;

    /// Forgets a flow whose end no hook will see; whether it was there.
    fn forget(&self, ends: &Ends) -> Result<bool, KernelError>;

    /// How much of a flow is in metrics already, this agent's or an earlier one's.
    fn counted(&self, ends: &Ends) -> Result<Option<Counted>, KernelError>;

    /// Says how much is; `None` when the flow is over.
    fn count(&self, ends: &Ends, counted: Option<Counted>) -> Result<(), KernelError>;
}

/// What the maps hold.
pub fn limits() -> DirectLimits {
    DirectLimits {
        verdicts: usize::try_from(MAX_VERDICTS).unwrap_or(usize::MAX),
        endpoints: MAX_ENDPOINTS,
    }
}

/// A verdict as the connect hook reads it; `None` for none, or for more endpoints than it holds.
pub fn verdict(endpoints: &[std::net::SocketAddr]) -> Option<Verdict> {
    let count = u32::try_from(endpoints.len()).ok().filter(|count| *count > 0)?;
    if endpoints.len() > MAX_ENDPOINTS {
        return None;
    }
    let mut verdict = Verdict {
        count,
        reserved: 0,
        endpoints: [NO_ENDPOINT; MAX_ENDPOINTS],
    };
    for (slot, endpoint) in verdict.endpoints.iter_mut().zip(endpoints) {
        *slot = Endpoint::from(*endpoint);
    }
    Some(verdict)
}

/// Whether a verdict may lead to one of these addresses.
pub(in crate::kernel) fn leads_to(verdict: &Verdict, addrs: &[Addr]) -> bool {
    let mut endpoints = verdict.endpoints.iter();
    endpoints.any(|endpoint| endpoint.port != 0 && addrs.contains(&endpoint.addr))
}

const NO_ENDPOINT: Endpoint = Endpoint {
    addr: Addr([0; 4]),
    port: 0,
};
