//! The CA's root in a Secret: read, made once if asked for, and followed when somebody replaces it.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use super::{ApiError, answered, was_first, watch_error};
use crate::ca::SecretFiles;
use crate::ca::keyring::{CA_CERT, CA_KEY, ROOT_CERT};
use crate::identity::{CaError, new_root};
use crate::lifecycle::Stop;

/// A Secret or another object with a name in a namespace, `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    namespace: String,
    name: String,
}

/// The Secret with the root, and what was read of it.
#[derive(Debug)]
pub struct RootSecret {
    api: Cluster,
    name: SecretName,
    files: Arc<SecretFiles>,
}

/// Why the Secret gives no root.
#[derive(Debug, thiserror::Error)]
pub enum RootSecretError {
    /// The API server does not answer as it should.
    #[error("cannot {operation} the secret {name}")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// On which Secret.
        name: SecretName,
        /// What came of it.
        #[source]
        source: ApiError,
    },
    /// It is not there, or has nothing in it.
    #[error("there is no secret {0}, or it is empty; --make-root-secret puts a new root into it")]
    Absent(SecretName),
    /// It has other content, which is not overwritten.
    #[error("the secret {0} has content, but no key to sign with")]
    NoKey(SecretName),
    /// Others make and remove it all the time.
    #[error("the secret {0} changes each time that a root is put into it")]
    Restless(SecretName),
    /// No root can be made.
    #[error("cannot make a root")]
    Root(#[from] CaError),
}

/// A Secret as far as it is used here.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) data: BTreeMap<String, Vec<u8>>,
    /// Names this state: only what is still so is replaced.
    pub(super) version: Option<String>,
}

/// What is asked of the API server: the seam for tests. All are bounded in time.
pub(super) trait SecretApi: Send + Sync + Debug {
    fn read<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<Option<Stored>, ApiError>>;

    /// Creates it, or replaces the state that has this version. False where it is no longer so.
    fn write<'a>(&'a self, name: &'a SecretName, new: Stored) -> BoxFuture<'a, Result<bool, ApiError>>;
}

impl RootSecret {
    /// Reads the Secret. Where it is absent or empty, a new root of the trust domain `make` is put into it; when several
    /// do so at once, one root wins and all return it.
    pub async fn obtain(
        client: Client,
        name: SecretName,
        make: Option<&str>,
    ) -> Result<Self, RootSecretError> {
        let api = Cluster(client);
        let data = obtain(&api, &name, make).await?;
        let files = Arc::new(SecretFiles::new(format!("secret {name}"), data));
        Ok(Self { api, name, files })
    }

    /// What was read last.
    pub fn files(&self) -> Arc<SecretFiles> {
        Arc::clone(&self.files)
    }

    /// Reads the Secret again whenever it changes, until `stop`. What is gone or unreadable leaves the last content.
    pub async fn follow(self, stop: Stop) {
        let api: Api<Secret> = self.api.secrets(&self.name);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name.name));
        let mut events = watcher(api, only).default_backoff().boxed();
        let mut complaint = None;
        loop {
            let event = tokio::select! {
                () = stop.requested() => return,
                event = events.next() => event,
            };
            match event {
                None => return tracing::error!("the watch of the root secret has ended"),
                Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => {
                    complaint = None;
                    if self.files.replace(stored(secret).data) {
                        tracing::info!(secret = %self.name, "the root secret has changed");
                    }
                }
                Some(Ok(Event::Delete(_))) => {
                    tracing::warn!(secret = %self.name, "the root secret is gone; the last keys stay in force");
                }
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => {
                    let said = watch_error(&error);
                    if complaint.as_ref() != Some(&said) {
                        tracing::error!(error = said, "the root secret cannot be watched; tried again");
                        complaint = Some(said);
                    }
                }
            }
        }
    }
}

