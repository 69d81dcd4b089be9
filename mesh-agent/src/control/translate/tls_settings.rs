//! `tls` of a DestinationRule's `trafficPolicy`.
//!
//! Place in the walk: part of [`super::traffic_policy`]. Must not know: hosts, Services, who reads certificates.
//!
//! What cannot be honoured is never left out: its requests would go in plaintext, or be believed by others than the author
//! meant. They are refused instead.

use std::sync::Arc;

use http::uri::Authority;
use serde::Deserialize;

use super::ca_bundles::CaBundles;
use super::traffic_policy::Reader;
use crate::mesh::backend_tls::{BackendTls, ClientFiles, NodeFile, PeerName, TrustedRoots, WrittenTls};
use crate::mesh::facts::Rejection;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Written {
    mode: String,
    client_certificate: Option<String>,
    private_key: Option<String>,
    ca_certificates: Option<String>,
    credential_name: Option<String>,
    subject_alt_names: Vec<String>,
    sni: Option<String>,
    insecure_skip_verify: bool,
    ca_crl: Option<String>,
}

/// What the settings come to; what is wrong is named.
pub(super) fn read(
    reader: &Reader<'_>,
    written: &Written,
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> WrittenTls {
    match written.mode.as_str() {
        "" | "DISABLE" | "ISTIO_MUTUAL" => WrittenTls::Mesh,
        "SIMPLE" | "MUTUAL" => {
            let read = begun(reader, written, bundles).unwrap_or_else(|(field, reason)| {
                rejections.push(reader.wrong(&format!("tls.{field}"), so(&reason)));
                BackendTls::impossible()
            });
            WrittenTls::Begun(Arc::new(read))
        }
        other => {
            let reason = format!("{other:?} is no mode; use DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL");
            rejections.push(reader.wrong("tls.mode", so(&reason)));
            WrittenTls::Begun(Arc::new(BackendTls::impossible()))
        }
    }
}

/// What is wrong, and in which field.
type Wrong = (&'static str, String);

fn begun(reader: &Reader<'_>, written: &Written, bundles: &CaBundles) -> Result<BackendTls, Wrong> {
    written.contradicts_itself()?;
    let mut names = Vec::new();
    for name in &written.subject_alt_names {
        names.push(if name.contains("://") {
            PeerName::Uri(name.as_str().into())
        } else {
            PeerName::Host(server_name(name).ok_or(("subjectAltNames", NAME_RULE.to_owned()))?)
        });
    }
    let name = match said(written.sni.as_ref()) {
        None => None,
        Some(sni) => Some(server_name(sni).ok_or(("sni", NAME_RULE.to_owned()))?),
    };
    let file = |field: &'static str, path: Option<&String>| {
        let file = |path| NodeFile::new(&reader.object.namespace, path).ok_or((field, FILE_RULE.to_owned()));
        said(path).map(file).transpose()
    };
    let shown = match (
        file("clientCertificate", written.client_certificate.as_ref())?,
        file("privateKey", written.private_key.as_ref())?,
    ) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(ClientFiles { certificate, key }),
        (None, Some(_)) => return Err(("clientCertificate", "privateKey needs it".to_owned())),
        (Some(_), None) => return Err(("privateKey", "clientCertificate needs it".to_owned())),
    };
    let ca_file = file("caCertificates", written.ca_certificates.as_ref())?;
    let roots = match (said(written.credential_name.as_ref()), ca_file) {
        _ if written.insecure_skip_verify => TrustedRoots::Anybody,
        (Some(credential), _) => {
            let name = credential.strip_prefix("configmap://");
            let name = name.ok_or_else(|| ("credentialName", NO_SECRETS.to_owned()))?;
            let found = bundles.find(&reader.object.namespace, name);
            TrustedRoots::Pem(Arc::clone(found.map_err(|reason| ("credentialName", reason))?))
        }
        (None, Some(file)) => TrustedRoots::File(file),
        (None, None) => TrustedRoots::System,
    };
    Ok(BackendTls {
        declared: Some(Arc::clone(&reader.object.meta.object)),
        roots,
        name,
        names,
        revoked: file("caCrl", written.ca_crl.as_ref())?,
        shown,
    })
}

impl Written {
    /// Fields that exclude each other, or lack one another, by Istio's own rules.
    fn contradicts_itself(&self) -> Result<(), Wrong> {
        let is_mutual = self.mode == "MUTUAL";
        let has_credential = said(self.credential_name.as_ref()).is_some();
        let shows = said(self.client_certificate.as_ref()).is_some();
        let has_key = said(self.private_key.as_ref()).is_some();
        let has_roots = said(self.ca_certificates.as_ref()).is_some();
        let has_list = said(self.ca_crl.as_ref()).is_some();
        for (field, is_wrong, reason) in [
            ("credentialName", is_mutual && has_credential, NO_SECRETS),
            ("clientCertificate", !is_mutual && shows, "belongs to MUTUAL"),
            ("privateKey", !is_mutual && has_key, "belongs to MUTUAL"),
            ("clientCertificate", is_mutual && !shows, "MUTUAL needs it"),
            ("privateKey", is_mutual && !has_key, "MUTUAL needs it"),
            (
                "caCertificates",
                has_credential && has_roots,
                "credentialName excludes it",
            ),
            ("caCrl", has_credential && has_list, "credentialName excludes it"),
        ] {
            if is_wrong {
                return Err((field, reason.to_owned()));
            }
        }
        let looks = has_credential || has_roots || has_list || !self.subject_alt_names.is_empty();
        if self.insecure_skip_verify && looks {
            let reason =
                "excludes credentialName, caCertificates, caCrl and subjectAltNames: nothing is looked at";
            return Err(("insecureSkipVerify", reason.to_owned()));
        }
        Ok(())
    }
}

/// A text that says something.
fn said(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// A name of a server without a port or a wildcard, in lower case.
pub(super) fn server_name(text: &str) -> Option<Arc<str>> {
    let is_precise = !text.is_empty() && !text.contains([':', '@', '*']) && text.len() <= 253;
    let is_name = is_precise && text.parse::<Authority>().is_ok();
    is_name.then(|| text.to_ascii_lowercase().into())
}

fn so(reason: &str) -> String {
    format!("{reason}; requests to such endpoints are refused")
}

pub(super) const NAME_RULE: &str = "expected the name of a server, without a port or a wildcard";

const FILE_RULE: &str =
    "expected an absolute path without \"..\"; it is looked for below NAMESPACE in tls_files_dir of the node";
const NO_SECRETS: &str = "the agent reads no Secrets; name a ConfigMap with ca.crt as configmap://NAME (SIMPLE), or files below \
                          tls_files_dir of the node as clientCertificate, privateKey and caCertificates";
