//! What a verdict lets go past the agent: how it is dialled, seen, told of, and taken back.

use std::collections::HashMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::maps::{Map, MapData};
use mesh_agent::kernel::direct::sock_diag::{Victim, destroy, probe};
use mesh_agent::kernel::direct::verdict;
use mesh_agent::kernel::pins::Pins;
use mesh_agent::pod::netns::Netns;
use mesh_common::direct::{ClosedFlow, DirectKey, Verdict};
use mesh_common::socket_cookie::socket_cookie;

use crate::lab::{NODE, PEER, POD, Result, Seen, Server, Side};
use crate::{Bench, canonical, in_lab};

/// Nobody has these addresses: they lead somewhere by a verdict only.
const SERVICE: [&str; 2] = ["10.96.7.7:80", "[fd00:96:7::7]:80"];

impl Bench {
    fn key(&self, dialled: SocketAddr) -> DirectKey {
        DirectKey {
            netns: self.enrolment.present().first().unwrap().netns.cookie().0,
            dialled: dialled.into(),
            reserved: 0,
        }
    }

    /// Makes these the only verdicts.
    fn allow(&self, verdicts: &[(SocketAddr, SocketAddr)]) -> Result<()> {
        let verdicts = verdicts.iter().map(|(dialled, endpoint)| {
            let verdict = verdict(&[*endpoint]).unwrap();
            (self.key(*dialled), verdict)
        });
        Ok(self.enrolment.direct().allow(&verdicts.collect())?)
    }

    /// Dials a Service from the pod, behind which is only this server; what both ends saw.
    fn dial_service(&self, how: &str, service: SocketAddr, server: Server) -> Result<(Seen, Seen)> {
        self.allow(&[(service, server.addr)])?;
        tokio::task::block_in_place(|| Ok((self.lab.client(Side::Pod, how, service)?, server.seen()?)))
    }

    /// Connections that could not be registered.
    fn lost(&self) -> u64 {
        let counters = self.enrolment.status().counters;
        let mut counters = counters.into_iter();
        counters.find(|(name, _)| *name == "direct_lost").unwrap().1
    }

    fn peer_server(&self, ip: &str) -> Result<Server> {
        tokio::task::block_in_place(|| self.lab.server(Side::Peer, ip))
    }

    /// The reports of flows that ended; the last may come a moment after the program that ended it.
    async fn closed(&self, wanted: usize) -> Result<Vec<ClosedFlow>> {
        let mut closed = Vec::new();
        let patience = tokio::time::timeout(Duration::from_secs(10), async {
            while closed.len() < wanted {
                closed.extend(self.enrolment.direct().closed()?);
                tokio::task::yield_now().await;
            }
            Result::Ok(())
        });
        patience.await??;
        Ok(closed)
    }
}

#[test]
fn every_way_to_connect_goes_direct_and_both_ends_see_true_addresses() {
    in_lab(async || {
        let bench = Bench::enrolled("direct")?;
        for (how, service, ip) in [
            ("v4", SERVICE[0], PEER[0]),
            ("v6", SERVICE[1], PEER[1]),
            ("mapped", SERVICE[0], PEER[0]),
            ("bound", SERVICE[0], PEER[0]),
            ("nonblocking", SERVICE[0], PEER[0]),
            ("fastopen", SERVICE[0], PEER[0]),
            ("mptcp", SERVICE[0], PEER[0]),
            ("mptcp", SERVICE[1], PEER[1]),
        ] {
            let (server, service) = (bench.peer_server(ip)?, service.parse()?);
            let (client, server) = bench.dial_service(how, service, server)?;
            assert_eq!(client.reply.as_deref(), Some("hello"), "{how} {client:?}");
            assert_eq!(bench.relay.take(), [], "{how}: nothing came to the agent");
            let own = client.own.map(canonical);
            assert_eq!(client.peer.map(canonical), Some(service), "{how}: getpeername");
            assert_eq!(server.accepted.map(canonical), own, "{how}: accept");
            assert_eq!(server.peer.map(canonical), own, "{how}: the server's getpeername");
        }
        Ok(())
    });
}

