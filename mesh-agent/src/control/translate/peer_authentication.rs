//! Istio's PeerAuthentication: what workloads accept.
//!
//! Place in the walk: becomes the mTLS policy of inbound connections. Must not know: which workloads exist.
//!
//! An unknown field makes the whole policy malformed: a policy that is read by half could select other workloads
//! than its author meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::object::Object;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::{MtlsMode, PeerAuthentication};

/// security.istio.io/v1, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Spec {
    selector: Option<Selector>,
    mtls: Option<Mtls>,
    port_level_mtls: Option<BTreeMap<String, Mtls>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Selector {
    match_labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mtls {
    mode: Option<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mode {
    Unset,
    Disable,
    Permissive,
    Strict,
}

pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<PeerAuthentication, Rejection> {
    let spec: Option<Spec> = object.parse_part(object.spec(), "spec")?;
    let spec = spec.unwrap_or_default();
    let selector = spec
        .selector
        .and_then(|selector| selector.match_labels)
        .unwrap_or_default();
    let mut reading = |mtls: &Mtls, at: String| mode(object, mtls, &at, rejections);
    let workload_mode = spec
        .mtls
        .as_ref()
        .and_then(|mtls| reading(mtls, "spec.mtls".to_owned()));
    let mut port_modes = BTreeMap::new();
    for (key, mtls) in spec.port_level_mtls.iter().flatten() {
        let at = format!("spec.portLevelMtls[{}]", key.escape_debug());
        let port = key.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| object.reject(&at, "is not a port; use 1 to 65535"))?;
        port_modes.insert(port, reading(mtls, at));
    }
    if selector.is_empty() && !port_modes.is_empty() {
        port_modes.clear();
        rejections.push(object.reject(
            "spec.portLevelMtls",
            "needs a selector; the modes of ports are ignored",
        ));
    }
    Ok(PeerAuthentication {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        selector,
        mode: workload_mode,
        port_modes,
    })
}

/// DISABLE is read as PERMISSIVE, as Istio's ambient mode does: plaintext is accepted, and peers may still encrypt.
fn mode(object: &Object, mtls: &Mtls, at: &str, rejections: &mut Vec<Rejection>) -> Option<MtlsMode> {
    match mtls.mode.unwrap_or(Mode::Unset) {
        Mode::Unset => None,
        Mode::Permissive => Some(MtlsMode::Permissive),
        Mode::Strict => Some(MtlsMode::Strict),
        Mode::Disable => {
            rejections.push(object.reject(
                &format!("{at}.mode"),
                "DISABLE is not supported yet; read as PERMISSIVE",
            ));
            Some(MtlsMode::Permissive)
        }
    }
}
