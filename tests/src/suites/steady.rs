//! New connections all the time, HTTP and TCP between the nodes, none of which may fail.
//!
//! It must not know what is done meanwhile.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::process::Output;
use crate::running::Running;
use crate::suites::ask::{equal, number};

/// Has `work` done while `client` opens them; fails where fewer than `least` of either kind were made.
pub(super) fn beside(
    lab: &Running,
    client: &str,
    least: f64,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stop = lab.site.scratch(&client.parse()?).join("stop");
    if stop.exists() {
        fs::remove_file(&stop).context("forget the last load")?;
    }
    let path = stop.display().to_string();
    let program = [
        "python3",
        "../programs/steady.py",
        &path,
        "far",
        "greeter",
        "7000",
    ];
    let output = thread::scope(|scope| -> Result<Output> {
        let load = scope.spawn(|| lab.exec_within(Duration::from_mins(6), client, &program));
        let worked = work();
        fs::write(&stop, "").context("stop the load")?;
        let output = load.join().map_err(|_panic| anyhow!("the load panicked"))?;
        worked?;
        output
    })?;
    let said: Value = serde_json::from_str(&output.success()?.stdout).context("the load says no JSON")?;
    let done = said.get("done").context("the load says nothing")?;
    for kind in ["http", "tcp"] {
        ensure!(
            number(done, kind)? > least,
            "too few connections to prove anything: {said}"
        );
    }
    equal("failed connections", number(&said, "failed")?, 0.0).with_context(|| said.to_string())
}
