//! Claims about the text that a scrape shows.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::mesh::identity::SpiffeId;
use crate::mesh::service::ServiceName;
use crate::mesh::workload::{Workload, WorkloadNaming, fixture};

pub(super) fn workload(name: &str) -> Workload {
    let mut pod = fixture::pod("shop", name);
    pod.identity = SpiffeId::new("cluster.local", "shop", name).unwrap();
    pod.naming = WorkloadNaming {
        workload: name.into(),
        app: name.into(),
        version: "".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
    };
    pod
}

pub(super) fn flow(reporter: Reporter) -> FlowLabels {
    FlowLabels {
        reporter,
        source: Arc::new(PeerLabels::of(&workload("web"))),
        destination: Arc::new(PeerLabels::of(&workload("cart"))),
        service: Some(ServiceName::new("shop", "cart")),
        security: Security::MutualTls,
    }
}

pub(super) fn http_start() -> HttpStart {
    HttpStart {
        method: ::http::Method::GET,
        path: "/items?id=\"7\"".into(),
        authority: "cart:80".into(),
        protocol: ::http::Version::HTTP_11,
        user_agent: Some("curl/7".into()),
        request_id: None,
        x_forwarded_for: None,
        source: "10.0.0.1:4000".parse().unwrap(),
        destination: "10.96.0.1:80".parse().unwrap(),
        started: Instant::now(),
    }
}

pub(super) fn tcp_start() -> TcpStart {
    let HttpStart {
        source,
        destination,
        started,
        ..
    } = http_start();
    TcpStart {
        source,
        destination,
        started,
    }
}

/// The samples of one family member, for instance `istio_requests_total`.
fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .collect()
}

fn label_names(sample: &str) -> Vec<&str> {
    let (_, rest) = sample.split_once('{').unwrap();
    let (labels, _) = rest.rsplit_once('}').unwrap();
    labels
        .split("\",")
        .map(|label| label.split_once('=').unwrap().0)
        .collect()
}

#[test]
fn a_request_has_istios_labels_in_istios_order() {
    let telemetry = Telemetry::new();
    let record = telemetry.http(flow(Reporter::Source), http_start());
    record.respond(200);
    drop(record);
    assert_eq!(
        samples(&telemetry.encode(), "istio_requests_total"),
        [concat!(
            r#"istio_requests_total{reporter="source",source_workload="web",source_canonical_service="web","#,
            r#"source_canonical_revision="latest",source_workload_namespace="shop","#,
            r#"source_principal="spiffe://cluster.local/ns/shop/sa/web",source_app="web","#,
            r#"source_version="unknown",source_cluster="Kubernetes",destination_workload="cart","#,
            r#"destination_workload_namespace="shop","#,
            r#"destination_principal="spiffe://cluster.local/ns/shop/sa/cart",destination_app="cart","#,
            r#"destination_version="unknown",destination_service="cart.shop.svc.cluster.local","#,
            r#"destination_canonical_service="cart",destination_canonical_revision="latest","#,
            r#"destination_service_name="cart",destination_service_namespace="shop","#,
            r#"destination_cluster="Kubernetes",request_protocol="http",response_code="200","#,
            r#"grpc_response_status="",response_flags="-",connection_security_policy="mutual_tls"} 1"#,
        )]
    );
}

