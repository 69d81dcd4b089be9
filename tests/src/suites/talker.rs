//! A program in a pod that keeps one connection and does as it is told.
//!
//! It must not judge; claims do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::running::Running;

/// A program in a pod that keeps one connection.
pub(super) struct Talker {
    /// What it said first: its ends, or why there is no connection.
    pub(super) hello: Value,
    child: Child,
    input: Option<ChildStdin>,
    said: Receiver<String>,
}

impl Talker {
    /// Has a pod dial; the arguments are those of `talker.py`.
    pub(super) fn start(lab: &Running, pod: &str, arguments: &[&str]) -> Result<Self> {
        let program = [&["python3", "../programs/talker.py"], arguments].concat();
        let program: Vec<_> = program.into_iter().map(str::to_owned).collect();
        let mut command = lab.command(&pod.parse()?, &program, &lab.state.input)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (says, said) = channel();
        // Ends with the program, whose output it reads.
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| says.send(line)));
        let mut talker = Self {
            hello: Value::Null,
            input: child.stdin.take(),
            child,
            said,
        };
        talker.hello = talker.hear()?;
        Ok(talker)
    }

    /// The port that it dialled from.
    pub(super) fn local_port(&self) -> Result<u16> {
        let port = self.hello.get("local_port").and_then(Value::as_u64);
        Ok(u16::try_from(
            port.with_context(|| format!("no port in {}", self.hello))?,
        )?)
    }

    /// Tells it something without waiting for what it says.
    pub(super) fn ask(&mut self, words: &str) -> Result<()> {
        let input = self.input.as_mut().context("it hears nothing any more")?;
        writeln!(input, "{words}").with_context(|| format!("ask a talker to {words}"))
    }

    /// What it says next.
    pub(super) fn hear(&mut self) -> Result<Value> {
        let line = self.said.recv_timeout(LIMIT).context("a talker says nothing")?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }

    /// Sends a line and reads one.
    pub(super) fn say(&mut self, words: &str) -> Result<String> {
        self.ask(&format!("say {words}"))?;
        let said = self.hear()?;
        match said.get("line").and_then(Value::as_str) {
            Some(line) => Ok(line.to_owned()),
            None => bail!("to {words:?} it had {said}"),
        }
    }

    /// Ends the connection in order; how many bytes it sent and received.
    pub(super) fn end(&mut self) -> Result<[f64; 2]> {
        self.ask("end")?;
        let said = self.hear()?;
        let count = |key: &str| {
            said.get(key)
                .and_then(Value::as_f64)
                .with_context(|| said.to_string())
        };
        Ok([count("sent")?, count("received")?])
    }

    /// Ends the program with its connection.
    pub(super) fn drop_now(&mut self) -> Result<()> {
        self.child.kill().context("end a talker")
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that has ended is as good as one that is ended.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// How long a talker may take for anything.
const LIMIT: Duration = Duration::from_secs(20);
