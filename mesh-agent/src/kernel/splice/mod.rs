//! The splice: messages of direct flows, and those between applications and the agent, go from socket to socket, past TCP,
//! where a trial on this kernel found no harm.
//!
//! Place in the walk: none; it shortens the way of flows that go past the agent. Must not know: which flows those are,
//! who allowed them.

mod bytes;
mod checks;
mod ends_of_life;
pub mod legs;
pub mod offsets;
mod patient;
mod relays;
pub mod trial;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Array, Map, MapData, MapError, SockHash};
use aya::programs::{BtfTracePoint, Program, ProgramError, SkMsg};
use aya::{Btf, Ebpf};
use aya_obj::btf::BtfKind;
use mesh_common::splice::SocketEnds;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::kernel::error::{KernelError, spelled};
use crate::kernel::loader::Programs;
use crate::kernel::preflight::Preflight;
use crate::kernel::splice::trial::Outcome;

/// Whether messages may be spliced, for all flows of the node. Maps and programs stay as they are.
pub struct SpliceSwitch(Mutex<Array<MapData, u32>>);

impl SpliceSwitch {
    /// The switch of the maps that the programs use, turned off.
    pub(in crate::kernel) fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        let switch = Self(Mutex::new(programs.map(SWITCH)?));
        switch.set(false)?;
        Ok(switch)
    }

    /// The switch that is pinned at `path`.
    pub(in crate::kernel) fn pinned(path: &Path) -> Result<Self, KernelError> {
        let map = MapData::from_pin(path).and_then(|data| Array::try_from(Map::Array(data)));
        map.map(|map| Self(Mutex::new(map)))
            .map_err(|source| KernelError::Map {
                operation: "open",
                map: SWITCH,
                source,
            })
    }

    /// Switches it. What waits in the splice is still read first, so order holds.
    pub fn set(&self, is_on: bool) -> Result<(), KernelError> {
        let mut map = self.0.lock();
        map.set(0, u32::from(is_on), 0)
            .map_err(|source| KernelError::Map {
                operation: "set",
                map: SWITCH,
                source,
            })
    }
}

impl fmt::Debug for SpliceSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpliceSwitch")
    }
}

/// Whether flows of this node are spliced, as `status` shows it; clones share it.
#[derive(Debug, Clone, Default)]
pub struct SpliceBoard(Arc<Mutex<SpliceStatus>>);

impl SpliceBoard {
    /// What is known now.
    pub fn status(&self) -> SpliceStatus {
        self.0.lock().clone()
    }

    /// Something was found out.
    pub fn set(&self, status: SpliceStatus) {
        *self.0.lock() = status;
    }
}

/// What the splice is at and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpliceStatus {
    /// In which state it is.
    pub state: SpliceState,
    /// Why it is off, or not yet on; empty while it is on.
    pub why: String,
    /// Why connections between applications and the agent stay with TCP even so; empty when nothing keeps them there.
    #[serde(default)]
    pub legs: String,
    /// Every check of the trial, in the order in which they ran.
    pub checks: Vec<Outcome>,
}

impl SpliceStatus {
    /// Off for that reason, without a trial.
    pub fn off(why: impl Into<String>) -> Self {
        Self {
            state: SpliceState::Off,
            why: why.into(),
            legs: String::new(),
            checks: Vec::new(),
        }
    }
}

/// Whether messages are spliced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpliceState {
    /// They are not.
    #[default]
    Off,
    /// Not yet: the trial runs.
    Trying,
    /// They are, where their flow goes direct.
    On,
}

impl fmt::Display for SpliceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Trying => "trying",
            Self::On => "on",
        })
    }
}

/// Has the kernel verify the programs of the splice and attaches them: to the object's own map of sockets, which is handed
/// out, and to the node's reads. What was attached to the map before is replaced.
pub(in crate::kernel) fn attach(
    found: &Preflight,
    object: &mut Ebpf,
) -> Result<SockHash<MapData, SocketEnds>, KernelError> {
    if let Err(why) = &found.offsets {
        return Err(KernelError::Missing {
            missing: why.clone(),
            cure: "use a kernel with CONFIG_DEBUG_INFO_BTF",
        });
    }
    let btf = Btf::from_sys_fs()
        .map_err(|error| KernelError::Told(format!("read the kernel's BTF: {}", spelled(&error))))?;
    // The type by which the verifier finds the tracepoint; without it aya's error names neither.
    if btf
        .id_by_type_name_kind(TRACEPOINT_TYPE, BtfKind::Typedef)
        .is_err()
    {
        return Err(KernelError::Missing {
            missing: format!("no tracepoint {TRACEPOINT}"),
            cure: "use Linux 6.3 or later",
        });
    }
    let reads: &mut BtfTracePoint = program(object, READ)?;
    reads.load(TRACEPOINT, &btf).map_err(refused("verify", READ))?;
    reads.attach().map_err(refused("attach", READ))?;
    let sockets: SockHash<MapData, SocketEnds> = map(object, SOCKETS)?;
    let messages: &mut SkMsg = program(object, MESSAGE)?;
    messages.load().map_err(refused("verify", MESSAGE))?;
    messages
        .attach(sockets.fd())
        .map_err(refused("attach", MESSAGE))?;
    Ok(sockets)
}

fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or(KernelError::NoSuchPart(name))?;
    program.try_into().map_err(refused("find", name))
}

/// Takes a map out of the object.
fn map<M>(object: &mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(KernelError::NoSuchPart(name))?;
    M::try_from(map).map_err(|source| KernelError::Map {
        operation: "open",
        map: name,
        source,
    })
}

fn refused(operation: &'static str, program: &'static str) -> impl FnOnce(ProgramError) -> KernelError {
    move |source| KernelError::Program {
        operation,
        program,
        source,
    }
}

const MESSAGE: &str = "mesh_sk_msg";
const READ: &str = "mesh_read";
/// Through which reads are seen; exists since Linux 6.3.
const TRACEPOINT: &str = "sock_recv_length";
const TRACEPOINT_TYPE: &str = "btf_trace_sock_recv_length";
const SOCKETS: &str = "SPLICE";
pub(in crate::kernel) const SWITCH: &str = "SPLICE_SWITCH";
