//! `cargo xtask layers`: a room of the agent imports strictly lower rooms, and some crates only where they belong.
//!
//! The table below is the rule; `mesh-agent/src/lib.rs` shows the same table to readers, and this compares the two.
//! It must not know what a room does.

mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::line;
use crate::workspace;

/// Each room and its layer.
const LAYERS: &[(&str, u8)] = &[
    ("mesh", 1),
    ("lifecycle", 1),
    ("grpc", 1),
    ("cni", 1),
    ("identity", 2),
    ("telemetry", 2),
    ("admin", 2),
    ("pod", 2),
    ("config", 2),
    ("privileges", 2),
    ("capture", 3),
    ("detect", 3),
    ("dns", 3),
    ("policy", 3),
    ("route", 3),
    ("balance", 3),
    ("transport", 3),
    ("ca", 3),
    ("external", 3),
    ("snapshot", 4),
    ("control", 5),
    ("kernel", 5),
    ("proxy", 5),
    ("status", 6),
    ("app", 7),
    ("main", 8),
];

/// What may be named only in these rooms, or not in those.
const CRATES: &[(&str, Place)] = &[
    ("aya", Place::OnlyIn(&["kernel"])),
    ("aya_obj", Place::OnlyIn(&["kernel"])),
    ("rustls", Place::OnlyIn(&["identity", "transport", "ca"])),
    ("tokio_rustls", Place::OnlyIn(&["identity", "transport", "ca"])),
    ("std::env", Place::OnlyIn(&["config"])),
    ("tokio", Place::NotIn(&["mesh", "policy", "route", "balance"])),
    ("hyper", Place::NotIn(&["mesh", "policy", "route", "balance"])),
    (
        "hyper_util",
        Place::NotIn(&["mesh", "policy", "route", "balance"]),
    ),
];

#[derive(Debug, Clone, Copy)]
enum Place {
    OnlyIn(&'static [&'static str]),
    NotIn(&'static [&'static str]),
}

/// Checks the agent's source and lists every violation.
pub(crate) fn run() -> Result<()> {
    let src = workspace::root().join("mesh-agent/src");
    let mut violations = Vec::new();
    let mut files = 0;
    for file in rust_files(&src)? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let path = file.strip_prefix(&src).unwrap_or(&file).to_owned();
        files += 1;
        violations.extend(violations_in(&path, &text));
    }
    let lib = fs::read_to_string(src.join("lib.rs")).context("read mesh-agent/src/lib.rs")?;
    violations.extend(table_differences(&lib));
    for violation in &violations {
        line(&format!("  {violation}"))?;
    }
    if !violations.is_empty() {
        bail!(
            "{} violations of the layer rule (ARCHITECTURE.md)",
            violations.len()
        );
    }
    line(&format!("✓ layers: {files} files"))
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn layer(room: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == room)
        .map(|(_, layer)| *layer)
}

/// The room of a file, by its path below `src`.
fn room_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    let first = first.unwrap_or_default();
    first.strip_suffix(".rs").map_or(first.clone(), str::to_owned)
}

fn violations_in(path: &Path, text: &str) -> Vec<String> {
    let room = room_of(path);
    if room == "lib" {
        return Vec::new();
    }
    let shown = path.display();
    let Some(own_layer) = layer(&room) else {
        return vec![format!(
            "{shown}: the room {room} is not in the layer table (xtask/src/layers)"
        )];
    };
    let code = source::code_only(text);
    let mut violations = Vec::new();
    for import in source::imported_rooms(path, &code, |name| layer(name).is_some()) {
        match layer(&import.room) {
            _ if import.room == room => {}
            Some(other) if other < own_layer => {}
            Some(other) => violations.push(format!(
                "{shown}:{}: {room} (layer {own_layer}) uses {} (layer {other})",
                import.line, import.room
            )),
            None => violations.push(format!(
                "{shown}:{}: crate::{} is no room",
                import.line, import.room
            )),
        }
    }
    for (name, place) in CRATES {
        let is_allowed = match place {
            Place::OnlyIn(rooms) => rooms.contains(&room.as_str()),
            Place::NotIn(rooms) => !rooms.contains(&room.as_str()),
        };
        if !is_allowed {
            let uses = source::uses_of(name, &code);
            violations.extend(
                uses.into_iter()
                    .map(|line| format!("{shown}:{line}: {room} must not use {name}")),
            );
        }
    }
    violations
}

