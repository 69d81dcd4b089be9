//! `cargo xtask image`: the agent's image for one platform or several, made without Docker, the same bytes each time.
//!
//! It must not know how an archive is laid out: that is `mesh_tests::cluster::archive`.

mod build;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, iter};

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::archive::{self, Packed};
use mesh_tests::cluster::image::{Image, Platform};

use crate::shell::{command, line, read, step};
use crate::workspace;

/// What to make, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// linux/amd64, linux/arm64 or, for both under one name, linux/amd64,linux/arm64; this machine's without it
    #[arg(long, value_name = "PLATFORMS", value_delimiter = ',')]
    platform: Vec<Platform>,
    /// The image's name and tag
    #[arg(long, value_name = "NAME", default_value = concat!("localhost/mesh-agent:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// The archive, an OCI image layout; image/mesh-agent.tar in the build directory without it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where the sources are published, for the image's labels
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// The date of all that is in it, in seconds since 1970; that of the commit without it
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    date: Option<u64>,
}

/// Builds the agent for each platform and writes the archive.
///
/// Errors: a part of the toolchain is missing and cannot be installed, the agent does not build or is not static, or an
/// image is larger than it may be.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut platforms = arguments.platform.clone();
    if platforms.is_empty() {
        platforms.push(Platform::here()?);
    }
    let said = Said::of(arguments)?;
    let mut images = Vec::new();
    for platform in platforms {
        let program = step(
            &format!("a static agent for linux/{}", platform.architecture()),
            || build::program(platform),
        )?;
        images.push(image(platform, &arguments.name, &program, &said));
    }
    let dir = workspace::target().join("image");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let output = arguments.output.clone();
    let output = output.unwrap_or_else(|| dir.join("mesh-agent.tar"));
    let packed = step("the archive", || {
        archive::pack(&images, &output, &dir.join("staging"))
    })?;
    for (image, packed) in iter::zip(&images, &packed) {
        weigh(image.platform, packed)?;
    }
    line(&format!("✓ {} in {}", arguments.name, output.display()))
}

/// What is in the image and how a container starts, as in the last stage of `deploy/Dockerfile`.
fn image(platform: Platform, name: &str, program: &Path, said: &Said) -> Image {
    let image = Image::empty(name, platform, &[PROGRAM]);
    let image = image
        .with(program, PROGRAM)
        .with(Path::new(CERTIFICATES), CERTIFICATES);
    Image {
        user: USER.to_owned(),
        labels: said.labels.clone(),
        created: said.date,
        is_compressed: true,
        ..image
    }
}

/// Says how large an image is, and refuses one that is too large to be fetched by each new node.
fn weigh(platform: Platform, packed: &Packed) -> Result<()> {
    let size = format!("{}.{} MB", packed.size / 1_000_000, packed.size / 100_000 % 10);
    line(&format!(
        "  linux/{}: {size}, {}",
        platform.architecture(),
        packed.digest
    ))?;
    ensure!(
        packed.size < MAX_SIZE,
        "the image for linux/{} has {size}: more than {} MB",
        platform.architecture(),
        MAX_SIZE / 1_000_000
    );
    Ok(())
}

/// What an image says of the sources that it was made of.
struct Said {
    labels: BTreeMap<String, String>,
    date: u64,
}

impl Said {
    fn of(arguments: &Arguments) -> Result<Self> {
        let revision = git(&["rev-parse", "HEAD"])?;
        let is_changed = !git(&["status", "--porcelain"])?.is_empty();
        let revision = format!("{revision}{}", if is_changed { "-changed" } else { "" });
        let date = match arguments.date {
            Some(date) => date,
            None => git(&["log", "--max-count=1", "--format=%ct"])?
                .parse()
                .context("the commit's date")?,
        };
        Ok(Self {
            labels: labels(revision, arguments.source.clone()),
            date,
        })
    }
}

/// The keys that the image specification fixes.
fn labels(revision: String, source: Option<String>) -> BTreeMap<String, String> {
    let known = [
        ("revision", Some(revision)),
        ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("licenses", Some("Apache-2.0".to_owned())),
        ("source", source),
    ];
    let labels = known
        .into_iter()
        .filter_map(|(key, value)| Some((format!("org.opencontainers.image.{key}"), value?)));
    labels.collect()
}

/// What git says of this checkout.
fn git(args: &[&str]) -> Result<String> {
    let said = read(&mut command("git", args), Duration::from_secs(30));
    let said = said.context("an image says which commit it was made of")?;
    Ok(said.trim().to_owned())
}

const PROGRAM: &str = "/usr/local/bin/mesh-agent";
/// Where both Debian and the agent look for them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Nobody in particular: the CA runs as this user, agents as whom the DaemonSet says.
const USER: &str = "65532:65532";
/// Bytes fetched, for one platform.
const MAX_SIZE: u64 = 30_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn dockerfile() -> String {
        fs::read_to_string(workspace::root().join("deploy/Dockerfile")).unwrap()
    }

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let text = dockerfile();
        for part in [
            format!("ENTRYPOINT [\"{PROGRAM}\"]"),
            format!("USER {USER}\n"),
            format!("/image{PROGRAM}"),
            format!("{CERTIFICATES} /image{CERTIFICATES}"),
        ] {
            assert!(text.contains(&part), "{part}");
        }
        for key in labels(String::new(), Some(String::new())).keys() {
            assert!(text.contains(&format!("{key}=")), "{key}");
        }
    }

    #[test]
    fn an_image_that_is_too_large_is_refused() {
        let packed = |size| Packed {
            digest: "sha256:0".to_owned(),
            size,
        };
        weigh(Platform::Arm64, &packed(29_999_999)).unwrap();
        let error = weigh(Platform::Arm64, &packed(30_000_000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the image for linux/arm64 has 30.0 MB: more than 30 MB"
        );
    }

    #[test]
    fn an_image_is_silent_of_sources_that_nobody_published() {
        let labels = labels("abc".to_owned(), None);
        assert_eq!(labels["org.opencontainers.image.revision"], "abc");
        assert!(!labels.contains_key("org.opencontainers.image.source"));
    }
}
