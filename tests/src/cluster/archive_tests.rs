//! Archives read back: the layout is whole, every digest holds, and the same image gives the same bytes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process;

use super::*;
use crate::cluster::image::Platform;

/// A directory of its own for one test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("mesh-archive-{test}-{}", process::id()));
        clear(&dir).unwrap();
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Writes what the images are, and unpacks it.
    fn packed(&self, images: &[Image]) -> (Vec<Packed>, Unpacked) {
        let archive = self.0.join("images.tar");
        let packed = pack(images, &archive, &self.0.join("staging")).unwrap();
        let dir = self.0.join("unpacked");
        clear(&dir).unwrap();
        untar(&archive, &dir);
        (packed, Unpacked { dir })
    }

    /// An image of one program, and what an image may say of itself.
    fn image(&self, platform: Platform) -> Image {
        let program = self.0.join(platform.machine());
        fs::write(&program, platform.machine()).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let image = Image::empty("registry.example:5000/agent:1.2", platform, &["/usr/bin/agent"]);
        Image {
            user: "65532:65532".to_owned(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            created: 86_400,
            is_compressed: true,
            ..image.with(&program, "/usr/bin/agent")
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.0).unwrap();
    }
}

struct Unpacked {
    dir: PathBuf,
}

impl Unpacked {
    fn index(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("index.json")).unwrap()).unwrap()
    }

    /// Where the blob of a descriptor is, once its size and digest have been found to hold.
    fn blob(&self, descriptor: &Value) -> PathBuf {
        let digest = text(descriptor, "digest").unwrap();
        let file = self
            .dir
            .join("blobs/sha256")
            .join(digest.strip_prefix("sha256:").unwrap());
        assert_eq!(format!("sha256:{}", sha256(&file).unwrap()), digest);
        assert_eq!(fs::metadata(&file).unwrap().len(), size(descriptor).unwrap());
        file
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&fs::read(self.blob(descriptor)).unwrap()).unwrap()
    }
}

fn untar(archive: &Path, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions"])
        .arg("--file")
        .arg(archive);
    run(tar.arg("--directory").arg(dir)).unwrap();
}

#[test]
fn every_digest_of_an_archive_holds_down_to_the_files() {
    let scratch = Scratch::new("digests");
    let (packed, unpacked) = scratch.packed(&[scratch.image(Platform::Amd64)]);
    let named = &unpacked.index()["manifests"][0];
    assert_eq!(
        named["annotations"]["io.containerd.image.name"],
        "registry.example:5000/agent:1.2"
    );
    assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1.2");
    let manifest = unpacked.json(named);
    let config = unpacked.json(&manifest["config"]);
    let layer = unpacked.blob(&manifest["layers"][0]);
    let fetched = [named, &manifest["config"], &manifest["layers"][0]].map(|part| size(part).unwrap());
    assert_eq!(
        packed,
        [Packed {
            digest: text(named, "digest").unwrap(),
            size: fetched.iter().sum(),
        }]
    );

    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/agent"]));
    assert_eq!(config["config"]["Labels"], json!({ "a": "b" }));
    assert_eq!(config["created"], "1970-01-02T00:00:00Z");
    let tarred = scratch.0.join("layer.tar");
    fs::write(scratch.0.join("layer.tar.gz"), fs::read(layer).unwrap()).unwrap();
    run(Command::new("gzip")
        .arg("--decompress")
        .arg(scratch.0.join("layer.tar.gz")))
    .unwrap();
    let diff_id = format!("sha256:{}", sha256(&tarred).unwrap());
    assert_eq!(config["rootfs"]["diff_ids"], json!([diff_id]));

    let root = scratch.0.join("root");
    untar(&tarred, &root);
    let program = fs::metadata(root.join("usr/bin/agent")).unwrap();
    // Whoever a container runs as may start it, although nobody else could here.
    assert_eq!(program.permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(root.join("usr/bin/agent")).unwrap(), b"x86_64");
}

#[test]
fn one_name_serves_both_platforms() {
    let scratch = Scratch::new("platforms");
    let (packed, unpacked) = scratch.packed(&Platform::ALL.map(|platform| scratch.image(platform)));
    let index = unpacked.index();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
    let index = unpacked.json(&index["manifests"][0]);
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(packed.len(), 2);
    for ((platform, of_platform), packed) in Platform::ALL.iter().zip(manifests).zip(packed) {
        assert_eq!(of_platform["digest"], packed.digest);
        assert_eq!(of_platform["platform"]["architecture"], platform.architecture());
        let config = unpacked.json(&unpacked.json(of_platform)["config"]);
        assert_eq!(config["architecture"], platform.architecture());
    }
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    let images = |scratch: &Scratch| Platform::ALL.map(|platform| scratch.image(platform));
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    one.packed(&images(&one));
    other.packed(&images(&other));
    assert_eq!(
        fs::read(one.0.join("images.tar")).unwrap(),
        fs::read(other.0.join("images.tar")).unwrap()
    );
}

#[test]
fn another_date_gives_other_bytes() {
    let scratch = Scratch::new("dates");
    let (of_one, _) = scratch.packed(&[scratch.image(Platform::Amd64)]);
    let later = Image {
        created: 86_401,
        ..scratch.image(Platform::Amd64)
    };
    let (of_other, _) = scratch.packed(&[later]);
    assert_ne!(of_one[0].digest, of_other[0].digest);
}

#[test]
fn two_images_of_one_platform_are_refused_and_so_is_a_file_outside() {
    let scratch = Scratch::new("refused");
    let archive = scratch.0.join("images.tar");
    let twice = [scratch.image(Platform::Arm64), scratch.image(Platform::Arm64)];
    let error = pack(&twice, &archive, &scratch.0.join("staging")).unwrap_err();
    assert_eq!(error.to_string(), "two images for linux/arm64");
    let outside = scratch.image(Platform::Arm64).link("/usr/../../outside", "/etc");
    let error = pack(&[outside], &archive, &scratch.0.join("staging")).unwrap_err();
    assert_eq!(error.to_string(), "/usr/../../outside leads out of the image");
    assert!(pack(&[], &archive, &scratch.0.join("staging")).is_err());
    assert!(!archive.exists());
}
