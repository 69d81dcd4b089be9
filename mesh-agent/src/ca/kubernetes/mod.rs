//! What a cluster's API server tells the CA: whose a token is, which pods run where, and the root that it keeps.
//!
//! Place in the walk: none; stands behind the traits of `ca`, chosen by `app` instead of token files and manifests.
//! Must not know: what is signed, or who asks.

mod bearer;
mod index;
mod lease;
mod pods;
mod published_roots;
mod review;
mod reviewer;
mod root_secret;

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher;
use kube::{Client, Config};

use crate::identity::error_chain;

pub use self::lease::ClusterLease;
pub use self::pods::ClusterPods;
pub use self::published_roots::{PublishedRoots, ROOTS};
pub use self::review::{Account, TokenFault};
pub use self::reviewer::TokenReviewer;
pub use self::root_secret::{RootSecret, RootSecretError, SecretName};

/// Why there is no way to the API server, whether it runs or not.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file cannot be used.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// This process is in no pod with a service account.
    #[error("no kubeconfig is given, and this is no pod with a service account")]
    NotInCluster(#[source] kube::config::InClusterError),
    /// What was read makes no client.
    #[error("cannot make a client of the api server")]
    Client(#[source] Box<kube::Error>),
}

/// A request that the API server did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Its own account lacks a rule; the API server's words name it.
    #[error("the api server does not let this ca do it, a rbac rule is missing: {0}")]
    Forbidden(String),
    /// Its account may do it, and an admission policy or a webhook of the cluster forbids it; the API server's words name it.
    #[error("an admission policy or webhook of the cluster refuses it: {0}")]
    Refused(String),
    /// It said nothing in time.
    #[error("the api server did not answer within {0:?}")]
    Silent(Duration),
    /// Somebody else changed it in between.
    #[error("somebody else changed it at the same time")]
    Conflict,
    /// Any other failure.
    #[error("the api server cannot be asked")]
    Failed(#[source] Box<kube::Error>),
}

impl ApiError {
    /// Whether the API server is away, rather than of another opinion: silent, out of reach, or in trouble itself.
    fn is_outage(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Failed(error) => {
                matches!(&**error, kube::Error::Service(_) | kube::Error::HyperError(_))
                    || matches!(&**error, kube::Error::Api(status) if status.code >= 500)
            }
            Self::Forbidden(_) | Self::Refused(_) | Self::Conflict => false,
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Self::Failed(error.into());
        };
        let said = &status.message;
        if status.is_forbidden() && is_about_rules(said) {
            Self::Forbidden(said.clone())
        } else if status.is_forbidden() || is_of_admission(said) {
            Self::Refused(said.clone())
        } else {
            Self::Failed(error.into())
        }
    }
}

/// Whether a policy or a webhook has refused it, whatever code they give it: a policy says 422 unless it names a reason
/// (k8s.io/apiserver, pkg/admission/plugin/policy/validating/dispatcher.go, and pkg/admission/plugin/webhook/errors).
fn is_of_admission(said: &str) -> bool {
    let is_of_policy = said.contains("ValidatingAdmissionPolicy '") && said.contains("' denied request: ");
    is_of_policy || (said.contains("admission webhook \"") && said.contains("\" denied the request"))
}

/// Whether a 403 is about what an account may do, rather than from an admission plugin: those have the same code. All
/// authorizers have their refusal written so (k8s.io/apiserver, pkg/endpoints/handlers/responsewriters/errors.go).
fn is_about_rules(said: &str) -> bool {
    said.contains("forbidden: User \"") && said.contains("\" cannot ")
}

/// A client by a kubeconfig, or by the service account of the pod that this is. Dials nothing yet.
///
/// Tokens and certificates of either are read again by the client when they rotate.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let config = configuration(kubeconfig).await?;
    Client::try_from(config).map_err(|error| ConnectError::Client(error.into()))
}

/// What [`connect`] makes a client of.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let Some(path) = kubeconfig else {
        return Config::incluster().map_err(ConnectError::NotInCluster);
    };
    let unusable = |error: KubeconfigError| ConnectError::Kubeconfig(error.into());
    let file = Kubeconfig::read_from(path).map_err(unusable)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(unusable)
}

/// Bounds what an answer may take; watches have their own bound.
pub async fn answered<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(ApiError::Silent(ANSWER)),
    }
}

/// Somebody else created, replaced or removed it in between.
fn was_first(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

/// The API server's own words name the rule that is missing.
pub fn watch_error(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status))
            if status.is_forbidden() =>
        {
            ApiError::Forbidden(status.message.clone()).to_string()
        }
        InitialListFailed(_) | WatchStartFailed(_) | WatchError(_) | WatchFailed(_) | NoResourceVersion => {
            error_chain(error)
        }
    }
}

/// Half of what a request to the CA may take.
const ANSWER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod published_roots_tests;
#[cfg(test)]
mod wire_tests;
