//! `cargo xtask kube`: two real nodes of Kubernetes on this machine, with a control plane, to try the mesh on.
//!
//! It must not know how a cluster is run: that is `mesh_tests::cluster`.

mod build;
mod conformance;
mod go;
mod mesh;
mod test;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use mesh_tests::cluster::{self, Cluster, DEFAULT_NAME, Options};
use mesh_tests::site::Site;

pub(crate) use self::build::{built, programs};

use crate::shell::{find, line, step};
use crate::{setup, workspace};

/// What to do with a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build all that a cluster and its tests are made of from a Go module, once a version; minutes of two idle cores
    Build,
    /// Take down what is left of an earlier cluster, then make one and wait until it is ready
    Up {
        #[command(flatten)]
        name: Name,
    },
    /// Say which programs run, which nodes are ready, and how the pods are
    Status {
        #[command(flatten)]
        name: Name,
    },
    /// Run a program beside the control plane, with its kubeconfig and with kubectl and helm in the search path
    Exec {
        #[command(flatten)]
        name: Name,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Build the agent, or take an image of it, and install the Helm chart with it; again after a change
    Install {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        chosen: mesh::Chosen,
    },
    /// Gateway API's own conformance suite for meshes; needs the mesh installed
    Conformance {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        arguments: conformance::Arguments,
    },
    /// Make a cluster, check what is claimed of real nodes, and take it down
    Test(test::Arguments),
    /// End it and remove all that it kept
    Down {
        #[command(flatten)]
        name: Name,
    },
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The cluster's name, should there be several; ends in -lab
    #[arg(long = "name", default_value = DEFAULT_NAME)]
    site: Site,
}

/// Runs one of the commands.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Build => {
            let dir = build::all()?;
            conformance::Programs::built()?;
            line(&format!("✓ {}", dir.display()))
        }
        Command::Up { name } => up(&name.site),
        Command::Status { name } => status(&attach(&name.site)?),
        Command::Exec { name, program } => exec(&attach(&name.site)?, program),
        Command::Install { name, chosen } => mesh::install(&attach(&name.site)?, chosen),
        Command::Conformance { name, arguments } => conformance::run(&attach(&name.site)?, arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::Down { name } => cluster::down(&name.site),
    }
}

/// Becomes the program, so that terminal, signals and exit code are its own, and so are the paths that it is given.
fn exec(cluster: &Cluster, program: &[String]) -> Result<()> {
    let here = std::env::current_dir().context("working directory")?;
    let mut command = cluster.command(program)?;
    Err(command.current_dir(here).exec()).context("run beside the control plane")
}

fn up(site: &Site) -> Result<()> {
    let options = options(site)?;
    let cluster = step("two nodes and their control plane", || {
        Cluster::up(&options, &|what| mesh_tests::say(&format!("  {what}")))
    })?;
    status(&cluster)?;
    line("try: cargo xtask kube exec -- kubectl get pods -A   end: cargo xtask kube down")
}

/// What a cluster of this repository is made of; what is missing of it is installed and built.
pub(crate) fn options(site: &Site) -> Result<Options> {
    setup::for_kubernetes()?;
    let find = |name: &str| find(name).with_context(|| format!("there is no {name}"));
    Ok(Options {
        site: site.clone(),
        programs: programs(&cluster::programs().collect::<Vec<_>>())?,
        runc: find("runc")?,
        busybox: find("busybox")?,
        manifests: vec![manifests().join("dns.yaml")],
        logs_to: workspace::target().join("kube-logs"),
    })
}

/// The directory with manifests for a cluster's own use.
fn manifests() -> PathBuf {
    workspace::root().join("tests/lab/cluster")
}

fn attach(site: &Site) -> Result<Cluster> {
    Cluster::attach(site)?
        .with_context(|| format!("there is no cluster {}: cargo xtask kube up", site.name()))
}

fn status(cluster: &Cluster) -> Result<()> {
    let mut is_whole = true;
    for (name, is_alive) in cluster.processes()? {
        is_whole &= is_alive;
        line(&format!(
            "{name}: {}",
            if is_alive { "runs" } else { "HAS ENDED" }
        ))?;
    }
    for (node, is_ready) in cluster.nodes()? {
        is_whole &= is_ready;
        line(&format!(
            "{node}: {}",
            if is_ready { "ready" } else { "NOT READY" }
        ))?;
    }
    line(
        cluster
            .kubectl(&["get", "pods", "--all-namespaces", "--output", "wide"])?
            .trim_end(),
    )?;
    if !is_whole {
        bail!(
            "parts of the cluster are not well; logs are in {}",
            cluster.site().logs().display()
        );
    }
    Ok(())
}
