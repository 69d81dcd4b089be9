//! The agent as one static program, for this machine's architecture or another.
//!
//! Rust brings musl along for what it links, so only C code needs a compiler for the other architecture, and musl's headers:
//! glibc's would have it call functions that musl has not. It must not know what becomes of the program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::image::Platform;

use crate::shell::{cargo, cargo_home, read};
use crate::{agent, setup, workspace};

/// Builds the agent and says where it is.
pub(super) fn program(platform: Platform) -> Result<PathBuf> {
    let headers = setup::for_static_builds(platform)?;
    let compiler = compiler(platform);
    let own_headers = read(Command::new(&compiler).arg("-print-file-name=include"), QUICK)?;
    let target = target(platform);
    let cargo_home = cargo_home().context("neither CARGO_HOME nor HOME is set")?;
    let mut build = cargo(&["build", "--release", "--locked", "--package", "mesh-agent"]);
    // Stripped here and not in the profile, so that a developer's release build keeps its line numbers; not by the
    // environment either, which the build of the kernel programs would inherit.
    build.args([
        "--config",
        "profile.release.strip=\"symbols\"",
        "--target",
        &target,
    ]);
    build.envs(environment(
        &target,
        &compiler,
        &[&headers, Path::new(own_headers.trim())],
    ));
    build.env(
        "CARGO_ENCODED_RUSTFLAGS",
        remapped(&cargo_home, &workspace::root()).join("\x1f"),
    );
    build.env_remove("MESH_SKIP_EBPF");
    let program = agent::built(&mut build, "mesh-agent")?;
    let said = read(
        Command::new("readelf")
            .args(["--wide", "--program-headers"])
            .arg(&program),
        QUICK,
    )?;
    ensure!(is_static(&said), "{} needs a loader", program.display());
    Ok(program)
}

/// What rustc calls the platform.
fn target(platform: Platform) -> String {
    format!("{}-unknown-linux-musl", platform.machine())
}

/// Debian's names; that of this machine's own architecture is there too.
fn compiler(platform: Platform) -> String {
    format!("{}-linux-gnu-gcc", platform.machine())
}

/// What the crate `cc` and cargo read.
fn environment(target: &str, compiler: &str, headers: &[&Path; 2]) -> [(String, String); 3] {
    let [musl, own] = headers;
    let name = target.replace('-', "_");
    let flags = format!("-nostdinc -isystem {} -isystem {}", musl.display(), own.display());
    [
        (format!("CC_{name}"), compiler.to_owned()),
        (format!("CFLAGS_{name}"), flags),
        (
            format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
            compiler.to_owned(),
        ),
    ]
}

/// Where sources lie on this machine is nobody's business, and would make other bytes of the same sources.
fn remapped(cargo_home: &Path, root: &Path) -> [String; 2] {
    [(cargo_home, "/usr/local/cargo"), (root, "/src")]
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
}

/// Whether a program asks for no loader, as the program headers have it.
fn is_static(program_headers: &str) -> bool {
    let mut kinds = program_headers
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let has_code = kinds.clone().any(|kind| kind == "LOAD");
    has_code && !kinds.any(|kind| kind == "INTERP")
}

const QUICK: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        let of_static = "  LOAD  0x000000 0x0000\n  DYNAMIC 0x01\n";
        assert!(is_static(of_static));
        assert!(!is_static(&format!("  INTERP  0x000318\n{of_static}")));
        assert!(!is_static(""), "nothing that runs");
    }

    #[test]
    fn the_dockerfile_compiles_c_in_the_same_way() {
        let dockerfile = fs::read_to_string(workspace::root().join("deploy/Dockerfile")).unwrap();
        for platform in Platform::ALL {
            let headers = format!("/usr/include/{}-linux-musl", platform.machine());
            let own = "$(${MACHINE}-linux-gnu-gcc -print-file-name=include)";
            let [(_, _), (_, flags), (_, _)] = environment(
                &target(platform),
                &compiler(platform),
                &[Path::new(&headers), Path::new(own)],
            );
            let flags = flags.replace(platform.machine(), "${MACHINE}");
            assert!(dockerfile.contains(&flags), "{flags}");
        }
    }
}
