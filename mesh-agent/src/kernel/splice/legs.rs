//! Legs, the connections of applications with the agent: where bytes are relayed, and which of them are spliced.
//!
//! The kernel joins the two sockets of a leg while they are being connected, and splices nothing between them until the agent
//! opens both directions here. Must not know: pods, how the agent reads and writes.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use aya::programs::{CgroupAttachMode, SockOps};
use aya::sys::SyscallError;
use aya::{Ebpf, Pod};
use mesh_common::splice::{Habit, HabitKey, RELAYS, Reader, SocketEnds, Writer};

use crate::kernel::error::KernelError;
use crate::kernel::loader::{JOINER, Programs, hash_map_handle};
use crate::kernel::preflight::Preflight;
use crate::kernel::splice::{program, refused};
use crate::pod::legs::{Backlog, LegEnds};
use crate::pod::netns::NetnsCookie;
use crate::telemetry::LegBytes;

/// The legs of the node. None is spliced before [`Legs::allow`].
pub struct Legs {
    tables: Arc<Tables>,
    allowed: OnceLock<LegBytes>,
}

/// What the kernel programs know of sockets.
pub(super) struct Tables {
    pub(super) writers: Table<SocketEnds, Writer>,
    pub(super) readers: Table<u64, Reader>,
    habits: Table<HabitKey, Habit>,
}

impl Legs {
    /// The legs in the maps that the programs use.
    pub(in crate::kernel) fn open(programs: &mut Programs) -> Result<Self, KernelError> {
        Ok(Self {
            tables: Arc::new(Tables::open(programs.object())?),
            allowed: OnceLock::new(),
        })
    }

    /// Lets legs be spliced from now on; what is, is counted in `bytes`.
    pub fn allow(&self, bytes: LegBytes) {
        // A second time says nothing new.
        let _: &LegBytes = self.allowed.get_or_init(|| bytes);
    }

    /// As [`FlowTable::splice`](crate::pod::flows::FlowTable::splice).
    pub(in crate::kernel) fn splice(
        &self,
        netns: NetnsCookie,
        leg: LegEnds,
    ) -> io::Result<Option<Box<dyn Backlog>>> {
        let Some(bytes) = self.allowed.get() else {
            return Ok(None);
        };
        self.tables.say_relayed(HabitKey {
            netns: netns.0,
            server: leg.dialled.into(),
            role: RELAYS,
        })?;
        let ends = SocketEnds {
            local: leg.agent.into(),
            remote: leg.application.into(),
        };
        let waiting = Waiting::open(Arc::clone(&self.tables), ends, bytes.clone())?;
        Ok(waiting.map(|waiting| -> Box<dyn Backlog> { Box::new(waiting) }))
    }
}

