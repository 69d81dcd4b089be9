//! `cargo xtask kube`: a real control plane on this machine, to try things against; nodes are not here yet.
//!
//! It must not know how a control plane is run: that is `mesh_tests::kubernetes`.

mod build;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;
use mesh_tests::kubernetes::{ControlPlane, PROGRAMS};

pub(crate) use self::build::programs;

use crate::shell::line;
use crate::workspace;

/// What to do with the control plane.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Command {
    /// Build etcd and kube-apiserver from their Go modules, once a version; ten minutes on two idle cores
    Build,
    /// Start them on free ports of loopback, with a PKI and an administrator of their own
    Up,
    /// Say whether they run, and where
    Status,
    /// End them and remove all that they kept
    Down,
}

/// Runs one of the commands.
pub(crate) fn run(command: Command) -> Result<()> {
    let dir = dir();
    let known = ControlPlane::attach(&dir, None)?;
    match (command, known) {
        (Command::Build, _) => line(&format!("✓ {}", programs()?.display())),
        (Command::Up, Some(_)) => bail!("it is up already, or was: cargo xtask kube down"),
        (Command::Up, None) => {
            let plane = ControlPlane::up(&dir, None, &[programs()?])?;
            let (config, token) = (dir.join("kubeconfig"), plane.admin_token());
            plane.write_kubeconfig(&config, &token)?;
            line(&format!("✓ https://{}", plane.addr()))?;
            line(&format!(
                "try: KUBECONFIG={} kubectl get namespaces",
                config.display()
            ))
        }
        (Command::Status | Command::Down, None) => line("there is none"),
        (Command::Status, Some(plane)) => status(&plane),
        (Command::Down, Some(plane)) => plane.down(),
    }
}

fn status(plane: &ControlPlane) -> Result<()> {
    let mut is_whole = true;
    for name in PROGRAMS {
        let is_alive = plane.is_alive(name)?;
        is_whole &= is_alive;
        line(&format!(
            "{name}: {}",
            if is_alive { "runs" } else { "HAS ENDED" }
        ))?;
    }
    if !is_whole {
        bail!("logs are in {}", plane.dir().display());
    }
    line(&format!("https://{}", plane.addr()))
}

fn dir() -> PathBuf {
    workspace::target().join("kube")
}
