//! One question to the resolver that the pod meant, out of the pod's own namespace.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::dns::question::{Question, with_id};
use crate::pod::netns::Netns;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// No socket, or it cannot be sent to: the resolver's address is unreachable.
    #[error("cannot ask {resolver}")]
    Socket {
        /// Whom.
        resolver: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The resolver did not answer, or only with what fits another question.
    #[error("no answer from {0} in time")]
    Timeout(SocketAddr),
}

/// Asks `resolver` out of `netns` and gives back its answer byte for byte, under the asker's own id.
///
/// Each question has a socket of its own: the kernel chooses a random port and drops what other addresses send, and the id
/// is random too, so that an answer cannot be guessed. Cancel-safe: dropped, the socket closes.
pub async fn forward(
    question: &Question,
    netns: &Netns,
    resolver: SocketAddr,
    patience: Duration,
) -> Result<Vec<u8>, Unanswered> {
    let failed = |source| Unanswered::Socket { resolver, source };
    let socket = connect(netns, resolver).map_err(failed)?;
    let id = rand::random();
    socket.send(&question.bytes_with(id)).await.map_err(failed)?;
    let answer = timeout(patience, fitting(&socket, question, id)).await;
    let answer = answer
        .map_err(|_| Unanswered::Timeout(resolver))?
        .map_err(failed)?;
    Ok(with_id(answer, question.id()))
}

/// What does not fit is somebody's guess: the true answer may still come.
async fn fitting(socket: &UdpSocket, question: &Question, id: u16) -> io::Result<Vec<u8>> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            refusal(socket)?;
        }
        // Held only while there is something to read, not while it is waited for.
        let mut answer = Vec::with_capacity(LONGEST);
        match socket.try_recv_buf(&mut answer) {
            Ok(_) if question.is_answered_by(&answer, id) => {
                answer.shrink_to_fit();
                return Ok(answer);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// An ICMP message says that nobody listens there, or that there is no way: it does not make the socket readable.
fn refusal(socket: &UdpSocket) -> io::Result<()> {
    let told = socket.try_io(Interest::ERROR, || match socket.take_error()? {
        Some(error) => Err(error),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    match told {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

fn connect(netns: &Netns, resolver: SocketAddr) -> io::Result<UdpSocket> {
    let socket =
        netns.run(|| Socket::new(Domain::for_address(resolver), Type::DGRAM, Some(Protocol::UDP)))?;
    socket.set_nonblocking(true)?;
    socket.connect(&resolver.into())?;
    UdpSocket::from_std(socket.into())
}

/// Of a UDP datagram.
const LONGEST: usize = 65_535;

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use hickory_proto::rr::RecordType;

    use super::*;
    use crate::dns::question::tests::asking;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn resolver() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        (socket, addr)
    }

    fn question() -> Question {
        Question::read(&asking("Example.Org.", RecordType::A).to_vec().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_query_goes_out_as_it_came_but_for_its_id_and_so_does_the_answer() {
        let (resolver, addr) = resolver().await;
        let (question, netns) = (question(), Netns::current().unwrap());
        let asked = async {
            let mut bytes = vec![0; 512];
            let (length, asker) = resolver.recv_from(&mut bytes).await.unwrap();
            bytes.truncate(length);
            let mut answer = Message::from_vec(&bytes)
                .unwrap()
                .into_response()
                .to_vec()
                .unwrap();
            // Bytes that no parser of ours would keep.
            answer.extend([0xde, 0xad]);
            resolver.send_to(&answer, asker).await.unwrap();
            (bytes, answer)
        };
        let (got, (sent, answer)) = tokio::join!(forward(&question, &netns, addr, PATIENCE), asked);
        assert_eq!(sent[2..], question.bytes_with(0)[2..]);
        assert_eq!(got.unwrap(), with_id(answer, question.id()));
    }

    #[tokio::test]
    async fn forged_answers_are_passed_over() {
        let (resolver, addr) = resolver().await;
        let (question, netns) = (question(), Netns::current().unwrap());
        let forger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let asked = async {
            let mut bytes = vec![0; 512];
            let (length, asker) = resolver.recv_from(&mut bytes).await.unwrap();
            bytes.truncate(length);
            let mut good = Message::from_vec(&bytes).unwrap().into_response();
            let id = good.metadata.id;
            let other = asking("example.net.", RecordType::A)
                .into_response()
                .to_vec()
                .unwrap();
            let honest = good.to_vec().unwrap();
            // Of another source, with another id, about another name, and no message at all.
            forger.send_to(&honest, asker).await.unwrap_or(0);
            for forged in [with_id(honest, !id), with_id(other, id), vec![0; 3]] {
                resolver.send_to(&forged, asker).await.unwrap();
            }
            good.metadata.authoritative = true;
            resolver.send_to(&good.to_vec().unwrap(), asker).await.unwrap();
        };
        let (got, ()) = tokio::join!(forward(&question, &netns, addr, PATIENCE), asked);
        let got = Message::from_vec(&got.unwrap()).unwrap();
        assert!(got.metadata.authoritative, "the true one");
    }

    #[tokio::test]
    async fn nobody_there_is_known_at_once_and_silence_in_time() {
        let (silent, addr) = resolver().await;
        let netns = Netns::current().unwrap();
        let unanswered = forward(&question(), &netns, addr, Duration::from_millis(1)).await;
        assert!(
            matches!(unanswered, Err(Unanswered::Timeout(_))),
            "{unanswered:?}"
        );
        drop(silent);
        let unanswered = forward(&question(), &netns, addr, PATIENCE).await;
        assert!(
            matches!(unanswered, Err(Unanswered::Socket { .. })),
            "{unanswered:?}"
        );
    }

    #[tokio::test]
    async fn ids_and_ports_change_from_query_to_query() {
        let (resolver, addr) = resolver().await;
        let netns = Netns::current().unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..8 {
            let unanswered = forward(&question(), &netns, addr, Duration::from_millis(1)).await;
            assert!(unanswered.is_err());
            let mut bytes = [0; 512];
            let (_, asker) = resolver.recv_from(&mut bytes).await.unwrap();
            seen.insert((asker.port(), [bytes[0], bytes[1]]));
        }
        assert!(seen.len() > 4, "{seen:?}");
    }
}
