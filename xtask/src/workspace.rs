//! Where things are in the repository and in its build directory.
//!
//! It must not run anything.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    // Cargo says where the package is now; a binary that was moved falls back to where it was built.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .parent()
        .map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Cargo's build directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A folder for what is built of others' sources. Not the build directory: that is removed more often than any of them has a
/// new version.
pub(crate) fn cache(of: &str) -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("node-mesh")
        .join(of))
}

/// The Python environment with the packages that the lab's programs need.
pub(crate) fn python_env() -> PathBuf {
    target().join("lab-python")
}

/// SPIRE's programs, where they were built.
pub(crate) fn spire() -> PathBuf {
    target().join(format!("lab-spire-{}", crate::setup::SPIRE_VERSION))
}

/// Directories searched by the lab's programs before the machine's own.
pub(crate) fn lab_tools() -> Vec<PathBuf> {
    vec![python_env().join("bin"), spire()]
}
