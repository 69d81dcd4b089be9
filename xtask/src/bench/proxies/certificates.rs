//! Certificates of the peers' proxies: a CA and two leaves of P-256, as the agents' are, made by openssl.
//!
//! It must not know who uses them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

/// Makes `ca.pem`, and for `client` and `server` a certificate, a key, and a file with both.
pub(crate) fn make(dir: &Path) -> Result<()> {
    openssl(dir, "-subj /CN=bench-ca -keyout ca.key -out ca.pem")?;
    for name in ["client", "server"] {
        openssl(
            dir,
            &format!(
                "-CA ca.pem -CAkey ca.key -subj /CN={name}.bench -addext subjectAltName=DNS:{name}.bench \
                 -addext basicConstraints=critical,CA:FALSE -keyout {name}.key -out {name}.pem"
            ),
        )?;
        let read = |file: String| fs::read_to_string(dir.join(&file)).with_context(|| format!("read {file}"));
        let both = read(format!("{name}.pem"))? + &read(format!("{name}.key"))?;
        fs::write(dir.join(format!("{name}-with-key.pem")), both)
            .with_context(|| format!("join {name}'s files"))?;
    }
    Ok(())
}

fn openssl(dir: &Path, words: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    command
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7".split(' '))
        .args(words.split(' '))
        .current_dir(dir);
    shell::read(&mut command, Duration::from_secs(20))?;
    Ok(())
}
