//! What of `MeshConfig` is read, and what is named.

use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::control::manifest::documents;
use crate::control::translate::translate as translate_all;
use crate::mesh::facts::Facts;
use crate::mesh::policy::external::{AuthorizerTarget, CheckProtocol, GrpcCheck, NameMatch, OnError};
use crate::mesh::service::ServiceName;

/// Facts and the fields that were named of a `ConfigMap` with this text.
fn read(mesh: &str) -> (Facts, Vec<String>) {
    let indented = mesh.replace('\n', "\n    ");
    let manifest = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: mesh-system}}\ndata:\n  mesh: |\n    {indented}\n"
    );
    let (documents, rejections) = documents("f.yaml", &manifest, false);
    assert_eq!(rejections, []);
    let reading = translate_all(documents, "cluster.local");
    let named = reading.rejections.into_iter().map(|rejection| rejection.field);
    (reading.facts, named.collect())
}

/// The provider of that name, and what was named.
fn provider(fields: &str) -> (Option<Arc<Authorizer>>, Vec<String>) {
    let (facts, named) = read(&format!("extensionProviders:\n- name: opa\n  {fields}"));
    let authorizer = facts.mesh_configs[0].authorizers.get("opa").cloned();
    (authorizer, named)
}

#[test]
fn a_grpc_provider_is_read_with_istios_defaults() {
    let (authorizer, named) =
        provider("envoyExtAuthzGrpc: {service: opa.tools.svc.cluster.local, port: 9000}");
    assert_eq!(named, [""; 0]);
    let authorizer = authorizer.unwrap();
    assert_eq!(
        authorizer.target,
        AuthorizerTarget::Service(ServiceName::new("tools", "opa"))
    );
    assert_eq!(authorizer.port, 9000);
    assert_eq!(authorizer.timeout, Duration::from_mins(10));
    assert_eq!(authorizer.on_error, OnError::Refuse(StatusCode::FORBIDDEN));
    assert_eq!(
        (&authorizer.protocol, authorizer.body),
        (&CheckProtocol::Grpc(GrpcCheck::default()), None)
    );
}

#[test]
fn an_http_provider_is_read_in_all_its_fields() {
    let (authorizer, named) = provider(
        "envoyExtAuthzHttp: {service: tools/opa.tools.svc.cluster.local, port: 80, timeout: 0.25s, \
         pathPrefix: /check, statusOnError: \"503\", includeRequestHeadersInCheck: [X-A, x-b-*], \
         includeAdditionalHeadersInCheck: {x-c: d}, headersToUpstreamOnAllow: ['*-user'], \
         headersToDownstreamOnDeny: [set-cookie], headersToDownstreamOnAllow: [x-e], \
         includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}}",
    );
    assert_eq!(named, [""; 0]);
    let authorizer = authorizer.unwrap();
    assert_eq!(authorizer.timeout, Duration::from_millis(250));
    assert_eq!(
        authorizer.on_error,
        OnError::Refuse(StatusCode::SERVICE_UNAVAILABLE)
    );
    let body = authorizer.body.unwrap();
    assert_eq!(
        (body.max_bytes, body.allow_partial, body.as_bytes),
        (10, true, true)
    );
    let CheckProtocol::Http(how) = &authorizer.protocol else {
        panic!("{authorizer:?}")
    };
    assert_eq!(how.path_prefix.as_ref(), "/check");
    let exact = |name: &str| NameMatch::Exact(name.into());
    assert_eq!(
        how.request_headers,
        [exact("x-a"), NameMatch::Prefix("x-b-".into())]
    );
    assert_eq!(how.additional_headers.len(), 1);
    assert_eq!(how.upstream_on_allow, [NameMatch::Suffix("-user".into())]);
    assert_eq!(how.downstream_on_deny, [exact("set-cookie")]);
    assert_eq!(how.downstream_on_allow, [exact("x-e")]);
}

#[test]
fn failing_open_is_said_and_an_address_may_stand_for_a_service() {
    let (authorizer, _) = provider("envoyExtAuthzGrpc: {service: 192.0.2.7, port: 9000, failOpen: true}");
    let authorizer = authorizer.unwrap();
    assert_eq!(authorizer.on_error, OnError::Allow);
    assert_eq!(authorizer.target, AuthorizerTarget::Addr([192, 0, 2, 7].into()));
}

