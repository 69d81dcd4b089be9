//! One virtual machine, run to its end, its console read as it goes.
//!
//! It must not know what runs inside.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::process;

use crate::shell::command;

/// Boots and runs the machine until it powers off; `on_line` gets each line of its console. Returns all of them.
pub(crate) fn run(image: &Path, initramfs: &Path, mut on_line: impl FnMut(&str)) -> Result<Vec<String>> {
    let console = initramfs.with_extension("console");
    let mut lines = Lines::of(&console)?;
    let mut child = start(image, initramfs, &console)?;
    let began = Instant::now();
    let ended = process::wait_until(LIMIT, || {
        // Asked before reading, so that nothing is missed of what it wrote last.
        let status = child.try_wait().context("wait for qemu")?;
        lines.read(&mut on_line)?;
        ensure!(
            status.is_some() || lines.has_begun() || began.elapsed() < BOOT,
            "no first process after {BOOT:?}; see {}",
            console.display()
        );
        Ok(status)
    });
    match ended {
        Ok(Some(status)) if status.success() => Ok(lines.all),
        Ok(Some(status)) => bail!("qemu: {status}; see {}", console.display()),
        Ok(None) => {
            process::reap(&mut child)?;
            bail!("no end after {LIMIT:?}; see {}", console.display());
        }
        Err(error) => {
            process::reap(&mut child)?;
            Err(error)
        }
    }
}

fn start(image: &Path, initramfs: &Path, console: &Path) -> Result<Child> {
    let arguments = [
        // Emulated, so that it runs inside of other virtual machines too. A smaller machine has no clock but the one that
        // 5.10 cannot calibrate while the host is busy.
        "-M",
        "pc",
        "-accel",
        "tcg,thread=multi",
        // An interrupt after cmpxchg16b finds broken flags in qemu 7.2: guests with 6.12 double-faulted in kmalloc.
        "-cpu",
        "max,-cx16",
        "-smp",
        "1",
        "-m",
        "768",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-append",
        KERNEL_COMMAND,
    ];
    command("qemu-system-x86_64", &arguments)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .spawn()
        .context("start qemu-system-x86_64")
}

/// Lines of a file that grows.
struct Lines {
    path: PathBuf,
    read: u64,
    rest: Vec<u8>,
    all: Vec<String>,
}

impl Lines {
    fn of(path: &Path) -> Result<Self> {
        fs::write(path, "").with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            read: 0,
            rest: Vec::new(),
            all: Vec::new(),
        })
    }

    /// Whether the first process runs.
    fn has_begun(&self) -> bool {
        self.all.iter().any(|line| line.starts_with("guest "))
    }

    fn read(&mut self, on_line: &mut impl FnMut(&str)) -> Result<()> {
        let what = || self.path.display().to_string();
        let mut file = File::open(&self.path).with_context(what)?;
        file.seek(SeekFrom::Start(self.read)).with_context(what)?;
        let more = file.read_to_end(&mut self.rest).with_context(what)?;
        self.read += u64::try_from(more)?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            on_line(&line);
            self.all.push(line);
        }
        Ok(())
    }
}

/// A triple fault is a way to reset that needs no driver.
const KERNEL_COMMAND: &str =
    "console=ttyS0 quiet oops=panic panic=-1 reboot=t mitigations=off random.trust_cpu=on";
/// In which a kernel starts its first process: 3 s on an idle machine.
const BOOT: Duration = Duration::from_mins(2);
/// Emulation is slow, and the machine may be busy.
const LIMIT: Duration = Duration::from_mins(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_once_when_it_is_whole() {
        let path = std::env::temp_dir().join(format!("mesh-vm-console-{}", std::process::id()));
        let mut lines = Lines::of(&path).unwrap();
        let mut told = Vec::new();
        for (text, so_far) in [("one\r\ntw", vec!["one"]), ("one\r\ntwo\n", vec!["one", "two"])] {
            fs::write(&path, text).unwrap();
            lines.read(&mut |line| told.push(line.to_owned())).unwrap();
            assert_eq!(told, so_far);
        }
        fs::remove_file(&path).unwrap();
    }
}