#[test]
fn an_unknown_peer_is_unknown_in_every_label() {
    let telemetry = Telemetry::new();
    let unknown = PeerLabels::unknown();
    let flow = FlowLabels {
        source: unknown,
        service: None,
        ..flow(Reporter::Destination)
    };
    drop(telemetry.tcp(flow, tcp_start()));
    let text = telemetry.encode();
    let [sample] = samples(&text, "istio_tcp_connections_opened_total")[..] else {
        panic!("{text}")
    };
    assert_eq!(sample.matches(r#"="unknown""#).count(), 8 + 3 + 1, "{sample}");
}

#[test]
fn a_record_that_several_hold_counts_once_when_the_last_lets_go() {
    let telemetry = Telemetry::new();
    let record = Arc::new(telemetry.http(flow(Reporter::Destination), http_start()));
    let body = Arc::clone(&record);
    record.respond(503);
    drop(record);
    assert!(samples(&telemetry.encode(), "istio_requests_total").is_empty());

    body.add_response_bytes(40);
    body.add_response_bytes(2);
    drop(body);
    let text = telemetry.encode();
    assert_eq!(samples(&text, "istio_requests_total").len(), 1);
    assert!(
        samples(&text, "istio_response_bytes_sum")[0].ends_with(" 42.0"),
        "{text}"
    );
    assert!(
        samples(&text, "istio_request_duration_milliseconds_count")[0].ends_with(" 1"),
        "{text}"
    );
}

#[test]
fn a_request_that_nobody_answered_was_left_by_its_client() {
    let telemetry = Telemetry::new();
    drop(telemetry.http(flow(Reporter::Source), http_start()));
    let text = telemetry.encode();
    let sample = samples(&text, "istio_requests_total")[0];
    assert!(
        sample.contains(r#"response_code="0",grpc_response_status="",response_flags="DC""#),
        "{sample}"
    );
}

#[test]
fn the_first_cause_stays_and_the_last_destination_counts() {
    let telemetry = Telemetry::new();
    let record = telemetry.http(flow(Reporter::Source), http_start());
    record.request_is_grpc();
    let callee = Arc::new(PeerLabels::of(&workload("cart-v2")));
    record.sent_to(callee, Security::InProcess, "10.1.0.2:8080".parse().unwrap());
    record.flag(ResponseFlag::Ut);
    record.flag(ResponseFlag::Dc);
    record.respond(200);
    record.grpc_status(4);
    record.path_taken(PathTaken::SameNode);
    drop(record);
    let text = telemetry.encode();
    let sample = samples(&text, "istio_requests_total")[0];
    for part in [
        r#"destination_workload="cart-v2""#,
        r#"request_protocol="grpc",response_code="200",grpc_response_status="4",response_flags="UT""#,
        r#"connection_security_policy="in_process""#,
    ] {
        assert!(sample.contains(part), "{part} in {sample}");
    }
    assert!(
        text.contains("mesh_requests_path_total{path=\"same_node\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("mesh_requests_path_total{path=\"plain\"} 0\n"),
        "{text}"
    );
}

#[test]
fn a_peer_cannot_invent_label_values() {
    let telemetry = Telemetry::new();
    for (status, grpc) in [(777, 99), (999, 4_000_000)] {
        let record = telemetry.http(flow(Reporter::Source), http_start());
        record.respond(status);
        record.grpc_status(grpc);
    }
    let text = telemetry.encode();
    for sample in samples(&text, "istio_requests_total") {
        assert!(
            sample.contains(r#"response_code="unknown",grpc_response_status="unknown""#),
            "{sample}"
        );
    }
    assert!(!text.contains("items"), "a path became a label: {text}");
}

#[test]
fn bytes_of_a_connection_are_seen_while_it_lives() {
    let telemetry = Telemetry::new();
    let record = telemetry.tcp(flow(Reporter::Source), tcp_start());
    record.add_sent_bytes(10);
    record.add_received_bytes(3);
    let text = telemetry.encode();
    for (name, value) in [
        ("istio_tcp_connections_opened_total", " 1"),
        ("istio_tcp_connections_closed_total", " 0"),
        ("istio_tcp_sent_bytes_total", " 10"),
        ("istio_tcp_received_bytes_total", " 3"),
    ] {
        assert!(samples(&text, name)[0].ends_with(value), "{name}: {text}");
    }

    record.flag(ResponseFlag::Uf);
    record.path_taken(PathTaken::OtherNode);
    drop(record);
    let text = telemetry.encode();
    let closed = samples(&text, "istio_tcp_connections_closed_total");
    assert!(
        closed
            .iter()
            .any(|sample| sample.contains(r#"response_flags="UF""#) && sample.ends_with(" 1"))
    );
    assert!(
        text.contains("mesh_connections_path_total{path=\"other_node\"} 1\n"),
        "{text}"
    );
}

#[test]
fn overflow_series_have_the_labels_of_the_others() {
    let telemetry = Telemetry::new();
    let unused = PeerLabels::unknown();
    for number in 0..=CAPACITY {
        let source = Arc::new(PeerLabels::of(&workload(&format!("peer-{number}"))));
        let flow = FlowLabels {
            source,
            destination: Arc::clone(&unused),
            ..flow(Reporter::Source)
        };
        let record = telemetry.http(flow.clone(), http_start());
        record.respond(200);
        drop(record);
        drop(telemetry.tcp(flow, tcp_start()));
    }
    let text = telemetry.encode();
    for name in ["istio_requests_total", "istio_tcp_connections_opened_total"] {
        let samples = samples(&text, name);
        let (overflow, others): (Vec<&str>, Vec<&str>) = samples
            .iter()
            .copied()
            .partition(|sample| sample.contains(r#"source_workload="overflow""#));
        assert_eq!((overflow.len(), others.len()), (1, CAPACITY), "{name}");
        assert_eq!(label_names(overflow[0]), label_names(others[0]));
        assert!(overflow[0].contains(r#"reporter="source""#) && overflow[0].ends_with(" 1"));
    }
    // Once for the request, twice for the connection: as it opens and as it closes.
    assert!(text.contains("\nmesh_metric_overflow_total 3\n"));
}

#[test]
fn a_kind_whose_objects_are_all_good_again_shows_zero() {
    let telemetry = Telemetry::new();
    let at = UNIX_EPOCH + Duration::from_secs(7);
    telemetry
        .mesh()
        .config_published(1, at, ["HTTPRoute", "HTTPRoute", "Service"]);
    assert!(
        telemetry
            .encode()
            .contains("mesh_config_rejections{kind=\"HTTPRoute\"} 2\n")
    );

    telemetry.mesh().config_published(2, at, ["Service"]);
    let text = telemetry.encode();
    for line in [
        "mesh_config_rejections{kind=\"HTTPRoute\"} 0\n",
        "mesh_config_rejections{kind=\"Service\"} 1\n",
        "mesh_config_version 2\n",
        "mesh_config_last_success_timestamp_seconds 7\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn families_of_the_agent_are_named_as_promised() {
    let telemetry = Telemetry::new();
    let identity = SpiffeId::new("cluster.local", "shop", "web").unwrap();
    telemetry.observe_tasks(Tasks::new());
    telemetry.observe_certificates(move || CertificateFacts {
        expiries: vec![(identity.clone(), UNIX_EPOCH + Duration::from_secs(99))],
        renewals: 3,
        overdue: 1,
        failed_renewals: 1,
        failures: vec![("denied", 1)],
    });
    let mesh = telemetry.mesh();
    mesh.pods(3, 2);
    mesh.handshake_failed(HandshakeSide::Server, "no_certificate");
    mesh.captured(Direction::Outbound);
    mesh.uncaptured(Direction::Inbound);
    mesh.denied("strict");
    let text = telemetry.encode();
    for line in [
        "mesh_pods{state=\"wanted\"} 3\n",
        "mesh_pods{state=\"enrolled\"} 2\n",
        "mesh_handshake_failures_total{side=\"server\",reason=\"no_certificate\"} 1\n",
        "mesh_captured_connections_total{direction=\"outbound\"} 1\n",
        "mesh_uncaptured_connections_total{direction=\"inbound\"} 1\n",
        "mesh_policy_denials_total{reason=\"strict\"} 1\n",
        "mesh_task_panics_total 0\n",
        "mesh_bulk_pods 0\n",
        "mesh_certificate_renewals_total{result=\"ok\"} 3\n",
        "mesh_certificate_renewals_total{result=\"failed\"} 1\n",
        "mesh_certificate_failures_total{reason=\"denied\"} 1\n",
        "mesh_certificate_expiry_timestamp_seconds{identity=\"spiffe://cluster.local/ns/shop/sa/web\"} 99\n",
        "mesh_access_log_dropped_total 0\n",
        concat!("mesh_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
        concat!(
            "istio_build{component=\"mesh-agent\",tag=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1\n"
        ),
        "# TYPE process_open_fds gauge\n",
        "# TYPE process_start_time_seconds gauge\n",
        "# UNIT process_resident_memory_bytes bytes\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn the_text_keeps_openmetrics_rules() {
    let telemetry = Telemetry::new();
    telemetry.http(flow(Reporter::Source), http_start()).respond(200);
    drop(telemetry.tcp(flow(Reporter::Source), tcp_start()));
    let text = telemetry.encode();
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("_total_total") && !text.contains("_seconds_seconds"));
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').unwrap();
        assert!(seen.insert(name), "{name} is described twice");
        assert!(help.ends_with('.') && !help.ends_with(".."), "{name}: {help}");
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("# UNIT ")) {
        let (name, unit) = line.split_once(' ').unwrap();
        assert!(name.ends_with(&format!("_{unit}")), "{line}");
    }
}

#[test]
fn a_name_in_an_object_ends_no_label() {
    let mut pod = workload("web");
    pod.naming.workload = "a\"} 1\nforged{x=\"\\".into();
    let telemetry = Telemetry::new();
    let flow = FlowLabels {
        source: Arc::new(PeerLabels::of(&pod)),
        ..flow(Reporter::Source)
    };
    telemetry.http(flow, http_start()).respond(200);
    telemetry
        .mesh()
        .handshake_refused(Direction::Inbound, &PeerLabels::of(&pod), "at_once");
    let text = telemetry.encode();
    let escaped = r#"workload="a\"} 1\nforged{x=\"\\""#;
    assert!(text.contains(&format!("source_{escaped}")), "{text}");
    assert!(
        text.contains(&format!("namespace=\"shop\",{escaped},direction=\"inbound\"")),
        "{text}"
    );
    assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
}
