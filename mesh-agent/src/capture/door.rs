//! One in-pod listener at work: accepts, and learns where each connection was meant to go.
//!
//! Place in the walk: the first step of a connection. Must not know: what the bytes mean, who the peer is.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::task::yield_now;

use crate::capture::Direction;
use crate::lifecycle::{LaneListener, LaneStream};
use crate::pod::LocalPod;

/// A connection that the kernel programs sent to the agent.
#[derive(Debug)]
pub struct Captured {
    /// The bytes, `TCP_NODELAY` set.
    pub stream: LaneStream,
    /// Outbound: the application's own end. Inbound: the real client. IPv4-mapped addresses are unmapped.
    pub peer: SocketAddr,
    /// Where the connection was meant to go, unmapped.
    pub original: SocketAddr,
    /// Which way it goes.
    pub direction: Direction,
}

/// What came through the door.
#[derive(Debug)]
pub enum Accepted {
    /// A captured connection.
    Captured(Captured),
    /// A connection that nobody captured; it is closed already. Worth a count.
    Stray(Stray),
}

/// Why a connection was closed as soon as it was accepted.
#[derive(Debug, thiserror::Error)]
pub enum Stray {
    /// Its original destination was never filed: somebody dialled the outbound port itself.
    #[error("no original destination for {peer}")]
    NoOriginal {
        /// Who dialled.
        peer: SocketAddr,
    },
    /// It was meant for a port of the agent: to deliver it would bring it back here.
    #[error("{peer} dialled the agent's own port {port}")]
    OwnPort {
        /// Who dialled.
        peer: SocketAddr,
        /// Which port.
        port: u16,
    },
    /// The socket died, or the flow table could not be read.
    #[error("learn the ends of a connection")]
    Unreadable(#[source] io::Error),
}

/// A listener of one pod, on the runtime.
#[derive(Debug)]
pub struct Door {
    listener: LaneListener,
    direction: Direction,
    pod: LocalPod,
    own_ports: Vec<u16>,
    /// Connections accepted since others had their turn.
    in_a_row: AtomicU32,
}

impl Door {
    /// Puts a non-blocking `listener` of `pod` on the current runtime. `own_ports` are the ports of all its doors.
    pub fn open(
        listener: std::net::TcpListener,
        direction: Direction,
        pod: LocalPod,
        own_ports: Vec<u16>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: LaneListener::from_std(listener)?,
            direction,
            pod,
            own_ports,
            in_a_row: AtomicU32::new(0),
        })
    }

    /// Which way the connections of this door go.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The pod that it belongs to.
    pub fn pod(&self) -> &LocalPod {
        &self.pod
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The next connection. Errors of `accept` never surface: what died in the queue is skipped, and while the process is short of
    /// descriptors or memory the door waits. After some in a row others have their turn. Cancel-safe: none is lost.
    pub async fn accept(&self) -> Accepted {
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) == IN_A_ROW {
            self.in_a_row.store(1, Ordering::Relaxed);
            yield_now().await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match poll_fn(|cx| self.listener.poll_accept(cx)).await {
                Ok((stream, peer)) => {
                    return self
                        .learn(stream, peer)
                        .map_or_else(Accepted::Stray, Accepted::Captured);
                }
                Err(error) => error,
            };
            if is_of_the_connection(&error) {
                continue;
            }
            tracing::warn!(pod = %self.pod.workload.pod_name, %error, ?pause, "accept fails, waiting");
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Those that stand in the queue of a door that closes: as far as they know, they are connected.
    pub fn waiting(&self) -> Vec<Accepted> {
        let mut waiting = Vec::new();
        let outcome = self.listener.try_clone().and_then(|listener| {
            // Non-blocking as the one that it is a copy of.
            while waiting.len() < MOST_WAITING {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        stream.set_nonblocking(true)?;
                        let learned = self.learn(TcpStream::from_std(stream)?.into(), peer);
                        waiting.push(learned.map_or_else(Accepted::Stray, Accepted::Captured));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_the_connection(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::warn!(pod = %self.pod.workload.pod_name, %error, "connections that waited are lost");
        }
        waiting
    }

    fn learn(&self, stream: LaneStream, peer: SocketAddr) -> Result<Captured, Stray> {
        let original = match self.direction {
            // By the socket's own idea of its end, which is what the kernel program filed.
            Direction::Outbound => self
                .pod
                .flows
                .original_destination(self.pod.netns.cookie(), peer)
                .map_err(Stray::Unreadable)?
                .ok_or(Stray::NoOriginal { peer })?,
            Direction::Inbound => {
                let local = stream.local_addr().map_err(Stray::Unreadable)?;
                self.pod
                    .flows
                    .inbound_destination(self.pod.netns.cookie(), peer, local)
            }
        };
        let (peer, original) = (unmapped(peer), unmapped(original));
        if self.pod.workload.addrs.contains(&original.ip()) && self.own_ports.contains(&original.port()) {
            return Err(Stray::OwnPort {
                peer,
                port: original.port(),
            });
        }
        stream.set_nodelay(true).map_err(Stray::Unreadable)?;
        Ok(Captured {
            stream,
            peer,
            original,
            direction: self.direction,
        })
    }
}

fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&addr.ip()), addr.port())
}

/// Errors that accept(2) passes on from the connection itself; all else is the listener's or the process's.
fn is_of_the_connection(error: &io::Error) -> bool {
    let Some(code) = error.raw_os_error() else {
        return false;
    };
    matches!(
        Errno::from_raw(code),
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::ENETDOWN
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
    )
}

/// Of a queue that nobody adds to any more.
const MOST_WAITING: usize = 8192;
/// Each accepted connection is some system calls: tokio alone would let 128 of them pass in one poll.
const IN_A_ROW: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpSocket;

    use super::*;
    use crate::capture::listeners::{PodListeners, PodPorts};
    use crate::mesh::workload::fixture;
    use crate::pod::flows::FlowTable;
    use crate::pod::netns::{Netns, NetnsCookie};

    /// Remembers one flow, as the connect hook would file it.
    #[derive(Debug)]
    struct OneFlow(SocketAddr, SocketAddr);

    impl FlowTable for OneFlow {
        fn original_destination(&self, _: NetnsCookie, local: SocketAddr) -> io::Result<Option<SocketAddr>> {
            Ok((local == self.0).then_some(self.1))
        }

        fn file_true_peer(&self, _: NetnsCookie, _: SocketAddr, _: SocketAddr) -> io::Result<()> {
            Ok(())
        }

        fn resolver_behind(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<Option<SocketAddr>> {
            Ok(None)
        }

        fn forget_true_peer(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<()> {
            Ok(())
        }
    }

    fn pod(flows: OneFlow) -> LocalPod {
        let mut workload = fixture::pod("test", "pod");
        workload.addrs = vec!["127.0.0.1".parse().unwrap()];
        let netns = Arc::new(Netns::current().unwrap());
        LocalPod {
            workload: Arc::new(workload),
            netns,
            flows: Arc::new(flows),
        }
    }

    /// Dials `direction`'s door of a pod whose flow table says that the dialler wants to reach `original`.
    async fn through(direction: Direction, is_filed: bool, original: SocketAddr) -> (Accepted, SocketAddr) {
        let dialler = TcpSocket::new_v4().unwrap();
        dialler.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = dialler.local_addr().unwrap();
        let filed = if is_filed {
            own
        } else {
            SocketAddr::new(own.ip(), 0)
        };
        let pod = pod(OneFlow(filed, original));
        let listeners = PodListeners::open(&pod, PodPorts::ANY).unwrap();
        let doors = listeners.into_doors(&pod).unwrap();
        let door = doors.iter().find(|door| door.direction() == direction).unwrap();
        let _dialled = dialler.connect(door.local_addr()).await.unwrap();
        (door.accept().await, own)
    }

    #[tokio::test]
    async fn an_outbound_connection_keeps_its_original_destination() {
        let original = "10.1.2.3:80".parse().unwrap();
        let (accepted, own) = through(Direction::Outbound, true, original).await;
        let Accepted::Captured(captured) = accepted else {
            panic!("{accepted:?}")
        };
        assert_eq!(
            (captured.peer, captured.original, captured.direction),
            (own, original, Direction::Outbound)
        );
        assert!(captured.stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn mapped_addresses_are_unmapped() {
        let mapped = "[::ffff:10.1.2.3]:80".parse().unwrap();
        let (accepted, _) = through(Direction::Outbound, true, mapped).await;
        let Accepted::Captured(captured) = accepted else {
            panic!("{accepted:?}")
        };
        assert_eq!(captured.original, "10.1.2.3:80".parse().unwrap());
    }

    #[tokio::test]
    async fn a_connection_that_nobody_captured_is_a_stray() {
        let (accepted, own) = through(Direction::Outbound, false, own_addr()).await;
        assert!(
            matches!(accepted, Accepted::Stray(Stray::NoOriginal { peer }) if peer == own),
            "{accepted:?}"
        );
    }

    #[tokio::test]
    async fn an_inbound_connection_to_the_agents_own_port_is_a_stray_and_never_a_loop() {
        let (accepted, own) = through(Direction::Inbound, false, own_addr()).await;
        assert!(
            matches!(accepted, Accepted::Stray(Stray::OwnPort { peer, .. }) if peer == own),
            "{accepted:?}"
        );
    }

    #[tokio::test]
    async fn a_crowd_at_the_door_lets_others_have_their_turn() {
        let pod = pod(OneFlow(own_addr(), own_addr()));
        let listeners = PodListeners::open(&pod, PodPorts::ANY).unwrap();
        let doors = listeners.into_doors(&pod).unwrap();
        let door = doors
            .iter()
            .find(|door| door.direction() == Direction::Inbound)
            .unwrap();
        let addr = door.local_addr();
        let _crowd: Vec<_> = (0..20)
            .map(|_| std::net::TcpStream::connect(addr).unwrap())
            .collect();
        let turns_of_others = AtomicU32::new(0);
        let others = async {
            loop {
                turns_of_others.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        };
        let accepting = async {
            let mut seen = Vec::new();
            for _ in 0..20 {
                door.accept().await;
                seen.push(turns_of_others.load(Ordering::Relaxed));
            }
            seen
        };
        let seen = tokio::select! {
            biased;
            seen = accepting => seen,
            () = others => unreachable!(),
        };
        let longest = seen.chunk_by(|one, next| one == next).map(<[_]>::len).max();
        assert!(longest <= usize::try_from(IN_A_ROW).ok(), "{seen:?}");
    }

    #[test]
    fn only_errors_of_the_connection_are_skipped_without_a_pause() {
        for (errno, is) in [
            (Errno::ECONNABORTED, true),
            (Errno::EPROTO, true),
            (Errno::EINTR, true),
            (Errno::EMFILE, false),
            (Errno::ENFILE, false),
            (Errno::ENOBUFS, false),
            (Errno::ENOMEM, false),
            (Errno::EINVAL, false),
        ] {
            assert_eq!(is_of_the_connection(&errno.into()), is, "{errno}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = PodPorts {
            outbound: port,
            ..PodPorts::ANY
        };
        let error = PodListeners::open(&pod(OneFlow(own_addr(), own_addr())), ports).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(
            error.to_string().contains(&format!("127.0.0.1:{port}")),
            "{error}"
        );
    }

    fn own_addr() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }
}
