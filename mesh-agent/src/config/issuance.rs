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
    /// SPIRE.
    Spire {
        /// The admin socket of its agent.
        socket: PathBuf,
        /// Templates of the selectors by which it finds an identity, with commas between.
        selectors: String,
    },
}

/// What the settings say of it.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) ca_addr: Option<String>,
    pub(super) ca_root_file: Option<PathBuf>,
    pub(super) ca_token_file: Option<PathBuf>,
    pub(super) certificate_dir: Option<PathBuf>,
    pub(super) spire_socket: Option<PathBuf>,
    pub(super) spire_selectors: Option<String>,
}

impl Issuance {
    /// Errors: half of an answer, or two.
    pub(super) fn told_by(given: Given) -> Result<Self, ConfigError> {
        if given.spire_selectors.is_some() && given.spire_socket.is_none() {
            return Err(ConfigError::Missing("spire_socket"));
        }
        match (given.ca_addr, given.certificate_dir, given.spire_socket) {
            (None, None, None) => Ok(Self::Embedded),
            (None, Some(dir), None) => Ok(Self::Files(dir)),
            (None, None, Some(socket)) => Ok(Self::Spire {
                socket,
                selectors: given
                    .spire_selectors
                    .unwrap_or_else(|| KUBERNETES_SELECTORS.to_owned()),
            }),
            (Some(addr), None, None) => Ok(Self::Service {
                addr,
                root_file: given.ca_root_file.ok_or(ConfigError::Missing("ca_root_file"))?,
                token_file: given.ca_token_file.ok_or(ConfigError::Missing("ca_token_file"))?,
            }),
            (Some(_), Some(_), _) => Err(ConfigError::Both("ca_addr", "certificate_dir")),
            (Some(_), None, Some(_)) => Err(ConfigError::Both("ca_addr", "spire_socket")),
            (None, Some(_), Some(_)) => Err(ConfigError::Both("certificate_dir", "spire_socket")),
        }
    }
}

/// What SPIRE's attestor for Kubernetes finds out of each pod, and enough to tell service accounts apart.
const KUBERNETES_SELECTORS: &str = "k8s:ns:{namespace},k8s:sa:{service_account}";

/// The words of a list, without empty ones.
pub(super) fn commas(list: Option<&str>) -> Vec<String> {
    let words = list.unwrap_or_default().split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(given: &[(&str, &str)]) -> Result<Issuance, ConfigError> {
        let of = |wanted: &str| {
            let mut given = given.iter();
            let found = given.find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        };
        Issuance::told_by(Given {
            ca_addr: of("ca_addr"),
            ca_root_file: of("ca_root_file").map(PathBuf::from),
            ca_token_file: of("ca_token_file").map(PathBuf::from),
            certificate_dir: of("certificate_dir").map(PathBuf::from),
            spire_socket: of("spire_socket").map(PathBuf::from),
            spire_selectors: of("spire_selectors"),
        })
    }

    const CA: (&str, &str) = ("ca_addr", "ca:1");
    const ROOT: (&str, &str) = ("ca_root_file", "/r");
    const TOKEN: (&str, &str) = ("ca_token_file", "/t");
    const DIR: (&str, &str) = ("certificate_dir", "/c");
    const SOCKET: (&str, &str) = ("spire_socket", "/s");
    const SELECTORS: (&str, &str) = ("spire_selectors", "unix:uid:7");

    #[test]
    fn who_signs_is_told_by_what_is_given() {
        assert_eq!(told(&[]).unwrap(), Issuance::Embedded);
        assert_eq!(told(&[DIR]).unwrap(), Issuance::Files("/c".into()));
        assert!(matches!(
            told(&[CA, ROOT, TOKEN]).unwrap(),
            Issuance::Service { .. }
        ));
        for (given, expected) in [
            (&[SOCKET][..], KUBERNETES_SELECTORS),
            (&[SOCKET, SELECTORS], "unix:uid:7"),
        ] {
            let spire = Issuance::Spire {
                socket: "/s".into(),
                selectors: expected.to_owned(),
            };
            assert_eq!(told(given).unwrap(), spire);
        }
    }

    #[test]
    fn half_of_an_answer_and_two_answers_are_refused_by_name() {
        for (given, names) in [
            (&[CA, ROOT][..], &["ca_token_file"][..]),
            (&[CA, TOKEN], &["ca_root_file"]),
            (&[CA, ROOT, TOKEN, DIR], &["ca_addr", "certificate_dir"]),
            (&[CA, ROOT, TOKEN, SOCKET], &["ca_addr", "spire_socket"]),
            (&[DIR, SOCKET], &["certificate_dir", "spire_socket"]),
            (&[SELECTORS], &["spire_socket"]),
        ] {
            let error = told(given).unwrap_err().to_string();
            for name in names {
                assert!(error.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn a_list_has_no_empty_words() {
        assert_eq!(commas(Some(" a, b,,")), ["a", "b"]);
        assert!(commas(None).is_empty());
    }
}
