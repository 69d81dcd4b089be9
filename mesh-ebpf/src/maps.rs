//! The maps: who writes each, who reads it, how large it is, what it evicts, and what becomes of an entry that finds no
//! room. Names and configured sizes are in `mesh_common::map`; the sizes here are those of the default settings.
//!
//! Must not know: contexts.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockHash};
use mesh_common::counter::Counter;
use mesh_common::direct::{Chosen, ClosedFlow, Counted, DirectKey, Ends, Flow, MAX_VERDICTS, Verdict};
use mesh_common::exclusion::{OutboundBlock, OutboundPort};
use mesh_common::layout::{Addr, Endpoint, Pod, PodAddr, SocketKey, is_dead};
use mesh_common::map::MapName;

/// Enrolled pods: netns cookie to addresses and fail mode.
///
/// Writer: agent. Reader: every cgroup hook. Size: `max_pods`. Evicts: never. Full: the pod is not enrolled.
#[map]
static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Between `connect` and the SYN: socket cookie to dialled destination.
///
/// Writer: connect; `sock_ops` takes the entry. Reader: `sock_ops`, getpeername. Size: `max_flows` / 16. Evicts: the
/// least recently used, since a connect that never sends its SYN leaves an entry behind. Full: a connection whose entry
/// was evicted is refused by the agent and counted here by `sock_ops`.
#[map]
static ORIGINAL_BY_COOKIE: LruHashMap<u64, Endpoint> = LruHashMap::with_max_entries(16_384, 0);

/// Living captured sockets: local end to dialled destination.
///
/// Writer: `sock_ops`. Reader: getpeername, agent. Size: `max_flows`. Evicts: never. Full: the agent refuses the
/// connection.
#[map]
static ORIGINAL_DST: HashMap<SocketKey, Endpoint> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// The same for sockets that are closed already: a client may send and close before the agent accepts.
///
/// Writer: `sock_ops`. Reader: agent. Size: `max_flows` / 16. Evicts: the least recently used, as is meant: nobody else
/// takes entries out. Full: the agent refuses a connection that it accepts so late, and counts it as uncaptured.
#[map]
static ORIGINAL_OF_CLOSED: LruHashMap<SocketKey, Endpoint> = LruHashMap::with_max_entries(16_384, 0);

/// Who stands behind a connection that the agent delivers: the agent's own end to the real client.
///
/// Writer: agent. Reader: getpeername. Size: `max_flows`. Evicts: never. Full: the connection is not delivered.
#[map]
static TRUE_PEER: HashMap<SocketKey, Endpoint> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// The in-pod inbound listener of each pod address.
///
/// Writer: agent; the kernel takes a socket out when it closes. Reader: `sk_lookup`. Size: `max_pods` * 2. Evicts:
/// never. Full: the pod is not enrolled.
#[map]
static INBOUND: SockHash<Addr> = SockHash::with_max_entries(8192, 0);

/// Addresses of enrolled pods: one in here without a listener in `INBOUND` is refused.
///
/// Writer: agent. Reader: `sk_lookup`. Size: `max_pods` * 2. Evicts: never. Full: the pod is not enrolled.
#[map]
static POD_ADDRS: HashMap<Addr, PodAddr> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Ports that connects of a pod go to directly, at most 64 a pod; the value is reserved.
///
/// Writer: agent. Reader: connect. Size: `max_pods` * 16. Evicts: never. Full: what is not excluded is captured, and
/// `status` says so.
#[map]
static EXCLUDED_PORTS: HashMap<OutboundPort, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Address blocks that connects of a pod go to directly, at most 64 a pod; the value is reserved.
///
/// Writer: agent. Reader: connect. Size: `max_pods` * 16. Evicts: never. Full: what is not excluded is captured, and
/// `status` says so.
#[map]
static EXCLUDED_BLOCKS: LpmTrie<OutboundBlock, u32> = LpmTrie::with_max_entries(65_536, 0);

