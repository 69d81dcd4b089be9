//! What annotations of a Service say of endpoints that are slow or gone.

use std::time::Duration;

use super::*;
use crate::mesh::fallback::{FallbackOn, FallbackTo};
use crate::mesh::hedge::Hedge;
use crate::mesh::service::{Resilience, ServiceName};

/// What is read of an annotation of Service `shop/s`, and what of the annotation is reported.
fn of(name: &str, value: &str) -> (Resilience, Vec<String>) {
    let value = serde_json::to_string(value).unwrap();
    let reading = read(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: shop, annotations: {{mesh-agent.dev/{name}: \
         {value}}}}}, spec: {{ports: [{{port: 80}}]}}}}"
    ));
    let prefix = format!("metadata.annotations[mesh-agent.dev/{name}]");
    let fields = reading.rejections.iter().map(|rejection| {
        let field = rejection.field.strip_prefix(&prefix).unwrap_or(&rejection.field);
        field.trim_start_matches('.').to_owned()
    });
    let fields = fields.collect();
    let [service] = reading.facts.services.as_slice() else {
        panic!("the rest of the Service goes on: {:?}", reading.facts.services);
    };
    assert_eq!(service.ports.len(), 1);
    (service.resilience.clone(), fields)
}

#[test]
fn what_is_not_said_of_hedging_has_its_default() {
    let (read, reported) = of("hedge", "{}");
    assert_eq!((read.hedge, reported.len()), (Some(Hedge::default()), 0));
    let (read, reported) = of(
        "hedge",
        "{ percentile: 99, minDelay: 20ms, budgetPercent: 50, maxAttempts: 3, minSamples: 10, grpc: true }",
    );
    let expected = Hedge {
        percentile: 99,
        min_delay: Duration::from_millis(20),
        budget_percent: 50,
        max_attempts: 3,
        min_samples: 10,
        grpc: true,
    };
    assert_eq!((read.hedge, reported.len()), (Some(expected), 0));
}

#[test]
fn hedging_that_is_wrong_in_a_field_is_none_and_the_field_is_named() {
    for (value, field) in [
        ("{ percentile: 49 }", "percentile"),
        ("{ percentile: 100 }", "percentile"),
        ("{ percentile: p99 }", "percentile"),
        ("{ minDelay: 0s }", "minDelay"),
        ("{ minDelay: 2m }", "minDelay"),
        ("{ minDelay: soon }", "minDelay"),
        ("{ budgetPercent: 0 }", "budgetPercent"),
        ("{ budgetPercent: 101 }", "budgetPercent"),
        ("{ maxAttempts: 1 }", "maxAttempts"),
        ("{ maxAttempts: 6 }", "maxAttempts"),
        ("{ minSamples: 9 }", "minSamples"),
        ("{ minSamples: 10001 }", "minSamples"),
        ("{ grpc: perhaps }", "grpc"),
        ("{ delay: 5ms }", "delay"),
        ("{ percentile: 95, percentile: 96 }", ""),
        ("p95", ""),
        ("{ percentile: 95", ""),
    ] {
        let (read, reported) = of("hedge", value);
        assert_eq!((read.hedge, reported), (None, vec![field.to_owned()]), "{value}");
    }
}

#[test]
fn a_fallback_is_another_service_or_an_answer() {
    let (read, reported) = of(
        "fallback",
        "{ service: spare, port: 8080, on: [unreachable, gateway-error] }",
    );
    assert!(reported.is_empty(), "{reported:?}");
    let fallback = read.fallback.unwrap();
    assert_eq!(fallback.on, [FallbackOn::Unreachable, FallbackOn::GatewayError]);
    let spare = FallbackTo::Service {
        service: ServiceName::new("shop", "spare"),
        port: 8080,
    };
    assert_eq!(fallback.to, spare);
    let (read, _) = of("fallback", "{ service: spare, namespace: shop, port: 8080 }");
    assert_eq!(read.fallback.unwrap().to, spare);

    let (read, reported) = of(
        "fallback",
        r#"{ status: 200, contentType: application/json, body: "[]", grpcStatus: 14 }"#,
    );
    assert!(reported.is_empty(), "{reported:?}");
    let fallback = read.fallback.unwrap();
    assert_eq!(
        fallback.on,
        [FallbackOn::Unreachable],
        "only when there is no answer"
    );
    let FallbackTo::Answer(answer) = fallback.to else {
        panic!("{:?}", fallback.to);
    };
    assert_eq!(
        (answer.status.as_u16(), &*answer.body, answer.grpc_status),
        (200, &b"[]"[..], Some(14))
    );
    assert_eq!(answer.content_type, "application/json");
    let (read, _) = of("fallback", "{ status: 503 }");
    let FallbackTo::Answer(answer) = read.fallback.unwrap().to else {
        panic!("no answer");
    };
    assert_eq!(
        (&*answer.body, answer.content_type.as_bytes()),
        (&b""[..], &b"text/plain"[..])
    );
}

#[test]
fn a_fallback_that_is_wrong_in_a_field_is_none_and_the_field_is_named() {
    let long = format!("{{ status: 200, body: {} }}", "x".repeat(16 * 1024 + 1));
    for (value, field) in [
        ("{}", "status"),
        ("{ status: 199 }", "status"),
        ("{ status: 600 }", "status"),
        ("{ status: 200, port: 80 }", "port"),
        ("{ status: 200, namespace: shop }", "namespace"),
        ("{ status: 204, body: x }", "body"),
        (long.as_str(), "body"),
        (r#"{ status: 200, contentType: "a\nb" }"#, "contentType"),
        ("{ status: 200, grpcStatus: 0 }", "grpcStatus"),
        ("{ status: 200, grpcStatus: 17 }", "grpcStatus"),
        ("{ service: spare }", "port"),
        ("{ service: spare, port: 0 }", "port"),
        ("{ service: spare, port: 70000 }", "port"),
        ("{ service: spare, port: 80, status: 200 }", "status"),
        ("{ service: spare, port: 80, body: x }", "body"),
        ("{ service: spare, port: 80, namespace: other }", "namespace"),
        ("{ service: s, port: 80 }", "service"),
        ("{ service: spare, port: 80, on: [] }", "on"),
        ("{ service: spare, port: 80, on: [denied] }", "on[0]"),
        ("{ service: spare, port: 80, retries: 2 }", "retries"),
        ("none", ""),
    ] {
        let (read, reported) = of("fallback", value);
        assert_eq!(
            (read.fallback, reported),
            (None, vec![field.to_owned()]),
            "{value}"
        );
    }
}