#[test]
fn a_provider_that_is_wrong_anywhere_is_left_out_and_named() {
    for (fields, field) in [
        ("envoyExtAuthzGrpc: {port: 9000}", "envoyExtAuthzGrpc"),
        (
            "envoyExtAuthzGrpc: {service: opa, port: 9000}",
            "envoyExtAuthzGrpc.service",
        ),
        (
            "envoyExtAuthzGrpc: {service: a.example.com, port: 9000}",
            "envoyExtAuthzGrpc.service",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 0}",
            "envoyExtAuthzGrpc.port",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 70000}",
            "envoyExtAuthzGrpc.port",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 1, timeout: 5}",
            "envoyExtAuthzGrpc.timeout",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 1, timeout: 0s}",
            "envoyExtAuthzGrpc.timeout",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 1, timeout: -1s}",
            "envoyExtAuthzGrpc.timeout",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 1, statusOnError: '200'}",
            "envoyExtAuthzGrpc.statusOnError",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 1, failOpen: 'no'}",
            "envoyExtAuthzGrpc.failOpen",
        ),
        (
            "envoyExtAuthzGrpc: {service: o.t.svc, port: 1, includeRequestBodyInCheck: {maxRequestBytes: 0}}",
            "envoyExtAuthzGrpc.includeRequestBodyInCheck.maxRequestBytes",
        ),
        (
            "envoyExtAuthzHttp: {service: o.t.svc, port: 1, pathPrefix: check}",
            "envoyExtAuthzHttp.pathPrefix",
        ),
        (
            "envoyExtAuthzHttp: {service: o.t.svc, port: 1, headersToUpstreamOnAllow: ['a b']}",
            "envoyExtAuthzHttp.headersToUpstreamOnAllow[0]",
        ),
    ] {
        let (authorizer, named) = provider(fields);
        assert!(authorizer.is_none(), "{fields}");
        let at = format!("data.mesh.extensionProviders[0].{field}");
        assert_eq!(named, [at.as_str()], "{fields}");
    }
    let (authorizer, named) = provider("envoyExtAuthzGrpc: {service: o.t.svc, port: 1, another: 1}");
    assert!(authorizer.is_none());
    assert_eq!(named.len(), 1);
}

#[test]
fn what_is_not_read_is_named_and_spoils_nothing() {
    let (facts, named) = read(
        "trustDomain: a\ntrustDomainAliases: [b]\nextensionProviders:\n- name: z\n  zipkin: {}\n- name: opa\n  \
         envoyExtAuthzGrpc: {service: o.t.svc, port: 1, clearRouteCache: true}",
    );
    assert_eq!(facts.mesh_configs[0].authorizers.len(), 1);
    assert_eq!(
        named,
        [
            "data.mesh.trustDomain",
            "data.mesh.trustDomainAliases",
            "data.mesh.extensionProviders[0].zipkin",
            "data.mesh.extensionProviders[1].envoyExtAuthzGrpc.clearRouteCache",
        ]
    );
}

#[test]
fn two_providers_of_one_name_are_none() {
    let one = "- name: opa\n  envoyExtAuthzGrpc: {service: o.t.svc, port: 1}\n";
    let (facts, named) = read(&format!("extensionProviders:\n{one}{one}"));
    assert_eq!(facts.mesh_configs[0].authorizers.len(), 0);
    assert_eq!(named, ["data.mesh.extensionProviders[1].name"]);
}

#[test]
fn the_form_of_paths_is_read_and_base_where_it_is_not() {
    for (text, form, is_named) in [
        ("NONE", PathForm::AsSent, false),
        ("BASE", PathForm::Base, false),
        ("DEFAULT", PathForm::Base, false),
        ("MERGE_SLASHES", PathForm::MergeSlashes, false),
        ("DECODE_AND_MERGE_SLASHES", PathForm::DecodeAndMergeSlashes, false),
        ("merge", PathForm::Base, true),
        ("[1]", PathForm::Base, true),
    ] {
        let (facts, named) = read(&format!("pathNormalization: {{normalization: {text}}}"));
        assert_eq!(facts.mesh_configs[0].path_form, form, "{text}");
        assert_eq!(!named.is_empty(), is_named, "{text} {named:?}");
    }
}

#[test]
fn a_text_that_is_no_mesh_config_is_named_and_left_out() {
    for text in ["[1, 2]", "a: [", "one\n---\ntwo"] {
        let (facts, named) = read(text);
        assert_eq!(
            (facts.mesh_configs.len(), named.as_slice()),
            (0, &["data.mesh".to_owned()][..]),
            "{text}"
        );
    }
}

#[test]
fn a_config_map_of_another_name_is_nobodys_business() {
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {mesh: 'trustDomain: a'}";
    let (documents, _) = documents("f.yaml", manifest, false);
    let reading = translate_all(documents, "cluster.local");
    assert_eq!(
        (reading.facts.mesh_configs.len(), reading.rejections.len()),
        (0, 0)
    );
}
