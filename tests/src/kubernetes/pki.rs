//! Keys, certificates and tokens of one control plane, by openssl; they go with its directory.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// The table of tokens that the API server reads.
pub(super) const TOKENS: &str = "tokens.csv";

/// Makes `ca.crt`, `server.crt` and its key, `accounts.key` and a token for the administrator and for each of `users`.
/// The server is called by loopback, by its names in a cluster, and by `addrs`.
pub(super) fn make(dir: &Path, addrs: &[Ipv4Addr], users: &[User]) -> Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700)).context("close the directory to others")?;
    let mut config = CONFIG.to_owned();
    for addr in addrs {
        write!(config, ", IP:{addr}").context("name an address")?;
    }
    fs::write(dir.join("openssl.cnf"), config + "\n").context("write openssl.cnf")?;
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
    let kubelets = [
        "-extensions",
        "client",
        "-subj",
        "/O=system:masters/CN=kube-apiserver",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
    ];
    let out = ["-keyout", "kubelets.key", "-out", "kubelets.crt"];
    openssl(dir, &[&request[..], &key, &kubelets, &out].concat())?;
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
    let mut table = String::new();
    for user in users.iter().chain([&User::administrator()]) {
        let random = process::run(Command::new("openssl").args(["rand", "-hex", "16"]), LIMIT)?.success()?;
        let token = random.stdout.trim();
        fs::write(dir.join(token_file(&user.file)), token)
            .with_context(|| format!("write the token of {}", user.name))?;
        writeln!(table, "{token},{0},{0},{1}", user.name, user.group).context("write the tokens")?;
    }
    fs::write(dir.join(TOKENS), table).context("write the tokens")
}

/// Somebody whom the API server knows by a token.
#[derive(Debug, Clone)]
pub struct User {
    /// The name of the token's file, without `.token`.
    pub file: String,
    /// Its name for the API server.
    pub name: String,
    /// Its group.
    pub group: String,
}

impl User {
    fn administrator() -> Self {
        let [file, name, group] = ["admin", "admin", "system:masters"].map(str::to_owned);
        Self { file, name, group }
    }
}

/// The file with a user's token.
pub(super) fn token_file(user: &str) -> String {
    format!("{user}.token")
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
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc, \
DNS:kubernetes.default.svc.cluster.local, IP:127.0.0.1";
const LIMIT: Duration = Duration::from_secs(20);