async fn obtain(
    api: &dyn SecretApi,
    name: &SecretName,
    make: Option<&str>,
) -> Result<BTreeMap<String, Vec<u8>>, RootSecretError> {
    let failed = |operation| {
        let name = name.clone();
        move |source| RootSecretError::Api {
            operation,
            name,
            source,
        }
    };
    // Each turn that does not end saw somebody else write.
    for _ in 0..TURNS {
        let found = api.read(name).await.map_err(failed("read"))?;
        let (version, trust_domain) = match (found, make) {
            (Some(found), _) if has_key(&found) => return Ok(found.data),
            (Some(found), _) if !found.data.is_empty() => return Err(RootSecretError::NoKey(name.clone())),
            (None | Some(_), None) => return Err(RootSecretError::Absent(name.clone())),
            (found, Some(trust_domain)) => (found.and_then(|found| found.version), trust_domain),
        };
        let data = root_files(trust_domain)?;
        let new = Stored {
            data: data.clone(),
            version,
        };
        if api.write(name, new).await.map_err(failed("write"))? {
            tracing::info!(secret = %name, "made a self-signed root");
            return Ok(data);
        }
    }
    Err(RootSecretError::Restless(name.clone()))
}

fn has_key(found: &Stored) -> bool {
    SecretFiles::new(String::new(), found.data.clone()).has_key()
}

/// In Istio's layout, so that istiod could use the same Secret.
fn root_files(trust_domain: &str) -> Result<BTreeMap<String, Vec<u8>>, CaError> {
    let both = new_root(trust_domain)?;
    let at = both.find("-----BEGIN PRIVATE").unwrap_or(both.len());
    let (certificate, key) = both.split_at(at);
    let files = [(CA_CERT, certificate), (CA_KEY, key), (ROOT_CERT, certificate)];
    Ok(files
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .into())
}

fn stored(secret: Secret) -> Stored {
    let data = secret.data.unwrap_or_default();
    Stored {
        data: data
            .into_iter()
            .map(|(name, ByteString(bytes))| (name, bytes))
            .collect(),
        version: secret.metadata.resource_version,
    }
}

/// The real one.
struct Cluster(Client);

impl Cluster {
    fn secrets(&self, name: &SecretName) -> Api<Secret> {
        Api::namespaced(self.0.clone(), &name.namespace)
    }
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl SecretApi for Cluster {
    fn read<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<Option<Stored>, ApiError>> {
        let secrets = self.secrets(name);
        Box::pin(async move { Ok(answered(secrets.get_opt(&name.name)).await?.map(stored)) })
    }

    fn write<'a>(&'a self, name: &'a SecretName, new: Stored) -> BoxFuture<'a, Result<bool, ApiError>> {
        let secrets = self.secrets(name);
        let data = new
            .data
            .into_iter()
            .map(|(name, bytes)| (name, ByteString(bytes)));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.name.clone()),
                namespace: Some(name.namespace.clone()),
                resource_version: new.version,
                ..ObjectMeta::default()
            },
            data: Some(data.collect()),
            ..Secret::default()
        };
        Box::pin(async move {
            let params = PostParams::default();
            let written = if secret.metadata.resource_version.is_some() {
                answered(secrets.replace(&name.name, &params, &secret)).await
            } else {
                answered(secrets.create(&params, &secret)).await
            };
            match written {
                Ok(_) => Ok(true),
                Err(ApiError::Failed(error)) if was_first(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }
}

impl SecretName {
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for SecretName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |part: &str| {
            let may =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
            !part.is_empty() && part.len() <= 253 && part.bytes().all(may)
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(InvalidName(text.to_owned())),
        }
    }
}

/// The text is no `NAMESPACE/NAME`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not NAMESPACE/NAME")]
pub struct InvalidName(String);

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Two are enough for any number of CAs that start at once.
const TURNS: usize = 5;

#[cfg(test)]
#[path = "root_secret_tests.rs"]
mod tests;
