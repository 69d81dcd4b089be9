//! `BackendTLSPolicy` and `tls` of a DestinationRule: what is read, and that nothing that is wrong sends in plaintext.

use std::sync::LazyLock;

use super::{named, read};
use crate::identity::testing::tls_server;
use crate::mesh::backend_tls::{
    BackendTls, BackendTlsPolicy, ClientFiles, NodeFile, PeerName, TrustedRoots, WrittenTls,
};

static ROOT: LazyLock<String> = LazyLock::new(|| tls_server(&["a.example"]).1);

/// A `ConfigMap` with a root, and one without.
fn config_maps() -> String {
    let pem = ROOT.replace('\n', "\\n");
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: ca, namespace: shop}}, data: {{ca.crt: \"{pem}\"}}}}
---
{{apiVersion: v1, kind: ConfigMap, metadata: {{name: junk, namespace: shop}}, data: {{ca.crt: no certificate}}}}
---
"
    )
}

fn policy(spec: &str) -> (Option<BackendTlsPolicy>, Vec<String>) {
    let mut reading = read(&format!(
        "{}{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: p, namespace: shop}},
         spec: {{{spec}}}}}",
        config_maps()
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    (reading.facts.backend_tls_policies.pop(), fields)
}

fn rule(tls: &str) -> (WrittenTls, Vec<String>) {
    let mut reading = read(&format!(
        "{}{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: shop}},
         spec: {{host: web, trafficPolicy: {{tls: {{{tls}}}}}}}}}",
        config_maps()
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    let rule = reading.facts.destination_rules.pop().unwrap();
    (rule.policy.tls.unwrap(), fields)
}

const TARGET: &str = "targetRefs: [{group: '', kind: Service, name: web}]";

#[test]
fn a_policy_is_read_with_its_roots_and_names() {
    let (policy, fields) = policy(
        "targetRefs: [{group: '', kind: Service, name: web, sectionName: https}, {group: a.b, kind: Bucket, name: c}],
         validation: {hostname: A.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], subjectAltNames: [
           {type: Hostname, hostname: b.example}, {type: URI, uri: 'spiffe://c/d'}]}",
    );
    assert_eq!(fields, ["spec.targetRefs[1].kind"]);
    let policy = policy.unwrap();
    let [target] = &policy.targets[..] else {
        panic!("{:?}", policy.targets);
    };
    assert_eq!(target.service.to_string(), "shop/web");
    assert_eq!(target.section.as_deref(), Some("https"));
    assert_eq!(policy.tls.name.as_deref(), Some("a.example"));
    let names = [
        PeerName::Host("b.example".into()),
        PeerName::Uri("spiffe://c/d".into()),
    ];
    assert_eq!(policy.tls.names, names);
    assert!(matches!(&policy.tls.roots, TrustedRoots::Pem(pem) if pem.contains(ROOT.trim())));
}

#[test]
fn a_policy_may_believe_whom_the_node_believes() {
    let (policy, fields) = policy(&format!(
        "{TARGET}, validation: {{hostname: a.example, wellKnownCACertificates: System}}"
    ));
    assert_eq!(fields, Vec::<String>::new());
    let tls = &policy.unwrap().tls;
    assert_eq!((&tls.roots, tls.names.len()), (&TrustedRoots::System, 0));
}

#[test]
fn what_is_wrong_with_a_policy_is_named_and_refuses() {
    let ca = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";
    for (validation, field) in [
        (ca.to_owned(), "validation"),
        (format!("hostname: 'a:80', {ca}"), "validation.hostname"),
        (format!("hostname: '*.example', {ca}"), "validation.hostname"),
        ("hostname: a.example".to_owned(), "validation.caCertificateRefs"),
        (
            "hostname: a.example, wellKnownCACertificates: Mine".to_owned(),
            "validation.wellKnownCACertificates",
        ),
        (
            format!("hostname: a.example, wellKnownCACertificates: System, {ca}"),
            "validation.wellKnownCACertificates",
        ),
        (
            "hostname: a.example, caCertificateRefs: [{group: '', kind: Secret, name: ca}]".to_owned(),
            "validation.caCertificateRefs[0].kind",
        ),
        (
            "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]".to_owned(),
            "validation.caCertificateRefs[0].name",
        ),
        (
            "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: junk}]".to_owned(),
            "validation.caCertificateRefs[0].name",
        ),
        (
            format!("hostname: a.example, {ca}, subjectAltNames: [{{type: URI, hostname: b}}]"),
            "validation.subjectAltNames[0]",
        ),
        (
            format!("hostname: a.example, {ca}, subjectAltNames: [{{type: Hostname, hostname: '*.b'}}]"),
            "validation.subjectAltNames[0]",
        ),
        (format!("hostname: a.example, {ca}, new: 1"), "validation.new"),
    ] {
        let (policy, fields) = policy(&format!("{TARGET}, validation: {{{validation}}}"));
        assert_eq!(fields, [format!("spec.{field}")], "{validation}");
        assert_eq!(*policy.unwrap().tls, BackendTls::impossible(), "{validation}");
    }
}

