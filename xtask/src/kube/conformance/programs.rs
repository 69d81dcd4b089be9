//! Gateway API's conformance suite and what it needs of others, built once a version: the suite, the echo server of its pods, the CRDs.
//!
//! It must not run them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::super::build;
use super::super::go::Go;
use crate::workspace;

/// A folder with all of it.
#[derive(Debug)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// The folder of this version, in which is made what was not made on this machine before.
    pub(crate) fn built() -> Result<Self> {
        build::programs(&[SERVER, CLIENT])?;
        let dir = build::once(&[SUITE, CRDS, CERTIFICATE, KEY], |aside, _| {
            let go = Go::new()?;
            go.compile_tests("./conformance", &aside.join(SUITE))?;
            let crds = go.source_of("sigs.k8s.io/gateway-api")?;
            copy_crds(&crds.join("config/crd/experimental"), &aside.join(CRDS))?;
            let certificates = go.source_of("istio.io/istio")?.join("tests/testdata/certs/dns");
            copy(&certificates.join("cert-chain.pem"), &aside.join(CERTIFICATE))?;
            copy(&certificates.join("key.pem"), &aside.join(KEY))
        })?;
        Ok(Self(dir))
    }

    /// The suite: a test binary of Go.
    pub(crate) fn suite(&self) -> PathBuf {
        self.0.join(SUITE)
    }

    /// The directory with the CRDs of the suite's own version, those of the experimental channel.
    pub(crate) fn crds(&self) -> PathBuf {
        self.0.join(CRDS)
    }

    /// The files of the echo server's image, each with its path there; the first one is its entry point.
    pub(crate) fn echo(&self) -> [(PathBuf, &'static str); 4] {
        [
            (self.0.join(SERVER), "/usr/local/bin/server"),
            (self.0.join(CLIENT), "/usr/local/bin/client"),
            (self.0.join(CERTIFICATE), "/cert.crt"),
            (self.0.join(KEY), "/cert.key"),
        ]
    }
}

fn copy_crds(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("make {}", to.display()))?;
    for file in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let name = file
            .with_context(|| format!("list {}", from.display()))?
            .file_name();
        if name != "kustomization.yaml" {
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

/// The module cache is read-only, and a copy of it must not be.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}

/// Where manifests of our own are.
pub(crate) fn source() -> PathBuf {
    workspace::root().join("tests/conformance")
}

const SUITE: &str = "conformance-suite";
const CRDS: &str = "conformance-crds";
const CERTIFICATE: &str = "echo.crt";
const KEY: &str = "echo.key";
const SERVER: &str = "echo-server";
const CLIENT: &str = "echo-client";
