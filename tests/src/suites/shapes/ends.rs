//! Addresses: whoever dials whom, by whatever address, each end is shown the other's own.

use anyhow::{Result, ensure};

use super::{CLIENT, PORT, SERVERS, Talk, address_of, at, end};
use crate::running::Running;
use crate::suites::ask::{addresses, curl, equal, python};

const SIX: &str = "shop/shape-six";

pub(super) fn a_pod_without_ipv4_reaches_and_is_reached(lab: &Running) -> Result<()> {
    let own = addresses(lab, SIX)?[1];
    for server in SERVERS {
        Talk::of(lab, SIX, &["--family", "6", server, "7100", "who"])?.shows_client(server, own)?;
    }
    for client in [CLIENT, "shop/client-b"] {
        for target in ["shape-six", &own.to_string()] {
            let talk = Talk::of(lab, client, &[target, "7100", "who"])?;
            talk.shows_client("shape-six", addresses(lab, client)?[1])?;
        }
    }
    Ok(())
}

pub(super) fn a_pod_without_ipv4_is_told_at_once_that_ipv4_is_unreachable(lab: &Running) -> Result<()> {
    for how in ["blocking", "nonblocking", "uring", "mapped"] {
        let words = ["ask", "--how", how, "--family", "4", "shape-far", "7100", "who"];
        let said = python(lab, SIX, "shapes.py", &words)?;
        equal("how far it came", at(&said, "stage"), "connect")?;
        equal(how, at(&said, "error"), "ENETUNREACH")?;
    }
    Ok(())
}

pub(super) fn a_pod_lands_on_itself_by_its_service(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let pod = format!("shop/{server}");
        for (family, own) in ["4", "6"].into_iter().zip(addresses(lab, &pod)?) {
            let talk = Talk::of(lab, &pod, &["--family", family, server, "7100", "who"])?;
            talk.shows_client(server, own)?;
            let dialled = address_of(lab, &pod, server, family)?;
            equal(
                "getpeername",
                end(at(&talk.said, "peer"))?,
                (dialled, PORT.into()),
            )?;
        }
    }
    Ok(())
}

pub(super) fn a_pod_lands_on_itself_by_its_own_address_and_by_loopback(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let pod = format!("shop/{server}");
        let loopback = ["127.0.0.1".parse()?, "::1".parse()?];
        for address in addresses(lab, &pod)?.into_iter().chain(loopback) {
            let talk = Talk::of(lab, &pod, &[&address.to_string(), "7100", "who"])?;
            talk.shows_client(server, address)?;
        }
    }
    Ok(())
}

pub(super) fn pod_addresses_and_headless_names_show_both_ends_the_truth(lab: &Running) -> Result<()> {
    let own = addresses(lab, CLIENT)?;
    for (family, own) in ["4", "6"].into_iter().zip(own) {
        let talk = Talk::of(
            lab,
            CLIENT,
            &["--family", family, "shape-headless", "7100", "who"],
        )?;
        talk.shows_client("shape-far", own)?;
    }
    for server in SERVERS {
        for (address, own) in addresses(lab, &format!("shop/{server}"))?.into_iter().zip(own) {
            let talk = Talk::of(lab, CLIENT, &[&address.to_string(), "7100", "who"])?;
            talk.shows_client(server, own)?;
            equal(
                "getpeername",
                end(at(&talk.said, "peer"))?,
                (address, PORT.into()),
            )?;
        }
    }
    Ok(())
}

pub(super) fn a_server_outside_of_the_mesh_sees_the_clients_own_socket(lab: &Running) -> Result<()> {
    let own = addresses(lab, CLIENT)?;
    for (address, own) in addresses(lab, "outside/shape-outside")?.into_iter().zip(own) {
        for how in ["blocking", "mptcp"] {
            let talk = Talk::of(lab, CLIENT, &["--how", how, &address.to_string(), "7100", "who"])?;
            talk.shows_client("shape-outside", own)?;
        }
    }
    Ok(())
}

/// `$remote_addr`. Connections that requests share cannot show each client's port.
pub(super) fn nginx_sees_the_clients_own_address(lab: &Running) -> Result<()> {
    for (family, own) in ["-4", "-6"].into_iter().zip(addresses(lab, CLIENT)?) {
        for server in ["fast-near", "fast"] {
            for port in [80, 81] {
                let version = if port == 80 {
                    "--http1.1"
                } else {
                    "--http2-prior-knowledge"
                };
                let reply = curl(
                    lab,
                    CLIENT,
                    &[family, version, &format!("http://{server}:{port}/")],
                )?;
                ensure!(
                    reply.says("peer")? == own.to_string(),
                    "{server}:{port} saw {} for {own}",
                    reply.says("peer")?
                );
            }
        }
    }
    Ok(())
}
