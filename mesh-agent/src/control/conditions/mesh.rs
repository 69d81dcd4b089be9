//! Objects that stand for the mesh itself: an `XMesh` or a `GatewayClass` whose controller is ours.

use serde_json::Value;

use super::{ACCEPTED, CONTROLLER, Status, condition};

/// None for those of other controllers.
pub(super) fn status(object: &Value) -> Option<Status> {
    if object.pointer("/spec/controllerName")? != CONTROLLER {
        return None;
    }
    let parameters = object.pointer("/spec/parametersRef");
    let accepted = if parameters.is_some_and(|parameters| !parameters.is_null()) {
        let message = "spec.parametersRef: there are no parameters to refer to; leave it out";
        condition(ACCEPTED, false, "InvalidParameters", message.to_owned())
    } else {
        condition(ACCEPTED, true, ACCEPTED, String::new())
    };
    Some(Status::Conditions {
        conditions: vec![accepted],
        owned: &[ACCEPTED],
        features: Some(FEATURES),
    })
}

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
