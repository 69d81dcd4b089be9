//! Capture: every way to dial, both families, both nodes; and addresses that stay true at both ends.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::ask::{addresses, curl, equal, get, number, python, text, url};
use super::{Claim, claims};
use crate::process;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    a_service_address_leads_to_the_other_node_in_both_families,
    a_service_address_leads_to_the_same_node_in_both_families,
    a_headless_service_leads_to_its_pod_in_both_families,
    a_pod_address_leads_to_its_pod_in_both_families,
    the_server_sees_the_clients_own_address,
    the_server_sees_its_own_address_and_port,
    the_client_sees_the_address_that_it_dialled,
    an_mptcp_client_is_captured_like_any_other,
    a_pod_reaches_its_own_service,
    each_request_is_counted_once_at_each_end,
    each_request_is_counted_once_by_the_path_that_it_took,
    a_pod_that_left_the_mesh_is_not_captured,
    a_pod_of_a_namespace_outside_is_not_captured,
    a_pod_outside_of_the_mesh_can_be_reached,
];

const CLIENT: &str = "shop/client";
const FAMILIES: [&str; 2] = ["-4", "-6"];

fn a_service_address_leads_to_the_other_node_in_both_families(lab: &Running) -> Result<()> {
    for family in FAMILIES {
        equal(
            family,
            curl(lab, CLIENT, &[family, "http://far/"])?.says("pod")?,
            "far",
        )?;
        equal(
            family,
            curl(lab, "shop/client-b", &[family, "http://near/"])?.says("pod")?,
            "near",
        )?;
    }
    Ok(())
}

fn a_service_address_leads_to_the_same_node_in_both_families(lab: &Running) -> Result<()> {
    for family in FAMILIES {
        equal(
            family,
            curl(lab, CLIENT, &[family, "http://near/"])?.says("pod")?,
            "near",
        )?;
        equal(
            family,
            curl(lab, "shop/client-b", &[family, "http://far/"])?.says("pod")?,
            "far",
        )?;
    }
    Ok(())
}

fn a_headless_service_leads_to_its_pod_in_both_families(lab: &Running) -> Result<()> {
    for family in FAMILIES {
        equal(
            family,
            curl(lab, CLIENT, &[family, "http://far-headless:8080/"])?.says("pod")?,
            "far",
        )?;
    }
    Ok(())
}

fn a_pod_address_leads_to_its_pod_in_both_families(lab: &Running) -> Result<()> {
    for pod in ["near", "far"] {
        for address in addresses(lab, &format!("shop/{pod}"))? {
            equal(
                &address.to_string(),
                get(lab, CLIENT, &url(address, 8080, "/"))?.says("pod")?,
                pod,
            )?;
        }
    }
    Ok(())
}

fn the_server_sees_the_clients_own_address(lab: &Running) -> Result<()> {
    for (family, address) in FAMILIES.into_iter().zip(addresses(lab, CLIENT)?) {
        for server in ["near", "far"] {
            let seen = curl(lab, CLIENT, &[family, &format!("http://{server}/")])?.says("peer")?;
            equal(&format!("{family} by {server}"), seen, address.to_string())?;
        }
    }
    Ok(())
}

fn the_server_sees_its_own_address_and_port(lab: &Running) -> Result<()> {
    for server in ["near", "far"] {
        for (family, address) in FAMILIES
            .into_iter()
            .zip(addresses(lab, &format!("shop/{server}"))?)
        {
            let reply = curl(lab, CLIENT, &[family, &format!("http://{server}/")])?;
            equal(
                &format!("{family} address of {server}"),
                reply.says("local")?,
                address.to_string(),
            )?;
            equal(
                &format!("{family} port of {server}"),
                reply.says("local_port")?,
                "8080",
            )?;
        }
    }
    Ok(())
}

fn the_client_sees_the_address_that_it_dialled(lab: &Running) -> Result<()> {
    let own = addresses(lab, CLIENT)?;
    for server in ["greeter", "greeter-near"] {
        let lookup = lab.exec(CLIENT, &["getent", "ahostsv4", server])?.success()?;
        let dialled = lookup
            .stdout
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        ensure!(
            dialled.starts_with("10.96."),
            "{server} has no Service address but {dialled:?}"
        );
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--listen-first", &dialled, "7000"],
        )?;
        equal("getpeername", text(&said, "peer")?, dialled.as_str())?;
        ensure!(
            (number(&said, "peer_port")? - 7000.0).abs() < 0.5,
            "peer port: {said}"
        );
        equal("getsockname", text(&said, "local")?, own[0].to_string().as_str())?;
    }
    Ok(())
}

