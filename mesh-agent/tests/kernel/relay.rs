//! The smallest proxy that can stand behind the doors: it relays bytes and remembers what it was given.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mesh_agent::capture::dns::DnsListeners;
use mesh_agent::capture::door::{Accepted, Captured, Door};
use mesh_agent::capture::listeners::PodListeners;
use mesh_agent::capture::{Direction, Leaving, PodHost};
use mesh_agent::mesh::workload::WorkloadUid;
use mesh_agent::pod::LocalPod;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::dns;

/// Direction, peer and original destination of a captured connection.
pub(crate) type Flow = (Direction, SocketAddr, SocketAddr);

/// Serves pods on the runtime it was made on.
pub(crate) struct Relay {
    runtime: tokio::runtime::Handle,
    flows: Arc<Mutex<Vec<Flow>>>,
    strays: Arc<Mutex<Vec<String>>>,
    pods: Mutex<HashMap<WorkloadUid, Served>>,
}

struct Served {
    pod: LocalPod,
    doors: JoinSet<()>,
    resolving: JoinSet<()>,
}

impl Relay {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            runtime: tokio::runtime::Handle::current(),
            flows: Arc::default(),
            strays: Arc::default(),
            pods: Mutex::default(),
        })
    }

    /// What was captured since the last call.
    pub(crate) fn take(&self) -> Vec<Flow> {
        std::mem::take(&mut self.flows.lock().unwrap())
    }

    /// Ends every door, as a crashed agent would.
    pub(crate) async fn crash(&self) {
        let pods: Vec<_> = self.pods.lock().unwrap().drain().collect();
        for (_, mut served) in pods {
            served.doors.shutdown().await;
            served.resolving.shutdown().await;
        }
    }
}

/// Keeps the listeners and accepts nothing.
#[derive(Default)]
pub(crate) struct Held(pub(crate) Mutex<Option<(LocalPod, PodListeners)>>);

impl PodHost for Held {
    fn joined(&self, pod: LocalPod, listeners: PodListeners) -> io::Result<()> {
        *self.0.lock().unwrap() = Some((pod, listeners));
        Ok(())
    }

    fn resolve(&self, _: &WorkloadUid, _: Option<DnsListeners>) {}

    fn left(&self, _: &WorkloadUid, _: Leaving) {}
}

impl PodHost for Relay {
    fn joined(&self, pod: LocalPod, listeners: PodListeners) -> io::Result<()> {
        let _inside = self.runtime.enter();
        let mut doors = JoinSet::new();
        for door in listeners.into_doors(&pod)? {
            let (flows, strays) = (Arc::clone(&self.flows), Arc::clone(&self.strays));
            doors.spawn_on(serve(door, flows, strays), &self.runtime);
        }
        let uid = pod.workload.uid.clone();
        let served = Served {
            pod,
            doors,
            resolving: JoinSet::new(),
        };
        self.pods.lock().unwrap().insert(uid, served);
        Ok(())
    }

    fn resolve(&self, uid: &WorkloadUid, listeners: Option<DnsListeners>) {
        let _inside = self.runtime.enter();
        let mut pods = self.pods.lock().unwrap();
        let served = pods.get_mut(uid).unwrap();
        served.resolving.abort_all();
        for listener in listeners.into_iter().flat_map(dns::on_runtime) {
            let answering = dns::name_resolvers(served.pod.clone(), listener);
            served.resolving.spawn_on(answering, &self.runtime);
        }
    }

    fn left(&self, uid: &WorkloadUid, _: Leaving) {
        self.pods.lock().unwrap().remove(uid);
    }
}

async fn serve(door: Door, flows: Arc<Mutex<Vec<Flow>>>, strays: Arc<Mutex<Vec<String>>>) {
    let mut relays = JoinSet::new();
    loop {
        match door.accept().await {
            Accepted::Captured(captured) => {
                flows
                    .lock()
                    .unwrap()
                    .push((captured.direction, captured.peer, captured.original));
                relays.spawn(relay(door.pod().clone(), captured));
            }
            Accepted::Stray(stray) => strays.lock().unwrap().push(stray.to_string()),
        }
    }
}

async fn relay(pod: LocalPod, mut captured: Captured) {
    let onward = dial(&pod, &captured).await;
    if let Ok(mut onward) = onward {
        tokio::io::copy_bidirectional(&mut captured.stream, &mut onward)
            .await
            .ok();
        pod.flows
            .forget_true_peer(pod.netns.cookie(), onward.local_addr().unwrap())
            .unwrap();
    }
}

async fn dial(pod: &LocalPod, captured: &Captured) -> io::Result<TcpStream> {
    let to = captured.original;
    let from = pod.addr_like(to.ip()).unwrap();
    let socket = pod
        .netns
        .run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))?;
    socket.set_nonblocking(true)?;
    if captured.direction == Direction::Inbound {
        socket.bind(&SocketAddr::new(from, 0).into())?;
        let bound = socket.local_addr()?.as_socket().unwrap();
        pod.flows
            .file_true_peer(pod.netns.cookie(), bound, captured.peer)?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error().map(Errno::from_raw) != Some(Errno::EINPROGRESS) => {
            return Err(error);
        }
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}
