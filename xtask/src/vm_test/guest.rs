//! What a guest consists of: the kernel tests of the agent, the programs that they start, and a script that runs them.
//!
//! It must not know kernels beyond their modules.

use std::fmt::Write as _;
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent;
use crate::shell::{command, find, read, show};
use crate::vm_test::initramfs::Initramfs;
use crate::vm_test::kernels::Kernel;
use crate::workspace;

/// Everything but the modules, which each kernel has its own of.
#[derive(Debug)]
pub(crate) struct Guest {
    tests: PathBuf,
    python: Vec<PathBuf>,
}

impl Guest {
    /// Builds the tests and looks for the programs.
    pub(crate) fn prepare() -> Result<Self> {
        let args = ["test", "--package", "mesh-agent", "--test", "kernel", "--no-run"];
        let built = agent::executable(&args, "kernel")?;
        let tests = workspace::target().join("vm/kernel-tests");
        let strip = [
            built.display().to_string(),
            "-o".to_owned(),
            tests.display().to_string(),
        ];
        fs::create_dir_all(workspace::target().join("vm")).context("make a folder for guests")?;
        show(
            &mut command("strip", &strip.each_ref().map(String::as_str)),
            LIMIT,
        )?;
        let python = read(&mut command(PYTHON, &["-c", LIST_MODULES]), LIMIT)?;
        let python = python.lines().map(PathBuf::from).collect();
        Ok(Self { tests, python })
    }

    /// Writes the archive for one kernel and says where.
    pub(crate) fn pack(&self, kernel: &Kernel) -> Result<PathBuf> {
        let mut tree = Initramfs::default();
        for dir in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
            tree.dir(dir);
        }
        for program in PROGRAMS {
            let from = find(program).with_context(|| format!("{program} is not on this machine"))?;
            tree.program(&from, &Path::new("/bin").join(program))?;
        }
        tree.program(Path::new(PYTHON), Path::new(PYTHON))?;
        for file in &self.python {
            if file.extension().is_some_and(|extension| extension == "so") {
                tree.program(file, file)?;
            } else {
                tree.copy(file, file)?;
            }
        }
        tree.program(&self.tests, Path::new("/kernel-tests"))?;
        let mut script = INIT.to_owned();
        for module in &kernel.modules {
            let unpacked = unpacked(module)?;
            let name = unpacked.file_name().context("a module without a name")?;
            tree.copy(&unpacked, &Path::new("/modules").join(name))?;
            writeln!(script, "insmod /modules/{}", name.display())?;
        }
        script.push_str(RUN);
        tree.text("/init", &script, 0o755);
        let path = workspace::target()
            .join("vm")
            .join(format!("{}.cpio", kernel.release));
        let file = fs::File::create(&path).with_context(|| path.display().to_string())?;
        tree.write(&mut BufWriter::new(file))?;
        Ok(path)
    }
}

/// A module without compression, beside the compressed one.
fn unpacked(module: &Path) -> Result<PathBuf> {
    let by = match module.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(module.to_path_buf()),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{}: unknown compression", module.display()),
    };
    let path = module.with_extension("");
    if !path.exists() {
        let compressed = module.display().to_string();
        let args = ["--decompress", "--keep", "--quiet", &compressed];
        show(&mut command(by, &args), LIMIT)?;
    }
    Ok(path)
}

/// What the tests, and the script below, start.
const PROGRAMS: &[&str] = &["bash", "mount", "insmod", "ip", "nsenter", "sleep"];
/// The distribution's own: it lies in one place with its libraries.
const PYTHON: &str = "/usr/bin/python3";

/// Prints the files of all that the lab's Python programs import, compiled ones too.
const LIST_MODULES: &str = r#"
import encodings.idna, errno, hashlib, ipaddress, json, os, select, socket, struct, sys, threading, time
for module in list(sys.modules.values()):
    for file in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        if file and os.path.exists(file): print(file)
"#;

/// Runs as the first process.
const INIT: &str = r#"#!/bin/bash
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
echo "guest $(</proc/sys/kernel/osrelease)"
export MESH_LAB=1
"#;

/// First one test, which says whether the agent serves pods here; the others only where it does.
const RUN: &str = r#"
said=$(/kernel-tests --exact programs::an_agent_serves_here_or_says_in_one_line_why_not --nocapture 2>&1)
echo "$said"
if [[ $said != *refused:* ]]; then
    /kernel-tests --test-threads=1 --show-output 2>&1
fi
echo "guest done"
sleep 1
echo b > /proc/sysrq-trigger
sleep 10
"#;

const LIMIT: Duration = Duration::from_mins(2);
