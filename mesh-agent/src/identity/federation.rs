//! The trust bundles of other meshes: each vouches for its own trust domain, and for no other.
//!
//! Place in the walk: handshakes look up the roots of a peer whose certificate names a foreign trust domain. Must not
//! know: when files change.
//!
//! A bundle is PEM, or the JSON of the SPIFFE Trust Domain and Bundle standard, section 4 (its `x509-svid` keys).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustls::pki_types::{CertificateDer, TrustAnchor};
use serde::Deserialize;
use webpki::anchor_from_trusted_cert;

use super::pem::{self, PemError};
use crate::mesh::identity::SpiffeId;

/// The roots of foreign trust domains, by their names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Federation(Arc<BTreeMap<Box<str>, Vec<TrustAnchor<'static>>>>);

/// Why bundles cannot be used. One that is wrong spoils all: a mesh is never half federated without a word.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The directory or a file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not called `TRUST_DOMAIN.pem` or `TRUST_DOMAIN.json`.
    #[error("{} is not named TRUST_DOMAIN.pem or TRUST_DOMAIN.json", .0.display())]
    Name(PathBuf),
    /// It would give this mesh's own trust domain, or an alias, other roots.
    #[error("{} is of this mesh's own trust domain", .0.display())]
    Own(PathBuf),
    /// There are two files for one trust domain.
    #[error("{} is the second bundle of its trust domain", .0.display())]
    Twice(PathBuf),
    /// It is no bundle in JSON.
    #[error("{} is no spiffe bundle", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It holds no roots.
    #[error("{} holds no usable roots", path.display())]
    Roots {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: PemError,
    },
    /// A root cannot be verified against.
    #[error("a root of {} cannot be used", path.display())]
    Anchor {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: webpki::Error,
    },
}

impl Federation {
    /// All bundles of `dir`: `TRUST_DOMAIN.pem` or `TRUST_DOMAIN.json`, none of a trust domain in `own`. Blocks.
    pub fn read(dir: &Path, own: &[String]) -> Result<Self, FederationError> {
        let mut bundles = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let path = entry.map_err(failed(dir))?.path();
            // A mounted ConfigMap's own bookkeeping.
            if path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            {
                continue;
            }
            let trust_domain = trust_domain_of(&path)?;
            if own.contains(&trust_domain) {
                return Err(FederationError::Own(path));
            }
            let anchors = anchors(&path)?;
            if bundles.insert(trust_domain.into(), anchors).is_some() {
                return Err(FederationError::Twice(path));
            }
        }
        Ok(Self(Arc::new(bundles)))
    }

    /// Bundles that an issuer names: by the name of their trust domain, in DER. One that cannot be used is left out, and
    /// named in the second value; nobody is trusted by it.
    pub(super) fn pushed(
        bundles: impl IntoIterator<Item = (Box<str>, Vec<CertificateDer<'static>>)>,
    ) -> (Self, Vec<Box<str>>) {
        let (mut usable, mut others) = (BTreeMap::new(), Vec::new());
        for (trust_domain, roots) in bundles {
            let anchors: Result<Vec<_>, _> = roots.iter().map(anchor).collect();
            match anchors {
                Ok(anchors) if !anchors.is_empty() && is_trust_domain(&trust_domain) => {
                    usable.insert(trust_domain, anchors);
                }
                Ok(_) | Err(_) => others.push(trust_domain),
            }
        }
        (Self(Arc::new(usable)), others)
    }

    /// The trust domains that are federated with, in order.
    pub fn trust_domains(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.keys().map(AsRef::as_ref)
    }

    pub(super) fn anchors_of(&self, trust_domain: &str) -> Option<&[TrustAnchor<'static>]> {
        self.0.get(trust_domain).map(Vec::as_slice)
    }
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.trust_domains()).finish()
    }
}

fn trust_domain_of(path: &Path) -> Result<String, FederationError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let trust_domain = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".json"));
    trust_domain
        .filter(|trust_domain| is_trust_domain(trust_domain))
        .map(str::to_owned)
        .ok_or_else(|| FederationError::Name(path.to_owned()))
}

fn is_trust_domain(name: &str) -> bool {
    SpiffeId::new(name, "any", "any").is_ok()
}

fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, webpki::Error> {
    anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned())
}