#[test]
fn a_rule_begins_tls_as_simple_says() {
    for mode in ["DISABLE", "ISTIO_MUTUAL"] {
        assert_eq!(rule(&format!("mode: {mode}")), (WrittenTls::Mesh, Vec::new()));
    }
    let (tls, fields) = rule("mode: SIMPLE");
    assert_eq!(fields, Vec::<String>::new());
    let WrittenTls::Begun(tls) = tls else {
        panic!("{tls:?}");
    };
    assert_eq!((&tls.roots, tls.name.as_deref()), (&TrustedRoots::System, None));
    let (tls, fields) = rule(
        "mode: SIMPLE, credentialName: 'configmap://ca', sni: A.example, subjectAltNames: [b.example, 'spiffe://c/d']",
    );
    assert_eq!(fields, Vec::<String>::new());
    let WrittenTls::Begun(tls) = tls else {
        panic!("{tls:?}");
    };
    assert_eq!((tls.name.as_deref(), tls.names.len()), (Some("a.example"), 2));
    assert!(matches!(tls.roots, TrustedRoots::Pem(_)));
}

#[test]
fn a_rule_names_files_below_its_own_namespace() {
    let file = |path| NodeFile::new("shop", path).unwrap();
    let pair = ClientFiles {
        certificate: file("/etc/c.pem"),
        key: file("/etc/k.pem"),
    };
    let mutual = "mode: MUTUAL, clientCertificate: /etc/c.pem, privateKey: /etc/k.pem";
    for (written, roots, shown, revoked) in [
        (mutual.to_owned(), TrustedRoots::System, Some(&pair), None),
        (
            format!("{mutual}, caCertificates: /etc/ca.pem, caCrl: /etc/crl.pem"),
            TrustedRoots::File(file("/etc/ca.pem")),
            Some(&pair),
            Some(file("/etc/crl.pem")),
        ),
        (
            format!("{mutual}, insecureSkipVerify: true"),
            TrustedRoots::Anybody,
            Some(&pair),
            None,
        ),
        (
            "mode: SIMPLE, caCertificates: /etc/ca.pem, clientCertificate: ''".to_owned(),
            TrustedRoots::File(file("/etc/ca.pem")),
            None,
            None,
        ),
        (
            "mode: SIMPLE, caCrl: /etc/crl.pem".to_owned(),
            TrustedRoots::System,
            None,
            Some(file("/etc/crl.pem")),
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true".to_owned(),
            TrustedRoots::Anybody,
            None,
            None,
        ),
    ] {
        let (tls, fields) = rule(&written);
        assert_eq!(fields, Vec::<String>::new(), "{written}");
        let expected = BackendTls {
            declared: Some("DestinationRule shop/r".into()),
            roots,
            shown: shown.cloned(),
            revoked,
            ..BackendTls::impossible()
        };
        assert_eq!(tls, WrittenTls::Begun(expected.into()), "{written}");
    }
}

#[test]
fn what_a_rule_cannot_have_is_named_and_refuses() {
    for (tls, field) in [
        ("mode: NEW", "mode"),
        ("mode: MUTUAL", "clientCertificate"),
        ("mode: MUTUAL, clientCertificate: /etc/c.pem", "privateKey"),
        ("mode: MUTUAL, privateKey: /etc/k.pem", "clientCertificate"),
        ("mode: MUTUAL, credentialName: pair", "credentialName"),
        (
            "mode: MUTUAL, clientCertificate: c.pem, privateKey: /etc/k.pem",
            "clientCertificate",
        ),
        (
            "mode: MUTUAL, clientCertificate: /etc/c.pem, privateKey: /../pay/k.pem",
            "privateKey",
        ),
        ("mode: SIMPLE, caCertificates: ca.pem", "caCertificates"),
        ("mode: SIMPLE, caCrl: /etc/../crl.pem", "caCrl"),
        (
            "mode: SIMPLE, caCertificates: /etc/ca.pem, credentialName: 'configmap://ca'",
            "caCertificates",
        ),
        (
            "mode: SIMPLE, caCrl: /etc/crl.pem, credentialName: 'configmap://ca'",
            "caCrl",
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true, caCertificates: /etc/ca.pem",
            "insecureSkipVerify",
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a.example]",
            "insecureSkipVerify",
        ),
        ("mode: SIMPLE, clientCertificate: /etc/c.pem", "clientCertificate"),
        ("mode: SIMPLE, privateKey: /etc/k.pem", "privateKey"),
        ("mode: SIMPLE, credentialName: secret", "credentialName"),
        (
            "mode: SIMPLE, credentialName: 'configmap://junk'",
            "credentialName",
        ),
        ("mode: SIMPLE, sni: '*.example'", "sni"),
        ("mode: SIMPLE, subjectAltNames: ['*.example']", "subjectAltNames"),
    ] {
        let (read, fields) = rule(tls);
        assert_eq!(fields, [format!("spec.trafficPolicy.tls.{field}")], "{tls}");
        let WrittenTls::Begun(read) = read else {
            panic!("{tls}: {read:?}");
        };
        assert_eq!(*read, BackendTls::impossible(), "{tls}");
    }
}
