//! The kinds that the writer watches: those with a status, and what decides about them.

use kube::api::ApiResource;

/// A kind of an API group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    group: &'static str,
    /// The preferred one first.
    pub(super) versions: &'static [&'static str],
    plural: &'static str,
    /// Whether each API server has it.
    pub(super) is_built_in: bool,
}

impl Kind {
    const fn built_in(name: &'static str, plural: &'static str) -> Self {
        Self {
            name,
            group: "",
            versions: &["v1"],
            plural,
            is_built_in: true,
        }
    }

    const fn defined(
        group: &'static str,
        name: &'static str,
        plural: &'static str,
        versions: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            group,
            versions,
            plural,
            is_built_in: false,
        }
    }

    /// The kind in one of its versions.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: version.to_owned(),
            api_version: self.api_version(version),
            kind: self.name.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// `GROUP/VERSION`.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }
}

const GATEWAY: &str = "gateway.networking.k8s.io";
const GATEWAY_X: &str = "gateway.networking.x-k8s.io";
const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";

pub(super) const KINDS: &[Kind] = &[
    Kind::built_in("Service", "services"),
    Kind::built_in("ConfigMap", "configmaps"),
    Kind::defined(GATEWAY, "HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    Kind::defined(GATEWAY, "GRPCRoute", "grpcroutes", &["v1"]),
    Kind::defined(GATEWAY, "TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    Kind::defined(GATEWAY, "TLSRoute", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    Kind::defined(
        GATEWAY,
        "BackendTLSPolicy",
        "backendtlspolicies",
        &["v1", "v1alpha3"],
    ),
    Kind::defined(GATEWAY, "GatewayClass", "gatewayclasses", &["v1"]),
    Kind::defined(GATEWAY_X, "XMesh", "xmeshes", &["v1alpha1"]),
    Kind::defined(
        GATEWAY_X,
        "XBackendTrafficPolicy",
        "xbackendtrafficpolicies",
        &["v1alpha1"],
    ),
    Kind::defined(
        "mesh-agent.dev",
        "RateLimitPolicy",
        "ratelimitpolicies",
        &["v1alpha1"],
    ),
    Kind::defined(
        SECURITY,
        "PeerAuthentication",
        "peerauthentications",
        &["v1", "v1beta1"],
    ),
    Kind::defined(
        SECURITY,
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["v1", "v1beta1"],
    ),
    Kind::defined(
        SECURITY,
        "RequestAuthentication",
        "requestauthentications",
        &["v1", "v1beta1"],
    ),
    Kind::defined(
        NETWORKING,
        "DestinationRule",
        "destinationrules",
        &["v1", "v1beta1", "v1alpha3"],
    ),
    Kind::defined(
        NETWORKING,
        "VirtualService",
        "virtualservices",
        &["v1", "v1beta1", "v1alpha3"],
    ),
    Kind::defined(
        NETWORKING,
        "ServiceEntry",
        "serviceentries",
        &["v1", "v1beta1", "v1alpha3"],
    ),
];
