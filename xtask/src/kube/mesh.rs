//! The mesh in a cluster: an image of the agent as it was just built, and the Helm chart.
//!
//! It must not know what the chart holds.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::image::Image;
use mesh_tests::process;

use crate::shell::step;
use crate::{agent, workspace};

use super::manifests;

/// Which image the mesh is installed from.
#[derive(Debug, clap::Args)]
pub(crate) struct Chosen {
    /// An archive made by `cargo xtask image` under its own name; without it an agent as developers build it is packed
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

/// Hands an image of the agent to all nodes, and installs the chart, or has what is installed take the new image.
pub(super) fn install(cluster: &Cluster, chosen: &Chosen) -> Result<()> {
    let (image, name) = match &chosen.image {
        Some(archive) => (archive.clone(), RELEASED),
        None => (
            step("build the agent and its kernel programs", agent::build)?,
            IMAGE,
        ),
    };
    let (repository, tag) = name.rsplit_once(':').context("an image without a tag")?;
    // The tag does not change, so that something else must, or Kubernetes would start nothing anew.
    let built = fs::metadata(&image).and_then(|found| found.modified());
    let built = built.with_context(|| format!("ask when {} was built", image.display()))?;
    let built = built
        .duration_since(UNIX_EPOCH)
        .context("the clock of a file")?
        .as_millis();
    step("the mesh on all nodes", || {
        match &chosen.image {
            Some(archive) => cluster.load_archive("mesh-agent", archive)?,
            None => cluster.load(
                "mesh-agent",
                &Image::new(IMAGE, &[PROGRAM])?.with_program(&image, PROGRAM)?,
            )?,
        }
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
        for (part, value) in [("repository", repository), ("tag", tag)] {
            helm.extend(["--set-string".to_owned(), format!("image.{part}={value}")]);
        }
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
/// What `cargo xtask image` calls it, unless it is told another name.
const RELEASED: &str = concat!("localhost/mesh-agent:", env!("CARGO_PKG_VERSION"));
const PROGRAM: &str = "/usr/local/bin/mesh-agent";
const NAMESPACE: &str = "mesh-system";
const LIMIT: Duration = Duration::from_mins(4);