impl fmt::Debug for Legs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legs")
            .field("is_allowed", &self.allowed.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Tables {
    pub(super) fn open(object: &Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            writers: Table::open(object, "WRITERS")?,
            readers: Table::open(object, "READERS")?,
            habits: Table::open(object, "HABITS")?,
        })
    }

    /// New connections like this one may be joined. What the kernel has learned of them since stays.
    fn say_relayed(&self, key: HabitKey) -> io::Result<()> {
        let hopeful = Habit {
            is_worthwhile: 1,
            needs_tcp: 0,
        };
        match self.habits.writer().insert(key, hopeful, BPF_NOEXIST) {
            Err(error) if kind(&error) == Some(io::ErrorKind::AlreadyExists) => Ok(()),
            said => said.map_err(io::Error::other),
        }
    }

    /// Lets the socket at `from` splice to the socket `to`; whether it is joined still.
    fn connect(&self, from: SocketEnds, writer: Writer, to: u64) -> io::Result<bool> {
        let opened = Writer { reader: to, ..writer };
        match self.writers.writer().insert(from, opened, BPF_EXIST) {
            Ok(()) => Ok(true),
            Err(error) if kind(&error) == Some(io::ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// One leg that is spliced.
pub(super) struct Waiting {
    tables: Arc<Tables>,
    /// Of the agent's socket.
    ends: SocketEnds,
    agent: u64,
    application: u64,
    bytes: LegBytes,
    /// What is in `bytes` already.
    counted: [AtomicU64; 2],
}

impl Waiting {
    /// Opens both directions of a leg whose agent's socket has these `ends`. `None` when it is not joined.
    pub(super) fn open(tables: Arc<Tables>, ends: SocketEnds, bytes: LegBytes) -> io::Result<Option<Self>> {
        let (Some(agents), Some(applications)) = (
            tables.writers.look_up(&ends)?,
            tables.writers.look_up(&ends.turned())?,
        ) else {
            return Ok(None);
        };
        // Nobody splices before this, so that nobody changes what is written back. The agent's direction is first: one that
        // cannot be opened then leaves a leg on which nothing reaches the agent that it would not read.
        if !tables.connect(ends, agents, applications.own)?
            || !tables.connect(ends.turned(), applications, agents.own)?
        {
            return Ok(None);
        }
        Ok(Some(Self {
            tables,
            ends,
            agent: agents.own,
            application: applications.own,
            bytes,
            counted: [AtomicU64::new(0), AtomicU64::new(0)],
        }))
    }
}

impl Backlog for Waiting {
    fn unread(&self) -> io::Result<Option<u64>> {
        // The agent is the only writer and does not write meanwhile, so that the reader cannot be ahead.
        let writer = self.tables.writers.look_up(&self.ends)?;
        let reader = self.tables.readers.look_up(&self.application)?;
        Ok(writer
            .zip(reader)
            .and_then(|(writer, reader)| writer.unread(&reader)))
    }

    fn tally(&self) -> io::Result<()> {
        let sent = self
            .tables
            .writers
            .look_up(&self.ends)?
            .map(|writer| writer.spliced);
        let received = self
            .tables
            .readers
            .look_up(&self.agent)?
            .map(|reader| reader.spliced);
        let counters = [&self.bytes.to_application, &self.bytes.from_application];
        for ((now, counted), counter) in [sent, received].into_iter().zip(&self.counted).zip(counters) {
            if let Some(now) = now {
                let before = counted.fetch_max(now, Ordering::Relaxed);
                counter.inc_by(now.saturating_sub(before));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// One map: aya asks for `&mut` to write, so that there is a handle for that, and one for everybody who reads.
pub(super) struct Table<K, V> {
    reader: HashMap<MapData, K, V>,
    writer: Mutex<HashMap<MapData, K, V>>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    fn open(object: &Ebpf, name: &'static str) -> Result<Self, KernelError> {
        Ok(Self {
            reader: hash_map_handle(object, name)?,
            writer: Mutex::new(hash_map_handle(object, name)?),
        })
    }

    pub(super) fn look_up(&self, key: &K) -> io::Result<Option<V>> {
        match self.reader.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, HashMap<MapData, K, V>> {
        // A panicking holder leaves a handle behind, which is as good as before.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind(error: &MapError) -> Option<io::ErrorKind> {
    if let MapError::SyscallError(SyscallError { io_error, .. }) = error {
        return Some(io_error.kind());
    }
    None
}

/// Attaches the program that joins legs to the agent's own cgroup for as long as `object` lives.
///
/// Errors: the cgroup is the root, of which every process would pay, or somebody else's program there allows no other.
pub(in crate::kernel) fn attach(found: &Preflight, object: &mut Ebpf) -> Result<(), KernelError> {
    let path = &found.agent_cgroup;
    // Every cgroup but the root has one (cgroups(7)).
    if !path.join("cgroup.type").exists() {
        return Err(KernelError::Missing {
            missing: format!("no cgroup of the agent's own: it is in {}", path.display()),
            cure: "start it in one",
        });
    }
    let cgroup = std::fs::File::open(path).map_err(|source| KernelError::Open {
        path: path.clone(),
        source,
    })?;
    let joiner: &mut SockOps = program(object, JOINER)?;
    // A link never shuts others out, whatever mode it has.
    let attached = joiner.attach(cgroup, CgroupAttachMode::Single);
    attached.map(drop).map_err(refused("attach", JOINER))
}

/// Flags of a map update (linux/bpf.h).
const BPF_NOEXIST: u64 = 1;
const BPF_EXIST: u64 = 2;
