//! The maps of DNS capture: whose DNS, and which resolver a listener stands for.
//!
//! Must not know: contexts.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use mesh_common::layout::{Addr, SocketKey};
use mesh_common::map::MapName;

use crate::maps::{copy, overflowed};

/// Pods whose DNS goes to the agent, by netns cookie; the value is reserved.
///
/// Writer: agent. Reader: connect, sendmsg, `sk_lookup`. Size: `max_pods`. Evicts: never. Full: the pod's DNS is left
/// alone, and `status` says so.
#[map]
static DNS_PODS: HashMap<u64, u32> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Which resolver each in-pod DNS listener stands for, from the first query to it until the pod leaves.
///
/// Writer: connect, sendmsg; removed by the agent. Reader: recvmsg, getpeername, agent. Size: `max_pods` * 16. Evicts:
/// never. Full: that resolver is asked directly.
#[map]
static RESOLVERS: HashMap<SocketKey, Addr> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

pub(crate) fn captures_dns(netns: u64) -> bool {
    DNS_PODS.get_ptr(netns).is_some()
}

pub(crate) fn resolver_of(listener: &SocketKey) -> Option<Addr> {
    copy(RESOLVERS.get_ptr(listener))
}

/// Whether `listener` stands for `resolver`; one that stands for nobody is taken for it.
#[inline(always)]
pub(crate) fn stands_for(listener: &SocketKey, resolver: &Addr) -> bool {
    if let Some(known) = resolver_of(listener) {
        return known.is(resolver);
    }
    match RESOLVERS.insert(listener, resolver, BPF_NOEXIST) {
        Ok(()) => return true,
        Err(EEXIST) => {}
        Err(_) => overflowed(MapName::Resolvers),
    }
    // Another CPU was faster, perhaps for the same resolver.
    resolver_of(listener).is_some_and(|known| known.is(resolver))
}

/// Of `bpf_map_update_elem`: fails where the key is there.
const BPF_NOEXIST: u64 = 1;
/// What it says then.
const EEXIST: i32 = -17;
