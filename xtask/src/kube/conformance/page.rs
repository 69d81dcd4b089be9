//! docs/conformance/: the suite's report as it wrote it, under the name that Gateway API asks for, and the page that says what it is.
//!
//! It must not judge.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::Judged;
use super::judged::{self, Report};
use crate::workspace;

/// Writes both files.
pub(super) fn write(judged: &Judged) -> Result<()> {
    let report = Report::read(&judged.report)?;
    let dir = workspace::root().join("docs/conformance");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let name = format!(
        "{}-v{}-default-report.yaml",
        report.channel,
        env!("CARGO_PKG_VERSION")
    );
    let put = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    };
    put(&name, &judged.report)?;
    put("README.md", &page(&report, &name, &judged.output)?)
}

fn page(report: &Report, name: &str, output: &str) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = HEAD.replace("{API}", &report.version);
    writeln!(
        text,
        "| {} | v{version} | default | [v{version} report](./{name}) |\n",
        report.channel
    )?;
    text.push_str("| profile | passed | failed | skipped |\n|---|---|---|---|\n");
    for (profile, tally) in report.profiles() {
        let judged::Tally {
            passed,
            failed,
            skipped,
        } = tally;
        writeln!(text, "| {profile} | {passed} | {failed} | {skipped} |")?;
    }
    text.push_str(TESTS);
    for (test, verdict) in judged::tests(output)? {
        writeln!(text, "| `{test}` | {verdict} |")?;
    }
    text.push_str(REPRODUCE);
    Ok(text)
}

const HEAD: &str = "# Gateway API conformance

Written by `cargo xtask kube conformance`; do not edit. Gateway API {API}'s own suite, as it stands, on two real nodes.

| API channel | Implementation version | Mode | Report |
|---|---|---|---|
";
const TESTS: &str = "
The report counts the tests of its profiles. The suite has more of the mesh, which rest on features that belong to the profiles of
gateways. All of them were run:

| test | |
|---|---|
";
const REPRODUCE: &str = "
## Reproduce

```
cargo xtask kube up             # two nodes of Kubernetes
cargo xtask kube install        # the Helm chart, with the agent as it is in this checkout
cargo xtask kube conformance
```

The suite is built from a Go module (`tests/programs/`), and so is the echo server of its pods: Istio's, which Gateway API
republishes as `echo-advanced`. The namespaces of the suite get the label `mesh-agent.dev/dataplane=enabled`; nothing else is changed.
";
