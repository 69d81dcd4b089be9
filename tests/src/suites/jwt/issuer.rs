//! An issuer of tokens that nobody here wrote: PyJWT signs, Python or OpenSSL publishes the keys.

use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use super::IN_FORCE;
use crate::process;
use crate::running::Running;
use crate::suites::ask::{addresses, python, text, until, url};

/// Where the issuer lives: a pod outside the mesh.
pub(super) const ISSUER: &str = "outside/stranger-b";
const PORT: &str = "8099";

/// An issuer of tokens, whose keys lie in a directory of a pod outside the mesh.
pub(super) struct Issuer<'l> {
    lab: &'l Running,
    pub(super) dir: String,
}

impl<'l> Issuer<'l> {
    pub(super) fn of(lab: &'l Running) -> Result<Self> {
        let dir = lab.site.scratch(&ISSUER.parse()?).display().to_string();
        Ok(Self { lab, dir })
    }

    /// Makes keys, `KID=ALG` each, which replace those that were published; returns the JWK set.
    pub(super) fn publish(&self, keys: &[String]) -> Result<String> {
        let mut arguments = vec!["publish", &self.dir];
        arguments.extend(keys.iter().map(String::as_str));
        let said = python(self.lab, ISSUER, "jwt_issuer.py", &arguments)?;
        Ok(text(&said, "jwks")?.to_owned())
    }

    pub(super) fn sign(&self, kid: &str, claims: &str) -> Result<String> {
        let said = python(
            self.lab,
            ISSUER,
            "jwt_issuer.py",
            &["sign", &self.dir, kid, claims],
        )?;
        Ok(text(&said, "token")?.to_owned())
    }

    pub(super) fn url(&self) -> Result<String> {
        let port = PORT.parse().context("the port of the issuer")?;
        Ok(url(addresses(self.lab, ISSUER)?[0], port, "/jwks.json"))
    }

    /// Puts the directory on the web.
    pub(super) fn serve(&self) -> Result<Child> {
        self.run(&["python3", "-m", "http.server", PORT, "--directory", &self.dir])
    }

    /// Puts it on the web over TLS 1.2, by another library than the agent's.
    pub(super) fn serve_tls_1_2(&self) -> Result<Child> {
        let server = format!(
            "cd \"$SCRATCH\" && exec openssl s_server -accept {PORT} -tls1_2 -cert web.crt -key web.key -WWW -quiet"
        );
        let server = self.run(&["sh", "-c", &server])?;
        let [address, _] = addresses(self.lab, ISSUER)?;
        let dial = format!("openssl s_client -connect {address}:{PORT} -tls1_3 </dev/null");
        until(IN_FORCE, "the server refuses TLS 1.3", || {
            let said = self.lab.exec("outside/stranger", &["sh", "-c", &dial])?;
            Ok(said.stderr.contains("alert protocol version"))
        })?;
        Ok(server)
    }

    /// Gives the server a certificate; the path of its root.
    pub(super) fn certify(&self) -> Result<String> {
        let [address, _] = addresses(self.lab, ISSUER)?;
        let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1";
        let script = format!(
            "cd \"$SCRATCH\" && {make} -subj /CN=root -addext keyUsage=critical,keyCertSign -keyout root.key -out \
             root.crt && {make} -CA root.crt -CAkey root.key -subj /CN=web -addext basicConstraints=critical,CA:FALSE \
             -addext subjectAltName=IP:{address} -keyout web.key -out web.crt"
        );
        self.lab.exec(ISSUER, &["sh", "-c", &script])?.success()?;
        Ok(format!("{}/root.crt", self.dir))
    }

    fn run(&self, words: &[&str]) -> Result<Child> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut command = self
            .lab
            .command(&ISSUER.parse()?, &words, &self.lab.state.input)?;
        // It logs each request.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("start the server of keys")
    }
}

pub(super) fn end(mut server: Child) -> Result<()> {
    server.kill().context("end the server of keys")?;
    process::reap(&mut server).map(drop)
}
