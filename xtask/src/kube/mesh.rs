//! The mesh in a cluster: an image of the agent as it was just built, and the Helm chart.
//!
//! It must not know what the chart holds.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::image::Image;
use mesh_tests::process;

use crate::shell::step;
use crate::{agent, workspace};

use super::manifests;

/// Builds the agent, hands its image to all nodes, and installs the chart, or has what is installed take the new image.
pub(super) fn install(cluster: &Cluster) -> Result<()> {
    let agent = step("build the agent and its kernel programs", agent::build)?;
    let image = Image::new(IMAGE, &[PROGRAM]).with_program(&agent, PROGRAM)?;
    // The tag does not change, so that something else must, or Kubernetes would start nothing anew.
    let built = fs::metadata(&agent).and_then(|found| found.modified());
    let built = built.with_context(|| format!("ask when {} was built", agent.display()))?;
    let built = built
        .duration_since(UNIX_EPOCH)
        .context("the clock of a file")?
        .as_millis();
    step("the mesh on all nodes", || {
        cluster.load("mesh-agent", &image)?;
        let chart = workspace::root().join("deploy/helm/mesh").display().to_string();
        let values = manifests().join("mesh-values.yaml").display().to_string();
        let mut helm = [
            "helm",
            "upgrade",
            "--install",
            "mesh",
            &chart,
            "--values",
            &values,
        ]
        .map(str::to_owned)
        .to_vec();
        helm.extend(["--namespace", NAMESPACE, "--create-namespace"].map(str::to_owned));
        for of in ["agent", "ca"] {
            helm.extend([
                "--set-string".to_owned(),
                format!("{of}.podAnnotations.built={built}"),
            ]);
        }
        let installed = process::run(&mut cluster.command(&helm)?, LIMIT)?;
        installed.success().context("install the chart")?;
        for what in ["deployment/mesh-ca", "daemonset/mesh-agent"] {
            cluster.rollout(NAMESPACE, what)?;
        }
        Ok(())
    })
}

const IMAGE: &str = "localhost/mesh-agent:dev";
const PROGRAM: &str = "/usr/local/bin/mesh-agent";
const NAMESPACE: &str = "mesh-system";
const LIMIT: Duration = Duration::from_mins(4);
