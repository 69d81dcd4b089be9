//! What may go direct, and what is ended.

use super::*;
use crate::kernel::direct::fake::MOST_FLOWS;
use crate::mesh::policy::PeerAuthentication;

#[test]
fn verdicts_follow_the_snapshot_and_the_pods_that_are_present() {
    let mut bench = Bench::new();
    let dialled = |bench: &Bench| -> BTreeSet<(u64, String)> {
        let allowed = bench.table.allowed();
        let keys = allowed
            .keys()
            .map(|key| (key.netns, SocketAddr::try_from(key.dialled).unwrap()));
        keys.filter(|(_, addr)| [80, 7000].contains(&addr.port()))
            .map(|(netns, addr)| (netns, addr.to_string()))
            .collect()
    };
    let of_client = [
        (CLIENT, "10.0.0.2:7000".to_owned()),
        (CLIENT, "10.96.0.1:80".to_owned()),
    ];
    assert_eq!(dialled(&bench), of_client.into());
    bench.apply(&[CLIENT]);
    assert_eq!(dialled(&bench), [].into());
    bench.apply(&[CLIENT, STORE]);
    bench.change(facts(AppProtocol::Http));
    assert_eq!(dialled(&bench), [].into());
}

#[test]
fn switched_off_nothing_is_allowed_and_what_lives_is_counted() {
    let mut bench = Bench::with(Some("switched off"));
    assert!(bench.table.allowed().is_empty());
    bench.table.live(ends(), flow(5, 7));
    bench.look_at(2);
    assert_eq!(bench.counted(), [1, 0, 7, 5]);
    assert!(bench.destroyed.lock().is_empty());
}

#[test]
fn a_flow_that_becomes_http_is_ended_at_both_ends_and_says_so() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.change(facts(AppProtocol::Http));
    let (client, server) = (
        "10.0.0.1:40000".parse().unwrap(),
        "10.0.0.2:7000".parse().unwrap(),
    );
    let victim = |local, remote, cookie| Victim {
        local,
        remote,
        cookie,
    };
    let wanted = [
        (CLIENT, victim(client, server, 101)),
        (STORE, victim(server, client, 102)),
    ];
    assert_eq!(*bench.destroyed.lock(), wanted);
    bench.table.end(ends(), closed(flow(1, 1), 2));
    bench.look_at(3);
    assert_eq!(bench.destroyed.lock().len(), 2);
    let text = bench.telemetry.encode();
    assert!(text.contains("mesh_direct_revoked_total 1\n"), "{text}");
    assert!(text.contains("response_flags=\"LR\""), "{text}");
}

#[test]
fn a_flow_that_would_only_need_the_agent_if_it_were_new_goes_on() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.change(facts(AppProtocol::Detect));
    assert!(bench.table.allowed().keys().all(|key| key.dialled.port != 80));
    assert!(bench.destroyed.lock().is_empty());
}

#[test]
fn flows_of_a_pod_that_left_are_closed_in_the_books_and_left_alone() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.look_at(2);
    let mut without = facts(AppProtocol::Tcp);
    without.workloads.remove(0);
    bench.snapshot = snapshot(&without, Some(&bench.snapshot));
    bench.apply(&[STORE]);
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 1, 1, 1]);
    assert!(bench.destroyed.lock().is_empty());
    assert!(bench.table.flows().unwrap().is_empty());
}

#[test]
fn status_says_what_each_pod_may_and_does() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.look_at(2);
    let status = bench.direct.status();
    let client = status.pods.iter().find(|pod| pod.pod == "client").unwrap();
    assert_eq!((status.off, client.flows), (None, 1));
    assert_eq!(client.verdicts, 2 + AppProtocol::WELL_KNOWN_TCP.len());
}

#[test]
fn a_map_that_is_nearly_full_lets_nothing_new_in_until_half_of_it_is_free() {
    let mut bench = Bench::new();
    let at = |number: u32| Ends {
        client: Endpoint {
            port: number & 0xffff,
            addr: mesh_common::layout::Addr([number >> 16, 0, 0, 1]),
        },
        server: end("10.0.0.2:7000"),
    };
    let many = MOST_FLOWS / 8 * 7 + 1;
    for number in 0..many {
        bench.table.live(at(number), flow(1, 1));
    }
    bench.look_at(2);
    assert!(bench.table.allowed().is_empty());
    for number in MOST_FLOWS / 2 + 1..many {
        bench.table.end(at(number), closed(flow(1, 1), 2));
    }
    bench.look_at(3);
    assert!(bench.table.allowed().is_empty());
    bench.table.end(at(0), closed(flow(1, 1), 3));
    bench.look_at(4);
    assert!(!bench.table.allowed().is_empty());
}

#[test]
fn a_flow_of_a_pod_that_left_is_ended_where_its_server_takes_no_plaintext() {
    for (mode, ended) in [(MtlsMode::Strict, 1), (MtlsMode::Permissive, 0)] {
        let mut bench = Bench::new();
        bench.table.live(ends(), flow(1, 1));
        bench.look_at(2);
        let mut without = facts(AppProtocol::Tcp);
        without.workloads.remove(0);
        without.peer_authentications.push(mesh_wide(mode));
        bench.snapshot = snapshot(&without, Some(&bench.snapshot));
        bench.apply(&[STORE]);
        bench.look_at(3);
        let destroyed = bench.destroyed.lock();
        assert_eq!(destroyed.len(), ended, "{mode:?}");
        assert!(
            destroyed
                .iter()
                .all(|(netns, victim)| (*netns, victim.cookie) == (STORE, 102))
        );
    }
}

fn mesh_wide(mode: MtlsMode) -> PeerAuthentication {
    PeerAuthentication {
        namespace: "mesh-system".into(),
        name: "default".into(),
        meta: Arc::new(ObjectMeta {
            origin: "test".into(),
            object: "PeerAuthentication mesh-system/default".into(),
            created: None,
        }),
        selector: BTreeMap::new(),
        mode: Some(mode),
        port_modes: BTreeMap::new(),
    }
}
