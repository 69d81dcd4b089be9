//! What the CA signs with, and what it tells agents to trust. Read again when its files change.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::key_files::{Fingerprint, KeyFiles};
use super::private::ReadableByOthers;
use crate::identity::pem::{self, PemError};
use crate::identity::{
    Authority, AuthorityError, CaError, ServerIdentity, ServerTlsError, prove, read_or_make_root,
    server_config,
};

/// What the CA signs with and tells agents to trust, at one moment.
pub struct Keyring {
    authority: Authority,
    roots: Vec<CertificateDer<'static>>,
    bundle: String,
    tls: Arc<ServerConfig>,
    /// When the service's own certificate is to be replaced.
    tls_until: SystemTime,
}

/// Where the keyring lies.
#[derive(Debug, Clone)]
pub struct KeyringPlace {
    /// Istio's `cacerts` files (`ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`), or `root.pem` with
    /// certificate and key, made when there is none of both. `also-trusted.pem` holds further roots.
    ///
    /// A Secret has the same files, or `tls.crt`, `tls.key` and `ca.crt`; nothing is made in it here.
    pub files: KeyFiles,
    /// Written with all roots that are trusted, for agents to be given.
    pub bundle_file: Option<PathBuf>,
    /// The mesh's.
    pub trust_domain: String,
    /// The names that agents dial the service by.
    pub names: Vec<ServerIdentity>,
}

/// The keyring in force.
#[derive(Debug)]
pub struct Keys {
    place: KeyringPlace,
    current: ArcSwap<Keyring>,
    seen: Mutex<Fingerprint>,
}

/// Why the files make no keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file cannot be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read a key.
    #[error(transparent)]
    Open(#[from] ReadableByOthers),
    /// A file holds no certificates.
    #[error("{} holds no usable certificates", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: PemError,
    },
    /// There is nothing to sign with.
    #[error("{0} has no key to sign with: neither {CA_KEY}, tls.key nor {ROOT}")]
    NoKey(String),
    /// The self-signed root cannot be had.
    #[error(transparent)]
    Root(#[from] CaError),
    /// Certificate and key do not make an authority.
    #[error("the signing certificate in {place} cannot be used")]
    Authority {
        /// The directory or the Secret.
        place: String,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// What it would sign, agents would refuse.
    #[error("the files in {place} do not fit each other")]
    Unfit {
        /// The directory or the Secret.
        place: String,
        /// Why.
        #[source]
        source: Box<ServerTlsError>,
    },
}

impl Keyring {
    fn read(place: &KeyringPlace, now: SystemTime) -> Result<Self, KeyringError> {
        let files = &place.files;
        let (chain, key, mut roots) = if files.has(CA_KEY) {
            given(files)?
        } else {
            self_signed(place)?
        };
        if let Some(more) = optional(files, ALSO_TRUSTED, pem::roots)? {
            for root in more {
                if !roots.contains(&root) {
                    roots.push(root);
                }
            }
        }
        let named = || files.to_string();
        let authority =
            Authority::new(chain, key.as_bytes(), &place.trust_domain, now).map_err(|source| {
                KeyringError::Authority {
                    place: named(),
                    source,
                }
            })?;
        let unfit = |source| KeyringError::Unfit {
            place: named(),
            source: Box::new(source),
        };
        prove(&authority, &roots, &place.trust_domain, now).map_err(unfit)?;
        let tls = server_config(&authority, &place.names, SERVER_TTL, now).map_err(unfit)?;
        Ok(Self {
            tls,
            tls_until: (now + SERVER_TTL / 2).min(authority.not_after()),
            bundle: roots.iter().map(pem::encode).collect(),
            authority,
            roots,
        })
    }

    /// What signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// All roots that agents are to trust, as PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// How many roots agents are to trust.
    pub fn root_count(&self) -> usize {
        self.roots.len()
    }

    /// The service's own TLS.
    pub fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }
}

impl Keys {
    /// Reads the files, or makes a root where there are none. Blocks.
    pub fn open(place: KeyringPlace) -> Result<Self, KeyringError> {
        let now = SystemTime::now();
        let keyring = Keyring::read(&place, now)?;
        write_bundle(&place, &keyring.bundle)?;
        Ok(Self {
            // Taken after a root may have been made.
            seen: Mutex::new(place.files.fingerprint(FILES)),
            current: ArcSwap::from_pointee(keyring),
            place,
        })
    }

