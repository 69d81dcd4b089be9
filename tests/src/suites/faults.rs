//! Faults: back ends that refuse, reset or stay silent, and clients that send anything at all.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, equal, get, python, text};
use super::{Claim, claims};
use crate::agent;
use crate::process;
use crate::running::Running;
use crate::sandbox;

pub(super) const CLAIMS: &[Claim] = claims![
    a_back_end_that_refuses_gives_503_and_its_flag,
    a_back_end_that_resets_gives_503_and_its_flag,
    a_back_end_that_stays_silent_gives_504_and_its_flag,
    a_tcp_back_end_that_resets_resets_the_client,
    a_tcp_back_end_that_refuses_resets_the_client,
    a_closed_port_of_a_pod_gives_no_connection_that_lasts,
    bytes_that_mean_nothing_harm_nobody,
    a_program_that_dies_and_comes_back_is_reached_again,
    a_second_agent_says_in_one_line_that_the_port_is_taken,
];

const CLIENT: &str = "shop/client";
/// How Python names a reset, by the call that met it; 107 is ENOTCONN, of a shutdown after it.
const RESETS: [&str; 4] = [
    "ConnectionResetError",
    "ConnectionRefusedError",
    "BrokenPipeError",
    "OSError: [Errno 107]",
];

fn a_back_end_that_refuses_gives_503_and_its_flag(lab: &Running) -> Result<()> {
    fails_with(lab, "http://broken:82/", 503, &["UF"])
}

fn a_back_end_that_resets_gives_503_and_its_flag(lab: &Running) -> Result<()> {
    fails_with(lab, "http://broken/", 503, &["UC", "UR"])
}

fn a_back_end_that_stays_silent_gives_504_and_its_flag(lab: &Running) -> Result<()> {
    fails_with(lab, "http://broken:81/", 504, &["UT"])
}

/// The client gets the status, and the agent that met the fault counts it with one of the flags.
fn fails_with(lab: &Running, url: &str, status: u16, flags: &[&str]) -> Result<()> {
    let reply = get(lab, CLIENT, url)?;
    equal("status", reply.status, status)?;
    ensure!(reply.took < Duration::from_secs(5), "it took {:?}", reply.took);
    let code = status.to_string();
    let labels = [
        ("destination_service_name", "broken"),
        ("response_code", code.as_str()),
    ];
    let is_counted_at = |node: &str| -> Result<bool> {
        let metrics = lab.metrics(node)?;
        let mut samples = metrics.matching("istio_requests_total", &labels);
        Ok(samples.any(|sample| {
            sample
                .labels
                .get("response_flags")
                .is_some_and(|flag| flags.contains(&flag.as_str()))
        }))
    };
    let counted = process::wait_until(Duration::from_secs(2), || {
        Ok((is_counted_at("node-a")? || is_counted_at("node-b")?).then_some(()))
    })?;
    ensure!(
        counted.is_some(),
        "no request to broken is counted with {code} and one of {flags:?}"
    );
    Ok(())
}

fn a_tcp_back_end_that_resets_resets_the_client(lab: &Running) -> Result<()> {
    is_reset(lab, "broken", "91")
}

fn a_tcp_back_end_that_refuses_resets_the_client(lab: &Running) -> Result<()> {
    is_reset(lab, "broken", "92")
}

fn is_reset(lab: &Running, host: &str, port: &str) -> Result<()> {
    let said = python(lab, CLIENT, "tcp_client.py", &["--send", "hello\n", host, port])?;
    let error = said.get("error").and_then(Value::as_str).unwrap_or_default();
    ensure!(
        RESETS.iter().any(|kind| error.starts_with(kind)),
        "the client saw no reset: {said}"
    );
    Ok(())
}

fn a_closed_port_of_a_pod_gives_no_connection_that_lasts(lab: &Running) -> Result<()> {
    for pod in ["shop/near", "shop/far"] {
        let address = addresses(lab, pod)?[0].to_string();
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--timeout", "5", "--send", "x", &address, "9999"],
        )?;
        let error = said.get("error").and_then(Value::as_str).unwrap_or_default();
        ensure!(RESETS.iter().any(|kind| error.starts_with(kind)), "{pod}: {said}");
    }
    Ok(())
}