/// Ends of a pod whose connections the application takes itself, at most 64 ports a pod; the value is reserved.
///
/// Writer: agent. Reader: `sk_lookup`. Size: `max_pods` * 16. Evicts: never. Full: what is not excluded is captured, and
/// `status` says so.
#[map]
static EXCLUDED_INBOUND: HashMap<Endpoint, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Addresses from which the node's own kubelet probes; the value is reserved.
///
/// Writer: agent. Reader: `sk_lookup`. Size: fixed, 65,536. Evicts: never. Full: probes from that address are steered to
/// the agent, and `status` says so.
#[map]
static NODE_ADDRS: HashMap<Addr, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Ends of pods whose application the node itself reaches directly: the ports that probes name; the value is reserved.
///
/// Writer: agent. Reader: `sk_lookup`. Size: `max_pods` * 16. Evicts: never. Full: its probes are steered to the agent,
/// and `status` says so.
#[map]
static PROBE_PORTS: HashMap<Endpoint, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Counts of `mesh_common::counter::Counter`, by slot and CPU.
///
/// Writer: every hook. Reader: agent. Size: fixed, a slot for each. Evicts: never. Full: cannot be.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(16, 0);

/// When the agent last said that it lives, of `CLOCK_MONOTONIC`.
///
/// Writer: agent. Reader: connect, `sk_lookup`. Size: fixed, 1. Evicts: never. Full: cannot be.
#[map]
static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

/// Connections that went past a dead agent: netns cookie to count, by CPU.
///
/// Writer: agent makes the entry, connect and `sk_lookup` count. Reader: agent. Size: `max_pods`. Evicts: never. Full:
/// the pod is not enrolled.
#[map]
static BYPASSED: PerCpuHashMap<u64, u64> = PerCpuHashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Entries of hooks that found no room, by slot of `mesh_common::map::MapName` and CPU.
///
/// Writer: connect, `sock_ops`. Reader: agent. Size: fixed, a slot for each map. Evicts: never. Full: cannot be.
#[map]
static OVERFLOWS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MapName::COUNT, 0);

/// Connects that may go direct: netns cookie and dialled end to endpoints.
///
/// Writer: agent, a snapshot ahead of time. Reader: connect, and again `sock_ops` before the SYN leaves. Size: fixed,
/// 65,536. Evicts: never. Full: what does not fit goes to the agent.
#[map]
static DIRECT: HashMap<DirectKey, Verdict> = HashMap::with_max_entries(MAX_VERDICTS, BPF_F_NO_PREALLOC);

/// Between a direct `connect` and its SYN: socket cookie to what was chosen.
///
/// Writer: connect, taken by `sock_ops`. Reader: `sock_ops`, getpeername. Size: `max_flows` / 16. Evicts: least recently
/// used, as a connect that never sends its SYN leaves an entry behind. Full: a connection whose entry was evicted is
/// steered to the agent of the server, for which it is plaintext, and counted here by `sock_ops`.
#[map]
static DIRECT_BY_COOKIE: LruHashMap<u64, Chosen> = LruHashMap::with_max_entries(16_384, 0);

/// Living direct flows: both ends to what is counted of them.
///
/// Writer: `sock_ops` of both ends; removed by it when both are closed, or by the agent where that went unseen. Reader:
/// `sk_lookup`, getpeername, agent. Size: `max_flows` / 4. Evicts: never. Full: the connection is steered to the agent of
/// the server, for which it is plaintext.
#[map]
static FLOWS: HashMap<Ends, Flow> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Direct flows that ended, as [`ClosedFlow`], some 22,000.
///
/// Writer: `sock_ops`. Reader: agent. Size: fixed, 4 MiB. Evicts: never. Full: the flow is counted as unreported.
#[map]
static CLOSED_FLOWS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// What of each flow is in metrics already, so that a restarted agent counts nothing twice; at most one entry for each
/// flow and each report that waits.
///
/// Writer: agent. Reader: agent. Size: `max_flows` / 2. Evicts: never. Full: cannot be.
#[map]
static COUNTED: HashMap<Ends, Counted> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Whether `bpf_set_retval` exists (Linux 5.18). Set by the loader before the programs are verified.
#[unsafe(no_mangle)]
static CAN_SET_RETVAL: Global<u8> = Global::new(0);

