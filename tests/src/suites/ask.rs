//! How claims ask: unmodified programs run in pods, and what they say.
//!
//! It must not judge; claims do.

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{self, Output};
use crate::running::{EXEC_LIMIT, Running};
use crate::sandbox;

/// What curl got.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The status code; 0 when there was no answer.
    pub(crate) status: u16,
    /// The HTTP version, as curl writes it.
    pub(crate) version: String,
    /// The port that it dialled from.
    pub(crate) local_port: u16,
    /// The body.
    pub(crate) body: String,
    /// What curl complained of.
    pub(crate) complaint: String,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Reply {
    /// The body as JSON, of an answer with status 200.
    pub(crate) fn json(&self) -> Result<Value> {
        ensure!(
            self.status == 200,
            "status {} {} {}",
            self.status,
            self.complaint,
            self.body.trim()
        );
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body.trim()))
    }

    /// Whether the server saw the very socket that curl dialled from: nobody stood in between.
    pub(crate) fn is_direct(&self) -> Result<bool> {
        Ok(self.says("peer_port")? == self.local_port.to_string())
    }

    /// A string in the body.
    pub(crate) fn says(&self, key: &str) -> Result<String> {
        let value = self.json()?;
        let said = value
            .get(key)
            .with_context(|| format!("the answer has no {key}: {value}"))?;
        Ok(said.as_str().map_or_else(|| said.to_string(), str::to_owned))
    }
}

/// Runs curl in a pod.
pub(crate) fn curl(lab: &Running, pod: &str, arguments: &[&str]) -> Result<Reply> {
    reply(&lab.exec(pod, &[&CURL, arguments].concat())?)
}

/// A GET with curl out of a node's own network namespace, as its kubelet sends probes.
pub(crate) fn curl_on_node(lab: &Running, node: &str, url: &str) -> Result<Reply> {
    let program: Vec<_> = CURL.into_iter().chain([url]).map(str::to_owned).collect();
    let place = sandbox::observer(&lab.site, &lab.site.node_netns(node));
    reply(&process::run(&mut place.command(&program)?, EXEC_LIMIT)?)
}

const CURL: [&str; 9] = [
    "curl",
    "--silent",
    "--show-error",
    "--max-time",
    "15",
    "--noproxy",
    "*",
    "--write-out",
    "\n%{http_code} %{http_version} %{local_port}",
];

fn reply(output: &Output) -> Result<Reply> {
    let (body, trailer) = output.stdout.rsplit_once('\n').context("curl wrote nothing")?;
    let mut words = trailer.split(' ');
    let status = words
        .next()
        .and_then(|word| word.parse().ok())
        .context("curl wrote no status")?;
    Ok(Reply {
        status,
        version: words.next().unwrap_or_default().to_owned(),
        local_port: words
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_default(),
        body: body.to_owned(),
        complaint: output.stderr.trim().to_owned(),
        took: output.took,
    })
}

/// A GET with curl.
pub(crate) fn get(lab: &Running, pod: &str, url: &str) -> Result<Reply> {
    curl(lab, pod, &[url])
}

/// Runs one of the Python programs of the lab in a pod and reads what it says, which is JSON.
pub(crate) fn python(lab: &Running, pod: &str, program: &str, arguments: &[&str]) -> Result<Value> {
    let path = format!("../programs/{program}");
    let output = lab
        .exec(pod, &[&["python3", &path], arguments].concat())?
        .success()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{program} said no JSON: {}", output.stdout))
}

/// A string in what a program said.
pub(crate) fn text<'v>(said: &'v Value, key: &str) -> Result<&'v str> {
    said.get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("no text {key} in {said}"))
}

/// A number in what a program said.
pub(crate) fn number(said: &Value, key: &str) -> Result<f64> {
    said.get(key)
        .and_then(Value::as_f64)
        .with_context(|| format!("no number {key} in {said}"))
}

/// The addresses of a pod, IPv4 first.
pub(crate) fn addresses(lab: &Running, pod: &str) -> Result<[IpAddr; 2]> {
    let pod = lab.pod(&pod.parse()?)?;
    Ok([pod.ipv4.into(), pod.ipv6.into()])
}

/// A URL of a pod by its address.
pub(crate) fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", std::net::SocketAddr::new(address, port))
}

/// Fails unless two things are equal.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers hand over what they have just computed"
)]
pub(crate) fn equal<T: PartialEq<U> + Debug, U: Debug>(what: &str, found: T, wanted: U) -> Result<()> {
    if found != wanted {
        bail!("{what}: found {found:?}, wanted {wanted:?}");
    }
    Ok(())
}

/// Asks until something holds and says how long that took.
pub(crate) fn until(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let began = Instant::now();
    let held = process::wait_until(limit, || Ok(holds()?.then_some(())))?;
    ensure!(held.is_some(), "not within {limit:?}: {what}");
    Ok(began.elapsed())
}

/// How many requests succeeded, by what h2load said; fails when one did not.
pub(super) fn h2load_succeeded(said: &str) -> Result<u32> {
    let line = |begin: &str| {
        let found = said.lines().find(|line| line.starts_with(begin));
        found.with_context(|| format!("no line {begin:?} in {said}"))
    };
    let requests = line("requests: ")?;
    ensure!(requests.contains(" 0 failed, 0 errored, 0 timeout"), "{requests}");
    let statuses = line("status codes: ")?;
    ensure!(statuses.contains(" 0 3xx, 0 4xx, 0 5xx"), "{statuses}");
    let succeeded = statuses.trim_start_matches("status codes: ").split(' ').next();
    succeeded
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("no number in {statuses}"))
}
