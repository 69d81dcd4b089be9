//! The walk of a DNS question: answered from the snapshot, or taken to the resolver that the pod meant.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::capture::dns::DnsListeners;
use crate::detect::Prefixed;
use crate::dns::answer::{Transport, answer};
use crate::dns::forward::forward;
use crate::dns::question::{LONGEST_QUERY, Question};
use crate::lifecycle::{LaneStream, Tasks};
use crate::proxy::Mesh;
use crate::proxy::pods::ServedPod;
use crate::telemetry::DnsOutcome;

/// DNS of one pod, while it is captured.
#[derive(Debug, Default)]
pub(super) struct PodDns {
    answering: ArcSwapOption<Tasks>,
}

impl PodDns {
    /// Whether the pod's questions come here.
    pub(super) fn is_captured(&self) -> bool {
        self.answering.load().is_some()
    }

    /// Answers on `listeners` from now on, or not any more; what was asked before is still answered.
    pub(super) fn set(&self, mesh: &Arc<Mesh>, served: &Arc<ServedPod>, listeners: Option<DnsListeners>) {
        let tasks = listeners.map(|listeners| {
            let tasks = served.tasks.child();
            let queries = Arc::new(Semaphore::new(MAX_QUERIES));
            for socket in listeners.into_sockets() {
                match UdpSocket::from_std(socket) {
                    Ok(socket) => {
                        let asked = Asked {
                            mesh: Arc::clone(mesh),
                            served: Arc::clone(served),
                            socket: Arc::new(socket),
                            queries: Arc::clone(&queries),
                            tasks: tasks.clone(),
                        };
                        tasks.spawn("dns", asked.listen());
                    }
                    Err(error) => tracing::error!(%error, "cannot answer on a DNS listener"),
                }
            }
            Arc::new(tasks)
        });
        if let Some(before) = self.answering.swap(tasks) {
            before.request_stop();
        }
    }
}

/// One listener: the questions of a pod to one resolver.
#[derive(Clone)]
struct Asked {
    mesh: Arc<Mesh>,
    served: Arc<ServedPod>,
    socket: Arc<UdpSocket>,
    queries: Arc<Semaphore>,
    tasks: Tasks,
}

