//! The trial: the real programs, in maps of their own, between sockets of this process that no pod knows of.
//!
//! Must not know: pods, flows.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, SockHash};
use aya::{Ebpf, EbpfLoader};
use mesh_common::layout::{Addr, Endpoint};
use mesh_common::splice::{ACCEPTS, HabitKey, READS_BEFORE, Reader, SocketEnds, Writer};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel::error::KernelError;
use crate::kernel::loader::embedded;
use crate::kernel::preflight::Preflight;
use crate::kernel::splice::checks::CHECKS;
use crate::kernel::splice::legs::{Tables, Waiting};
use crate::kernel::splice::patient::Patient;
use crate::kernel::splice::{SWITCH, SpliceState, SpliceStatus, attach, map};
use crate::telemetry::LegBytes;

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was checked, as a claim.
    pub claim: String,
    /// Why it does not hold; `None` when it does.
    pub failure: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Finds out whether messages may be spliced on this kernel. Blocks its thread for some seconds, at most `PATIENCE` and one
/// check; a check that hangs fails by the timeouts of its sockets.
pub fn run() -> SpliceStatus {
    match Trial::load() {
        Ok(mut trial) => trial.run(),
        Err(error) => SpliceStatus::off(error.to_string()),
    }
}

/// The programs in maps of their own. Dropped, all of it goes.
pub(super) struct Trial {
    sockets: SockHash<MapData, SocketEnds>,
    tables: Arc<Tables>,
    _object: Ebpf,
}

impl Trial {
    fn load() -> Result<Self, KernelError> {
        let found = Preflight::run()?;
        let offsets = found.offsets.clone().unwrap_or_default();
        let mut loader = EbpfLoader::new();
        // Enough for the trial; the real maps are made large at once.
        for name in [
            "SPLICE",
            "WRITERS",
            "READERS",
            "ORIGINAL_BY_COOKIE",
            "ORIGINAL_OF_CLOSED",
        ] {
            loader.map_max_entries(name, 256);
        }
        let mut object = loader
            .override_global("WRITE_SEQ", &offsets.write_seq, true)
            .override_global("COPIED_SEQ", &offsets.copied_seq, true)
            .load(embedded()?)
            .map_err(KernelError::Object)?;
        let sockets = attach(&found, &mut object)?;
        let mut switch: Array<_, u32> = map(&mut object, SWITCH)?;
        switch.set(0, 1, 0).map_err(|source| KernelError::Map {
            operation: "set",
            map: SWITCH,
            source,
        })?;
        Ok(Self {
            sockets,
            tables: Arc::new(Tables::open(&object)?),
            _object: object,
        })
    }

