//! Where facts come from, by which settings are given.
//!
//! Place in the walk: before everything. Must not know: how either source is read.

use std::fmt;
use std::path::PathBuf;

use super::ConfigError;

/// Where the agent learns of pods, Services, routes and policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactSource {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server, which the service account of the agent's own pod leads to.
    InCluster,
    /// An API server, which a kubeconfig leads to.
    Kubeconfig(PathBuf),
}

impl FactSource {
    /// Exactly one source is given.
    pub(super) fn told_by(
        manifests: Option<PathBuf>,
        kubernetes: Option<String>,
    ) -> Result<Self, ConfigError> {
        match (manifests, kubernetes) {
            (Some(dir), None) => Ok(Self::Manifests(dir)),
            (None, Some(word)) if word == IN_CLUSTER => Ok(Self::InCluster),
            (None, Some(path)) => Ok(Self::Kubeconfig(path.into())),
            (None, None) => Err(ConfigError::NoSource),
            (Some(_), Some(_)) => Err(ConfigError::TwoSources),
        }
    }
}

impl fmt::Display for FactSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(dir) => write!(f, "manifests in {}", dir.display()),
            Self::InCluster => f.write_str("the cluster of this pod"),
            Self::Kubeconfig(path) => write!(f, "the cluster of {}", path.display()),
        }
    }
}

const IN_CLUSTER: &str = "in-cluster";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_source_is_taken() {
        for (manifests, kubernetes, expected) in [
            (Some("/m"), None, Ok(FactSource::Manifests("/m".into()))),
            (None, Some("in-cluster"), Ok(FactSource::InCluster)),
            (None, Some("/k"), Ok(FactSource::Kubeconfig("/k".into()))),
            (
                None,
                None,
                Err("no source of facts: give --manifests DIR, or --kubernetes in-cluster or KUBECONFIG"),
            ),
            (
                Some("/m"),
                Some("/k"),
                Err("manifests and kubernetes are both set: facts come from one place"),
            ),
        ] {
            let told = FactSource::told_by(manifests.map(Into::into), kubernetes.map(str::to_owned));
            let told = told.map_err(|error| error.to_string());
            assert_eq!(told, expected.map_err(str::to_owned));
        }
    }
}
