//! The flow table over eBPF maps.
//!
//! A lookup is one system call on a shared handle, no lock. aya asks for `&mut` to write, so each write takes one of
//! several handles on the same map, chosen by port: the lock is held for that one system call, and two threads meet
//! on it only when their ports do.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;
use mesh_common::dns::DNS_PORT;
use mesh_common::layout::{Addr, Endpoint, SocketKey};
use mesh_common::map::MapName;

use crate::kernel::capacity::Overflows;
use crate::kernel::dns::RESOLVERS;
use crate::kernel::error::{KernelError, is_full};
use crate::kernel::loader::Programs;
use crate::kernel::splice::legs::Legs;
use crate::pod::flows::FlowTable;
use crate::pod::legs::{Backlog, LegEnds};
use crate::pod::netns::NetnsCookie;

type Ends = HashMap<MapData, SocketKey, Endpoint>;

/// What the hooks remember of flows.
pub struct EbpfFlows {
    living: Handles,
    closed: Ends,
    true_peer: Handles,
    resolvers: HashMap<MapData, SocketKey, Addr>,
    legs: Arc<Legs>,
    overflows: Arc<Overflows>,
}

impl EbpfFlows {
    /// Takes the maps over that hold flows; what finds no room in them is counted in `overflows`.
    pub(in crate::kernel) fn open(
        programs: &mut Programs,
        legs: &Arc<Legs>,
        overflows: &Arc<Overflows>,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            living: Handles::open(programs, "ORIGINAL_DST")?,
            closed: programs.map("ORIGINAL_OF_CLOSED")?,
            true_peer: Handles::open(programs, "TRUE_PEER")?,
            resolvers: programs.hash_map_handle(RESOLVERS)?,
            legs: Arc::clone(legs),
            overflows: Arc::clone(overflows),
        })
    }

    /// Forgets what an earlier agent filed for the connections that it delivered to a pod: they ended with it.
    pub(in crate::kernel) fn sweep_peers(&self, netns: NetnsCookie) -> Result<(), KernelError> {
        self.true_peer.sweep(netns)
    }

    /// Removes what is left of the flows of a pod that is unhooked: nobody else will any more.
    pub(in crate::kernel) fn sweep(&self, netns: NetnsCookie) -> Result<(), KernelError> {
        self.living.sweep(netns)?;
        self.true_peer.sweep(netns)
    }
}

impl FlowTable for EbpfFlows {
    fn original_destination(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<Option<SocketAddr>> {
        let key = SocketKey::new(netns.0, local);
        let original = match look_up(&self.living.reader, &key)? {
            Some(original) => Some(original),
            None => look_up(&self.closed, &key)?,
        };
        original
            .map(|end| SocketAddr::try_from(end).map_err(io::Error::other))
            .transpose()
    }

    fn is_open(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<bool> {
        let key = SocketKey::new(netns.0, local);
        Ok(look_up(&self.living.reader, &key)?.is_some())
    }

    fn file_true_peer(&self, netns: NetnsCookie, bound: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        let key = SocketKey::new(netns.0, bound);
        let filed = self
            .true_peer
            .writer(bound.port())
            .insert(key, Endpoint::from(peer), 0);
        if filed.as_ref().is_err_and(is_full) {
            self.overflows.add(MapName::TruePeer);
        }
        filed.map_err(plain)
    }

    fn resolver_behind(&self, netns: NetnsCookie, listener: SocketAddr) -> io::Result<Option<SocketAddr>> {
        match self.resolvers.get(&SocketKey::new(netns.0, listener), 0) {
            Ok(addr) => Ok(Some(SocketAddr::new(IpAddr::from(addr), DNS_PORT))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(plain(error)),
        }
    }

    fn forget_true_peer(&self, netns: NetnsCookie, bound: SocketAddr) -> io::Result<()> {
        let key = SocketKey::new(netns.0, bound);
        absent_is_fine(self.true_peer.writer(bound.port()).remove(&key)).map_err(plain)
    }

    fn splice(&self, netns: NetnsCookie, leg: LegEnds) -> io::Result<Option<Box<dyn Backlog>>> {
        self.legs.splice(netns, leg)
    }
}

impl fmt::Debug for EbpfFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfFlows").finish_non_exhaustive()
    }
}

/// One map: a handle to read, and several to write.
struct Handles {
    name: &'static str,
    reader: Ends,
    first: Mutex<Ends>,
    others: Box<[Mutex<Ends>]>,
}

impl Handles {
    fn open(programs: &mut Programs, name: &'static str) -> Result<Self, KernelError> {
        let writer = |_| Ok(Mutex::new(programs.hash_map_handle(name)?));
        let others = (0..OTHER_WRITERS)
            .map(writer)
            .collect::<Result<_, KernelError>>()?;
        let first = Mutex::new(programs.hash_map_handle(name)?);
        Ok(Self {
            name,
            reader: programs.map(name)?,
            first,
            others,
        })
    }

    fn writer(&self, port: u16) -> MutexGuard<'_, Ends> {
        let turn = usize::from(port) % (OTHER_WRITERS + 1);
        // A panicking holder leaves a handle behind, which is as good as before.
        self.others
            .get(turn)
            .unwrap_or(&self.first)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self, netns: NetnsCookie) -> Result<(), KernelError> {
        let failed = |source| KernelError::Map {
            operation: "sweep",
            map: self.name,
            source,
        };
        let mut keys = Vec::new();
        for key in self.reader.keys() {
            let key = key.map_err(failed)?;
            if key.netns == netns.0 {
                keys.push(key);
            }
        }
        let mut writer = self.writer(0);
        keys.iter()
            .try_for_each(|key| absent_is_fine(writer.remove(key)))
            .map_err(failed)
    }
}

fn look_up(map: &Ends, key: &SocketKey) -> io::Result<Option<Endpoint>> {
    match map.get(key, 0) {
        Ok(end) => Ok(Some(end)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(plain(error)),
    }
}

/// Removing what is not there is what the caller wanted.
pub(in crate::kernel) fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The errno, where aya wrapped one.
fn plain(error: MapError) -> io::Error {
    if let MapError::SyscallError(SyscallError { call, io_error }) = error {
        return io::Error::new(io_error.kind(), format!("{call}: {io_error}"));
    }
    io::Error::other(error)
}

const OTHER_WRITERS: usize = 15;
