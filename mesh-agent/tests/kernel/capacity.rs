//! Maps that are full: nothing leaks, and everything that found no room is counted.

use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdout};
use std::sync::Arc;

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};
use aya::sys::SyscallError;
use mesh_agent::capture::Direction;
use mesh_agent::capture::listeners::PodPorts;
use mesh_agent::kernel::Kernel;
use mesh_agent::kernel::capacity::Capacity;
use mesh_agent::kernel::direct::verdict;
use mesh_agent::kernel::enrolment::Enrolment;
use mesh_agent::kernel::pins::Pins;
use mesh_agent::kernel::status::Change;
use mesh_common::direct::{Chosen, DirectKey};
use mesh_common::layout::{Addr, Endpoint, Pod, PodAddr, SocketKey};
use mesh_common::map::MapName;
use nix::errno::Errno;

use crate::heart::Heart;
use crate::lab::{Lab, NODE, PEER, POD, Result, Seen, Side};
use crate::relay::Relay;
use crate::{Bench, in_lab, workload};

/// `100::/64`: addresses of nobody (RFC 6666).
const DISCARD: u128 = 0x0100 << 112;

/// The smallest that the settings allow.
const SMALL: Capacity = Capacity {
    pods: 16,
    flows: 1024,
};

impl Lab {
    fn pinned(&self, map: MapName) -> Result<MapData> {
        Ok(MapData::from_pin(
            Pins::at(self.bpf(), NODE).maps().join(map.name()),
        )?)
    }

    fn entries_of(&self, map: MapName) -> Result<u32> {
        let pin = Pins::at(self.bpf(), NODE).maps().join(map.name());
        Ok(MapInfo::from_pin(pin)?.max_entries())
    }

