//! Programs of ours that go on in a pod while something is claimed.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A program of ours in a pod; ended when dropped.
pub(super) struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts `command`, made by [`Running::command`](crate::running::Running::command).
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, lines })
    }

    /// Waits for its next line, which must be `word`.
    pub(super) fn says(&mut self, word: &str) -> Result<()> {
        let line = self.lines.next().context("the program ended")??;
        ensure!(line == word, "the program says {line}");
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended is as good as one that is ended.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}
