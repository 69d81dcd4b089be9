//! What becomes of an object of Istio's. Its status is a list of conditions of several writers, so these carry our name.

use super::{Seen, Status, UNSUPPORTED_VALUE, condition, message};

/// None where this mesh has no business with it: a VirtualService of a gateway, for instance.
pub(super) fn status(seen: &Seen<'_>, object: &str, kind: &str) -> Option<Status> {
    let is_security = matches!(
        kind,
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication"
    );
    if !is_security && !matches!(kind, "VirtualService" | "DestinationRule" | "ServiceEntry") {
        return None;
    }
    let wrong = seen.rejections(object);
    // What cannot be read of a security policy refuses (ADR 0013): such a policy always counts.
    let conditions = match (is_security || seen.counted.contains(object), wrong.is_empty()) {
        (true, true) => vec![condition(ACCEPTED, true, "Accepted", String::new())],
        (true, false) => vec![
            condition(ACCEPTED, true, "Accepted", String::new()),
            condition(PARTIALLY_INVALID, true, UNSUPPORTED_VALUE, message(wrong)),
        ],
        (false, false) => vec![condition(ACCEPTED, false, "Invalid", message(wrong))],
        (false, true) => Vec::new(),
    };
    Some(Status::Conditions {
        conditions,
        owned: &[ACCEPTED, PARTIALLY_INVALID],
        features: None,
    })
}

const ACCEPTED: &str = "mesh-agent.dev/Accepted";
const PARTIALLY_INVALID: &str = "mesh-agent.dev/PartiallyInvalid";
