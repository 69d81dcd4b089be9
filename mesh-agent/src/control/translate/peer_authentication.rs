//! Istio's PeerAuthentication: what workloads accept.
//!
//! Place in the walk: becomes the mTLS policy of inbound connections. Must not know: which workloads exist.
//!
//! What cannot be read is STRICT (ADR 0013): a wrong mode for what it stands for, anything else for all that the policy
//! selects, and a policy whose selection is wrong for its whole namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::object::{Object, unknown_fields};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::{MtlsMode, PeerAuthentication};

pub(super) fn translate(object: &Object, rejections: &mut Vec<Rejection>) -> PeerAuthentication {
    let spec = object.spec();
    let mut reading = Spec {
        object,
        rejections,
        is_whole: true,
    };
    if !(spec.is_object() || spec.is_null()) {
        reading.refuse("spec", "expected a mapping");
    }
    for field in unknown_fields(spec, &["selector", "mtls", "portLevelMtls"]) {
        reading.refuse(&format!("spec.{field}"), "is not a field of this kind");
    }
    let selector = reading.selector(part(spec, "selector"));
    let mode = reading.mode("spec.mtls", part(spec, "mtls"));
    let port_modes = reading.port_modes(part(spec, "portLevelMtls"), !selector.is_empty());
    let is_whole = reading.is_whole;
    PeerAuthentication {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        selector,
        mode: if is_whole { mode } else { Some(MtlsMode::Strict) },
        port_modes: if is_whole { port_modes } else { BTreeMap::new() },
    }
}

fn part<'v>(value: &'v Value, field: &str) -> Option<&'v Value> {
    value.get(field).filter(|part| !part.is_null())
}

/// A `spec` that is being read.
struct Spec<'a> {
    object: &'a Object,
    rejections: &'a mut Vec<Rejection>,
    /// Nothing was wrong that concerns the policy as a whole.
    is_whole: bool,
}

impl Spec<'_> {
    fn refuse(&mut self, field: &str, what: &str) {
        self.is_whole = false;
        let reason = format!("{what}; until this is right, the policy means STRICT for all that it selects");
        self.rejections.push(self.object.reject(field, reason));
    }

    fn selector(&mut self, selector: Option<&Value>) -> BTreeMap<String, String> {
        let Some(selector) = selector else {
            return BTreeMap::new();
        };
        if !selector.is_object() {
            self.refuse("spec.selector", "expected a mapping");
        }
        for field in unknown_fields(selector, &["matchLabels"]) {
            self.refuse(&format!("spec.selector.{field}"), "is not a field of a selector");
        }
        let labels = selector.get("matchLabels").unwrap_or(&Value::Null);
        let labels = self
            .object
            .parse_part::<Option<BTreeMap<String, String>>>(labels, "spec.selector.matchLabels");
        match labels {
            Ok(labels) => labels.unwrap_or_default(),
            Err(rejection) => {
                self.refuse(&rejection.field, &rejection.reason);
                BTreeMap::new()
            }
        }
    }

    fn port_modes(&mut self, ports: Option<&Value>, has_selector: bool) -> BTreeMap<u16, Option<MtlsMode>> {
        let mut modes = BTreeMap::new();
        let ports = match ports {
            None => return modes,
            Some(Value::Object(ports)) => ports,
            Some(_) => {
                self.refuse("spec.portLevelMtls", "expected a mapping of ports to modes");
                return modes;
            }
        };
        if !has_selector && !ports.is_empty() {
            self.rejections.push(self.object.reject(
                "spec.portLevelMtls",
                "needs a selector; the modes of ports are ignored",
            ));
            return modes;
        }
        for (key, mtls) in ports {
            let at = format!("spec.portLevelMtls[{}]", key.escape_debug());
            match key.parse::<u16>().ok().filter(|port| *port != 0) {
                Some(port) => {
                    modes.insert(port, self.mode(&at, Some(mtls)));
                }
                None => self.refuse(&at, "is not a port; use 1 to 65535"),
            }
        }
        modes
    }

    fn mode(&mut self, at: &str, mtls: Option<&Value>) -> Option<MtlsMode> {
        let mtls = mtls.filter(|mtls| !mtls.is_null())?;
        let unknown = unknown_fields(mtls, &["mode"]).next().map(str::to_owned);
        if let Some(field) = unknown {
            return Some(self.strict(&format!("{at}.{field}"), "is not supported"));
        }
        if !mtls.is_object() {
            return Some(self.strict(at, "expected a mapping with a mode"));
        }
        let mode = part(mtls, "mode")?;
        match mode.as_str() {
            Some("UNSET") => None,
            Some("PERMISSIVE") => Some(MtlsMode::Permissive),
            Some("STRICT") => Some(MtlsMode::Strict),
            Some("DISABLE") => Some(MtlsMode::Disable),
            Some(_) | None => Some(self.strict(
                &format!("{at}.mode"),
                "write UNSET, DISABLE, PERMISSIVE or STRICT",
            )),
        }
    }

    fn strict(&mut self, field: &str, what: &str) -> MtlsMode {
        let reason = format!("{what}; read as STRICT");
        self.rejections.push(self.object.reject(field, reason));
        MtlsMode::Strict
    }
}