pub(crate) fn can_set_retval() -> bool {
    CAN_SET_RETVAL.load() != 0
}

pub(crate) fn pod(netns: u64) -> Option<Pod> {
    copy(PODS.get_ptr(netns))
}

pub(crate) fn remember_by_cookie(cookie: u64, original: &Endpoint) -> Result<(), i32> {
    noted(
        MapName::OriginalByCookie,
        ORIGINAL_BY_COOKIE.insert(cookie, original, 0),
    )
}

pub(crate) fn by_cookie(cookie: u64) -> Option<Endpoint> {
    copy(ORIGINAL_BY_COOKIE.get_ptr(cookie))
}

pub(crate) fn forget_cookie(cookie: u64) {
    // Absent is as good as removed, and a left-over ages out.
    let _: Result<(), i32> = ORIGINAL_BY_COOKIE.remove(cookie);
}

pub(crate) fn file_original(key: &SocketKey, original: &Endpoint) -> Result<(), i32> {
    noted(MapName::OriginalDst, ORIGINAL_DST.insert(key, original, 0))
}

pub(crate) fn original(key: &SocketKey) -> Option<Endpoint> {
    copy(ORIGINAL_DST.get_ptr(key))
}

/// Forgets what is known of a local end, of living and of closed sockets.
pub(crate) fn forget(key: &SocketKey) {
    // Mostly there is nothing to forget.
    let _: Result<(), i32> = ORIGINAL_DST.remove(key);
    let _: Result<(), i32> = ORIGINAL_OF_CLOSED.remove(key);
}

/// Moves what is known of a socket from the living to the closed.
pub(crate) fn close(key: &SocketKey) {
    let Some(original) = original(key) else { return };
    let moved = ORIGINAL_OF_CLOSED.insert(key, original, 0);
    if noted(MapName::OriginalOfClosed, moved).is_err() {
        count(Counter::Lost);
    }
    // Nobody else removes it; were it gone, that is what we want.
    let _: Result<(), i32> = ORIGINAL_DST.remove(key);
}

/// One of the endpoints that a verdict allows, by chance; `None` without a verdict.
#[inline(always)]
pub(crate) fn any_endpoint(key: &DirectKey) -> Option<Endpoint> {
    let verdict = DIRECT.get_ptr(key)?;
    // SAFETY: in a map value, which outlives the program run.
    let count = unsafe { (*verdict).count };
    // SAFETY: takes nothing, and may be called by every program.
    let by_chance = unsafe { bpf_get_prandom_u32() };
    let index = usize::try_from(by_chance.checked_rem(count)?).ok()?;
    // SAFETY: as above; only a reference is made.
    let endpoints = unsafe { &(*verdict).endpoints };
    endpoints.get(index).copied()
}

/// Whether a verdict allows this endpoint.
#[inline(always)]
pub(crate) fn has_endpoint(key: &DirectKey, server: &Endpoint) -> bool {
    let Some(verdict) = DIRECT.get_ptr(key) else {
        return false;
    };
    // SAFETY: in a map value, which outlives the program run; only a reference is made. Unused ones are no address.
    let endpoints = unsafe { &(*verdict).endpoints };
    endpoints
        .iter()
        .any(|endpoint| endpoint.port == server.port && endpoint.addr.is(&server.addr))
}

pub(crate) fn remember_chosen(cookie: u64, chosen: &Chosen) -> Result<(), i32> {
    noted(
        MapName::DirectByCookie,
        DIRECT_BY_COOKIE.insert(cookie, chosen, 0),
    )
}

pub(crate) fn chosen(cookie: u64) -> Option<Chosen> {
    copy(DIRECT_BY_COOKIE.get_ptr(cookie))
}

pub(crate) fn forget_chosen(cookie: u64) {
    // Absent is as good as removed, and a left-over ages out.
    let _: Result<(), i32> = DIRECT_BY_COOKIE.remove(cookie);
}