#[test]
fn what_ended_is_reported_with_its_ends_and_bytes() {
    in_lab(async || {
        let bench = Bench::enrolled("report")?;
        for (service, ip) in SERVICE.into_iter().zip(PEER) {
            let (server, service) = (bench.peer_server(ip)?, service.parse()?);
            let addr = server.addr;
            let (client, _) = bench.dial_service("plain", service, server)?;
            let closed = bench.closed(1).await?;
            let [report] = closed[..] else {
                panic!("{closed:?}");
            };
            assert_eq!(SocketAddr::try_from(report.ends.client)?, client.own.unwrap());
            assert_eq!(SocketAddr::try_from(report.ends.server)?, addr);
            assert_eq!(SocketAddr::try_from(report.flow.dialled)?, service);
            // "ahoy!", with neither SYN nor FIN.
            assert_eq!((report.flow.client.sent, report.flow.established), (5, 1));
            assert!(report.flow.ended_ns >= report.flow.started_ns);
            assert_eq!(bench.enrolment.direct().flows()?, []);
        }
        Ok(())
    });
}

#[test]
fn a_server_that_is_not_there_refuses_the_client_itself() {
    in_lab(async || {
        let bench = Bench::enrolled("norefuse")?;
        let server = bench.peer_server(PEER[0])?;
        let (service, addr) = (SERVICE[0].parse()?, server.addr);
        server.stop()?;
        bench.allow(&[(service, addr)])?;
        let client = tokio::task::block_in_place(|| bench.lab.client(Side::Pod, "v4", service))?;
        assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"));
        let closed = bench.closed(1).await?;
        assert_eq!((closed[0].flow.established, closed[0].flow.client.sent), (0, 0));
        Ok(())
    });
}

#[test]
fn what_no_verdict_names_goes_to_the_agent() {
    in_lab(async || {
        let bench = Bench::enrolled("noverdict")?;
        let (allowed, other) = (bench.peer_server(PEER[0])?, bench.peer_server(PEER[0])?);
        bench.allow(&[(allowed.addr, allowed.addr)])?;
        let to = other.addr;
        let client = tokio::task::block_in_place(|| bench.lab.client(Side::Pod, "v4", to))?;
        assert_eq!(client.reply.as_deref(), Some("hello"));
        assert_eq!(bench.relay.take().len(), 1);
        // Taken back, it is as if it had never been said.
        bench.allow(&[])?;
        let to = allowed.addr;
        let client = tokio::task::block_in_place(|| bench.lab.client(Side::Pod, "v4", to))?;
        assert_eq!(client.reply.as_deref(), Some("hello"));
        assert_eq!(bench.relay.take().len(), 1);
        allowed.stop()?;
        other.stop()
    });
}

#[test]
fn a_verdict_that_is_taken_back_between_connect_and_syn_registers_nothing() {
    in_lab(async || {
        let bench = Bench::enrolled("late")?;
        for is_taken_back in [false, true] {
            let lost = bench.lost();
            let (server, service) = (bench.peer_server(PEER[0])?, SERVICE[0].parse()?);
            bench.allow(&[(service, server.addr)])?;
            let client = tokio::task::block_in_place(|| bench.lab.held_client(Side::Pod, service))?;
            if is_taken_back {
                bench.allow(&[])?;
            }
            // The server is no pod: whoever reaches it is served. A pod's agent would have the unregistered one.
            let seen = tokio::task::block_in_place(|| client.release())?;
            assert_eq!(seen.reply.as_deref(), Some("hello"), "{seen:?}");
            tokio::task::block_in_place(|| server.seen())?;
            assert_eq!(bench.lost() - lost, u64::from(is_taken_back));
            if !is_taken_back {
                bench.closed(1).await?;
            }
            let direct = bench.enrolment.direct();
            assert_eq!((direct.flows()?, direct.closed()?), (vec![], vec![]));
        }
        Ok(())
    });
}