/// Compares the table that `lib.rs` shows, whose rows hold a room in backticks and end with its layer.
fn table_differences(lib: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let mut shown = Vec::new();
    for row in lib.lines().filter_map(|line| line.trim().strip_prefix("//! |")) {
        let cells: Vec<_> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let Some(number) = cells.last().and_then(|cell| cell.parse::<u8>().ok()) else {
            continue;
        };
        for room in row
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|word| word.trim_end_matches('/'))
        {
            let room = room.strip_suffix(".rs").unwrap_or(room);
            match layer(room) {
                Some(layer) if layer == number => shown.push(room.to_owned()),
                Some(layer) => differences.push(format!(
                    "lib.rs: {room} is shown in layer {number}, it is {layer}"
                )),
                None => {}
            }
        }
    }
    let modules = lib
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules {
        if layer(module).is_none() {
            differences.push(format!(
                "lib.rs: the room {module} is not in the layer table (xtask/src/layers)"
            ));
        } else if !shown.iter().any(|room| room == module) {
            differences.push(format!("lib.rs: its table does not show {module} with its layer"));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        violations_in(Path::new(path), text)
    }

    #[test]
    fn finds_an_import_upwards() {
        assert_eq!(
            found("policy/matcher.rs", "\nuse crate::proxy::Refusal;\n"),
            ["policy/matcher.rs:2: policy (layer 3) uses proxy (layer 5)"]
        );
    }

    #[test]
    fn finds_an_import_in_the_same_layer() {
        assert_eq!(found("policy/mod.rs", "use crate::route;").len(), 1);
        assert_eq!(
            found("control/file.rs", "fn f() { crate::kernel::put() }").len(),
            1
        );
    }

    #[test]
    fn finds_each_room_of_a_grouped_import() {
        let text = "use crate::{\n    mesh::Workload,\n    proxy::{Inbound, Outbound},\n    control,\n};\n";
        assert_eq!(
            found("snapshot/mod.rs", text),
            [
                "snapshot/mod.rs:3: snapshot (layer 4) uses proxy (layer 5)",
                "snapshot/mod.rs:4: snapshot (layer 4) uses control (layer 5)",
            ]
        );
    }

    #[test]
    fn finds_a_room_reached_by_super() {
        assert_eq!(
            found("policy/matcher.rs", "use super::super::proxy::Walk;").len(),
            1
        );
        assert_eq!(found("detect.rs", "use super::policy::Verdict;").len(), 1);
    }

    #[test]
    fn lower_rooms_and_ones_own_are_free() {
        assert!(
            found(
                "policy/matcher.rs",
                "use crate::mesh::Policy; use crate::policy::Verdict;"
            )
            .is_empty()
        );
        assert!(
            found(
                "policy/matcher.rs",
                "use super::Verdict; mod tests { use super::super::Verdict; }"
            )
            .is_empty()
        );
    }

    #[test]
    fn words_in_comments_and_strings_are_not_imports() {
        let text = "// crate::proxy\n/* tokio:: */ const A: &str = \"crate::proxy::x tokio::spawn\"; //! aya::Ebpf\n";
        assert!(
            found("mesh/mod.rs", text).is_empty(),
            "{:?}",
            found("mesh/mod.rs", text)
        );
    }

    #[test]
    fn finds_crates_where_they_do_not_belong() {
        assert_eq!(found("mesh/service.rs", "use tokio::sync::Notify;").len(), 1);
        assert_eq!(found("balance/mod.rs", "fn f(x: hyper::Request<()>) {}").len(), 1);
        assert_eq!(found("proxy/http.rs", "use aya::maps::HashMap;").len(), 1);
        assert_eq!(found("proxy/http.rs", "use rustls::ServerConfig;").len(), 1);
        assert_eq!(found("proxy/http.rs", "use tokio_rustls::TlsAcceptor;").len(), 1);
        assert_eq!(found("admin/mod.rs", "let x = std::env::args();").len(), 1);
        assert_eq!(found("admin/mod.rs", "use std::{env, fs};").len(), 1);
    }

    #[test]
    fn crates_where_they_belong_are_free() {
        assert!(found("kernel/loader.rs", "use aya::Ebpf;").is_empty());
        assert!(found("transport/tls.rs", "use rustls::ClientConfig;").is_empty());
        assert!(found("config.rs", "std::env::var_os(\"X\")").is_empty());
        assert!(found("proxy/http.rs", "use hyper_util::rt::TokioIo; use my_aya::x;").is_empty());
    }

    #[test]
    fn an_unknown_room_is_found() {
        assert_eq!(found("helpers/mod.rs", "").len(), 1);
        assert_eq!(found("proxy/mod.rs", "use crate::helpers::x;").len(), 1);
    }

    #[test]
    fn a_table_that_differs_is_found() {
        let lib =
            "//! | `mesh/` | facts | 1 |\n//! | `policy/` | may it | 2 |\npub mod mesh;\npub mod policy;\n";
        let differences = table_differences(lib);
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(table_differences("//! | `mesh/` | facts | 1 |\npub mod mesh;\n").is_empty());
        assert_eq!(table_differences("pub mod mesh;\n").len(), 1);
    }
}