    /// Fills a map of flows with those of nobody; how many entries it took.
    fn fill_flows(&self, map: MapName) -> Result<u32> {
        let mut flows: HashMap<_, SocketKey, Endpoint> = Map::HashMap(self.pinned(map)?).try_into()?;
        let nowhere = Endpoint::from("[::]:0".parse::<SocketAddr>()?);
        let mut entries = 0;
        loop {
            let addr = Ipv6Addr::from(DISCARD | u128::from(entries));
            let key = SocketKey::new(0, SocketAddr::from((addr, 0)));
            match flows.insert(key, nowhere, 0) {
                Ok(()) => entries += 1,
                Err(error) => match errno(&error) {
                    Some(Errno::E2BIG) => return Ok(entries),
                    // The kernel refills what it takes entries from a moment later.
                    Some(Errno::ENOMEM) => std::thread::yield_now(),
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Dials without sending the SYN: with TCP Fast Open that goes with the first bytes, for which the client waits.
    pub(crate) fn held_client(&self, side: Side, to: SocketAddr) -> Result<HeldClient> {
        let mut child = self.python(side, &["held", &to.ip().to_string(), &to.port().to_string()])?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut held = String::new();
        lines.read_line(&mut held)?;
        if held.trim() != "held" {
            return Err(format!("the connect was not held back: {held}").into());
        }
        Ok(HeldClient { child, lines })
    }
}

/// A client that has dialled, and whose SYN is not sent yet.
pub(crate) struct HeldClient {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl HeldClient {
    /// Lets it go on, and says what it saw.
    pub(crate) fn release(mut self) -> Result<Seen> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        self.child.wait()?;
        Ok(serde_json::from_str(&line)?)
    }
}

fn errno(error: &MapError) -> Option<Errno> {
    let MapError::SyscallError(SyscallError { io_error, .. }) = error else {
        return None;
    };
    io_error.raw_os_error().map(Errno::from_raw)
}

fn overflows(enrolment: &Enrolment, map: MapName) -> u64 {
    let overflows = enrolment.status().overflows;
    let found = overflows.iter().find(|(name, _)| *name == map.name());
    found.unwrap().1
}

#[test]
fn a_connect_that_finds_the_map_full_is_refused_and_counted() {
    in_lab(async || {
        let bench = Bench::enrolled_in("full", SMALL)?;
        assert_eq!(bench.lab.fill_flows(MapName::OriginalDst)?, SMALL.flows);
        assert_eq!(overflows(&bench.enrolment, MapName::OriginalDst), 0);
        let (_, client) = bench.dial(Side::Pod, "v4", PEER[0])?;
        assert_eq!(client.reply, None, "{client:?}");
        assert_eq!(bench.relay.take(), [], "nobody knows where it was meant to go");
        assert_eq!(overflows(&bench.enrolment, MapName::OriginalDst), 1);
        Ok(())
    });
}

#[test]
fn a_delivery_that_finds_the_map_full_is_refused_and_counted() {
    in_lab(async || {
        let bench = Bench::enrolled_in("fullpeer", SMALL)?;
        bench.lab.fill_flows(MapName::TruePeer)?;
        let (_, client) = bench.dial(Side::Peer, "v4", POD[0])?;
        assert_eq!(client.reply, None, "{client:?}");
        assert_eq!(overflows(&bench.enrolment, MapName::TruePeer), 1);
        Ok(())
    });
}

#[test]
fn a_pod_that_finds_the_map_full_is_not_enrolled_and_says_what_to_raise() {
    in_lab(async || {
        let lab = Lab::up("fullpods")?;
        let kernel = lab.kernel_of(SMALL)?;
        let mut pods: HashMap<_, u64, Pod> = Map::HashMap(lab.pinned(MapName::Pods)?).try_into()?;
        let nobody = Pod {
            v4: Addr([0; 4]),
            v6: Addr([0; 4]),
            fails_open: 0,
            outbound_port: 0,
        };
        for pod in 0..SMALL.pods {
            pods.insert(u64::MAX - u64::from(pod), nobody, 0)?;
        }
        let mut enrolment = Enrolment::new(Box::new(kernel), Relay::new(), PodPorts::default());
        let reports = enrolment.reconcile(&[workload(&lab, &POD)]);
        let why = "the map PODS is full: raise max_pods".to_owned();
        assert_eq!(
            reports.first().map(|report| &report.change),
            Some(&Change::Failed { why })
        );
        assert_eq!(overflows(&enrolment, MapName::Pods), 1);
        assert_eq!(lab.links()?, 0);
        Ok(())
    });
}

#[test]
fn a_connect_whose_entry_was_evicted_before_its_syn_is_refused_and_counted() {
    in_lab(async || {
        let bench = Bench::enrolled_in("evicted", SMALL)?;
        let server = bench.lab.server(Side::Peer, PEER[0])?;
        let held = bench.lab.held_client(Side::Pod, server.addr)?;
        let pinned = Map::LruHashMap(bench.lab.pinned(MapName::OriginalByCookie)?);
        let mut by_cookie: HashMap<_, u64, Endpoint> = pinned.try_into()?;
        let cookies = by_cookie.keys().collect::<std::result::Result<Vec<_>, _>>()?;
        assert_eq!(cookies.len(), 1, "the SYN is held back");
        by_cookie.remove(&cookies[0])?;
        let client = held.release()?;
        server.stop()?;
        assert_eq!(client.reply, None, "{client:?}");
        assert_eq!(bench.relay.take(), []);
        assert_eq!(overflows(&bench.enrolment, MapName::OriginalByCookie), 1);
        Ok(())
    });
}

/// As far as the map goes, the server's pod is enrolled: its agent would refuse the connection.
#[test]
fn a_direct_connect_whose_entry_was_evicted_before_its_syn_is_counted() {
    in_lab(async || {
        let bench = Bench::enrolled_in("evicted-direct", SMALL)?;
        let server = bench.lab.server(Side::Peer, PEER[0])?;
        let own = bench.enrolment.present().first().unwrap().netns.cookie().0;
        let service: SocketAddr = "10.96.7.7:80".parse()?;
        let key = DirectKey {
            netns: own,
            dialled: service.into(),
            reserved: 0,
        };
        let verdict = verdict(&[server.addr]).unwrap();
        bench.enrolment.direct().allow(&[(key, verdict)].into())?;
        let pods = Map::HashMap(bench.lab.pinned(MapName::PodAddrs)?);
        let mut pods: HashMap<_, Addr, PodAddr> = pods.try_into()?;
        let other = PodAddr {
            netns: own + 1,
            fails_open: 0,
            reserved: 0,
        };
        pods.insert(Addr::from(server.addr.ip()), other, 0)?;
        let held = bench.lab.held_client(Side::Pod, service)?;
        let pinned = Map::LruHashMap(bench.lab.pinned(MapName::DirectByCookie)?);
        let mut by_cookie: HashMap<_, u64, Chosen> = pinned.try_into()?;
        let cookies = by_cookie.keys().collect::<std::result::Result<Vec<_>, _>>()?;
        assert_eq!(cookies.len(), 1, "the SYN is held back");
        by_cookie.remove(&cookies[0])?;
        held.release()?;
        server.stop()?;
        assert_eq!(overflows(&bench.enrolment, MapName::DirectByCookie), 1);
        Ok(())
    });
}

#[test]
fn another_capacity_replaces_the_pinned_maps_and_keeps_the_links() {
    in_lab(async || {
        let mut bench = Bench::enrolled_in("resize", SMALL)?;
        assert_eq!(bench.lab.entries_of(MapName::OriginalDst)?, 1024);
        let linked = bench.lab.link_ids()?;
        bench.relay.crash().await;
        bench.heart.fail();
        let larger = Capacity {
            pods: 32,
            flows: 40_000,
        };
        let kernel = bench.lab.kernel_of(larger)?;
        bench.relay = Relay::new();
        bench.heart = Heart::start(kernel.pulse());
        let host = Arc::<Relay>::clone(&bench.relay);
        bench.enrolment = Enrolment::new(Box::new(kernel), host, PodPorts::default());
        for (map, entries) in [
            (MapName::OriginalDst, 40_000),
            (MapName::OriginalByCookie, 2_500),
            (MapName::Pods, 32),
            (MapName::Inbound, 64),
            (MapName::ExcludedBlocks, 512),
        ] {
            assert_eq!(bench.lab.entries_of(map)?, entries, "{map:?}");
        }
        // Until the pod is enrolled again, its programs look into the old maps, whose agent is dead.
        let (_, client) = bench.dial(Side::Pod, "v4", PEER[0])?;
        assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"));
        bench.enrolment.reconcile(&[Arc::clone(&bench.pod)]);
        assert_eq!(bench.lab.link_ids()?, linked, "the very same links are in place");
        let (server, client) = bench.dial(Side::Pod, "v4", PEER[0])?;
        assert_eq!(
            bench.relay.take(),
            [(Direction::Outbound, client.own.unwrap(), server.addr)]
        );
        Ok(())
    });
}
