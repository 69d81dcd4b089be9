//! What builds programs for the kernel: a Rust compiler that can build `core`, and `bpf-linker`.
//!
//! A rustup nightly with `rust-src` is taken where there is one; otherwise Debian's own packages. It must not build
//! the programs: that is `mesh-agent/build.rs`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::setup::apt;
use crate::shell::{cargo, find, read, show, step};

const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
const LLVM_PACKAGES: &[&str] = &["llvm-22-dev", "zlib1g-dev", "libzstd-dev"];
const QUICK: Duration = Duration::from_secs(20);
const BUILD: Duration = Duration::from_mins(20);

/// Makes compiler and linker ready.
pub(crate) fn install() -> Result<()> {
    if !has_nightly_with_source() {
        apt::install(DEBIAN_COMPILER)?;
    }
    if has_bpf_linker() {
        return Ok(());
    }
    apt::install(LLVM_PACKAGES)?;
    step(
        &format!("bpf-linker {BPF_LINKER} (about two minutes, once)"),
        || {
            let mut install = cargo(&[
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--force",
            ]);
            install.args(["--no-default-features", "--features", "llvm-22"]);
            install.env("LLVM_PREFIX", LLVM).env("LLVM_SYS_221_PREFIX", LLVM);
            show(&mut install, BUILD)
        },
    )
}

/// True when rustup has a nightly that can build `core` for a target without a ready-made one.
pub(crate) fn has_nightly_with_source() -> bool {
    let Some(rustup) = find("rustup") else {
        return false;
    };
    let rustup = rustup.display().to_string();
    let sysroot = read(
        std::process::Command::new(rustup).args(["run", "nightly", "rustc", "--print", "sysroot"]),
        QUICK,
    );
    // No nightly at all is an error of rustup's and means the same.
    sysroot.is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

fn has_bpf_linker() -> bool {
    let Some(linker) = find("bpf-linker") else {
        return false;
    };
    read(std::process::Command::new(linker).arg("--version"), QUICK)
        .is_ok_and(|version| version.split_whitespace().any(|word| word == BPF_LINKER))
}
