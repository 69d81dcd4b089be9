//! What does not work, and ends of every kind: the application is told at once, by errno, reset or FIN.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{CLIENT, SERVERS, Talk, at};
use crate::process;
use crate::running::{EXEC_LIMIT, Running};
use crate::sandbox;
use crate::suites::ask::{addresses, curl, equal, python, text, until};

pub(super) fn a_refused_connection_is_reset_at_once(lab: &Running) -> Result<()> {
    // Port 7300 of the Services, and 7999 of the pod outside, where nobody listens. What goes direct is refused by the pod.
    fails(lab, "shape-near", "7300", "ECONNREFUSED")?;
    is_reset(lab, "shape-far", "7300")?;
    for address in addresses(lab, "outside/shape-outside")? {
        is_reset(lab, &address.to_string(), "7999")?;
    }
    Ok(())
}

pub(super) fn a_service_without_endpoints_or_port_resets_at_once(lab: &Running) -> Result<()> {
    is_reset(lab, "shape-empty", "7100")?;
    is_reset(lab, "shape-far", "7999")
}

pub(super) fn an_unreachable_host_is_reset_at_once(lab: &Running) -> Result<()> {
    // The node has no route to it and says so.
    is_reset(lab, "198.51.100.1", "7100")?;
    is_reset(lab, "2001:db8::1", "7100")
}

pub(super) fn a_host_that_does_not_answer_is_reset_when_the_connect_times_out(lab: &Running) -> Result<()> {
    on_node(lab, "ip route add blackhole 203.0.113.1/32")?;
    let claimed = is_reset(lab, "203.0.113.1", "7100");
    on_node(lab, "ip route del blackhole 203.0.113.1/32")?;
    claimed
}

pub(super) fn the_agents_own_ports_are_refused_by_errno(lab: &Running) -> Result<()> {
    for address in addresses(lab, CLIENT)? {
        for port in ["15001", "15006"] {
            let said = python(
                lab,
                CLIENT,
                "shapes.py",
                &["ask", &address.to_string(), port, "who"],
            )?;
            equal("how far it came", at(&said, "stage"), "connect")?;
            equal("errno", at(&said, "error"), "ECONNREFUSED")?;
        }
    }
    Ok(())
}

pub(super) fn a_clients_reset_reaches_the_server(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let said = python(lab, CLIENT, "shapes.py", &["reset", server, "7100", "a-reset"])?;
        equal(server, text(&said, "received")?, "ECONNRESET\n")?;
    }
    Ok(())
}

pub(super) fn a_servers_reset_reaches_the_client(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let said = python(lab, CLIENT, "shapes.py", &["ask", server, "7100", "reset"])?;
        equal("how far it came", at(&said, "stage"), "talk")?;
        equal(server, at(&said, "error"), "ECONNRESET")?;
    }
    Ok(())
}

/// As `nc -N` does it: a FIN, then reading.
pub(super) fn a_client_that_is_done_sending_is_still_answered(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let script = format!("printf 'echo\\nsome words\\n' | nc -N -w 10 {server} 7100");
        let output = lab.exec(CLIENT, &["sh", "-c", &script])?.success()?;
        equal(server, output.stdout.as_str(), "ready\nsome words\nbye\n")?;
    }
    Ok(())
}

pub(super) fn a_server_that_is_done_sending_still_hears(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let said = python(lab, CLIENT, "shapes.py", &["late", server, "7100", "a-hush"])?;
        equal(server, text(&said, "received")?, "1000000\n")?;
    }
    Ok(())
}

pub(super) fn a_client_of_http_1_0_that_is_done_sending_is_still_answered(lab: &Running) -> Result<()> {
    let plain = addresses(lab, "shop/web-v2")?[0].to_string();
    for (server, port) in [("near", "80"), ("far", "80"), (plain.as_str(), "8080")] {
        // An answer that takes its time: the FIN is there before it.
        for path in ["/", "/slow/300"] {
            let script = format!("printf 'GET {path} HTTP/1.0\r\n\r\n' | nc -N -w 10 {server} {port}");
            let output = lab.exec(CLIENT, &["sh", "-c", &script])?.success()?;
            ensure!(
                output.stdout.starts_with("HTTP/1.") && output.stdout.contains(" 200 OK\r\n"),
                "{server}{path}: {:?}",
                output.stdout
            );
        }
    }
    Ok(())
}

pub(super) fn a_client_that_goes_away_is_told_from_one_that_is_done_sending(lab: &Running) -> Result<()> {
    for server in ["near", "far"] {
        let labels = [
            ("reporter", "source"),
            ("destination_workload", server),
            ("response_flags", "DC"),
        ];
        let count = || -> Result<f64> { Ok(lab.metrics("node-a")?.sum("istio_requests_total", &labels)) };
        let before = count()?;
        // curl closes its socket, which sends the same FIN; the answer would take half a minute.
        let reply = curl(
            lab,
            CLIENT,
            &["--max-time", "0.3", &format!("http://{server}/slow/30000")],
        )?;
        equal("status", reply.status, 0)?;
        until(Duration::from_secs(10), "the request is given up", || {
            Ok(count()? > before)
        })?;
    }
    Ok(())
}

/// The agent accepts before it knows, so what the application sees is a reset: of connect or of its first words.
fn is_reset(lab: &Running, host: &str, port: &str) -> Result<()> {
    fails(lab, host, port, "ECONNRESET")
}

fn fails(lab: &Running, host: &str, port: &str, error: &str) -> Result<()> {
    let said: Value = python(lab, CLIENT, "shapes.py", &["ask", host, port, "who"])?;
    equal(&format!("{host} {port}"), at(&said, "error"), error)?;
    // Nothing of it harms what comes next.
    Talk::of(lab, CLIENT, &["shape-far", "7100", "who"]).map(|_| ())
}

fn on_node(lab: &Running, script: &str) -> Result<()> {
    let place = sandbox::observer(&lab.site, &lab.site.node_netns("node-a"));
    let program = ["sh", "-ec", script].map(str::to_owned);
    process::run(&mut place.command(&program)?, EXEC_LIMIT)?
        .success()
        .map(|_| ())
}
