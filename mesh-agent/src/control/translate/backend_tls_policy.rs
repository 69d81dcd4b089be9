//! Gateway API's `BackendTLSPolicy`: which Services speak TLS themselves, and what they must prove.
//!
//! Place in the walk: becomes a part of Services' traffic policy when a snapshot is built. Must not know: which Services
//! there are, who reads certificates.
//!
//! As the API asks, a policy that cannot be honoured refuses: nothing goes there in plaintext, or to somebody who proved
//! nothing.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::ca_bundles::CaBundles;
use super::object::{Object, unknown_fields};
use super::tls_settings::{NAME_RULE, server_name};
use crate::mesh::backend_tls::{BackendTls, BackendTlsPolicy, BackendTlsTarget, PeerName, TrustedRoots};
use crate::mesh::facts::Rejection;
use crate::mesh::service::ServiceName;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Targets {
    target_refs: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    section_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Validation {
    #[serde(default)]
    ca_certificate_refs: Vec<CaRef>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known_ca_certificates: Option<String>,
    hostname: String,
    #[serde(default)]
    subject_alt_names: Vec<AltName>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AltName {
    r#type: String,
    hostname: Option<String>,
    uri: Option<String>,
}

/// Without readable targets there is nobody to refuse for: such a policy is left out.
pub(super) fn translate(
    object: &Object,
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> Result<BackendTlsPolicy, Rejection> {
    let spec = object.spec();
    let Targets { target_refs } = object.parse_part(spec, "spec")?;
    let known = ["targetRefs", "validation", "options"];
    rejections.extend(unknown_fields(spec, &known).map(|field| object.unsupported(&format!("spec.{field}"))));
    let options = spec.get("options").unwrap_or(&Value::Null);
    let options = unknown_fields(options, &[]);
    rejections.extend(options.map(|option| object.unsupported(&format!("spec.options.{option}"))));
    let mut targets = Vec::new();
    for (index, target) in target_refs.into_iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        if target.kind != "Service" || !target.group.is_empty() {
            let reason = "only Services can be targets here; ignored";
            rejections.push(object.reject(&format!("{field}.kind"), reason));
            continue;
        }
        targets.push(BackendTlsTarget {
            field: field.into(),
            service: ServiceName::new(&object.namespace, &target.name),
            section: target.section_name.map(Into::into),
        });
    }
    let tls = validation(object, bundles).unwrap_or_else(|mut rejection| {
        rejection.reason = format!("{}; requests to its targets are refused", rejection.reason);
        rejections.push(rejection);
        BackendTls::impossible()
    });
    Ok(BackendTlsPolicy {
        meta: Arc::clone(&object.meta),
        targets,
        tls: Arc::new(tls),
    })
}

fn validation(object: &Object, bundles: &CaBundles) -> Result<BackendTls, Rejection> {
    let part = object.spec().get("validation").unwrap_or(&Value::Null);
    let written: Validation = object.parse_part(part, "spec.validation")?;
    let wrong = |field: &str, reason: String| object.reject(&format!("spec.validation.{field}"), reason);
    let name = server_name(&written.hostname).ok_or_else(|| wrong("hostname", NAME_RULE.to_owned()))?;
    let roots = match (
        written.well_known_ca_certificates.as_deref(),
        &*written.ca_certificate_refs,
    ) {
        (Some("System"), []) => TrustedRoots::System,
        (None | Some(""), [_, ..]) => {
            let mut pem = String::new();
            for (index, reference) in written.ca_certificate_refs.iter().enumerate() {
                let at = format!("caCertificateRefs[{index}]");
                if reference.kind != "ConfigMap" || !reference.group.is_empty() {
                    let reason = "only ConfigMaps are read for certificates";
                    return Err(wrong(&format!("{at}.kind"), reason.to_owned()));
                }
                let found = bundles.find(&object.namespace, &reference.name);
                pem.push_str(found.map_err(|reason| wrong(&format!("{at}.name"), reason))?);
                pem.push('\n');
            }
            TrustedRoots::Pem(pem.into())
        }
        (Some(_), []) => {
            return Err(wrong("wellKnownCACertificates", "expected System".to_owned()));
        }
        (None, []) => {
            let reason = "give caCertificateRefs, or wellKnownCACertificates: System";
            return Err(wrong("caCertificateRefs", reason.to_owned()));
        }
        (Some(_), [_, ..]) => {
            let reason = "and caCertificateRefs exclude each other";
            return Err(wrong("wellKnownCACertificates", reason.to_owned()));
        }
    };
    let mut names = Vec::new();
    for (index, name) in written.subject_alt_names.iter().enumerate() {
        let field = format!("subjectAltNames[{index}]");
        names.push(match (name.r#type.as_str(), &name.hostname, &name.uri) {
            ("Hostname", Some(host), None) => {
                PeerName::Host(server_name(host).ok_or_else(|| wrong(&field, NAME_RULE.to_owned()))?)
            }
            ("URI", None, Some(uri)) if uri.contains(':') => PeerName::Uri(uri.as_str().into()),
            _ => {
                let reason = "expected a Hostname with hostname, or a URI with uri";
                return Err(wrong(&field, reason.to_owned()));
            }
        });
    }
    Ok(BackendTls {
        declared: Some(Arc::clone(&object.meta.object)),
        roots,
        name: Some(name),
        names,
        revoked: None,
        shown: None,
    })
}
