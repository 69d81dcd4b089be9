//! wrk and h2load: started in a client's pod on a core of its own, and what they say they have done.
//!
//! It must not know where the requests go.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::cpu;
use mesh_tests::process::{self, ProcessId};
use mesh_tests::running::Running;
use serde::Deserialize;

use crate::bench::proxies::{CLIENT_CORE, LIMIT};
use crate::workspace;

/// What kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// HTTP/1.1 on 64 connections.
    KeepAlive,
    /// HTTP/2 on 8 connections of 16 streams.
    Streams,
    /// HTTP/1.1, each request on a connection of its own, 64 at a time.
    Connections,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    /// As many as go in so many seconds.
    Seconds(u8),
    /// Exactly so many; connections are then kept alive.
    Requests(u32),
}

/// What was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    /// Requests that were answered.
    pub(crate) requests: u32,
    /// Those answered with anything but 2xx, and errors of connections.
    pub(crate) errors: u32,
    /// For how long.
    pub(crate) took: Duration,
    /// Processor time of the client.
    pub(crate) client: Duration,
}

impl Done {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.requests) / self.took.as_secs_f64()
    }

    /// How many requests take so many seconds when they go as these went.
    pub(crate) fn requests_in(&self, seconds: u8) -> u32 {
        let wanted = u128::from(self.requests) * u128::from(seconds) * 1000 / self.took.as_millis().max(1);
        u32::try_from(wanted).unwrap_or(u32::MAX).max(FEW)
    }
}

impl Load {
    /// Puts this load on `url` from a pod.
    pub(crate) fn run(self, lab: &Running, pod: &str, url: &str, amount: Amount) -> Result<Done> {
        let words = self.words(url, amount)?;
        let program = ["taskset".to_owned(), "-c".to_owned(), CLIENT_CORE.to_string()];
        let program = [program.as_slice(), &words].concat();
        let (said, client) = run(lab, pod, &program)?;
        let tally = if words.first().is_some_and(|program| program == "wrk") {
            wrk_tally(&said)
        } else {
            h2load_tally(&said)
        };
        let tally = tally.with_context(|| format!("what {} says:\n{said}", words.join(" ")))?;
        Ok(Done {
            requests: tally.requests,
            errors: tally.errors + tally.bad_status,
            took: Duration::try_from_secs_f64(tally.seconds).context("how long it took")?,
            client,
        })
    }

    fn words(self, url: &str, amount: Amount) -> Result<Vec<String>> {
        let program = match (self, amount) {
            (Self::KeepAlive | Self::Connections, Amount::Seconds(seconds)) => {
                format!("wrk -t1 -c64 -d{seconds}s")
            }
            (Self::KeepAlive | Self::Connections, Amount::Requests(count)) => {
                format!("h2load --h1 -t1 -c64 -n{count}")
            }
            (Self::Streams, Amount::Seconds(seconds)) => format!("h2load -t1 -c8 -m16 -D{seconds}"),
            (Self::Streams, Amount::Requests(count)) => format!("h2load -t1 -c8 -m16 -n{count}"),
        };
        let mut words: Vec<String> = program.split(' ').map(str::to_owned).collect();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
        if program.starts_with("wrk") {
            let script = workspace::root().join("tests/lab/bench/http/report.lua");
            add(&["-s", script.to_str().context("the path of wrk's script")?]);
        }
        match (self, amount) {
            (Self::Connections, Amount::Seconds(_)) => add(&["-H", "Connection: close"]),
            (Self::KeepAlive | Self::Connections | Self::Streams, _) => {}
        }
        add(&[url]);
        Ok(words)
    }
}

/// Enough requests for every connection of a load to carry some.
pub(crate) const FEW: u32 = 1280;