#[test]
fn a_verdict_lets_nobody_else_in() {
    in_lab(async || {
        let bench = Bench::enrolled("nobody")?;
        for ip in POD {
            let server = tokio::task::block_in_place(|| bench.lab.server(Side::Pod, ip))?;
            let to = server.addr;
            // The pod itself may dial it directly, which says nothing of others.
            bench.allow(&[(to, to)])?;
            let client = tokio::task::block_in_place(|| bench.lab.client(Side::Peer, "plain", to))?;
            assert_eq!(client.reply.as_deref(), Some("hello"));
            assert_eq!(bench.relay.take().len(), 1, "it was steered");
            tokio::task::block_in_place(|| server.seen())?;
        }
        Ok(())
    });
}

#[test]
fn a_dead_agent_lets_nothing_new_go_direct() {
    in_lab(async || {
        let bench = Bench::enrolled("deaddirect")?;
        let server = bench.peer_server(PEER[0])?;
        let service = SERVICE[0].parse()?;
        bench.allow(&[(service, server.addr)])?;
        bench.heart.fail();
        let client = tokio::task::block_in_place(|| bench.lab.client(Side::Pod, "v4", service))?;
        assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"));
        server.stop()
    });
}

#[test]
fn verdicts_of_a_pod_that_leaves_are_gone_whichever_end_it_is() {
    in_lab(async || {
        let mut bench = Bench::enrolled("withdraw")?;
        let (service, pod) = (SERVICE[0].parse()?, SocketAddr::new(POD[0].parse()?, 80));
        let other = DirectKey {
            netns: 1,
            ..bench.key(service)
        };
        let peer = SocketAddr::new(PEER[0].parse()?, 80);
        let verdicts: HashMap<_, _> = [
            (bench.key(service), verdict(&[peer]).unwrap()),
            (other, verdict(&[peer, pod]).unwrap()),
            (DirectKey { netns: 2, ..other }, verdict(&[peer]).unwrap()),
        ]
        .into();
        bench.enrolment.direct().allow(&verdicts)?;
        bench.enrolment.reconcile(&[]);
        let pin = Pins::at(bench.lab.bpf(), NODE).maps().join("DIRECT");
        let map = Map::HashMap(MapData::from_pin(pin)?);
        let map = aya::maps::HashMap::<_, DirectKey, Verdict>::try_from(map)?;
        let left: Vec<u64> = map.keys().map(|key| key.unwrap().netns).collect();
        assert_eq!(left, [2]);
        Ok(())
    });
}

#[test]
fn a_socket_is_ended_by_its_cookie_and_no_other() {
    in_lab(async || {
        probe()?;
        let netns = Netns::current()?;
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(ip)?;
            let mut client = TcpStream::connect(listener.local_addr()?)?;
            let victim = Victim {
                local: client.local_addr()?,
                remote: client.peer_addr()?,
                cookie: socket_cookie(client.as_raw_fd()).map_err(std::io::Error::from_raw_os_error)?,
            };
            let stranger = Victim {
                cookie: victim.cookie + 1,
                ..victim
            };
            assert!(destroy(&netns, stranger).is_ok_and(|was_there| !was_there));
            client.set_nonblocking(true)?;
            let lives = client.read(&mut [0]).unwrap_err().kind();
            assert_eq!(lives, std::io::ErrorKind::WouldBlock);
            assert!(destroy(&netns, victim)?);
            let ended = client.read(&mut [0]).unwrap_err().kind();
            assert_eq!(ended, std::io::ErrorKind::ConnectionAborted);
            assert!(!destroy(&netns, victim)?);
        }
        Ok(())
    });
}
