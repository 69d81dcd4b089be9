//! What a pod's annotations exclude goes past the agent, and comes back to it, while the pod stays enrolled.

use std::sync::Arc;

use mesh_agent::kernel::status::Change;
use mesh_agent::mesh::exclusions::Exclusions;
use mesh_agent::mesh::workload::Workload;

use crate::lab::{PEER, POD, Result, Seen, Server, Side};
use crate::{Bench, canonical, in_lab};

/// How a connection went: whether the agent had it, and both of its ends.
struct Way {
    is_captured: bool,
    client: Seen,
    server: Seen,
}

impl Way {
    /// Nobody in between: the server sees the client's very socket.
    fn is_direct(&self) -> bool {
        !self.is_captured
            && self.client.reply.is_some()
            && self.server.accepted.map(canonical) == self.client.own.map(canonical)
    }
}

impl Bench {
    fn exclude(&mut self, exclusions: Exclusions) {
        let pod = Arc::new(Workload {
            exclusions: exclusions.into(),
            ..Workload::clone(&self.pod)
        });
        let reports = self.enrolment.reconcile(&[pod]);
        let changes: Vec<_> = reports.into_iter().map(|report| report.change).collect();
        assert_eq!(changes, [Change::ExceptionsChanged]);
    }

    fn connect(&self, from: Side, how: &str, server: Server) -> Result<Way> {
        let (client, server) = tokio::task::block_in_place(|| {
            let client = self.lab.client(from, how, server.addr)?;
            Result::Ok((client, server.seen()?))
        })?;
        Ok(Way {
            is_captured: !self.relay.take().is_empty(),
            client,
            server,
        })
    }

    fn serve(&self, side: Side, ip: &str) -> Result<Server> {
        tokio::task::block_in_place(|| self.lab.server(side, ip))
    }
}

#[test]
fn an_excluded_outbound_port_goes_direct_until_it_is_excluded_no_more() {
    in_lab(async || {
        let mut bench = Bench::enrolled("outport")?;
        for (how, to) in [
            ("v4", PEER[0]),
            ("v6", PEER[1]),
            ("mapped", PEER[0]),
            ("mptcp", PEER[0]),
        ] {
            let (excluded, other) = (bench.serve(Side::Peer, to)?, bench.serve(Side::Peer, to)?);
            bench.exclude(Exclusions {
                outbound_ports: [excluded.addr.port()].into(),
                ..Exclusions::default()
            });
            assert!(bench.connect(Side::Pod, how, excluded)?.is_direct(), "{how}");
            assert!(bench.connect(Side::Pod, how, other)?.is_captured, "{how}");
        }
        bench.exclude(Exclusions::default());
        let server = bench.serve(Side::Peer, PEER[0])?;
        assert!(bench.connect(Side::Pod, "v4", server)?.is_captured);
        Ok(())
    });
}

#[test]
fn an_excluded_block_goes_direct_and_no_other_address() {
    in_lab(async || {
        let mut bench = Bench::enrolled("outcidr")?;
        let whole = |ip: &str| format!("{ip}/{}", if ip.contains(':') { 128 } else { 32 });
        for (block, is_v4_direct, is_v6_direct) in [
            (whole(PEER[0]), true, false),
            (whole(PEER[1]), false, true),
            ("0.0.0.0/0".to_owned(), true, false),
            // Every IPv6 address, but no IPv4 one.
            ("::/0".to_owned(), false, true),
            ("203.0.113.0/24".to_owned(), false, false),
        ] {
            bench.exclude(Exclusions {
                outbound_cidrs: [block.parse()?].into(),
                ..Exclusions::default()
            });
            for (how, to, is_direct) in [("v4", PEER[0], is_v4_direct), ("v6", PEER[1], is_v6_direct)] {
                let server = bench.serve(Side::Peer, to)?;
                let way = bench.connect(Side::Pod, how, server)?;
                assert_eq!(
                    (way.is_captured, way.is_direct()),
                    (!is_direct, is_direct),
                    "{how} with {block}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn an_excluded_inbound_port_is_the_applications_own() {
    in_lab(async || {
        let mut bench = Bench::enrolled("inport")?;
        for (how, to) in [("v4", POD[0]), ("v6", POD[1])] {
            let (excluded, other) = (bench.serve(Side::Pod, to)?, bench.serve(Side::Pod, to)?);
            bench.exclude(Exclusions {
                inbound_ports: [excluded.addr.port()].into(),
                ..Exclusions::default()
            });
            assert!(bench.connect(Side::Peer, how, excluded)?.is_direct(), "{how}");
            assert!(bench.connect(Side::Peer, how, other)?.is_captured, "{how}");
        }
        Ok(())
    });
}

#[test]
fn what_is_excluded_goes_on_when_the_agent_is_dead() {
    in_lab(async || {
        let mut bench = Bench::enrolled("outdead")?;
        let server = bench.serve(Side::Peer, PEER[0])?;
        bench.exclude(Exclusions {
            outbound_ports: [server.addr.port()].into(),
            ..Exclusions::default()
        });
        bench.relay.crash().await;
        assert!(bench.connect(Side::Pod, "v4", server)?.is_direct());
        Ok(())
    });
}
