//! Security: who may reach a pod, what is on the wire, and which identity is shown and asked for.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::ask::{addresses, curl, equal, get, python, text, until, url};
use super::{Claim, claims};
use crate::running::Running;
use crate::wire::{Capture, Wire};

pub(super) const CLAIMS: &[Claim] = claims![
    strict_refuses_plaintext_from_the_same_and_the_other_node,
    strict_lets_the_mesh_in,
    permissive_takes_plaintext_and_shows_the_true_peer,
    the_wire_between_nodes_carries_tls_only_on_the_original_ports,
    traffic_on_one_node_never_reaches_the_wire,
    the_inbound_side_shows_a_certificate_with_one_spiffe_name,
    a_caller_without_a_certificate_is_refused,
    a_caller_with_a_certificate_of_another_ca_is_refused,
    metrics_name_both_identities_at_both_ends,
    tcp_connections_and_bytes_are_counted_at_both_ends,
    each_pod_has_a_certificate_of_its_own_service_account,
    disable_is_plaintext_on_the_wire_and_nobody_is_known_by_name_on_either_path,
    a_client_hello_of_the_mesh_is_the_applications_own_under_disable,
];

const CLIENT: &str = "shop/client";
/// On the other node than the STRICT pod, and on the same.
const STRANGERS: [&str; 2] = ["outside/stranger", "outside/stranger-b"];

fn strict_refuses_plaintext_from_the_same_and_the_other_node(lab: &Running) -> Result<()> {
    for stranger in STRANGERS {
        for address in addresses(lab, "strict/vault")? {
            let reply = get(lab, stranger, &url(address, 8080, "/"))?;
            equal(
                &format!("answer to {stranger}"),
                (reply.status, reply.body.as_str()),
                (0, ""),
            )?;
            ensure!(
                !reply.complaint.contains("timed out"),
                "refused by silence only: {}",
                reply.complaint
            );
        }
    }
    Ok(())
}

fn strict_lets_the_mesh_in(lab: &Running) -> Result<()> {
    for client in [CLIENT, "shop/client-b"] {
        for family in ["-4", "-6"] {
            equal(
                client,
                curl(lab, client, &[family, "http://vault.strict/"])?.says("pod")?,
                "vault",
            )?;
        }
    }
    Ok(())
}

fn permissive_takes_plaintext_and_shows_the_true_peer(lab: &Running) -> Result<()> {
    for stranger in STRANGERS {
        let own = addresses(lab, stranger)?;
        for server in ["strict/open", "shop/far"] {
            for (address, own) in addresses(lab, server)?.into_iter().zip(own) {
                let reply = get(lab, stranger, &url(address, 8080, "/"))?;
                equal(&format!("{server} saw"), reply.says("peer")?, own.to_string())?;
            }
        }
    }
    Ok(())
}

fn the_wire_between_nodes_carries_tls_only_on_the_original_ports(lab: &Running) -> Result<()> {
    let secret = "a-word-that-must-not-be-seen";
    let wire = captured(lab, "other-node", || {
        for family in ["-4", "-6"] {
            let header = format!("X-Secret: {secret}");
            equal(
                "status",
                curl(lab, CLIENT, &[family, "-H", &header, "http://far/"])?.status,
                200,
            )?;
        }
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--send", &format!("{secret}\n"), "greeter", "7000"],
        )?;
        ensure!(text(&said, "received")?.contains(secret), "{said}");
        let said = python(lab, CLIENT, "grpc_client.py", &["grpc:50051", "unary", secret])?;
        equal("gRPC code", text(&said, "code")?, "OK")
    })?;
    equal(
        "plaintext packets",
        (wire.plaintext_packets, &wire.plaintext_samples),
        (0, &Vec::<String>::new()),
    )?;
    equal("packets after a gap", wire.unjudged_packets, 0)?;
    ensure!(
        wire.tls_packets >= 8,
        "only {} packets with TLS",
        wire.tls_packets
    );
    ensure!(
        !wire.contains(secret.as_bytes()),
        "the secret word is on the wire"
    );
    ensure!(
        wire.contains(b"mesh-h2") && wire.contains(b"mesh-tcp"),
        "no ClientHello offers our protocols"
    );
    let client = addresses(lab, CLIENT)?;
    ensure!(
        wire.sources.iter().all(|source| client.contains(source)),
        "connections come from {:?}",
        wire.sources
    );
    // Connections of an earlier claim may still be in use, so not each port must be seen anew.
    ensure!(
        wire.ports.contains(&7000),
        "no connection to the greeter's own port but to {:?}",
        wire.ports
    );
    let known = [8080, 7000, 50051];
    ensure!(
        wire.ports.iter().all(|port| known.contains(port)),
        "connections to other ports: {:?}",
        wire.ports
    );
    Ok(())
}

