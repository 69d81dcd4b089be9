//! `cargo xtask lab`: nodes and pods on this machine, in which any program can be run.
//!
//! It must not know how they are made: that is `mesh_tests::lab`.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use mesh_tests::input::PodName;
use mesh_tests::lab::{self, Lab, Options};
use mesh_tests::running::Running;
use mesh_tests::site::{DEFAULT_NAME, Site};

use crate::shell::line;
use crate::{agent, workspace};

/// What to do with a lab.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take down what is left of an earlier lab, then make one from a directory of manifests and its lab.yaml
    Up {
        /// The directory
        dir: PathBuf,
        /// Make a plain network: no agents, no mesh
        #[arg(long)]
        no_agent: bool,
        /// Optimised agents, to measure with; they take minutes to build
        #[arg(long, conflicts_with = "no_agent")]
        release: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Run a program inside a pod
    Exec {
        /// The pod, as namespace/name
        pod: PodName,
        #[command(flatten)]
        name: Name,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Show nodes, pods and agents
    Status {
        #[command(flatten)]
        name: Name,
    },
    /// Remove the lab and all that belongs to it
    Down {
        #[command(flatten)]
        name: Name,
    },
}

/// Which lab is meant.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The lab's name, should there be several
    #[arg(long = "name", default_value = DEFAULT_NAME)]
    site: Site,
}

/// Runs one of the commands.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Up {
            dir,
            no_agent,
            release,
            name,
        } => {
            let agent = match (no_agent, release) {
                (true, _) => None,
                (false, true) => Some(agent::build_optimised()?),
                (false, false) => Some(agent::build()?),
            };
            up(dir.clone(), agent, &name.site)
        }
        Command::Exec { pod, name, program } => exec(pod, &name.site, program),
        Command::Status { name } => status(&name.site),
        Command::Down { name } => lab::down(&name.site),
    }
}

fn up(dir: PathBuf, agent: Option<PathBuf>, site: &Site) -> Result<()> {
    let options = Options {
        site: site.clone(),
        dir,
        agent,
        tools: workspace::lab_tools(),
    };
    let lab = Lab::up(&options, &mesh_tests::say)?;
    show(lab.running())?;
    line("try: cargo xtask lab exec POD -- COMMAND...   end: cargo xtask lab down")?;
    lab.keep();
    Ok(())
}

/// Becomes the program, so that terminal, signals and exit code are its own.
fn exec(pod: &PodName, site: &Site, program: &[String]) -> Result<()> {
    let cwd = env::current_dir().context("working directory")?;
    let mut command = Running::attach(site.clone())?.command(pod, program, &cwd)?;
    if let Some(terminal) = env::var_os("TERM") {
        command.env("TERM", terminal);
    }
    Err(command.exec()).with_context(|| format!("run in {pod}"))
}

fn status(site: &Site) -> Result<()> {
    show(&Running::attach(site.clone())?)
}

fn show(lab: &Running) -> Result<()> {
    let mut is_whole = true;
    for (node, agent) in &lab.state.nodes {
        let agent = match agent {
            None => "no agent".to_owned(),
            Some(process) if process.is_alive() => match lab.page(node, "/readyz") {
                Ok(answer) if answer.status == 200 => format!("agent {} ready", process.pid),
                Ok(answer) => format!("agent {} not ready: {}", process.pid, answer.body.trim()),
                Err(error) => format!("agent {} does not answer: {error:#}", process.pid),
            },
            Some(process) => {
                is_whole = false;
                format!("agent {} IS GONE", process.pid)
            }
        };
        line(&format!("{node}: {agent}"))?;
        for (name, pod) in lab.state.pods.iter().filter(|(_, pod)| pod.node == *node) {
            let program = match pod.program {
                None => "idles".to_owned(),
                Some(process) if process.is_alive() => format!("process {}", process.pid),
                Some(process) => {
                    is_whole = false;
                    format!("process {} IS GONE", process.pid)
                }
            };
            line(&format!(
                "  {:<28} {:<14} {:<18} {program}",
                name.to_string(),
                pod.ipv4,
                pod.ipv6
            ))?;
        }
    }
    if !is_whole {
        bail!(
            "parts of the lab have ended; their output is in {}",
            lab.site.logs().display()
        );
    }
    Ok(())
}