fn anchors(path: &Path) -> Result<Vec<TrustAnchor<'static>>, FederationError> {
    let text = fs::read(path).map_err(failed(path))?;
    let roots = if path.extension().is_some_and(|extension| extension == "json") {
        let armoured = armoured(&text).map_err(|source| FederationError::Json {
            path: path.to_owned(),
            source,
        })?;
        pem::roots(armoured.as_bytes())
    } else {
        pem::roots(&text)
    };
    let roots: Vec<CertificateDer<'static>> = roots.map_err(|source| FederationError::Roots {
        path: path.to_owned(),
        source,
    })?;
    let anchors = roots.iter().map(anchor);
    anchors
        .collect::<Result<_, _>>()
        .map_err(|source| FederationError::Anchor {
            path: path.to_owned(),
            source,
        })
}

/// A JWK set; what it says of itself besides (sequence, refresh hint) is for who fetches it.
#[derive(Deserialize)]
struct Bundle {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    /// Keys of another use, as `jwt-svid`, are skipped, as the standard says.
    #[serde(default, rename = "use")]
    usage: String,
    /// Base 64 of the DER, which is what PEM has between its lines.
    #[serde(default)]
    x5c: Vec<String>,
}

fn armoured(json: &[u8]) -> Result<String, serde_json::Error> {
    let bundle: Bundle = serde_json::from_slice(json)?;
    let keys = bundle.keys.iter().filter(|key| key.usage == "x509-svid");
    let roots = keys.flat_map(|key| &key.x5c);
    let blocks: Vec<_> = roots
        .map(|root| format!("-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n"))
        .collect();
    Ok(blocks.concat())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> FederationError {
    let path = path.to_owned();
    move |source| FederationError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestCa;
    use super::*;

    fn own() -> Vec<String> {
        vec!["cluster.local".to_owned(), "old.local".to_owned()]
    }

    /// The bundle of `ca` in both of its forms.
    fn written(ca: &TestCa) -> [(&'static str, String); 2] {
        let text = pem::encode(&ca.roots()[0]);
        let x5c: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let json = serde_json::json!({
            "spiffe_sequence": 1,
            "keys": [
                {"kty": "EC", "use": "jwt-svid", "kid": "k"},
                {"kty": "EC", "use": "x509-svid", "x5c": [x5c]},
            ],
        });
        [("pem", text), ("json", json.to_string())]
    }

    #[test]
    fn a_bundle_is_read_in_either_form_under_the_name_of_its_trust_domain() {
        let ca = TestCa::of("far.example");
        for (form, text) in written(&ca) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(format!("far.example.{form}")), text).unwrap();
            fs::create_dir(dir.path().join("..data")).unwrap();
            let federation = Federation::read(dir.path(), &own()).unwrap();
            assert_eq!(federation.trust_domains().collect::<Vec<_>>(), ["far.example"]);
            assert_eq!(federation.anchors_of("far.example").unwrap().len(), 1, "{form}");
            assert!(federation.anchors_of("example").is_none());
        }
    }

    #[test]
    fn what_is_no_bundle_is_refused_for_its_own_reason() {
        let ca = TestCa::of("far.example");
        let [(_, good), (_, json)] = written(&ca);
        for (name, text, expected) in [
            ("cluster.local.pem", good.as_str(), "own trust domain"),
            ("old.local.json", &json, "own trust domain"),
            ("far.example", &good, "not named"),
            ("Far.Example.pem", &good, "not named"),
            (".pem", "", ""),
            ("far.example.pem", "", "no usable roots"),
            ("far.example.pem", &good[..good.len() / 2], "no usable roots"),
            ("far.example.json", &json[1..], "no spiffe bundle"),
            ("far.example.json", "{\"keys\": []}", "no usable roots"),
            (
                "far.example.json",
                "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"AAAA\"]}]}",
                "no usable roots",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), text).unwrap();
            match Federation::read(dir.path(), &own()) {
                Ok(federation) => assert_eq!((federation.trust_domains().len(), expected), (0, ""), "{name}"),
                Err(error) => assert!(
                    !expected.is_empty() && error.to_string().contains(expected),
                    "{name}: {error}"
                ),
            }
        }
    }

    #[test]
    fn two_bundles_of_one_trust_domain_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (form, text) in written(&TestCa::of("far.example")) {
            fs::write(dir.path().join(format!("far.example.{form}")), text).unwrap();
        }
        let error = Federation::read(dir.path(), &own()).unwrap_err();
        assert!(matches!(error, FederationError::Twice(_)), "{error}");
    }
}