fn bytes_that_mean_nothing_harm_nobody(lab: &Running) -> Result<()> {
    let far = addresses(lab, "shop/far")?[0];
    // To the outbound side from inside of the mesh, and to the inbound side from outside of it.
    for (pod, host, port) in [
        (CLIENT, "far".to_owned(), 80),
        ("outside/stranger", far.to_string(), 8080),
    ] {
        let script = format!(
            "for n in 1 2 3 4 5 6 7 8 9 10; do head -c 100000 /dev/urandom | timeout 5 curl -sS -m 4 telnet://{host}:{port} ; done; \
             printf '\\026\\003\\001\\377\\377\\001' | timeout 5 curl -sS -m 2 telnet://{host}:{port}; \
             printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\377\\377\\377\\377' | timeout 5 curl -sS -m 2 telnet://{host}:{port}; true"
        );
        lab.exec(pod, &["sh", "-c", &script])?;
    }
    for server in ["near", "far"] {
        equal(
            server,
            get(lab, CLIENT, &format!("http://{server}/"))?.status,
            200,
        )?;
    }
    Ok(())
}

fn a_program_that_dies_and_comes_back_is_reached_again(lab: &Running) -> Result<()> {
    let port = "9100";
    let address = addresses(lab, "shop/far")?[0];
    let url = super::ask::url(address, 9100, "/");
    for round in ["first", "second"] {
        let script = format!("python3 ../programs/http_server.py {port} {round} >/dev/null 2>&1 & echo $!");
        let pid = lab
            .exec("shop/far", &["sh", "-c", &script])?
            .success()?
            .stdout
            .trim()
            .to_owned();
        let answered = process::wait_until(Duration::from_secs(5), || {
            let reply = get(lab, CLIENT, &url)?;
            Ok((reply.status == 200).then_some(reply))
        })?;
        // The pod shares the machine's process ids, and its programs are in its own cgroup.
        lab.exec("shop/far", &["kill", &pid])?.success()?;
        let Some(reply) = answered else {
            anyhow::bail!("the {round} program is not reached")
        };
        equal("who answered", reply.says("version")?, round)?;
    }
    let said = python(
        lab,
        CLIENT,
        "tcp_client.py",
        &["--send", "x", &address.to_string(), port],
    )?;
    ensure!(
        text(&said, "error").is_ok(),
        "a program that has ended still answers: {said}"
    );
    Ok(())
}

fn a_second_agent_says_in_one_line_that_the_port_is_taken(lab: &Running) -> Result<()> {
    let dir = lab.site.staging().join("second-agent");
    fs::create_dir_all(&dir).context("make a directory")?;
    let path = |path: &Path| path.display().to_string();
    let mut program = vec![path(&lab.site.run_dir().join("mesh-agent")), "run".to_owned()];
    for (flag, value) in [
        ("--node-name", "node-a".to_owned()),
        ("--manifests", path(&lab.site.manifests())),
        ("--state-dir", path(&dir)),
        ("--ca-dir", path(&dir.join("ca"))),
        ("--admin-addr", agent::ADMIN_ADDR.to_string()),
    ] {
        program.extend([flag.to_owned(), value]);
    }
    let mut command = sandbox::observer(&lab.site, &lab.site.node_netns("node-a")).command(&program)?;
    let output = process::run(&mut command, Duration::from_secs(10))?;
    equal("exit code", output.status.code(), Some(1))?;
    let said = output.stderr.trim();
    ensure!(said.lines().count() == 1 && said.contains("15020"), "{said}");
    let page = lab.page("node-a", "/readyz")?;
    equal("the first agent", page.status, 200)?;
    equal(
        "through the first agent",
        get(lab, CLIENT, "http://far/")?.status,
        200,
    )
}
