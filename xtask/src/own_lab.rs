//! A lab that a command makes for itself, and takes down whatever comes of it.
//!
//! It must not know what it is for.

use anyhow::{Result, ensure};
use mesh_tests::lab::{self, Lab, Options};
use mesh_tests::running::Running;

use crate::shell::step;

/// Has `work` done in the lab of `options`, which is shown as `title`. What went wrong while it was taken down comes first: it is what
/// the next run meets.
pub(crate) fn with<T>(options: &Options, title: &str, work: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
    let lab = step(title, || {
        Lab::up(options, &|what| mesh_tests::say(&format!("  {what}")))
    })?;
    let done = work(lab.running());
    lab.down()?;
    let left = lab::remains(&options.site)?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    done
}