/// The place of a direct flow; `crate::flow` alone looks into it.
pub(crate) fn flow(ends: &Ends) -> Option<*mut Flow> {
    FLOWS.get_ptr_mut(ends)
}

pub(crate) fn add_flow(ends: &Ends, flow: &Flow) -> Result<(), i32> {
    noted(MapName::Flows, FLOWS.insert(ends, flow, 0))
}

/// Whether it was there: of two that remove a flow at once only one is told so.
pub(crate) fn remove_flow(ends: &Ends) -> bool {
    FLOWS.remove(ends).is_ok()
}

/// Room for a report; it must be submitted or discarded.
#[inline(always)]
pub(crate) fn closed_flow() -> Option<RingBufEntry<ClosedFlow>> {
    CLOSED_FLOWS.reserve(0)
}

pub(crate) fn true_peer(key: &SocketKey) -> Option<Endpoint> {
    copy(TRUE_PEER.get_ptr(key))
}

pub(crate) fn pod_addr(addr: &Addr) -> Option<PodAddr> {
    copy(POD_ADDRS.get_ptr(addr))
}

/// Whether the agent has not been heard of for too long.
#[inline(always)]
pub(crate) fn is_agent_dead() -> bool {
    let beat = copy(HEARTBEAT.get_ptr(0)).unwrap_or(0);
    // SAFETY: takes nothing, and may be called by every program.
    is_dead(beat, unsafe { bpf_ktime_get_ns() })
}

/// Counts a connection of the pod `netns` that goes past the agent.
pub(crate) fn count_bypass(netns: u64) {
    count(Counter::Bypassed);
    if let Some(slot) = BYPASSED.get_ptr_mut(netns) {
        add_one(slot);
    }
}

pub(crate) fn inbound() -> &'static SockHash<Addr> {
    &INBOUND
}

/// Whether the annotations of the pod `netns` take connects to `dialled` out of the mesh.
pub(crate) fn is_excluded_outbound(netns: u64, dialled: &Endpoint) -> bool {
    let port = OutboundPort {
        netns,
        port: dialled.port,
        reserved: 0,
    };
    let block = Key::new(OutboundBlock::WHOLE, OutboundBlock::of(netns, dialled.addr));
    EXCLUDED_PORTS.get_ptr(port).is_some() || EXCLUDED_BLOCKS.get(block).is_some()
}

/// Whether the application at `local` takes its connections itself.
pub(crate) fn is_excluded_inbound(local: &Endpoint) -> bool {
    EXCLUDED_INBOUND.get_ptr(local).is_some()
}

/// Counts an entry that found no room, or whose room another took.
pub(crate) fn overflowed(map: MapName) {
    if let Some(slot) = OVERFLOWS.get_ptr_mut(map.slot()) {
        add_one(slot);
    }
}

/// Counts what could not be put into `map`, and passes the outcome on.
fn noted(map: MapName, put: Result<(), i32>) -> Result<(), i32> {
    if put.is_err() {
        overflowed(map);
    }
    put
}

/// Whether an address is one of the node's own.
pub(crate) fn is_node(addr: &Addr) -> bool {
    NODE_ADDRS.get_ptr(addr).is_some()
}

/// Whether a probe names this end of a pod.
pub(crate) fn is_probed(local: &Endpoint) -> bool {
    PROBE_PORTS.get_ptr(local).is_some()
}

pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.slot()) {
        add_one(slot);
    }
}

fn add_one(slot: *mut u64) {
    // SAFETY: the kernel returned the address of this CPU's slot, which outlives the program run.
    let count = unsafe { slot.read() };
    // SAFETY: as above. A program that interrupts this one may lose one count, never more.
    unsafe { slot.write(count.wrapping_add(1)) };
}

/// Copies a value out. Two words of one value may come from two writes; the writers never change a value in
/// place while its key is in use (a key is a live socket or an enrolled pod).
pub(crate) fn copy<T: Copy>(value: Option<*const T>) -> Option<T> {
    // SAFETY: the kernel returned it for a value of type `T`; a map value outlives the program run (RCU).
    value.map(|value| unsafe { *value })
}
