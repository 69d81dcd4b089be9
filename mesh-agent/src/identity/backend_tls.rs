//! The TLS by which the agent, for a pod, speaks with applications that serve nothing else: they prove what a policy asks
//! for; what the agent proves, a policy that says `MUTUAL` names.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, RootCertStore};

use super::backend_failures::{FailingTls, Failure, Handshakes};
use super::backend_verify::{Believed, Verifier, Wanted};
use super::node_files::{NodeFileError, NodeFiles, Opened, Stamp};
use super::pem::{self, PemError};
use super::revocation::{Revoked, RevokedError};
use crate::mesh::backend_tls::{BackendTls, PeerName, TrustedRoots};

/// Why no handshake with an application can begin.
#[derive(Debug, thiserror::Error)]
pub enum BackendTlsError {
    /// Its policy was reported: it cannot be honoured.
    #[error("the policy of the backend's tls cannot be honoured")]
    Impossible,
    /// The node's bundle cannot be read.
    #[error("cannot read the roots in {}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file that the policy names cannot be read.
    #[error(transparent)]
    File(#[from] NodeFileError),
    /// `clientCertificate` holds no certificates.
    #[error("clientCertificate holds no usable certificates")]
    Certificate(#[source] PemError),
    /// `privateKey` holds no key; why is not said, since it could quote it.
    #[error("privateKey holds no key in pem")]
    Key,
    /// `caCrl` cannot be used.
    #[error("caCrl cannot be used")]
    Lists(#[from] RevokedError),
    /// `caCrl` holds no list: nothing would be looked at.
    #[error("caCrl holds no list")]
    NoLists,
    /// No certificate can be a root.
    #[error("there is no usable root")]
    NoRoots,
    /// Nobody can be asked for by this name.
    #[error("the backend's name is no name of a server")]
    Name(#[from] InvalidDnsNameError),
    /// The TLS library does not take it.
    #[error("cannot prepare tls")]
    Tls(#[from] Error),
}

/// The configurations in use, each made once: sessions are resumed by them. Clones share them.
#[derive(Debug, Clone)]
pub struct BackendClients {
    bundle: Arc<Path>,
    files: NodeFiles,
    known: Arc<Mutex<HashMap<(u64, BackendAlpn), Known>>>,
}

#[derive(Debug)]
struct Known {
    of: BackendTls,
    /// What a snapshot holds of it: each new one makes a value of its own.
    held: Weak<BackendTls>,
    used: Instant,
    /// None as long as there was none that could be used.
    config: Option<Arc<ClientConfig>>,
    /// Of the files, when it was made.
    stamps: Vec<Stamp>,
    handshakes: Arc<Handshakes>,
    /// Why none, or no other, can be made; logged when it began.
    unusable: Option<Failure>,
}

/// What a handshake with an application is begun by.
#[derive(Debug)]
pub struct BackendClient {
    /// What is proved and asked for.
    pub config: Arc<ClientConfig>,
    /// The name that is asked for.
    pub name: ServerName<'static>,
    /// To be told how the handshake ends.
    pub handshakes: Arc<Handshakes>,
}

/// The files that a policy names, opened.
#[derive(Debug)]
struct Files {
    roots: Option<Opened>,
    revoked: Option<Opened>,
    shown: Option<(Opened, Opened)>,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendAlpn {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
    /// Bytes, of which nothing is said.
    Bytes,
}

impl BackendClients {
    /// `bundle` is the file of roots that the node itself believes; `files` are those that policies may name.
    pub fn new(bundle: &Path, files: NodeFiles) -> Self {
        Self {
            bundle: bundle.into(),
            files,
            known: Arc::default(),
        }
    }

    /// The configuration for `tls`. Reads the bundle once, and files again when they have
    /// changed: what cannot be used then leaves the former in force. What no snapshot names any more is forgotten in time, when
    /// another is made. Looks at files of the node, so it blocks for as long as those take.
    pub fn client(&self, tls: &Arc<BackendTls>, alpn: BackendAlpn) -> Result<BackendClient, BackendTlsError> {
        let name = ServerName::try_from(tls.name.as_deref().unwrap_or_default().to_owned())?;
        let key = (tls.number(), alpn);
        let opened = Files::open(&self.files, tls);
        if let (Ok(files), Some(known)) = (&opened, self.known.lock().get_mut(&key))
            && known.is_of(tls)
            && known.stamps == files.stamps()
            && let Some(client) = known.client(&name)
        {
            known.unusable = None;
            return Ok(client);
        }
        let made = opened.map_err(BackendTlsError::from).and_then(|files| {
            let stamps = files.stamps();
            Ok((Arc::new(self.config(tls, alpn, &name, files)?), stamps))
        });
        let mut known = self.known.lock();
        known.retain(|_, known| known.held.strong_count() > 0 || known.used.elapsed() < REMEMBERED);
        match made {
            Ok((config, stamps)) => {
                let made = Known {
                    config: Some(Arc::clone(&config)),
                    stamps,
                    ..Known::in_vain(tls)
                };
                let handshakes = Arc::clone(&made.handshakes);
                known.insert(key, made);
                Ok(BackendClient {
                    config,
                    name,
                    handshakes,
                })
            }
            Err(error) => {
                let former = known.entry(key).or_insert_with(|| Known::in_vain(tls));
                if !former.is_of(tls) {
                    *former = Known::in_vain(tls);
                }
                former.fails(&error, tls);
                former.client(&name).ok_or(error)
            }
        }
    }

    /// What fails of the policies that `are_in_force`, sorted.
    pub fn failing(&self, are_in_force: impl Fn(&BackendTls) -> bool) -> Vec<FailingTls> {
        let known = self.known.lock();
        let failing = known
            .values()
            .filter_map(|known| Some((known.of.clone(), known.failing()?)));
        let failing: Vec<_> = failing.collect();
        drop(known);
        let mut failing: Vec<_> = failing
            .into_iter()
            .filter_map(|(of, failing)| are_in_force(&of).then_some(failing))
            .collect();
        failing.sort();
        // Each protocol inside has a configuration of its own; the eldest failure comes first.
        failing.dedup_by(|later, first| later.is_like(first));
        failing
    }

    fn config(
        &self,
        tls: &BackendTls,
        alpn: BackendAlpn,
        name: &ServerName<'static>,
        files: Files,
    ) -> Result<ClientConfig, BackendTlsError> {
        let provider = Arc::new(default_provider());
        let verifier = Verifier {
            believed: self.believed(tls, name, files.roots, files.revoked)?,
            provider: Arc::clone(&provider),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match files.shown {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = pem::certificates(&certificate.read()?).map_err(BackendTlsError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(&key.read()?).map_err(|_| BackendTlsError::Key)?;
                config.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = match alpn {
            BackendAlpn::H1 => vec![b"http/1.1".to_vec()],
            BackendAlpn::H2 => vec![b"h2".to_vec()],
            BackendAlpn::Bytes => Vec::new(),
        };
        Ok(config)
    }

    fn believed(
        &self,
        tls: &BackendTls,
        name: &ServerName<'static>,
        roots: Option<Opened>,
        lists: Option<Opened>,
    ) -> Result<Believed, BackendTlsError> {
        let roots = match (&tls.roots, roots) {
            (TrustedRoots::Anybody, _) => return Ok(Believed::Anybody),
            (TrustedRoots::Pem(pem), _) => store(pem.as_bytes())?,
            (TrustedRoots::File(_), Some(file)) => store(&file.read()?)?,
            (TrustedRoots::Nobody | TrustedRoots::File(_), _) => return Err(BackendTlsError::Impossible),
            (TrustedRoots::System, _) => {
                let pem = fs::read(&self.bundle).map_err(|source| BackendTlsError::Bundle {
                    path: self.bundle.to_path_buf(),
                    source,
                })?;
                store(&pem)?
            }
        };
        let mut names = Vec::new();
        for peer in &tls.names {
            names.push(match peer {
                PeerName::Host(host) => Wanted::Host(ServerName::try_from(host.as_ref().to_owned())?),
                PeerName::Uri(uri) => Wanted::Uri(Arc::clone(uri)),
            });
        }
        if names.is_empty() {
            names.push(Wanted::Host(name.clone()));
        }
        let mut revoked = Vec::new();
        if let Some(lists) = lists {
            let read = Revoked::from_pem(&lists.read()?)?;
            if read.is_empty() {
                return Err(BackendTlsError::NoLists);
            }
            revoked.extend(read.lists().iter().cloned().map(Into::into));
        }
        Ok(Believed::Proved {
            roots,
            names,
            revoked,
        })
    }
}

impl Known {
    fn in_vain(tls: &Arc<BackendTls>) -> Self {
        Self {
            of: BackendTls::clone(tls),
            held: Arc::downgrade(tls),
            used: Instant::now(),
            config: None,
            stamps: Vec::new(),
            handshakes: Arc::default(),
            unusable: None,
        }
    }

    fn client(&self, name: &ServerName<'static>) -> Option<BackendClient> {
        self.config.as_ref().map(|config| BackendClient {
            config: Arc::clone(config),
            name: name.clone(),
            handshakes: Arc::clone(&self.handshakes),
        })
    }

    /// Whether it is about `tls`, which it is used for then: numbers may agree by chance.
    fn is_of(&mut self, tls: &Arc<BackendTls>) -> bool {
        let is_same = self.of == **tls;
        if is_same {
            (self.held, self.used) = (Arc::downgrade(tls), Instant::now());
        }
        is_same
    }

    /// Logged when it begins, not for each connection. What cannot be honoured was reported on its object.
    fn fails(&mut self, error: &BackendTlsError, tls: &BackendTls) {
        if matches!(error, BackendTlsError::Impossible) {
            return;
        }
        let former = self.unusable.take();
        let is_new = former.is_none();
        let failure = Failure::after(former, error);
        if is_new {
            let (error, policy) = (&failure.why, tls.declared.as_deref());
            let (name, goes_on) = (tls.name.as_deref(), self.config.is_some());
            tracing::warn!(%error, policy, name, goes_on, "no tls can be begun with a backend as its policy is now");
        }
        self.unusable = Some(failure);
    }

    fn failing(&self) -> Option<FailingTls> {
        let failure = self.unusable.clone().or_else(|| self.handshakes.failure())?;
        Some(FailingTls {
            policy: self.of.declared.as_deref().unwrap_or_default().to_owned(),
            name: self.of.name.as_deref().unwrap_or_default().to_owned(),
            error: failure.why,
            goes_on: self.unusable.is_some() && self.config.is_some(),
            since_unix_s: failure.since_unix_s,
        })
    }
}

impl Files {
    fn open(files: &NodeFiles, tls: &BackendTls) -> Result<Self, NodeFileError> {
        let roots = match &tls.roots {
            TrustedRoots::File(file) => Some(files.open(file)?),
            TrustedRoots::System | TrustedRoots::Pem(_) | TrustedRoots::Anybody | TrustedRoots::Nobody => {
                None
            }
        };
        let shown = match &tls.shown {
            Some(shown) => Some((files.open(&shown.certificate)?, files.open(&shown.key)?)),
            None => None,
        };
        let revoked = tls.revoked.as_ref().map(|file| files.open(file)).transpose()?;
        Ok(Self {
            roots,
            revoked,
            shown,
        })
    }

    fn stamps(&self) -> Vec<Stamp> {
        let shown = self
            .shown
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        let all = self.roots.iter().chain(&self.revoked).chain(shown);
        all.map(|opened| opened.stamp).collect()
    }
}

fn store(pem: &[u8]) -> Result<RootCertStore, BackendTlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    if store.is_empty() {
        return Err(BackendTlsError::NoRoots);
    }
    Ok(store)
}

/// Whether PEM holds a certificate that can be a root.
pub fn holds_a_root(pem: &str) -> bool {
    store(pem.as_bytes()).is_ok()
}

/// How long what no snapshot holds may still be asked for, by a snapshot that was made since.
const REMEMBERED: Duration = Duration::from_hours(1);