fn an_mptcp_client_is_captured_like_any_other(lab: &Running) -> Result<()> {
    let own = addresses(lab, CLIENT)?;
    for server in ["greeter", "greeter-near"] {
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--mptcp", "--listen-first", server, "7000"],
        )?;
        let greeting = text(&said, "received")?;
        let greets = |client: &IpAddr| greeting.starts_with(&format!("220 {server} greets {client}\n"));
        ensure!(own.iter().any(greets), "{said}");
    }
    Ok(())
}

fn a_pod_reaches_its_own_service(lab: &Running) -> Result<()> {
    for pod in ["near", "far"] {
        let reply = get(lab, &format!("shop/{pod}"), &format!("http://{pod}/"))?;
        equal("who answers", reply.says("pod")?, pod)?;
    }
    Ok(())
}

fn each_request_is_counted_once_at_each_end(lab: &Running) -> Result<()> {
    // Were the agent's own connects captured, a request would pass, and count, more than once.
    let count = |node: &str, reporter: &str| -> Result<f64> {
        let labels = [
            ("reporter", reporter),
            ("destination_workload", "far"),
            ("source_workload", "client"),
        ];
        Ok(lab.metrics(node)?.sum("istio_requests_total", &labels))
    };
    let before = (count("node-a", "source")?, count("node-b", "destination")?);
    for _ in 0..20 {
        equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    }
    let settled = process::wait_until(Duration::from_secs(3), || {
        let now = (
            count("node-a", "source")? - before.0,
            count("node-b", "destination")? - before.1,
        );
        Ok((now.0 >= 20.0 && now.1 >= 20.0).then_some(now))
    })?;
    let Some((source, destination)) = settled else {
        let now = (
            count("node-a", "source")? - before.0,
            count("node-b", "destination")? - before.1,
        );
        anyhow::bail!(
            "20 requests were counted {} times at the source, {} at the destination",
            now.0,
            now.1
        );
    };
    ensure!(
        (source - 20.0).abs() < 0.5,
        "counted {source} times at the source"
    );
    ensure!(
        (destination - 20.0).abs() < 0.5,
        "counted {destination} times at the destination"
    );
    Ok(())
}

fn each_request_is_counted_once_by_the_path_that_it_took(lab: &Running) -> Result<()> {
    let orders = url(addresses(lab, "shop/far")?[0], 8080, "/");
    let table = [
        ("same_node", "node-a", CLIENT, "http://near/"),
        ("other_node", "node-a", CLIENT, "http://far/"),
        ("plain", "node-b", "outside/stranger-b", orders.as_str()),
    ];
    for (path, node, client, url) in table {
        let count = || {
            lab.metrics(node)
                .map(|seen| seen.sum("mesh_requests_path_total", &[("path", path)]))
        };
        let before = count()?;
        for _ in 0..10 {
            equal(url, get(lab, client, url)?.status, 200)?;
        }
        process::wait_until(Duration::from_secs(3), || {
            Ok((count()? - before >= 10.0).then_some(()))
        })?;
        let counted = count()? - before;
        ensure!(
            (counted - 10.0).abs() < 0.5,
            "10 requests on the path {path} were counted as {counted}"
        );
    }
    Ok(())
}

fn a_pod_that_left_the_mesh_is_not_captured(lab: &Running) -> Result<()> {
    is_not_captured(lab, "shop/leaver")
}

fn a_pod_of_a_namespace_outside_is_not_captured(lab: &Running) -> Result<()> {
    is_not_captured(lab, "outside/stranger")
}

/// A Service address has no path but the mesh; a pod address has one without it.
fn is_not_captured(lab: &Running, pod: &str) -> Result<()> {
    let reply = curl(lab, pod, &["--connect-timeout", "3", "http://far.shop/"])?;
    equal("answer from a Service address", reply.status, 0)?;
    let reply = get(lab, pod, &url(addresses(lab, "shop/far")?[0], 8080, "/"))?;
    equal("answer from a pod address", reply.says("pod")?, "far")?;
    equal(
        "the address that the server saw",
        reply.says("peer")?,
        addresses(lab, pod)?[0].to_string(),
    )
}

fn a_pod_outside_of_the_mesh_can_be_reached(lab: &Running) -> Result<()> {
    for url in [
        "http://plain.outside/".to_owned(),
        url(addresses(lab, "outside/plain")?[0], 8080, "/"),
    ] {
        let reply = curl(lab, CLIENT, &["-4", &url])?;
        equal(&url, reply.says("pod")?, "plain")?;
        equal(
            "the address that the server saw",
            reply.says("peer")?,
            addresses(lab, CLIENT)?[0].to_string(),
        )?;
    }
    Ok(())
}