fn traffic_on_one_node_never_reaches_the_wire(lab: &Running) -> Result<()> {
    let wire = captured(lab, "same-node", || {
        for family in ["-4", "-6"] {
            equal(
                "status",
                curl(lab, CLIENT, &[family, "http://near/"])?.status,
                200,
            )?;
        }
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--listen-first", "greeter-near", "7000"],
        )?;
        ensure!(text(&said, "received")?.starts_with("220"), "{said}");
        Ok(())
    })?;
    equal("connections between nodes", wire.connections, 0)?;
    equal("plaintext packets between nodes", wire.plaintext_packets, 0)
}

fn captured(lab: &Running, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Wire> {
    let capture = Capture::start(lab, name)?;
    let worked = work();
    let wire = capture.stop()?;
    worked.map(|()| wire)
}

fn the_inbound_side_shows_a_certificate_with_one_spiffe_name(lab: &Running) -> Result<()> {
    for (pod, alpn) in [("shop/far", "mesh-h2"), ("shop/greeter", "mesh-tcp")] {
        let port = if pod == "shop/far" { 8080 } else { 7000 };
        let target = SocketAddr::new(addresses(lab, pod)?[0], port);
        let script = format!(
            "openssl s_client -connect {target} -alpn {alpn} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
        );
        let names = lab.exec(STRANGERS[0], &["sh", "-c", &script])?.success()?.stdout;
        let names: Vec<_> = names
            .lines()
            .skip(1)
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .collect();
        let account = pod.trim_start_matches("shop/");
        equal(
            pod,
            names,
            vec![format!("URI:spiffe://cluster.local/ns/shop/sa/{account}")],
        )?;
        let script = format!("openssl s_client -connect {target} -alpn {alpn} </dev/null 2>&1");
        let session = lab.exec(STRANGERS[0], &["sh", "-c", &script])?.stdout;
        ensure!(session.contains(&format!("ALPN protocol: {alpn}")), "{session}");
        ensure!(session.contains("TLSv1.3"), "{session}");
    }
    Ok(())
}

fn a_caller_without_a_certificate_is_refused(lab: &Running) -> Result<()> {
    refused_with_an_alert(lab, "")
}

fn a_caller_with_a_certificate_of_another_ca_is_refused(lab: &Running) -> Result<()> {
    let make = "cd \"$SCRATCH\" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
                -subj /O=other -addext 'subjectAltName=critical,URI:spiffe://cluster.local/ns/shop/sa/client' \
                -addext keyUsage=critical,digitalSignature -addext extendedKeyUsage=serverAuth,clientAuth \
                -addext basicConstraints=critical,CA:false -keyout other.key -out other.pem";
    lab.exec(STRANGERS[0], &["sh", "-c", make])?.success()?;
    refused_with_an_alert(lab, "-cert \"$SCRATCH/other.pem\" -key \"$SCRATCH/other.key\"")
}

/// TLS 1.3 tells a client only after its own handshake is done, so it has to wait for what comes.
fn refused_with_an_alert(lab: &Running, certificate: &str) -> Result<()> {
    let target = SocketAddr::new(addresses(lab, "shop/greeter")?[0], 7000);
    let script = format!(
        "sleep 2 | timeout 10 openssl s_client -connect {target} -alpn mesh-tcp {certificate} -quiet 2>&1; true"
    );
    let said = lab.exec(STRANGERS[0], &["sh", "-c", &script])?.stdout;
    ensure!(said.contains("alert"), "no alert: {said}");
    ensure!(!said.contains("220 greeter"), "the server was reached: {said}");
    Ok(())
}

fn metrics_name_both_identities_at_both_ends(lab: &Running) -> Result<()> {
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    for (node, reporter) in [("node-a", "source"), ("node-b", "destination")] {
        let labels = [
            ("reporter", reporter),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/client"),
            ("destination_principal", "spiffe://cluster.local/ns/shop/sa/far"),
            ("destination_service_name", "far"),
            ("destination_service_namespace", "shop"),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("connection_security_policy", "mutual_tls"),
        ];
        let counted = lab.metrics(node)?.sum("istio_requests_total", &labels);
        ensure!(counted >= 1.0, "{node} counts no such request as {reporter}");
    }
    Ok(())
}

fn tcp_connections_and_bytes_are_counted_at_both_ends(lab: &Running) -> Result<()> {
    let ends = [("node-a", "source"), ("node-b", "destination")];
    let count = |name: &str, node: &str, reporter: &str| -> Result<f64> {
        let labels = [
            ("reporter", reporter),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/client"),
            (
                "destination_principal",
                "spiffe://cluster.local/ns/shop/sa/greeter",
            ),
            ("request_protocol", "tcp"),
            ("connection_security_policy", "mutual_tls"),
        ];
        Ok(lab.metrics(node)?.sum(name, &labels))
    };
    for (node, reporter) in ends {
        let opened = count("istio_tcp_connections_opened_total", node, reporter)?;
        let closed = count("istio_tcp_connections_closed_total", node, reporter)?;
        let received = count("istio_tcp_received_bytes_total", node, reporter)?;
        python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--send", "0123456789", "greeter", "7000"],
        )?;
        let what = format!("one connection and ten bytes more at {node}");
        until(Duration::from_secs(3), &what, || {
            let are_opened = count("istio_tcp_connections_opened_total", node, reporter)? - opened > 0.5;
            let are_closed = count("istio_tcp_connections_closed_total", node, reporter)? - closed > 0.5;
            let bytes = count("istio_tcp_received_bytes_total", node, reporter)? - received;
            Ok(are_opened && are_closed && (bytes - 10.0).abs() < 0.5)
        })?;
    }
    Ok(())
}

