//! Images as one archive: an OCI image layout, which containerd, skopeo and podman import.
//!
//! The same images give the same bytes, whoever writes them and when. It must not know what is in an image.
//! What the fields are: <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::image::Image;
use crate::process;

/// What an archive holds of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The digest by which a registry knows it, as `sha256:HEX`.
    pub digest: String,
    /// What is fetched of it: manifest, configuration and layer, in bytes.
    pub size: u64,
}

/// Writes images to `archive`: one alone, or one for each platform under the name of the first. `staging` is made and removed.
///
/// Errors: no image or two for one platform are given, a file cannot be read, or `tar`, `gzip`, `sha256sum` or `date` fails.
pub fn pack(images: &[Image], archive: &Path, staging: &Path) -> Result<Vec<Packed>> {
    let first = images.first().context("an archive of no image")?;
    for (at, image) in images.iter().enumerate() {
        let is_alone = images
            .iter()
            .skip(at + 1)
            .all(|other| other.platform != image.platform);
        ensure!(is_alone, "two images for linux/{}", image.platform.architecture());
    }
    clear(staging)?;
    let layout = Layout {
        dir: staging.join("layout"),
    };
    fs::create_dir_all(layout.blobs()).with_context(|| format!("make {}", layout.blobs().display()))?;
    let mut packed = Vec::new();
    let mut manifests = Vec::new();
    for image in images {
        let (descriptor, size) = layout.add_image(image, &staging.join("image"))?;
        packed.push(Packed {
            digest: text(&descriptor, "digest")?,
            size,
        });
        manifests.push(descriptor);
    }
    let mut named = match <[Value; 1]>::try_from(manifests) {
        Ok([only]) => only,
        Err(several) => layout.add(
            INDEX,
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": several })
                .to_string()
                .as_bytes(),
        )?,
    };
    let tag = first.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    if let Some(fields) = named.as_object_mut() {
        // The first is what containerd calls the image, the second what others may ask for in the archive.
        let names =
            json!({ "io.containerd.image.name": first.name, "org.opencontainers.image.ref.name": tag });
        fields.insert("annotations".to_owned(), names);
    }
    layout.finish(&named)?;
    tar(archive, &layout.dir, first.created)?;
    clear(staging)?;
    Ok(packed)
}

/// The directory that becomes the archive.
struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// Adds layer, configuration and manifest of an image, and returns the manifest's descriptor and the size of all three.
    fn add_image(&self, image: &Image, staging: &Path) -> Result<(Value, u64)> {
        let root = staging.join("root");
        image.lay_out(&root)?;
        let tarred = staging.join("layer.tar");
        tar(&tarred, &root, image.created)?;
        let uncompressed = sha256(&tarred)?;
        let (layer, media_type) = if image.is_compressed {
            // Without name and time of the file, which would differ.
            run(Command::new("gzip")
                .args(["--best", "--no-name", "--force"])
                .arg(&tarred))?;
            (staging.join("layer.tar.gz"), LAYER_GZIP)
        } else {
            (tarred, LAYER)
        };
        let layer = self.take(media_type, &layer)?;
        clear(staging)?;
        let config = self.add(CONFIG, config(image, &uncompressed)?.to_string().as_bytes())?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let mut descriptor = self.add(MANIFEST, manifest.to_string().as_bytes())?;
        let size = size(&descriptor)? + size(&config)? + size(&layer)?;
        if let Some(fields) = descriptor.as_object_mut() {
            let platform = json!({ "architecture": image.platform.architecture(), "os": "linux" });
            fields.insert("platform".to_owned(), platform);
        }
        Ok((descriptor, size))
    }

    /// Adds a blob and returns its descriptor.
    fn add(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let file = self.dir.join("blob");
        fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))?;
        self.take(media_type, &file)
    }

    /// Moves a file among the blobs and returns its descriptor.
    fn take(&self, media_type: &str, file: &Path) -> Result<Value> {
        let digest = sha256(file)?;
        let size = fs::metadata(file)
            .with_context(|| format!("ask the size of {}", file.display()))?
            .len();
        let to = self.blobs().join(&digest);
        fs::rename(file, &to).with_context(|| format!("move {} to {}", file.display(), to.display()))?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size }))
    }

    fn finish(&self, named: &Value) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        for (name, value) in [("index.json", index), ("oci-layout", version)] {
            fs::write(self.dir.join(name), value.to_string()).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }
}

/// What a container of the image starts with, and which layer it is made of.
fn config(image: &Image, uncompressed: &str) -> Result<Value> {
    Ok(json!({
        "created": date(image.created)?,
        "architecture": image.platform.architecture(),
        "os": "linux",
        "config": {
            "User": image.user,
            "Env": image.env,
            "Entrypoint": image.entrypoint,
            "Labels": image.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{uncompressed}")] },
    }))
}

fn size(descriptor: &Value) -> Result<u64> {
    let size = descriptor.get("size").and_then(Value::as_u64);
    size.context("a descriptor without size")
}

fn text(value: &Value, field: &str) -> Result<String> {
    let found = value.get(field).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no {field}"))
}

/// Sorted, of one date and of root's, and readable whatever the umask was: the same bytes for the same files.
fn tar(archive: &Path, dir: &Path, created: u64) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .args([
            "--create",
            "--format=gnu",
            "--sort=name",
            "--owner=0",
            "--group=0",
        ])
        .args(["--numeric-owner", "--mode=u=rwX,go=rX"])
        .arg(format!("--mtime=@{created}"))
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(dir)
        .arg(".");
    run(&mut command).map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let said = run(Command::new("sha256sum").arg("--binary").arg(file))?;
    let sum = said.split_whitespace().next();
    sum.map(str::to_owned).context("sha256sum says nothing")
}

/// Seconds since 1970 as RFC 3339 has it.
fn date(seconds: u64) -> Result<String> {
    let said = run(Command::new("date").args(["--utc", "+%FT%TZ", "--date", &format!("@{seconds}")]))?;
    Ok(said.trim().to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    Ok(process::run(command, LIMIT)?.success()?.stdout)
}

fn clear(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const LIMIT: Duration = Duration::from_mins(5);

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
