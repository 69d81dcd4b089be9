//! DNS questions of a pod: answered here, or taken to its resolver.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh_common::dns::DNS_PORT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::facts::{LEGACY, WEB};
use super::lab::{Lab, soon};
use crate::capture::PodHost;
use crate::capture::dns::DnsListeners;
use crate::mesh::service::AppProtocol;
use crate::proxy::dns::MAX_QUERIES;

/// The pod's own resolver, an application that asks it, and the agent between them.
struct Asking {
    lab: Lab,
    resolver: UdpSocket,
    app: UdpSocket,
    listeners: Vec<SocketAddr>,
}

impl Asking {
    async fn start() -> Self {
        let lab = Lab::start().await;
        let served = lab.a.mesh.pods.find(&WEB.workload().uid).unwrap();
        let listeners = DnsListeners::open(&served.pod, 0).unwrap();
        let addrs: Vec<_> = listeners.addrs().collect();
        lab.a.proxy.resolve(&WEB.workload().uid, Some(listeners));
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let stands_for = resolver.local_addr().unwrap();
        lab.a.flows.file_resolver(WEB.cookie, addrs[0], stands_for);
        let app = UdpSocket::bind((WEB.ip, 0)).await.unwrap();
        Self {
            lab,
            resolver,
            app,
            listeners: addrs,
        }
    }

    async fn ask(&self, query: &[u8]) {
        self.app.send_to(query, self.listeners[0]).await.unwrap();
    }

    async fn hear(&self) -> Message {
        let mut bytes = vec![0; 4096];
        let (length, from) = soon("an answer", self.app.recv_from(&mut bytes)).await.unwrap();
        assert_eq!(from, self.listeners[0], "the listener's port names the resolver");
        Message::from_vec(&bytes[..length]).unwrap()
    }

    /// The next query that the resolver gets, and who asks.
    async fn asked(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 4096];
        let (length, asker) = soon("a query", self.resolver.recv_from(&mut bytes))
            .await
            .unwrap();
        bytes.truncate(length);
        (bytes, asker)
    }

    fn counts(&self) -> [u64; 4] {
        let text = self.lab.a.mesh.telemetry.encode();
        ["answered", "forwarded", "failed", "malformed"].map(|outcome| {
            let series = format!("mesh_dns_requests_total{{outcome=\"{outcome}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap();
            line.parse().unwrap()
        })
    }
}

fn query(name: &str, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

const KNOWN: &str = "shelf.shop.svc.cluster.local.";
const UNKNOWN: &str = "example.org.";

#[tokio::test]
async fn a_known_service_is_answered_from_the_snapshot() {
    let asking = Asking::start().await;
    let vip = asking.lab.service("shelf", AppProtocol::Tcp, &[]).await;
    asking.ask(&query(KNOWN, 7)).await;
    let answer = asking.hear().await;
    assert_eq!(answer.metadata.id, 7);
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].data.ip_addr(), Some(vip.ip()));
    assert_eq!(asking.counts(), [1, 0, 0, 0]);
}

#[tokio::test]
async fn any_other_name_is_the_resolvers_to_answer() {
    let asking = Asking::start().await;
    // Below the cluster's domain too: its DNS knows more kinds of names.
    for (name, id) in [(UNKNOWN, 7), (KNOWN, 8)] {
        let sent = query(name, id);
        asking.ask(&sent).await;
        let (bytes, asker) = asking.asked().await;
        assert_eq!(bytes[2..], sent[2..], "byte for byte");
        let mut answer = Message::from_vec(&bytes).unwrap().into_response();
        answer.metadata.response_code = ResponseCode::NXDomain;
        asking
            .resolver
            .send_to(&answer.to_vec().unwrap(), asker)
            .await
            .unwrap();
        let heard = asking.hear().await;
        assert_eq!(
            (heard.metadata.id, heard.metadata.response_code),
            (id, ResponseCode::NXDomain)
        );
    }
    assert_eq!(asking.counts(), [0, 2, 0, 0]);
}

#[tokio::test]
async fn what_is_no_question_is_dropped_and_counted() {
    let asking = Asking::start().await;
    asking.lab.service("shelf", AppProtocol::Tcp, &[]).await;
    let mut response = query(KNOWN, 1);
    response[2] |= 0x80;
    for bytes in [b"".as_slice(), b"?", &[0xff; 600], &[0; 5000], &response] {
        asking.ask(bytes).await;
    }
    asking.ask(&query(KNOWN, 7)).await;
    assert_eq!(asking.hear().await.metadata.id, 7, "the only answer");
    assert_eq!(asking.counts(), [1, 0, 0, 5]);
}

