//! Routes of connections: TCPRoute, TLSRoute, `tls` and `tcp` of a VirtualService, and subsets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, curl, equal, get, python, until};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    connections_are_split_by_weight,
    the_share_of_a_back_end_without_endpoints_is_refused,
    redis_answers_behind_a_route,
    the_name_of_a_tls_handshake_chooses_the_server_and_its_certificate_arrives,
    a_virtual_service_chooses_by_name_and_then_by_the_clients_labels,
    subsets_are_the_pods_with_the_version,
    a_host_of_a_service_entry_is_reached_at_its_endpoints,
    a_service_entry_selects_pods_for_those_to_whom_it_is_exported,
];

const CLIENT: &str = "shop/client";
const CLIENT_B: &str = "shop/client-b";
/// On the node of [`CLIENT_B`].
const STRANGER: &str = "strict/open";

/// How often each pod answered so many connections.
fn who(lab: &Running, client: &str, port: &str, count: u64) -> Result<impl Fn(&str) -> u64 + use<>> {
    let said = python(
        lab,
        client,
        "who_many.py",
        &["tcp-split", port, &count.to_string()],
    )?;
    Ok(move |pod: &str| said.get(pod).and_then(Value::as_u64).unwrap_or(0))
}

fn connections_are_split_by_weight(lab: &Running) -> Result<()> {
    for client in [CLIENT, CLIENT_B] {
        let pods = who(lab, client, "7100", 400)?;
        let (near, far) = (pods("shape-near"), pods("shape-far"));
        equal("answers", near + far, 400)?;
        // Each drawn by itself with three in four: five standard deviations are 43.
        ensure!(
            (257..=343).contains(&near),
            "of 400 connections of {client}, {near} went near"
        );
    }
    Ok(())
}

fn the_share_of_a_back_end_without_endpoints_is_refused(lab: &Running) -> Result<()> {
    let pods = who(lab, CLIENT, "7200", 200)?;
    let (near, refused) = (pods("shape-near"), pods("refused"));
    equal("connections", near + refused, 200)?;
    ensure!(
        (65..=135).contains(&refused),
        "of 200 connections {refused} were refused"
    );
    Ok(())
}

fn redis_answers_behind_a_route(lab: &Running) -> Result<()> {
    for client in [CLIENT, CLIENT_B] {
        let said = lab
            .exec(client, &["redis-cli", "-h", "redis-routed", "ping"])?
            .success()?;
        equal("redis", said.stdout.trim(), "PONG")?;
    }
    Ok(())
}

/// The common name of the certificate that answers where the handshake asks for a name; `None` where nobody answers.
fn subject(lab: &Running, client: &str, host: &str, name: Option<&str>) -> Result<Option<String>> {
    let name = name.map_or_else(
        || "-noservername".to_owned(),
        |name| format!("-servername {name}"),
    );
    let script = format!(
        "openssl s_client -connect {host}:443 {name} </dev/null 2>/dev/null | openssl x509 -noout -subject"
    );
    let done = lab.exec(client, &["sh", "-c", &script])?;
    let Ok(done) = done.success() else { return Ok(None) };
    let (_, subject) = done
        .stdout
        .trim()
        .rsplit_once('=')
        .with_context(|| format!("no subject: {}", done.stdout))?;
    Ok(Some(subject.trim().to_owned()))
}

fn the_name_of_a_tls_handshake_chooses_the_server_and_its_certificate_arrives(lab: &Running) -> Result<()> {
    for client in [CLIENT, CLIENT_B] {
        for (name, server) in [
            (Some("one.example.com"), Some("tls-one")),
            (Some("ONE.example.com"), Some("tls-one")),
            (Some("two.example.com"), Some("tls-two")),
            (Some("a.one.example.com"), Some("tls-two")),
            (Some("example.com"), None),
            (None, None),
        ] {
            let found = subject(lab, client, "tls", name)?;
            equal(&format!("{client} asks for {name:?}"), found.as_deref(), server)?;
        }
    }
    Ok(())
}

