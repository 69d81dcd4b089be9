//! `cargo xtask bench`: what the mesh costs, and what it saves, against the same pods without it.
//!
//! A bench prints what it measured and never judges a time: it fails only where bytes were wrong or something broke.

mod blocks;
mod fastpath;

use anyhow::Result;
use clap::Subcommand;

/// Which bench.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Two pods of one node whose connections go past the agent, against two pods outside of the mesh; needs root
    Fastpath(fastpath::Arguments),
}

/// Runs it.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Fastpath(arguments) => fastpath::run(arguments),
    }
}
