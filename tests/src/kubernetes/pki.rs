//! Keys, certificates and tokens of one control plane, by openssl; they go with its directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// The administrator's token is in this file, and in the table that the API server reads.
pub(super) const ADMIN_TOKEN: &str = "admin.token";
pub(super) const TOKENS: &str = "tokens.csv";

/// Makes `ca.crt`, `server.crt` and its key, `accounts.key` and the administrator's token.
pub(super) fn make(dir: &Path) -> Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700)).context("close the directory to others")?;
    fs::write(dir.join("openssl.cnf"), CONFIG).context("write openssl.cnf")?;
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ];
    let request = ["req", "-config", "openssl.cnf", "-x509"];
    let ca = [
        "-extensions",
        "ca",
        "-subj",
        "/CN=test",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
    ];
    openssl(dir, &[&request[..], &key, &ca].concat())?;
    let server = [
        "-extensions",
        "server",
        "-subj",
        "/CN=kube-apiserver",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
    ];
    let out = ["-keyout", "server.key", "-out", "server.crt"];
    openssl(dir, &[&request[..], &key, &server, &out].concat())?;
    let accounts = [
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        "accounts.key",
    ];
    openssl(dir, &accounts)?;
    openssl(
        dir,
        &["pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"],
    )?;
    let random = process::run(Command::new("openssl").args(["rand", "-hex", "16"]), LIMIT)?.success()?;
    let token = random.stdout.trim();
    fs::write(dir.join(ADMIN_TOKEN), token).context("write the administrator's token")?;
    fs::write(dir.join(TOKENS), format!("{token},admin,admin,system:masters\n")).context("write the tokens")
}

fn openssl(dir: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(dir);
    process::run(&mut command, LIMIT)?.success().map(drop)
}

const CONFIG: &str = "\
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1
";
const LIMIT: Duration = Duration::from_secs(20);
