//! The files of a keyring by name, wherever they lie: in a directory, or in a Secret of the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use super::KeyringError;
use super::private::owners_alone;

/// Where the files are.
#[derive(Debug, Clone)]
pub enum KeyFiles {
    /// In this directory.
    Dir(PathBuf),
    /// In what was last read of a Secret.
    Secret(Arc<SecretFiles>),
}

/// The content of a Secret, replaced whole by whoever watches it.
pub struct SecretFiles {
    /// For messages: `secret NAMESPACE/NAME`.
    name: String,
    read: ArcSwap<Files>,
}

type Content = Zeroizing<Vec<u8>>;

/// How often they were replaced, and what they are.
type Files = (u64, BTreeMap<String, Content>);

/// Which file was there, and what tells it from its next version.
pub(super) type Fingerprint = Vec<Option<(u64, SystemTime, u64)>>;

impl KeyFiles {
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Dir(dir) => dir.join(name).exists(),
            Self::Secret(files) => files.read.load().1.contains_key(name),
        }
    }

    /// The content of a file; `None` where there is none. Blocks for a directory.
    pub(super) fn read(&self, name: &str) -> Result<Option<Content>, KeyringError> {
        match self {
            Self::Secret(files) => Ok(files.read.load().1.get(name).cloned()),
            Self::Dir(dir) => match fs::read(dir.join(name)) {
                Ok(content) => Ok(Some(content.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.failed("read", name)(error)),
            },
        }
    }

    /// A file with a key in it, which others may not read.
    pub(super) fn read_key(&self, name: &str) -> Result<Zeroizing<String>, KeyringError> {
        let failed = |operation| self.failed(operation, name);
        if let Self::Dir(dir) = self {
            let mut file = File::open(dir.join(name)).map_err(failed("open"))?;
            let about = file.metadata().map_err(failed("look at"))?;
            owners_alone(&dir.join(name), &about)?;
            // As long as the file, so that no copy of the key is left behind by growing.
            let length = usize::try_from(about.len()).unwrap_or_default();
            let mut key = Zeroizing::new(String::with_capacity(length + 1));
            file.read_to_string(&mut key).map_err(failed("read"))?;
            return Ok(key);
        }
        let missing = || failed("find")(io::ErrorKind::NotFound.into());
        let content = self.read(name)?.ok_or_else(missing)?;
        let text = std::str::from_utf8(&content).map_err(|error| failed("read")(io::Error::other(error)))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    pub(super) fn fingerprint(&self, names: &[&str]) -> Fingerprint {
        let of_file = |file: Metadata| {
            let modified = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            (file.ino(), modified, file.len())
        };
        match self {
            Self::Secret(files) => vec![Some((files.read.load().0, SystemTime::UNIX_EPOCH, 0))],
            Self::Dir(dir) => names
                .iter()
                .map(|name| fs::metadata(dir.join(name)).ok().map(of_file))
                .collect(),
        }
    }

    /// What a file is called in messages.
    pub(super) fn name_of(&self, name: &str) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.join(name),
            Self::Secret(files) => PathBuf::from(&files.name).join(name),
        }
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
        name: &str,
    ) -> impl FnOnce(io::Error) -> KeyringError {
        let path = self.name_of(name);
        move |source| KeyringError::File {
            operation,
            path,
            source,
        }
    }
}

impl fmt::Display for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "{}", dir.display()),
            Self::Secret(files) => f.write_str(&files.name),
        }
    }
}

impl SecretFiles {
    /// The files of a Secret whose name is for messages; keys as cert-manager and `kubectl create secret tls` name
    /// them stand for Istio's.
    pub fn new(name: String, data: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            name,
            read: ArcSwap::from_pointee((0, named(data))),
        }
    }

    /// The Secret has changed, perhaps. Whether it has.
    pub fn replace(&self, data: BTreeMap<String, Vec<u8>>) -> bool {
        let files = named(data);
        let last = self.read.load();
        let is_new = last.1 != files;
        if is_new {
            self.read.store((last.0 + 1, files).into());
        }
        is_new
    }

    /// Whether there is a key to sign with.
    pub fn has_key(&self) -> bool {
        let read = self.read.load();
        [super::keyring::CA_KEY, super::keyring::ROOT]
            .iter()
            .any(|name| read.1.contains_key(*name))
    }
}

/// Never shows content.
impl fmt::Debug for SecretFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = self.read.load();
        f.debug_struct("SecretFiles")
            .field("name", &self.name)
            .field("files", &read.1.keys())
            .finish_non_exhaustive()
    }
}

/// Istio's names win where a Secret has both.
fn named(data: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Content> {
    let mut files: BTreeMap<String, Content> = data
        .into_iter()
        .map(|(name, content)| (name, content.into()))
        .collect();
    let is_istio = files.contains_key(super::keyring::CA_KEY);
    for (other, ours) in SYNONYMS {
        if let Some(content) = files.remove(*other)
            && !is_istio
        {
            files.insert((*ours).to_owned(), content);
        }
    }
    files
}

const SYNONYMS: &[(&str, &str)] = &[
    ("tls.crt", super::keyring::CA_CERT),
    ("tls.key", super::keyring::CA_KEY),
    ("ca.crt", super::keyring::ROOT_CERT),
];
