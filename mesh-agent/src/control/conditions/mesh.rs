//! Objects that stand for the mesh itself: an `XMesh` or a `GatewayClass` whose controller is ours.

use serde_json::Value;

use super::{ACCEPTED, CONTROLLER, Condition, Status, condition};

/// None for those of other controllers.
pub(super) fn status(object: &Value) -> Option<Status> {
    if object.pointer("/spec/controllerName")? != CONTROLLER {
        return None;
    }
    let parameters = object.pointer("/spec/parametersRef");
    let is_accepted = parameters.is_none_or(Value::is_null);
    let accepted = if is_accepted {
        condition(ACCEPTED, true, ACCEPTED, String::new())
    } else {
        let message = "spec.parametersRef: there are no parameters to refer to; leave it out";
        condition(ACCEPTED, false, "InvalidParameters", message.to_owned())
    };
    let mut conditions = vec![accepted];
    if object.get("kind").is_some_and(|kind| kind == "XMesh") {
        conditions.push(programmed(is_accepted));
    }
    Some(Status::Conditions {
        conditions,
        owned: &[ACCEPTED, PROGRAMMED],
        features: Some(FEATURES),
    })
}

/// What the kind's definition puts there as `Unknown` until its controller speaks (the default of `status.conditions`);
/// its Go types name no reasons, so these are a Gateway's. Nothing of it has to reach the agents: it has no parameters.
fn programmed(is_accepted: bool) -> Condition {
    if is_accepted {
        condition(PROGRAMMED, true, PROGRAMMED, String::new())
    } else {
        condition(PROGRAMMED, false, "Invalid", "it is not accepted".to_owned())
    }
}

const PROGRAMMED: &str = "Programmed";

/// Names of Gateway API 1.6 (pkg/features), sorted.
pub(super) const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteSchemeRedirect",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "TLSRoute",
];
