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
use crate::mesh::backend_tls::{BackendTls, PeerName, TrustedRoots, WrittenTls};
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
        "SIMPLE" => {
            let read = simple(reader, written, bundles).unwrap_or_else(|(field, reason)| {
                rejections.push(reader.wrong(&format!("tls.{field}"), so(&reason)));
                BackendTls::impossible()
            });
            WrittenTls::Begun(Arc::new(read))
        }
        other => {
            let reason = format!("{other:?} is not supported yet; use DISABLE, SIMPLE or ISTIO_MUTUAL");
            rejections.push(reader.wrong("tls.mode", so(&reason)));
            WrittenTls::Begun(Arc::new(BackendTls::impossible()))
        }
    }
}

fn simple(
    reader: &Reader<'_>,
    written: &Written,
    bundles: &CaBundles,
) -> Result<BackendTls, (&'static str, String)> {
    let files = "the agent reads no files for others; put the certificates under ca.crt into a ConfigMap and name it as \
                 credentialName: configmap://NAME";
    for (field, is_written, reason) in [
        ("caCertificates", written.ca_certificates.is_some(), files),
        ("caCrl", written.ca_crl.is_some(), "not supported yet"),
        (
            "clientCertificate",
            written.client_certificate.is_some(),
            "belongs to MUTUAL",
        ),
        ("privateKey", written.private_key.is_some(), "belongs to MUTUAL"),
        (
            "insecureSkipVerify",
            written.insecure_skip_verify,
            "whoever answers would be believed",
        ),
    ] {
        if is_written {
            return Err((field, reason.to_owned()));
        }
    }
    let roots = match written.credential_name.as_deref() {
        None => TrustedRoots::System,
        Some(credential) => {
            let name = credential.strip_prefix("configmap://").ok_or_else(|| {
                let reason = "the agent reads no Secrets; name a ConfigMap as configmap://NAME";
                ("credentialName", reason.to_owned())
            })?;
            let found = bundles.find(&reader.object.namespace, name);
            TrustedRoots::Pem(Arc::clone(found.map_err(|reason| ("credentialName", reason))?))
        }
    };
    let mut names = Vec::new();
    for name in &written.subject_alt_names {
        names.push(if name.contains("://") {
            PeerName::Uri(name.as_str().into())
        } else {
            PeerName::Host(server_name(name).ok_or(("subjectAltNames", NAME_RULE.to_owned()))?)
        });
    }
    let name = match written.sni.as_deref().filter(|sni| !sni.is_empty()) {
        None => None,
        Some(sni) => Some(server_name(sni).ok_or(("sni", NAME_RULE.to_owned()))?),
    };
    Ok(BackendTls { roots, name, names })
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
