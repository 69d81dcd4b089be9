//! `cargo xtask bench`: what the mesh costs, and what it saves, against other proxies and against no mesh at all.
//!
//! A bench prints what it measured and never judges a time: it fails only where bytes were wrong or something broke.

mod blocks;
mod changes;
mod fastpath;
mod isolation;
mod proxies;
mod scale;

use anyhow::Result;
use clap::Subcommand;

/// Which bench.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[group(skip)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    proxies: proxies::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Requests beside a thousand route changes a minute, against requests without; needs root
    Changes(changes::Arguments),
    /// Two pods of one node whose connections go past the agent, against two pods outside of the mesh; needs root
    Fastpath(fastpath::Arguments),
    /// What a storm of one pod costs another pod of its node, with and without the mesh; needs root
    Isolation(isolation::Arguments),
    /// What an agent holds of a large cluster, and what agents cost the API server; needs root
    Scale(scale::Arguments),
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        None => proxies::run(&arguments.proxies),
        Some(Command::Changes(arguments)) => changes::run(arguments),
        Some(Command::Fastpath(arguments)) => fastpath::run(arguments),
        Some(Command::Isolation(arguments)) => isolation::run(arguments),
        Some(Command::Scale(arguments)) => scale::run(arguments),
    }
}
