//! Metrics and log lines of both reporters.

use super::app::App;
use super::client::{H1, get};
use super::facts::{CART, LEGACY, PAY, WEB};
use super::lab::{Lab, eventually};
use crate::mesh::service::AppProtocol;

#[tokio::test]
async fn a_request_on_one_node_is_reported_by_both_sides_and_counted_once_by_path() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    eventually("both records", || lab.a.sum("istio_requests_total", &[]) == 2).await;

    for reporter in ["source", "destination"] {
        let labels = [
            ("reporter", reporter),
            ("source_workload", "web"),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
            ("destination_workload", "cart"),
            ("destination_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
            ("destination_service", "cart.shop.svc.cluster.local"),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("response_flags", "-"),
            ("connection_security_policy", "in_process"),
        ];
        assert_eq!(lab.a.sum("istio_requests_total", &labels), 1, "{reporter}");
    }
    assert_eq!(lab.a.sum("mesh_requests_path_total", &[("path", "same_node")]), 1);
}

#[tokio::test]
async fn a_request_between_nodes_is_reported_by_one_agent_each() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    for (agent, reporter) in [(&lab.a, "source"), (&lab.b, "destination")] {
        eventually("a record", || agent.sum("istio_requests_total", &[]) == 1).await;
        let labels = [
            ("reporter", reporter),
            ("source_workload", "web"),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
            ("destination_workload", "pay"),
            ("destination_principal", "spiffe://cluster.local/ns/shop/sa/pay"),
            ("destination_service", "pay.shop.svc.cluster.local"),
            ("response_code", "200"),
            ("connection_security_policy", "mutual_tls"),
        ];
        assert_eq!(agent.sum("istio_requests_total", &labels), 1, "{reporter}");
    }
    assert_eq!(
        lab.a.sum("mesh_requests_path_total", &[("path", "other_node")]),
        1
    );
    assert_eq!(lab.b.sum("mesh_requests_path_total", &[]), 0);
}

#[tokio::test]
async fn a_plaintext_client_has_no_principal() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    // Even at the address of a pod of the mesh: it proved nothing.
    let gate = lab.steer(app.addr, PAY.ip).await;
    let stream = tokio::net::TcpStream::connect(gate).await.unwrap();
    H1::on(&lab, stream).await.fetch(get("/")).await;
    let labels = [
        ("reporter", "destination"),
        ("source_workload", "pay"),
        ("source_principal", "unknown"),
        ("connection_security_policy", "none"),
    ];
    eventually("a record", || lab.a.sum("istio_requests_total", &labels) == 1).await;
}

#[tokio::test]
async fn an_opaque_connection_counts_its_bytes_on_both_sides_and_its_path_once() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Tcp, &[app.addr]).await;
    let mut client = H1::dial(&lab, WEB, vip).await;
    client.fetch(get("/")).await;
    drop(client);
    for reporter in ["source", "destination"] {
        let labels = [
            ("reporter", reporter),
            ("destination_workload", "cart"),
            ("response_flags", "-"),
        ];
        eventually("closed", || {
            lab.a.sum("istio_tcp_connections_closed_total", &labels) == 1
        })
        .await;
        assert_eq!(
            lab.a
                .sum("istio_tcp_connections_opened_total", &[("reporter", reporter)]),
            1
        );
        assert!(lab.a.sum("istio_tcp_sent_bytes_total", &labels) > 0);
        assert!(lab.a.sum("istio_tcp_received_bytes_total", &labels) > 0);
    }
    assert_eq!(
        lab.a.sum("mesh_connections_path_total", &[("path", "same_node")]),
        1
    );
}

#[tokio::test]
async fn a_port_that_a_pod_excludes_is_spoken_to_in_plaintext() {
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        let app = App::says(&lab, pod, "hello").await;
        lab.change(|facts| {
            let own = facts.workloads.iter_mut().find(|own| own.addrs == [pod.ip]);
            let exclusions = &mut own.unwrap().exclusions;
            exclusions.inbound_ports.insert(app.addr.port());
        });

        let reply = H1::dial(&lab, WEB, app.addr).await.fetch(get("/")).await;
        assert_eq!(reply.text(), "hello", "{}", pod.name);
        let line = &lab.a.logged(1).await[0];
        assert_eq!(line["path_taken"], "plain", "{line}");
    }
}

#[tokio::test]
async fn what_is_outside_the_mesh_is_spoken_to_in_plaintext() {
    let lab = Lab::start().await;
    let app = App::says(&lab, LEGACY, "old").await;
    let vip = lab.service("legacy", AppProtocol::Http, &[app.addr]).await;
    assert_eq!(H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.text(), "old");
    let labels = [
        ("reporter", "source"),
        ("destination_workload", "legacy"),
        ("connection_security_policy", "none"),
    ];
    eventually("a record", || lab.a.sum("istio_requests_total", &labels) == 1).await;
    assert_eq!(lab.a.sum("mesh_requests_path_total", &[("path", "plain")]), 1);
    assert_eq!(app.only_seen().header("x-mesh-agent-http-version"), None);
}

#[tokio::test]
async fn a_callers_principal_is_what_it_proved_and_not_what_discovery_expects() {
    let lab = Lab::start().await;
    let pod = lab.a.mesh.pods.find(&WEB.workload().uid).unwrap();
    let ends = crate::proxy::Ends {
        client: (CART.ip, 1).into(),
        original: (WEB.ip, 80).into(),
    };
    let expected = CART.workload().identity;
    let other = crate::mesh::identity::SpiffeId::new("cluster.local", "shop", "somebody-else").unwrap();
    for (peer, principal) in [
        (Some(&expected), expected.to_string()),
        (Some(&other), other.to_string()),
        (None, "unknown".to_owned()),
    ] {
        let flow = crate::proxy::inbound::destination_flow(&lab.a.mesh, &pod, ends, peer);
        assert_eq!(flow.source.principal(), principal);
        assert_eq!(flow.source.workload(), &*CART.workload().naming.workload);
    }
}

/// Memory that an idle connection costs besides its socket and what hyper holds: design section 7.
#[tokio::test]
async fn the_walks_futures_fit_their_budget() {
    let lab = Lab::start().await;
    let captured = |stream, direction| crate::capture::door::Captured {
        stream,
        peer: (WEB.ip, 1).into(),
        original: (PAY.ip, 1).into(),
        direction,
    };
    let served = lab.a.mesh.pods.find(&WEB.workload().uid).unwrap();
    let stream = lab.dial(WEB, (PAY.ip, 1).into()).await;
    let outbound = crate::proxy::outbound::serve(
        std::sync::Arc::clone(&lab.a.mesh),
        std::sync::Arc::clone(&served),
        captured(stream.into(), crate::capture::Direction::Outbound),
    );
    assert!(
        size_of_val(&outbound) <= BUDGET,
        "outbound: {} bytes",
        size_of_val(&outbound)
    );
    let stream = lab.dial(WEB, (PAY.ip, 1).into()).await;
    let inbound = crate::proxy::inbound::serve(
        std::sync::Arc::clone(&lab.a.mesh),
        served,
        captured(stream.into(), crate::capture::Direction::Inbound),
    );
    assert!(
        size_of_val(&inbound) <= BUDGET,
        "inbound: {} bytes",
        size_of_val(&inbound)
    );
}

const BUDGET: usize = 1024;