fn each_pod_has_a_certificate_of_its_own_service_account(lab: &Running) -> Result<()> {
    let expected = [
        (
            "node-a",
            "shop/client",
            "spiffe://cluster.local/ns/shop/sa/client",
        ),
        (
            "node-b",
            "strict/vault",
            "spiffe://cluster.local/ns/strict/sa/vault",
        ),
    ];
    for (node, pod, identity) in expected {
        let status = lab.status(node)?.to_string();
        ensure!(
            status.contains(identity),
            "the status of {node} does not show {identity} of {pod}: {status}"
        );
    }
    let strangers = lab.status("node-a")?.to_string();
    ensure!(
        !strangers.contains("sa/stranger"),
        "the status of node-a shows an identity for a pod outside the mesh"
    );
    Ok(())
}

fn disable_is_plaintext_on_the_wire_and_nobody_is_known_by_name_on_either_path(lab: &Running) -> Result<()> {
    let direct = url(addresses(lab, "strict/vault")?[0], 8080, "/");
    let becomes = |client: &str, url: &str, status: u16| {
        until(LIMIT, &format!("{client} gets {status}"), || {
            Ok(get(lab, client, url)?.status == status)
        })
    };
    lab.put_manifest("disable.yaml", &disable("strict", "vault", 8080))?;
    becomes(STRANGERS[0], &direct, 200)?;
    // That is what the server's agent says; the client's must know it, too.
    lab.settled(LIMIT)?;
    let wire = captured(lab, "disable", || {
        equal(
            "status",
            get(lab, CLIENT, &format!("{VAULT}seen-by-all"))?.status,
            200,
        )
    })?;
    ensure!(wire.contains(b"seen-by-all"), "the mesh still encrypts");
    ensure!(
        wire.sources.contains(&addresses(lab, CLIENT)?[0])
            || wire.sources.contains(&addresses(lab, CLIENT)?[1]),
        "the client's address is not on the wire but {:?}",
        wire.sources
    );
    // On the other node, and on the same.
    for client in [CLIENT, "shop/client-b"] {
        equal(client, get(lab, client, VAULT)?.status, 200)?;
    }
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: { name: by-name, namespace: strict }\n\
         spec: { rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }] }] }\n";
    lab.put_manifest("by-name.yaml", policy)?;
    for client in [CLIENT, "shop/client-b"] {
        becomes(client, VAULT, 403)?;
    }
    lab.remove_manifest("disable.yaml")?;
    for client in [CLIENT, "shop/client-b"] {
        becomes(client, VAULT, 200)?;
    }
    lab.remove_manifest("by-name.yaml")?;
    becomes(STRANGERS[0], &direct, 0).map(drop)
}

const VAULT: &str = "http://vault.strict/";

fn a_client_hello_of_the_mesh_is_the_applications_own_under_disable(lab: &Running) -> Result<()> {
    const FAR: &str = "shop/far";
    let identity = "spiffe://cluster.local/ns/shop/sa/far";
    python(
        lab,
        FAR,
        "tls_peer.py",
        &["certificate", "-", "own", "self_signed", identity],
    )?;
    lab.put_manifest("disable.yaml", &disable("shop", "far", 9444))?;
    lab.settled(LIMIT)?;
    let listening = lab.site.scratch(&FAR.parse()?).join("listening");
    if listening.exists() {
        std::fs::remove_file(&listening)?;
    }
    let ends = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            python(
                lab,
                FAR,
                "tls_peer.py",
                &["server", "own", "mesh-h2", "9444", "1"],
            )
        });
        until(LIMIT, "the server listens", || Ok(listening.exists()))?;
        let far = addresses(lab, FAR)?[0].to_string();
        python(
            lab,
            STRANGERS[0],
            "tls_peer.py",
            &["client", "-", "mesh-h2", &far, "9444"],
        )?;
        server
            .join()
            .map_err(|_| anyhow::anyhow!("the server panicked"))?
    });
    lab.remove_manifest("disable.yaml")?;
    equal("handshakes", ends?, serde_json::json!(["accepted"]))
}

/// Plaintext only, on one port of one pod.
fn disable(namespace: &str, app: &str, port: u16) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{ name: {app}-off, namespace: {namespace} }}\n\
         spec: {{ selector: {{ matchLabels: {{ app: {app} }} }}, portLevelMtls: {{ {port}: {{ mode: DISABLE }} }} }}\n"
    )
}

const LIMIT: Duration = Duration::from_secs(10);
