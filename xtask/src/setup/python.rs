//! The Python environment of the lab's programs, inside Cargo's build directory.
//!
//! It must not touch any other Python on the machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell::{command, show, step};
use crate::workspace;

const LIMIT: Duration = Duration::from_mins(10);

/// Makes the environment, unless it is there and has exactly what is required.
pub(crate) fn install() -> Result<()> {
    let dir = workspace::python_env();
    let requirements = workspace::root().join("tests/lab/programs/requirements.txt");
    let wanted = fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    let stamp = dir.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let path = dir.display().to_string();
    step(&format!("python packages into {path}"), || {
        // The distribution's own: others in the search path may lack `venv` or go away.
        show(
            &mut command("/usr/bin/python3", &["-m", "venv", "--clear", &path]),
            LIMIT,
        )?;
        let pip = dir.join("bin/pip").display().to_string();
        let file = requirements.display().to_string();
        let arguments = [
            "install",
            "--quiet",
            "--only-binary",
            ":all:",
            "--requirement",
            &file,
        ];
        show(&mut command(&pip, &arguments), LIMIT)
    })?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())
}
