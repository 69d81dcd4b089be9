//! PeerAuthentication: whatever cannot be read is STRICT.

use super::*;
use crate::mesh::policy::MtlsMode;

#[test]
fn a_peer_authentication_that_is_wrong_is_strict() {
    for (spec, selector, ports) in [
        ("{mtls: {mode: NEVER}}", "", &[][..]),
        ("{mtls: permissive}", "", &[]),
        ("{mtls: {modus: PERMISSIVE}}", "", &[]),
        ("{mtls: {mode: PERMISSIVE}, tls: {}}", "", &[]),
        (
            "{mtls: {mode: PERMISSIVE}, selector: {matchLabels: {app: 5}}}",
            "",
            &[],
        ),
        (
            "{mtls: {mode: PERMISSIVE}, selector: {matchLabels: {app: web}, matchExpressions: []}}",
            "web",
            &[],
        ),
        (
            "{mtls: {mode: STRICT}, selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: NONE}}}",
            "web",
            &[80],
        ),
        ("permissive", "", &[]),
    ] {
        let reading = read(&format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: a}}, spec: {spec}}}"
        ));
        let policy = &reading.facts.peer_authentications[0];
        assert_eq!(policy.mode, Some(MtlsMode::Strict), "{spec}");
        let app = policy.selector.get("app").map(String::as_str);
        assert_eq!(app.unwrap_or_default(), selector, "{spec}");
        let strict: Vec<u16> = policy.port_modes.keys().copied().collect();
        assert_eq!(strict, ports, "{spec}");
        assert!(
            policy
                .port_modes
                .values()
                .all(|mode| *mode == Some(MtlsMode::Strict))
        );
        assert_eq!(reading.rejections.len(), 1, "{spec}: {:?}", reading.rejections);
    }
}
