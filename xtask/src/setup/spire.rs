//! A real SPIRE for the suite `spire`: server and agent, built once from their Go module, inside Cargo's build directory.
//!
//! It must not start them: that is `mesh_tests::spire`. Built with the module's own `go.sum`, so that Go checks every byte.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell::{find, read, show, step};
use crate::workspace;

/// The version; the lab's directory has it in its name.
pub(crate) const VERSION: &str = "v1.13.3";
const MODULE: &str = "github.com/spiffe/spire";
const PROGRAMS: [&str; 2] = ["spire-server", "spire-agent"];
const DOWNLOAD: Duration = Duration::from_mins(10);
/// SPIRE brings the clients of three clouds and of Kubernetes along.
const BUILD: Duration = Duration::from_hours(1);

/// Builds both programs, unless they are there.
pub(crate) fn install() -> Result<()> {
    let to = workspace::spire();
    if PROGRAMS.iter().all(|program| to.join(program).exists()) {
        return Ok(());
    }
    ensure!(
        find("go").is_some() && find("gcc").is_some(),
        "SPIRE {VERSION} is built from source, which needs Go 1.25.3 or later and gcc"
    );
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    step(&format!("SPIRE {VERSION} (many minutes, once)"), || {
        let mut download = Command::new("go");
        // Outside of every module, or Go would ask what this version is to that module.
        download
            .args(["mod", "download", "-json", &format!("{MODULE}@{VERSION}")])
            .current_dir(&to);
        let said: Value = serde_json::from_str(&read(&mut download, DOWNLOAD)?)
            .context("go says no JSON of SPIRE's module")?;
        let source = said
            .get("Dir")
            .and_then(Value::as_str)
            .context("go does not say where SPIRE's source is")?;
        // Built aside and renamed: a build that was interrupted leaves nothing that looks whole.
        let aside = to.join("building");
        fs::create_dir_all(&aside).with_context(|| format!("make {}", aside.display()))?;
        let mut build = Command::new("go");
        build
            .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath"])
            .args(["-ldflags=-s -w", "-o"])
            .arg(format!("{}/", aside.display()))
            .args(PROGRAMS.map(|program| format!("./cmd/{program}")))
            .current_dir(source)
            .env("CGO_ENABLED", "1");
        show(&mut build, BUILD)?;
        for program in PROGRAMS {
            fs::rename(aside.join(program), to.join(program))
                .with_context(|| format!("put {program} in place"))?;
        }
        fs::remove_dir(&aside).with_context(|| format!("remove {}", aside.display()))
    })
}
