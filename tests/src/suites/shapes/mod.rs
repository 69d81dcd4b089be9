//! Shapes: whatever a program may do with TCP, it may do inside the mesh, and sees what it would see without one.
//!
//! `shapes.py` and `tcp_server.py` do it; both ends say what they saw.

mod bulk;
mod connect;
mod ends;
mod failures;
mod greeting;

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{equal, python, text};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    connect {
        a_blocking_connect_shows_both_ends_the_truth,
        a_nonblocking_connect_shows_both_ends_the_truth,
        an_io_uring_connect_shows_both_ends_the_truth,
        a_connect_with_fast_open_shows_both_ends_the_truth,
        a_connect_put_off_until_the_first_write_shows_both_ends_the_truth,
        an_mptcp_connect_shows_both_ends_the_truth,
        an_ipv4_mapped_connect_shows_both_ends_the_truth,
        an_mptcp_server_takes_tcp_and_mptcp,
        a_fixed_source_port_is_kept_on_the_whole_way,
        many_pods_use_one_source_port_at_once,
    }
    ends {
        a_pod_without_ipv4_reaches_and_is_reached,
        a_pod_without_ipv4_is_told_at_once_that_ipv4_is_unreachable,
        a_pod_lands_on_itself_by_its_service,
        a_pod_lands_on_itself_by_its_own_address_and_by_loopback,
        pod_addresses_and_headless_names_show_both_ends_the_truth,
        a_server_outside_of_the_mesh_sees_the_clients_own_socket,
        nginx_sees_the_clients_own_address,
    }
    failures {
        a_refused_connection_is_reset_at_once,
        a_service_without_endpoints_or_port_resets_at_once,
        an_unreachable_host_is_reset_at_once,
        a_host_that_does_not_answer_is_reset_when_the_connect_times_out,
        the_agents_own_ports_are_refused_by_errno,
        a_clients_reset_reaches_the_server,
        a_servers_reset_reaches_the_client,
        a_client_that_is_done_sending_is_still_answered,
        a_server_that_is_done_sending_still_hears,
        a_client_of_http_1_0_that_is_done_sending_is_still_answered,
        a_client_that_goes_away_is_told_from_one_that_is_done_sending,
    }
    bulk {
        a_hundred_megabytes_arrive_unchanged_each_way,
        a_hundred_megabytes_arrive_unchanged_as_http_bodies,
        five_thousand_connections_of_one_pod_are_alive_at_once_and_leave_nothing,
    }
    greeting {
        mail_is_delivered_to_a_server_that_speaks_first,
        mariadb_serves_its_own_client,
    }
];

const CLIENT: &str = "shop/client";
const PORT: u16 = 7100;
/// The Services of `tcp_server.py`, by the node on which their pod is.
const SERVERS: [&str; 2] = ["shape-near", "shape-far"];

/// What `shapes.py` saw of a connection that was to end well.
struct Talk {
    said: Value,
}

impl Talk {
    /// Runs `shapes.py ask` in a pod and fails unless it came to a good end.
    fn of(lab: &Running, pod: &str, words: &[&str]) -> Result<Self> {
        let said = python(lab, pod, "shapes.py", &[&["ask"], words].concat())?;
        ensure!(
            at(&said, "stage") == "end" && at(&said, "error").is_null(),
            "{}: {said}",
            words.join(" ")
        );
        Ok(Self { said })
    }

    fn received(&self) -> Result<&str> {
        text(&self.said, "received")
    }

    /// What the server said that it saw.
    fn seen(&self) -> Result<Value> {
        serde_json::from_str(self.received()?).with_context(|| format!("no JSON in {}", self.said))
    }

    /// Fails unless accept and getpeername of the server `pod` named the client's own socket, at `own`.
    fn shows_client(&self, pod: &str, own: IpAddr) -> Result<()> {
        let (seen, local) = (self.seen()?, at(&self.said, "local"));
        equal("who answers", text(&seen, "pod")?, pod)?;
        equal("the client's address", end(local)?.0, own)?;
        for call in ["accept", "getpeername"] {
            equal(call, end(at(&seen, call))?, end(local)?)?;
        }
        Ok(())
    }
}

/// What a program said under a key; null where it said nothing.
fn at<'v>(said: &'v Value, key: &str) -> &'v Value {
    said.get(key).unwrap_or(&Value::Null)
}

/// An address and a port, as the programs write them.
fn end(value: &Value) -> Result<(IpAddr, u64)> {
    let (address, port): (IpAddr, u64) =
        serde_json::from_value(value.clone()).with_context(|| format!("no address and port: {value}"))?;
    Ok((address, port))
}

/// The address of a name in a pod's eyes.
fn address_of(lab: &Running, pod: &str, name: &str, family: &str) -> Result<IpAddr> {
    let table = if family == "4" { "ahostsv4" } else { "ahostsv6" };
    let output = lab.exec(pod, &["getent", table, name])?.success()?;
    let first = output.stdout.split_whitespace().next();
    Ok(first.context("getent said nothing")?.parse()?)
}
