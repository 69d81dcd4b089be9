//! Builds the kernel programs and leaves them where `kernel/loader.rs` embeds them.
//!
//! `MESH_SKIP_EBPF=1` builds an agent without programs: it can do everything but enrol a pod.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    say("rustc-check-cfg=cfg(mesh_ebpf)");
    say("rerun-if-env-changed=MESH_SKIP_EBPF");
    say("rerun-if-changed=build.rs");
    for watched in ["src", "Cargo.toml"] {
        say(&format!("rerun-if-changed=../mesh-ebpf/{watched}"));
        say(&format!("rerun-if-changed=../mesh-common/{watched}"));
    }
    if env::var_os("MESH_SKIP_EBPF").is_some_and(|value| value == "1") {
        return Ok(());
    }
    let out = PathBuf::from(required("OUT_DIR")?);
    let target = match required("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // A target folder of its own: the outer cargo holds the lock of the usual one.
    let folder = out.join("ebpf");
    build(target, &folder)?;
    std::fs::copy(
        folder.join(target).join("release/mesh-ebpf"),
        out.join("mesh-ebpf.o"),
    )?;
    say("rustc-cfg=mesh_ebpf");
    Ok(())
}

fn build(target: &str, folder: &Path) -> Result<()> {
    let linker = bpf_linker().ok_or("bpf-linker is not installed: run `cargo xtask setup`")?;
    let mut cargo = toolchain()?;
    for inherited in OF_THE_OUTER_CARGO {
        cargo.env_remove(inherited);
    }
    cargo
        .args([
            "build",
            "--package",
            "mesh-ebpf",
            "--release",
            "-Z",
            "build-std=core",
            "--target",
            target,
        ])
        .arg("--target-dir")
        .arg(folder)
        .current_dir("../mesh-ebpf")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags()?)
        .env(
            format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")),
            linker,
        );
    let output = cargo.output().map_err(|error| format!("{cargo:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(
        format!("the kernel programs do not build (cargo xtask setup installs the toolchain):\n{errors}")
            .into(),
    )
}

/// The first toolchain that has the sources of `core`: a rustup nightly, else Debian's rustc-web.
fn toolchain() -> Result<Command> {
    let nightly = ["run", "nightly", "rustc", "--print", "sysroot"];
    if has_core_sources(Command::new("rustup").args(nightly)) {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo"]);
        return Ok(cargo);
    }
    if has_core_sources(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"])) {
        let mut cargo = Command::new("/usr/bin/cargo");
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_BUILD_RUSTC", DEBIAN_RUSTC);
        return Ok(cargo);
    }
    Err(
        "no rust toolchain with the sources of core: run `cargo xtask setup`, \
         or set MESH_SKIP_EBPF=1 to build an agent without kernel programs"
            .into(),
    )
}

fn has_core_sources(print_sysroot: &mut Command) -> bool {
    for inherited in OF_THE_OUTER_CARGO {
        print_sysroot.env_remove(inherited);
    }
    let Ok(output) = print_sysroot.output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success()
        && Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
}

fn bpf_linker() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(cargo_home.map(|home| home.join("bin")));
    folders
        .map(|folder| folder.join("bpf-linker"))
        .find(|linker| linker.is_file())
}

/// As aya-build passes them: what the programs' helper bindings follow, and BTF for the maps.
fn rustflags() -> Result<String> {
    let arch = required("CARGO_CFG_TARGET_ARCH")?;
    let arch = arch.to_str().ok_or("CARGO_CFG_TARGET_ARCH is no UTF-8")?;
    let arch = if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        arch
    };
    Ok([
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ]
    .join("\x1f"))
}

fn required(name: &str) -> Result<OsString> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}").into())
}

fn say(line: &str) {
    println!("cargo::{line}");
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Meant for the outer build; inherited they would pick the wrong compiler, flags or folder.
const OF_THE_OUTER_CARGO: [&str; 14] = [
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "TARGET",
];
