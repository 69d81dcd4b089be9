//! Who signs this node's certificates, by which settings are given.

use std::path::PathBuf;

use super::ConfigError;

/// Who signs the certificates of this node's workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuance {
    /// The agent itself, with the root in `ca_dir`.
    Embedded,
    /// A CA service.
    Service {
        /// HOST:PORT.
        addr: String,
        /// Roots of the service's own certificate.
        root_file: PathBuf,
        /// What proves which node this is.
        token_file: PathBuf,
    },
    /// Somebody who writes files.
    Files(PathBuf),
}

impl Issuance {
    /// Errors: half of an answer, or two.
    pub(super) fn told_by(
        ca_addr: Option<String>,
        ca_root_file: Option<PathBuf>,
        ca_token_file: Option<PathBuf>,
        certificate_dir: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        match (ca_addr, certificate_dir) {
            (None, None) => Ok(Self::Embedded),
            (None, Some(dir)) => Ok(Self::Files(dir)),
            (Some(_), Some(_)) => Err(ConfigError::Both("ca_addr", "certificate_dir")),
            (Some(addr), None) => Ok(Self::Service {
                addr,
                root_file: ca_root_file.ok_or(ConfigError::Missing("ca_root_file"))?,
                token_file: ca_token_file.ok_or(ConfigError::Missing("ca_token_file"))?,
            }),
        }
    }
}

/// The words of a list, without empty ones.
pub(super) fn commas(list: Option<&str>) -> Vec<String> {
    let words = list.unwrap_or_default().split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_signs_is_told_by_what_is_given_and_half_of_it_is_refused() {
        let told = |addr: &str, root: &str, token: &str, dir: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let path = |text: &str| given(text).map(PathBuf::from);
            Issuance::told_by(given(addr), path(root), path(token), path(dir))
        };
        assert_eq!(told("", "", "", "").unwrap(), Issuance::Embedded);
        assert_eq!(told("", "", "", "/c").unwrap(), Issuance::Files("/c".into()));
        assert!(matches!(
            told("ca:1", "/r", "/t", "").unwrap(),
            Issuance::Service { .. }
        ));
        for (half, missing) in [
            (told("ca:1", "/r", "", ""), "ca_token_file"),
            (told("ca:1", "", "/t", ""), "ca_root_file"),
            (told("ca:1", "/r", "/t", "/c"), "certificate_dir"),
        ] {
            let error = half.unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn a_list_has_no_empty_words() {
        assert_eq!(commas(Some(" a, b,,")), ["a", "b"]);
        assert!(commas(None).is_empty());
    }
}
