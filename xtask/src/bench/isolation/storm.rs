//! The storms: what each does, and what it says it has done.
//!
//! It must not know who is beside it.

use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mesh_tests::process::{self, ProcessId};
use mesh_tests::running::Running;
use serde::{Deserialize, Serialize};

use crate::bench::isolation::place::{Pods, Sharing};
use crate::workspace;

/// What storms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// 1,000 HTTP/1.1 connections, each with the next request as soon as it is answered.
    Connections,
    /// 100,000 streams on 100 HTTP/2 connections, the same way.
    Streams,
    /// 100 bodies of 1 GB to a server that sleeps.
    Bodies,
}

/// A storm that rages.
#[derive(Debug)]
pub(crate) struct Storm {
    kind: Kind,
    child: Child,
    limit: Duration,
}

/// What storms did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Requests that were begun (bodies) or answered.
    requests: u64,
    /// Answered with anything but 2xx.
    bad_status: u64,
    /// Errors of connections and streams.
    errors: u64,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::Streams, Self::Bodies];

    /// Begins, and waits until it rages. It ends by itself some time after the quiet pair's `seconds`.
    pub(crate) fn begin(self, lab: &Running, pods: Pods, sharing: Sharing, seconds: u32) -> Result<Storm> {
        // One to begin, one for the quiet pair to warm up, one to be there at its end.
        let seconds = seconds + 3;
        let words = self.words(&pods.host(lab, "storm")?, seconds)?;
        let prefix = sharing.prefix(true).iter().map(|&word| word.to_owned());
        let program: Vec<String> = prefix.chain(words).collect();
        let mut command = lab.command(&pods.named("storm-client")?, &program, &lab.state.input)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let storm = Storm {
            kind: self,
            child: command.spawn().context("start the storm")?,
            limit: Duration::from_secs(u64::from(seconds)) + LIMIT,
        };
        thread::sleep(RISE);
        Ok(storm)
    }

    fn words(self, host: &str, seconds: u32) -> Result<Vec<String>> {
        let words = match self {
            Self::Connections => {
                let script = workspace::root().join("tests/lab/bench/http/report.lua");
                let script = script.to_str().context("the path of wrk's script")?;
                format!("wrk -t1 -c1000 -d{seconds}s -s {script} http://{host}:8080/")
            }
            Self::Streams => format!("h2load -t1 -c100 -m1000 -D{seconds} http://{host}:8081/"),
            Self::Bodies => format!("python3 ../../programs/bodies.py {host} 8082 100 {seconds}"),
        };
        Ok(words.split(' ').map(str::to_owned).collect())
    }
}

impl Storm {
    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<Tally> {
        let id = ProcessId::of(self.child.id())?;
        let ended = process::wait_until(self.limit, || Ok((!id.is_alive()).then_some(())));
        if !matches!(ended, Ok(Some(()))) {
            process::reap(&mut self.child)?;
            ended?;
            bail!("the storm of {} does not end", self.kind);
        }
        let output = self.child.wait_with_output().context("what the storm says")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let tally = match self.kind {
            Kind::Connections | Kind::Bodies => said_as_json(&said),
            Kind::Streams => said_by_h2load(&said),
        };
        tally.with_context(|| format!("a storm of {}, {}: {said}", self.kind, output.status))
    }
}

fn said_as_json(said: &str) -> Result<Tally> {
    #[derive(Deserialize)]
    struct Said {
        requests: u64,
        bad_status: u64,
        errors: u64,
    }
    let line = said.lines().rev().find(|line| line.starts_with('{'));
    let said: Said =
        serde_json::from_str(line.context("no line of figures")?).context("the line of figures")?;
    Ok(Tally {
        requests: said.requests,
        bad_status: said.bad_status,
        errors: said.errors,
    })
}

/// `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout` and
/// `status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx`.
fn said_by_h2load(said: &str) -> Result<Tally> {
    let count = |head: &str, what: &str| -> Result<u64> {
        let line = said.lines().find_map(|line| line.strip_prefix(head));
        let parts = line.with_context(|| format!("no line {head:?}"))?.split(',');
        let mut parts = parts.filter_map(|part| part.trim().split_once(' '));
        let part = parts.find(|(_, name)| *name == what);
        let (number, _) = part.with_context(|| format!("no {what} in {head:?}"))?;
        number.parse().with_context(|| format!("how many {what}"))
    };
    let bad = ["3xx", "4xx", "5xx"].map(|class| count("status codes: ", class));
    Ok(Tally {
        requests: count("requests: ", "done")?,
        bad_status: bad.into_iter().sum::<Result<_>>()?,
        errors: count("requests: ", "errored")?,
    })
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, one| Self {
            requests: sum.requests + one.requests,
            bad_status: sum.bad_status + one.bad_status,
            errors: sum.errors + one.errors,
        })
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({} refused, {} broken)",
            self.requests, self.bad_status, self.errors
        )
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Bodies => "bodies",
        })
    }
}

/// How long a storm takes to rise.
const RISE: Duration = Duration::from_secs(1);
/// How long it may take beyond what it is meant to.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_h2load_and_scripts_counted() {
        let h2load = "requests: 1000 total, 1000 started, 1000 done, 990 succeeded, 10 failed, 4 errored, 0 timeout\n\
            status codes: 988 2xx, 2 3xx, 0 4xx, 6 5xx\n";
        let wanted = Tally {
            requests: 1000,
            bad_status: 8,
            errors: 4,
        };
        assert_eq!(said_by_h2load(h2load).unwrap(), wanted);
        let script = "Running\n{\"requests\": 7, \"bad_status\": 1, \"errors\": 2, \"seconds\": 1.5}\n";
        let wanted = Tally {
            requests: 7,
            bad_status: 1,
            errors: 2,
        };
        assert_eq!(said_as_json(script).unwrap(), wanted);
        assert!(said_by_h2load("").is_err() && said_as_json("").is_err());
    }
}