    /// The keyring in force.
    pub fn load(&self) -> Arc<Keyring> {
        self.current.load_full()
    }

    /// Reads the files again if they changed, or if the service's own certificate is due. Whether they did.
    ///
    /// After an error the keyring in force stays, and the same files are not tried again. Blocks.
    pub fn reload(&self, now: SystemTime) -> Result<bool, KeyringError> {
        let found = self.place.files.fingerprint(FILES);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_changed = *seen != found;
        if !is_changed && now < self.current.load().tls_until {
            return Ok(false);
        }
        *seen = found;
        let keyring = Keyring::read(&self.place, now)?;
        // Agents must be able to learn a root before anything is signed by it.
        write_bundle(&self.place, &keyring.bundle)?;
        self.current.store(keyring.into());
        Ok(is_changed)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("authority", &self.authority)
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

type Parts = (
    Vec<CertificateDer<'static>>,
    Zeroizing<String>,
    Vec<CertificateDer<'static>>,
);

/// Istio's layout: an intermediate, or a root of other makers.
fn given(files: &KeyFiles) -> Result<Parts, KeyringError> {
    let key = files.read_key(CA_KEY)?;
    let mut chain = required(files, CA_CERT, pem::certificates)?;
    for above in optional(files, CERT_CHAIN, pem::certificates)?.unwrap_or_default() {
        if !chain.contains(&above) {
            chain.push(above);
        }
    }
    let roots = required(files, ROOT_CERT, pem::roots)?;
    Ok((chain, key, roots))
}

fn self_signed(place: &KeyringPlace) -> Result<Parts, KeyringError> {
    let text = match &place.files {
        KeyFiles::Dir(dir) => read_or_make_root(dir, &place.trust_domain)?,
        KeyFiles::Secret(_) if place.files.has(ROOT) => place.files.read_key(ROOT)?,
        KeyFiles::Secret(_) => return Err(KeyringError::NoKey(place.files.to_string())),
    };
    let path = place.files.name_of(ROOT);
    let roots = pem::roots(text.as_bytes()).map_err(|source| KeyringError::Content { path, source })?;
    Ok((roots.clone(), text, roots))
}

type Parse = fn(&[u8]) -> Result<Vec<CertificateDer<'static>>, PemError>;

fn required(
    files: &KeyFiles,
    name: &str,
    parse: Parse,
) -> Result<Vec<CertificateDer<'static>>, KeyringError> {
    let missing = || files.failed("find", name)(io::ErrorKind::NotFound.into());
    optional(files, name, parse)?.ok_or_else(missing)
}

fn optional(
    files: &KeyFiles,
    name: &str,
    parse: Parse,
) -> Result<Option<Vec<CertificateDer<'static>>>, KeyringError> {
    let unusable = |source| KeyringError::Content {
        path: files.name_of(name),
        source,
    };
    let content = files.read(name)?;
    content
        .map(|content| parse(&content).map_err(unusable))
        .transpose()
}

/// The file appears complete or not at all, so that an agent never reads half a bundle.
fn write_bundle(place: &KeyringPlace, bundle: &str) -> Result<(), KeyringError> {
    let Some(path) = &place.bundle_file else {
        return Ok(());
    };
    if fs::read(path).is_ok_and(|known| known == bundle.as_bytes()) {
        return Ok(());
    }
    let aside = path.with_extension("new");
    let mut file = File::create(&aside).map_err(failed("make", &aside))?;
    file.write_all(bundle.as_bytes())
        .map_err(failed("write", &aside))?;
    file.sync_all().map_err(failed("sync", &aside))?;
    fs::rename(&aside, path).map_err(failed("rename to", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyringError {
    let path = path.to_owned();
    move |source| KeyringError::File {
        operation,
        path,
        source,
    }
}

/// Certificate and key of a self-signed root.
pub(super) const ROOT: &str = "root.pem";
pub(super) const CA_CERT: &str = "ca-cert.pem";
pub(super) const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
pub(super) const ROOT_CERT: &str = "root-cert.pem";
const ALSO_TRUSTED: &str = "also-trusted.pem";
const FILES: &[&str] = &[ROOT, CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT, ALSO_TRUSTED];

/// Life of the service's own certificate; replaced at half.
const SERVER_TTL: Duration = Duration::from_hours(24);
