//! Exceptions: what the mesh lets past on purpose, and not an inch more.

use anyhow::{Context, Result, ensure};

use super::ask::{addresses, curl_on_node, equal, get, url};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    a_probe_of_the_own_node_reaches_the_port_that_it_names_under_strict,
    the_own_node_reaches_no_other_port_under_strict,
    another_node_and_neighbours_do_not_pass_for_the_kubelet,
    a_probe_is_recorded_as_plaintext_of_nobody,
];

const PROBED: &str = "strict/probed";
const PROBE_PORT: u16 = 8080;
const OTHER_PORT: u16 = 9100;

fn a_probe_of_the_own_node_reaches_the_port_that_it_names_under_strict(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let reply = curl_on_node(lab, "node-b", &url(address, PROBE_PORT, "/"))?;
        equal(&address.to_string(), reply.says("pod")?, "probed")?;
    }
    Ok(())
}

fn the_own_node_reaches_no_other_port_under_strict(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let reply = curl_on_node(lab, "node-b", &url(address, OTHER_PORT, "/"))?;
        equal("status", reply.status, 0)?;
        ensure!(
            reply.complaint.contains("reset by peer"),
            "not reset: {}",
            reply.complaint
        );
    }
    Ok(())
}

fn another_node_and_neighbours_do_not_pass_for_the_kubelet(lab: &Running) -> Result<()> {
    for address in addresses(lab, PROBED)? {
        let probe = url(address, PROBE_PORT, "/");
        equal(
            "answer to the other node",
            curl_on_node(lab, "node-a", &probe)?.status,
            0,
        )?;
        for stranger in ["outside/stranger", "outside/stranger-b"] {
            equal(stranger, get(lab, stranger, &probe)?.status, 0)?;
        }
    }
    Ok(())
}

fn a_probe_is_recorded_as_plaintext_of_nobody(lab: &Running) -> Result<()> {
    let labels = [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_principal", "unknown"),
        ("destination_workload", "probed"),
        ("connection_security_policy", "none"),
        ("response_code", "200"),
    ];
    let count = || -> Result<f64> { Ok(lab.metrics("node-b")?.sum("istio_requests_total", &labels)) };
    let before = count()?;
    let address = addresses(lab, PROBED)?.into_iter().next().context("no address")?;
    equal(
        "status",
        curl_on_node(lab, "node-b", &url(address, PROBE_PORT, "/"))?.status,
        200,
    )?;
    super::ask::until(std::time::Duration::from_secs(3), "the probe is counted", || {
        Ok(count()? > before)
    })
    .map(|_| ())
}