/// Runs a program to its end and reads its processor time before it is forgotten.
fn run(lab: &Running, pod: &str, program: &[String]) -> Result<(String, Duration)> {
    let mut command = lab.command(&pod.parse()?, program, lab.site.run_dir())?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("start the load")?;
    let id = ProcessId::of(child.id())?;
    let ended = process::wait_until(LIMIT, || Ok((!id.is_alive()).then_some(())));
    if !matches!(ended, Ok(Some(()))) {
        process::reap(&mut child)?;
    }
    ended?.with_context(|| format!("the load does not end within {LIMIT:?}"))?;
    let used = cpu::used_by(id)?;
    let output = child.wait_with_output().context("what the load says")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{} ended with {}: {}{said}",
        program.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((said, used))
}

/// What a load generator counted.
#[derive(Debug, PartialEq, Deserialize)]
struct Tally {
    requests: u32,
    bad_status: u32,
    errors: u32,
    seconds: f64,
}

/// The last line is that of our script.
fn wrk_tally(said: &str) -> Result<Tally> {
    let line = said.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(line.context("no line of figures")?).context("the line of figures")
}

/// `finished in 1.00s, ...`, `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout` and
/// `status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx`.
fn h2load_tally(said: &str) -> Result<Tally> {
    let line = |head: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(head));
        line.with_context(|| format!("no line {head:?}"))
    };
    let counts = |head: &str| -> Result<Vec<(u32, String)>> {
        let counts = line(head)?.split(',').map(|part| {
            let (number, what) = part.trim().split_once(' ').context("no count")?;
            Ok((number.parse()?, what.to_owned()))
        });
        counts.collect()
    };
    let requests = counts("requests: ")?;
    let statuses = counts("status codes: ")?;
    let sum = |counts: &[(u32, String)], wanted: &[&str]| -> u32 {
        let matching = counts.iter().filter(|(_, what)| wanted.contains(&what.as_str()));
        matching.map(|(count, _)| count).sum()
    };
    Ok(Tally {
        requests: sum(&requests, &["succeeded"]),
        // Those with 4xx and 5xx are among the failed, those with 3xx are not.
        bad_status: sum(&statuses, &["3xx"]),
        errors: sum(&requests, &["failed"]),
        seconds: seconds(line("finished in ")?).context("how long it took")?,
    })
}

/// `1.02s, 100 req/s` or `512.11ms, ...` or `900us, ...` in seconds.
fn seconds(text: &str) -> Option<f64> {
    let time = text.split(',').next()?.trim();
    let (number, unit) = time.split_at(time.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H2LOAD: &str = "finished in 512.50ms, 19512.20 req/s, 1.2MB/s\n\
        requests: 1000 total, 1000 started, 1000 done, 990 succeeded, 10 failed, 4 errored, 0 timeout\n\
        status codes: 988 2xx, 2 3xx, 0 4xx, 6 5xx\n";

    #[test]
    fn reads_what_h2load_counted() {
        let tally = h2load_tally(H2LOAD).unwrap();
        let wanted = Tally {
            requests: 990,
            bad_status: 2,
            errors: 10,
            seconds: 0.5125,
        };
        assert_eq!(tally, wanted);
    }

    #[test]
    fn a_number_of_requests_is_found_for_a_time() {
        let done = |requests, ms| Done {
            requests,
            errors: 0,
            took: Duration::from_millis(ms),
            client: Duration::ZERO,
        };
        assert_eq!(done(3000, 500).requests_in(2), 12_000);
        assert_eq!(done(1, 30_000).requests_in(1), FEW, "never none at all");
    }

    #[test]
    fn a_load_that_says_nothing_is_an_error_and_not_zero_requests() {
        assert!(h2load_tally("finished in 1.00s, 0 req/s\n").is_err());
        assert!(wrk_tally("Running 1s test\n").is_err());
    }

    #[test]
    fn reads_what_wrk_counted() {
        let said = "Running 1s test @ http://near/\n{\"requests\": 7, \"bad_status\": 1, \"errors\": 2, \"seconds\": 1.5, \"p50_us\": 3, \"p99_us\": 4}\n";
        let wanted = Tally {
            requests: 7,
            bad_status: 1,
            errors: 2,
            seconds: 1.5,
        };
        assert_eq!(wrk_tally(said).unwrap(), wanted);
    }
}