#[tokio::test]
async fn a_resolver_that_is_not_there_or_not_known_fails_at_once() {
    let asking = Asking::start().await;
    let addr = asking.resolver.local_addr().unwrap();
    let Asking {
        lab,
        resolver,
        app,
        listeners,
    } = asking;
    drop(resolver);
    for listener in &listeners[..2] {
        app.send_to(&query(UNKNOWN, 9), listener).await.unwrap();
        let mut bytes = [0; 512];
        let (length, _) = soon("an answer", app.recv_from(&mut bytes)).await.unwrap();
        let answer = Message::from_vec(&bytes[..length]).unwrap();
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::ServFail,
            "{addr} {listener}"
        );
    }
    drop(lab);
}

#[tokio::test]
async fn a_pod_has_so_many_questions_under_way_and_no_more() {
    let asking = Asking::start().await;
    for id in 0..MAX_QUERIES {
        asking.ask(&query(UNKNOWN, u16::try_from(id).unwrap())).await;
        asking.asked().await;
    }
    asking.ask(&query(UNKNOWN, 4711)).await;
    let refused = asking.hear().await;
    assert_eq!(
        (refused.metadata.id, refused.metadata.response_code),
        (4711, ResponseCode::ServFail)
    );
    // Known names need nobody.
    asking.lab.service("shelf", AppProtocol::Tcp, &[]).await;
    asking.ask(&query(KNOWN, 4712)).await;
    assert_eq!(asking.hear().await.metadata.id, 4712);
    assert_eq!(asking.counts(), [1, 0, 1, 0]);
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [length.to_be_bytes().as_slice(), message].concat()
}

async fn unframed(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut message).await.unwrap();
    message
}

/// A resolver that is dialled at a Service, as cluster DNS is, and a connection to it.
async fn dial_resolver(asking: &Asking) -> (TcpListener, TcpStream) {
    let resolver = TcpListener::bind((LEGACY.ip, 0)).await.unwrap();
    let addr = resolver.local_addr().unwrap();
    let vip = asking.lab.service("resolver", AppProtocol::Tcp, &[addr]).await;
    asking.lab.change(|facts| {
        let services = facts.services.iter_mut();
        for service in services.filter(|service| &*service.name.name == "resolver") {
            service.ports[0].port = DNS_PORT;
        }
    });
    let stream = asking.lab.dial(WEB, SocketAddr::new(vip.ip(), DNS_PORT)).await;
    (resolver, stream)
}

#[tokio::test]
async fn over_tcp_known_names_are_answered_and_the_first_other_one_takes_the_connection_along() {
    let asking = Asking::start().await;
    let vip = asking.lab.service("shelf", AppProtocol::Tcp, &[]).await;
    let (resolver, mut stream) = dial_resolver(&asking).await;
    for id in 1..3 {
        stream.write_all(&framed(&query(KNOWN, id))).await.unwrap();
        let answer = soon("an answer", unframed(&mut stream)).await;
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, id);
        assert!(matches!(answer.answers[0].data, RData::A(addr) if vip.ip() == addr.0));
    }
    let rest = [framed(&query(UNKNOWN, 3)), framed(&query(KNOWN, 4))].concat();
    stream.write_all(&rest).await.unwrap();
    let (mut upstream, _) = soon("a connection", resolver.accept()).await.unwrap();
    let mut got = vec![0; rest.len()];
    soon("the queries", upstream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, rest, "byte for byte");
    upstream.write_all(&framed(b"whatever it says")).await.unwrap();
    assert_eq!(
        soon("its answer", unframed(&mut stream)).await,
        b"whatever it says"
    );
    assert_eq!(asking.counts(), [2, 1, 0, 0]);
}

#[tokio::test]
async fn what_is_no_dns_passes_through_port_53_over_tcp() {
    let asking = Asking::start().await;
    let (resolver, mut stream) = dial_resolver(&asking).await;
    let greeting = b"SSH-2.0-hello\r\n";
    stream.write_all(greeting).await.unwrap();
    let (mut upstream, _) = soon("a connection", resolver.accept()).await.unwrap();
    let mut got = [0; 15];
    soon("the greeting", upstream.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, greeting);
}

#[tokio::test]
async fn without_capture_port_53_is_a_port_like_any_other() {
    let asking = Asking::start().await;
    asking.lab.service("shelf", AppProtocol::Tcp, &[]).await;
    asking.lab.a.proxy.resolve(&WEB.workload().uid, None);
    let (resolver, mut stream) = dial_resolver(&asking).await;
    let known = framed(&query(KNOWN, 1));
    stream.write_all(&known).await.unwrap();
    let (mut upstream, _) = soon("a connection", resolver.accept()).await.unwrap();
    let mut got = vec![0; known.len()];
    soon("the query", upstream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, known);
    let served = Arc::clone(&asking.lab.a.mesh.pods.find(&WEB.workload().uid).unwrap());
    assert!(!served.dns.is_captured());
}
