//! Which ports a pod's probes name, what its annotations exclude, and which addresses are a node's.

use super::{named, read, workload};

/// The probe ports of a pod at 10.0.0.1 with this spec, and the fields that are reported.
fn probe_ports(spec: &str) -> (Vec<u16>, Vec<String>) {
    let reading = read(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {spec}, status: {{podIP: 10.0.0.1}}}}"
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    let ports = workload(&reading, "p").probe_ports.iter().copied().collect();
    (ports, fields)
}

#[test]
fn every_kind_of_probe_names_its_port() {
    const PORTS: &str = "ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9}]";
    for (container, expected) in [
        ("livenessProbe: {httpGet: {port: 80}}", vec![80]),
        ("livenessProbe: {httpGet: {port: http}}", vec![8080]),
        ("livenessProbe: {httpGet: {port: '81'}}", vec![81]),
        ("readinessProbe: {tcpSocket: {port: admin}}", vec![9]),
        ("startupProbe: {grpc: {port: 50051}}", vec![50051]),
        ("livenessProbe: {exec: {command: ['true']}}", vec![]),
        ("lifecycle: {preStop: {httpGet: {port: 82}}}", vec![82]),
        ("lifecycle: {postStart: {httpGet: {port: http}}}", vec![8080]),
        ("livenessProbe: {httpGet: {host: 10.0.0.1, port: 80}}", vec![80]),
        ("livenessProbe: {httpGet: {host: 10.0.0.9, port: 80}}", vec![]),
        ("livenessProbe: {httpGet: {host: example.org, port: 80}}", vec![]),
        (
            "livenessProbe: {httpGet: {port: 80}}, readinessProbe: {tcpSocket: {port: 81}}",
            vec![80, 81],
        ),
        ("name: without-probes", vec![]),
    ] {
        let found = probe_ports(&format!("{{containers: [{{{PORTS}, {container}}}]}}"));
        assert_eq!(found, (expected, vec![]), "{container}");
    }
}

#[test]
fn of_init_containers_only_the_restartable_are_probed() {
    let probe = "livenessProbe: {httpGet: {port: 80}}";
    for (init, expected) in [
        (format!("{{restartPolicy: Always, {probe}}}"), vec![80]),
        (format!("{{{probe}}}"), vec![]),
    ] {
        let found = probe_ports(&format!("{{initContainers: [{init}], containers: []}}"));
        assert_eq!(found, (expected, vec![]), "{init}");
    }
}

#[test]
fn a_port_that_cannot_be_resolved_is_named_and_opens_nothing() {
    for port in ["nobody", "0", "65536", "-1"] {
        let (ports, fields) = probe_ports(&format!(
            "{{containers: [{{livenessProbe: {{httpGet: {{port: {port}}}}}}}]}}"
        ));
        assert_eq!(ports, [0_u16; 0], "{port}");
        assert_eq!(
            fields,
            ["spec.containers[0].livenessProbe.httpGet.port"],
            "{port}"
        );
    }
}

#[test]
fn a_named_port_of_another_container_is_not_resolved() {
    let (ports, fields) = probe_ports(
        "{containers: [{ports: [{name: http, containerPort: 80}]}, {livenessProbe: {httpGet: {port: http}}}]}",
    );
    assert_eq!(
        (ports.len(), fields.as_slice()),
        (
            0,
            &["spec.containers[1].livenessProbe.httpGet.port".to_owned()][..]
        )
    );
}

#[test]
fn annotations_exclude_and_a_wrong_one_is_named_and_ignored() {
    let reading = read(
        "{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {\
         mesh-agent.dev/exclude-outbound-ports: '25,5432', \
         mesh-agent.dev/exclude-outbound-cidrs: '10.0.0.0/8,fd00::/8', \
         mesh-agent.dev/exclude-inbound-ports: '9100,15006'}}}",
    );
    let exclusions = &workload(&reading, "p").exclusions;
    assert_eq!(exclusions.outbound_ports, [25, 5432].into());
    let cidrs: Vec<_> = exclusions
        .outbound_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8"]);
    assert!(exclusions.inbound_ports.is_empty());
    assert_eq!(
        named(&reading),
        [(
            "Pod default/p",
            "metadata.annotations[mesh-agent.dev/exclude-inbound-ports]"
        )]
    );
    let reason = &reading.rejections.first().unwrap().reason;
    assert_eq!(
        reason,
        "\"15006\": this port of every pod is the agent's; the annotation is ignored"
    );
}

#[test]
fn a_node_has_its_addresses_and_a_wrong_one_is_named() {
    let reading = read(
        "{apiVersion: v1, kind: Node, metadata: {name: node-a}, status: {addresses: [\
         {type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: '2001:db8::1'}, \
         {type: Hostname, address: node-a}, {type: InternalIP, address: 127.0.0.1}]}}",
    );
    let node = reading.facts.nodes.first().unwrap();
    let addrs: Vec<_> = node.addrs.iter().map(ToString::to_string).collect();
    assert_eq!(
        (&*node.name, addrs),
        ("node-a", vec!["192.0.2.1".into(), "2001:db8::1".into()])
    );
    assert_eq!(named(&reading), [("Node node-a", "status.addresses[3].address")]);
}
