//! Developer commands, one file each: `cargo xtask demo`, `test`, `check`, `lab` and what they need.
//!
//! This file reads the command line and turns an error into one line and an exit code; it must not do any work.
#![forbid(unsafe_code)]

mod agent;
mod bench;
mod chart;
mod check;
mod conformance;
mod demo;
mod image;
mod in_process;
mod kube;
mod lab;
mod layers;
mod own_lab;
mod report;
mod setup;
mod shell;
mod test;
mod vm_test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mesh_tests::{interrupt, say};

/// Developer commands of the node mesh.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two nodes, unmodified programs, and what the mesh does with their traffic; needs root
    Demo(demo::Arguments),
    /// Make this machine ready for everything else; called by the other commands
    Setup,
    /// Formatting, lints, dependencies, docs, layers, unit and in-process tests; needs no root and no LLVM
    Check {
        #[command(flatten)]
        report: report::ReportTo,
    },
    /// Unit and in-process tests, then every claim in labs with the real kernel; needs root
    Test(test::Arguments),
    /// What requests cost, against nginx, HAProxy and Envoy; `bench fastpath`: against no mesh; needs root
    Bench(bench::Arguments),
    /// Suites that judge protocols, through both agents: h2spec, smuggled requests, gRPC, WebSocket; needs root
    Conformance(conformance::Arguments),
    /// The agent's container image, static and for either architecture, made without Docker; release builds
    Image(image::Arguments),
    /// Check that the agent's rooms import only what is below them
    Layers,
    /// The kernel tests on Debian's kernels, each in a virtual machine; minutes a kernel, needs root
    VmTest(vm_test::Arguments),
    /// Simulated nodes and pods on this machine, to run any program in.
    #[command(subcommand)]
    Lab(lab::Command),
    /// Lint and render the Helm chart, compare deploy/manifests with it, and show every object to a real API server.
    Chart(chart::Arguments),
    /// Two real nodes of Kubernetes on this machine.
    #[command(subcommand)]
    Kube(kube::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = interrupt::watch().and_then(|()| match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Setup => setup::run(),
        Command::Check { report } => check::run(&report),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Layers => layers::run(),
        Command::VmTest(arguments) => vm_test::run(&arguments),
        Command::Lab(command) => lab::run(&command),
        Command::Chart(arguments) => chart::run(&arguments),
        Command::Kube(command) => kube::run(&command),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bench_alone_is_the_one_against_other_proxies() {
        let parses = |words: &str| Arguments::try_parse_from(words.split(' ')).is_ok();
        assert!(parses(
            "xtask bench --quick --peer nginx --peer envoy --workload W3"
        ));
        assert!(parses("xtask bench fastpath --quick"));
        assert!(parses("xtask bench changes --quick --lab other-lab"));
        assert!(!parses("xtask bench --workload W9"));
        assert!(!parses("xtask bench --peer traefik"));
    }
}