impl Asked {
    async fn listen(self) {
        let stop = self.tasks.stop();
        let mut buffer = vec![0; LONGEST_READ];
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => received,
                () = stop.requested() => return,
            };
            match received {
                Ok((length, asker)) => self.take(buffer.get(..length).unwrap_or_default(), asker),
                // An ICMP message about an answer comes this way too; the socket itself goes on.
                Err(error) => {
                    tracing::debug!(%error, "a DNS listener failed once");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers at once where it can, else leaves it to a task of its own.
    fn take(&self, bytes: &[u8], asker: SocketAddr) {
        let pod = &self.served.pod;
        // The listener is reachable only from within the pod; whatever else came must not be answered.
        if !pod.workload.addrs.contains(&asker.ip()) && !asker.ip().is_loopback() {
            return self.count(DnsOutcome::Malformed);
        }
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(why) => {
                tracing::debug!(%why, %asker, pod = %pod.workload.pod_name, "no DNS question");
                return self.count(DnsOutcome::Malformed);
            }
        };
        if let Some(answer) = own_answer(&self.mesh, &pod.workload.namespace, &question, Transport::Udp) {
            self.count(DnsOutcome::Answered);
            return self.tell(&answer, asker);
        }
        let Ok(permit) = Arc::clone(&self.queries).try_acquire_owned() else {
            tracing::debug!(limit = MAX_QUERIES, pod = %pod.workload.pod_name, "too many DNS questions of one pod");
            self.count(DnsOutcome::Failed);
            return self.tell(&question.failure(), asker);
        };
        let asked = self.clone();
        self.tasks.spawn("dns-forward", async move {
            let answer = asked.ask_resolver(&question).await;
            asked.tell(&answer, asker);
            drop(permit);
        });
    }

    /// What the resolver says; that it failed, where it does not say anything.
    async fn ask_resolver(&self, question: &Question) -> Vec<u8> {
        let pod = &self.served.pod;
        let resolver = match self.resolver() {
            Ok(Some(resolver)) => resolver,
            Ok(None) => {
                tracing::debug!(pod = %pod.workload.pod_name, "a DNS question for no known resolver");
                self.count(DnsOutcome::Failed);
                return question.failure();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look up whom a DNS question is for");
                self.count(DnsOutcome::Failed);
                return question.failure();
            }
        };
        match forward(question, &pod.netns, resolver, PATIENCE).await {
            Ok(answer) => {
                self.count(DnsOutcome::Forwarded);
                answer
            }
            Err(error) => {
                tracing::debug!(%error, cause = ?error, pod = %pod.workload.pod_name, "a DNS question was not answered");
                self.count(DnsOutcome::Failed);
                question.failure()
            }
        }
    }

    fn resolver(&self) -> io::Result<Option<SocketAddr>> {
        let pod = &self.served.pod;
        pod.flows
            .resolver_behind(pod.netns.cookie(), self.socket.local_addr()?)
    }

    /// Out of the very listener that was asked: its port tells the hooks whom the answer is from.
    fn tell(&self, answer: &[u8], asker: SocketAddr) {
        if let Err(error) = self.socket.try_send_to(answer, asker) {
            tracing::debug!(%error, %asker, "a DNS answer could not be sent");
        }
    }

    fn count(&self, outcome: DnsOutcome) {
        self.mesh.telemetry.mesh().dns_request(outcome);
    }
}

/// What became of DNS over one TCP connection.
pub(super) enum Stream {
    /// It has ended.
    Over,
    /// From its next question on it is the resolver's.
    Onward(Prefixed<LaneStream>),
}

/// Answers the questions of a TCP connection up to the first one that is not about a known Service: with that one in front,
/// the connection is to be carried to the resolver, like any other.
pub(super) async fn answer_stream(
    mesh: &Mesh,
    served: &ServedPod,
    mut stream: LaneStream,
) -> io::Result<Stream> {
    let stop = served.tasks.stop();
    loop {
        let message = tokio::select! {
            message = timeout(mesh.settings.idle_timeout, read_message(&mut stream)) => message?,
            () = stop.requested() => return Ok(Stream::Over),
        };
        let message = match message? {
            Read::Message(message) => message,
            Read::TooLong(length) => {
                mesh.telemetry.mesh().dns_request(DnsOutcome::Forwarded);
                let first = Bytes::copy_from_slice(&length.to_be_bytes());
                return Ok(Stream::Onward(Prefixed::new(first, stream)));
            }
            Read::End => return Ok(Stream::Over),
        };
        let own = match Question::read(&message) {
            Ok(question) => own_answer(mesh, &served.pod.workload.namespace, &question, Transport::Tcp),
            // An opaque message of whatever kind is the resolver's own affair: the connection is to it alone.
            Err(why) => {
                tracing::debug!(%why, "no DNS question in a stream");
                None
            }
        };
        let Some(answer) = own else {
            mesh.telemetry.mesh().dns_request(DnsOutcome::Forwarded);
            return Ok(Stream::Onward(Prefixed::new(framed(&message).into(), stream)));
        };
        mesh.telemetry.mesh().dns_request(DnsOutcome::Answered);
        timeout(PATIENCE, stream.write_all(&framed(&answer))).await??;
    }
}

fn own_answer(mesh: &Mesh, client: &str, question: &Question, transport: Transport) -> Option<Vec<u8>> {
    let snapshot = mesh.snapshots.load();
    answer(question, client, snapshot.names(), &mesh.settings.zone, transport)
}

/// What comes next in a stream.
enum Read {
    Message(Vec<u8>),
    /// So long that it is no question, and perhaps no DNS.
    TooLong(u16),
    End,
}

/// Reads one message with its length before it (RFC 1035 4.2.2).
async fn read_message(stream: &mut LaneStream) -> io::Result<Read> {
    let length = match stream.read_u16().await {
        Ok(length) if usize::from(length) > LONGEST_QUERY => return Ok(Read::TooLong(length)),
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Read::End),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Read::Message(message))
}

fn framed(message: &[u8]) -> Vec<u8> {
    // No message is longer than two bytes can count: it was read with such a length, or written under that limit.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [length.to_be_bytes().as_slice(), message].concat()
}

/// Questions of one pod that may wait for a resolver at a time; more are told that they failed.
pub(super) const MAX_QUERIES: usize = 256;
/// As long as stub resolvers wait (`RES_TIMEOUT` of resolv.h).
const PATIENCE: Duration = Duration::from_secs(5);
/// A byte more than a question may have: longer ones are noticed, not cut.
const LONGEST_READ: usize = LONGEST_QUERY + 1;
const PAUSE: Duration = Duration::from_millis(10);
