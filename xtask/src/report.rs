//! `--report FILE`: what a command observed, as JSON. The keys are documented in docs/reports.md.
//!
//! It must not know what is reported.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The option that every command that measures or tests has.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ReportTo {
    /// Write what was observed to this file, as JSON
    #[arg(long = "report", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ReportTo {
    /// Writes the report, if one was asked for.
    pub(crate) fn write(&self, report: &Value) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if let Some(dir) = file.parent().filter(|dir| *dir != Path::new("")) {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let text = serde_json::to_string_pretty(report).context("write the report")?;
        fs::write(file, text + "\n").with_context(|| format!("write the report {}", file.display()))
    }
}