fn a_virtual_service_chooses_by_name_and_then_by_the_clients_labels(lab: &Running) -> Result<()> {
    for (client, name, server) in [
        (CLIENT, "two.example.com", "tls-two"),
        (CLIENT, "other.example.com", "tls-one"),
        (CLIENT_B, "other.example.com", "tls-two"),
    ] {
        for _ in 0..3 {
            let found = subject(lab, client, "tls-versions", Some(name))?;
            equal(
                &format!("{client} asks for {name}"),
                found.as_deref(),
                Some(server),
            )?;
        }
    }
    Ok(())
}

fn subsets_are_the_pods_with_the_version(lab: &Running) -> Result<()> {
    for client in [CLIENT, CLIENT_B] {
        for (header, version) in [("x-version: v2", "v2"), ("x-version: none", "v1")] {
            for _ in 0..4 {
                let reply = curl(lab, client, &["-H", header, "http://versions/"])?;
                equal(header, reply.says("version")?, version)?;
            }
        }
        let reply = curl(lab, client, &["-H", "x-version: v3", "http://versions/"])?;
        equal("a subset without pods", reply.status, 503)?;
    }
    let said = python(lab, CLIENT, "load.py", &["http://versions/split", "500"])?;
    let of_v1 = said.pointer("/versions/v1").and_then(Value::as_u64).unwrap_or(0);
    // Five standard deviations are 45.
    ensure!(
        (355..=445).contains(&of_v1),
        "of 500 requests, {of_v1} went to v1: {said}"
    );
    Ok(())
}

fn a_host_of_a_service_entry_is_reached_at_its_endpoints(lab: &Running) -> Result<()> {
    let [plain, _] = addresses(lab, "outside/plain")?;
    let [near, _] = addresses(lab, "shop/near")?;
    let entry = format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e, namespace: shop}}, spec: {{hosts: \
         [api.example.com], addresses: [192.0.2.77], resolution: STATIC, ports: [{{number: 80, name: http, targetPort: \
         8080}}], endpoints: [{{address: {plain}, weight: 1}}, {{address: {near}, weight: 3}}]}}}}"
    );
    lab.put_manifest("service-entry.yaml", &entry)?;
    let reached = until(PATIENCE, "the host is reached", || {
        Ok(get(lab, CLIENT, "http://192.0.2.77/")?.status == 200)
    });
    let served = reached.and_then(|_| {
        let asked = (0..80).map(|_| get(lab, CLIENT, "http://192.0.2.77/")?.says("version"));
        asked.collect::<Result<Vec<_>>>()
    });
    lab.remove_manifest("service-entry.yaml")?;
    let served = served?;
    let near = served.iter().filter(|one| *one == "near").count();
    let plain = served.iter().filter(|one| *one == "plain").count();
    equal("answers", near + plain, 80)?;
    // Three of four: five standard deviations are 19.
    ensure!(
        (41..=79).contains(&near),
        "of 80 requests {near} went to the endpoint of weight 3"
    );
    Ok(())
}

fn a_service_entry_selects_pods_for_those_to_whom_it_is_exported(lab: &Running) -> Result<()> {
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: s, namespace: shop}, spec: {hosts: \
                 [till.example.com], addresses: [192.0.2.78], exportTo: [.], resolution: STATIC, ports: [{number: 80, name: \
                 http, targetPort: 8080}], workloadSelector: {labels: {app: near}}}}";
    lab.put_manifest("service-entry.yaml", entry)?;
    let reached = until(PATIENCE, "the host is reached", || {
        Ok(get(lab, CLIENT_B, "http://192.0.2.78/")?.status == 200)
    });
    let asked = reached.and_then(|_| {
        let own = get(lab, CLIENT_B, "http://192.0.2.78/")?;
        // On the same node, so that its agent knows the entry too.
        Ok((own, get(lab, STRANGER, "http://192.0.2.78/")?))
    });
    lab.remove_manifest("service-entry.yaml")?;
    let (own, stranger) = asked?;
    equal("the pod that is selected", own.says("version")?, "near")?;
    ensure!(
        stranger.status != 200,
        "a pod of another namespace was led there too"
    );
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(10);