    fn run(&mut self) -> SpliceStatus {
        let started = Instant::now();
        let mut outcomes = Vec::new();
        for (claim, check) in CHECKS {
            let begun = Instant::now();
            let failure = if begun.duration_since(started) > PATIENCE {
                Some("the trial took too long".to_owned())
            } else {
                check(self).err().map(|Failure(why)| why)
            };
            outcomes.push(Outcome {
                claim: claim.to_owned(),
                failure,
                took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        let failed: Vec<_> = outcomes.iter().filter(|one| one.failure.is_some()).collect();
        let why: Vec<&str> = failed.iter().map(|one| one.claim.as_str()).collect();
        SpliceStatus {
            state: if why.is_empty() {
                SpliceState::On
            } else {
                SpliceState::Off
            },
            why: if why.is_empty() {
                String::new()
            } else {
                format!("on this kernel it does not hold that {}", why.join(", nor that "))
            },
            legs: String::new(),
            checks: outcomes,
        }
    }

    /// A connection over loopback whose ends are joined.
    pub(super) fn pair(&mut self) -> Result<Pair, Failure> {
        let pair = Pair::connect(Protocol::TCP, Protocol::TCP)?;
        self.join(&pair)?;
        Ok(pair)
    }

    /// The same, warmed up: the next small message of either end is spliced.
    pub(super) fn warm_pair(&mut self) -> Result<Pair, Failure> {
        let pair = self.pair()?;
        self.warm(&pair)?;
        Ok(pair)
    }

    /// Joins both ends, as `sock_ops` does for direct flows.
    pub(super) fn join(&mut self, pair: &Pair) -> Result<(), Failure> {
        let (client, server) = (cookie(&pair.client)?, cookie(&pair.server)?);
        for (socket, own, reader) in [(&pair.client, client, server), (&pair.server, server, client)] {
            let ends = ends(socket)?;
            let writer = Writer {
                own,
                reader,
                spliced: 0,
                is_client: u32::from(own == client),
                reserved: 0,
            };
            let mut writers = self.tables.writers.writer();
            writers
                .insert(ends, writer, 0)
                .map_err(failure("file a writer"))?;
            let mut readers = self.tables.readers.writer();
            readers
                .insert(own, Reader::new(NOBODY), 0)
                .map_err(failure("file a reader"))?;
            self.sockets
                .insert(ends, socket.as_raw_fd(), 0)
                .map_err(failure("join a socket"))?;
        }
        Ok(())
    }

    fn warm(&self, pair: &Pair) -> Result<(), Failure> {
        for _ in 0..READS_BEFORE {
            pair.round_trip(b"warm")?;
        }
        let before = self.spliced(&pair.client)?;
        pair.round_trip(b"warm")?;
        if self.spliced(&pair.client)? != before + 4 || self.spliced(&pair.server)? < 4 {
            return Err(Failure("nothing was spliced".into()));
        }
        Ok(())
    }

    /// How many bytes that socket spliced.
    pub(super) fn spliced(&self, socket: &TcpStream) -> Result<u64, Failure> {
        let writer = self.tables.writers.look_up(&ends(socket)?);
        let writer = writer.map_err(failure("find a writer"))?;
        let writer = writer.ok_or_else(|| Failure("the writer is not known any more".into()))?;
        Ok(writer.spliced)
    }

    /// What an agent whose end of a pair is `socket` knows of it. Nothing may be under way.
    pub(super) fn backlog(&self, socket: &TcpStream) -> Result<Waiting, Failure> {
        let tables = Arc::clone(&self.tables);
        let waiting = Waiting::open(tables, ends(socket)?, LegBytes::default());
        let waiting = waiting.map_err(failure("open a leg"))?;
        waiting.ok_or_else(|| Failure("the pair is not joined any more".into()))
    }
}

/// Both ends of a connection.
pub(super) struct Pair {
    pub(super) client: Patient,
    pub(super) server: Patient,
}

impl Pair {
    pub(super) fn connect(client: Protocol, server: Protocol) -> Result<Self, Failure> {
        let connect = || -> io::Result<Self> {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(server))?;
            let any_port = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            listener.bind(&any_port.into())?;
            listener.listen(1)?;
            let dialling = Socket::new(Domain::IPV4, Type::STREAM, Some(client))?;
            dialling.connect_timeout(&listener.local_addr()?, TIMEOUT)?;
            let (accepted, _) = listener.accept()?;
            let pair = Self {
                client: Patient::new(dialling.into())?,
                server: Patient::new(accepted.into())?,
            };
            for socket in [&pair.client, &pair.server] {
                socket.set_nodelay(true)?;
                // For those that are made to block.
                socket.set_read_timeout(Some(TIMEOUT))?;
                socket.set_write_timeout(Some(TIMEOUT))?;
            }
            Ok(pair)
        };
        connect().map_err(failure("connect over loopback"))
    }

    /// A message there and back.
    pub(super) fn round_trip(&self, message: &[u8]) -> Result<(), Failure> {
        use std::io::{Read as _, Write as _};
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let (mut from, mut to) = (from, to);
            from.write_all(message).map_err(failure("write"))?;
            let mut got = vec![0; message.len()];
            to.read_exact(&mut got).map_err(failure("read"))?;
            if got != message {
                return Err(Failure("other bytes came than were sent".into()));
            }
        }
        Ok(())
    }
}

/// Why a check failed.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

pub(super) fn failure<E: std::error::Error>(operation: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure(format!("{operation}: {}", crate::kernel::error::spelled(&error)))
}

fn cookie(socket: &TcpStream) -> Result<u64, Failure> {
    socket2::SockRef::from(socket)
        .cookie()
        .map_err(failure("read a cookie"))
}

fn ends(socket: &TcpStream) -> Result<SocketEnds, Failure> {
    Ok(SocketEnds {
        local: socket.local_addr().map_err(failure("name a socket"))?.into(),
        remote: socket.peer_addr().map_err(failure("name a socket"))?.into(),
    })
}

/// Sockets of the trial belong to no pod.
const NOBODY: HabitKey = HabitKey {
    netns: 0,
    server: Endpoint {
        addr: Addr([0; 4]),
        port: 0,
    },
    role: ACCEPTS,
};
/// How long one operation on a socket may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// When no further check is begun.
const PATIENCE: Duration = Duration::from_secs(20);
