//! The annotation `mesh-agent.dev/health-check`.

use std::time::Duration;

use super::*;
use crate::mesh::health_check::{HealthCheck, HttpQuestion, Question};

fn service(annotation: &str) -> Reading {
    read(&format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n    \
         mesh-agent.dev/health-check: |\n      {annotation}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}"
    ))
}

fn check(annotation: &str) -> HealthCheck {
    let reading = service(annotation);
    assert_eq!(reading.rejections, [], "{annotation}");
    let check = reading.facts.services[0].traffic.health_check.as_deref();
    check.unwrap().clone()
}

fn http(path: &str) -> HttpQuestion {
    HttpQuestion {
        path: path.into(),
        host: None,
        expected: vec![200..=200],
        retriable: Vec::new(),
    }
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let defaults = check("{tcp: {}}");
    assert_eq!(defaults, HealthCheck::new(Question::Tcp));
    assert_eq!(
        defaults,
        HealthCheck {
            question: Question::Tcp,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            no_traffic_interval: Duration::from_mins(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            panic_percent: 50,
        }
    );
    assert_eq!(
        check("{http: {path: /healthz}}").question,
        Question::Http(http("/healthz"))
    );
    assert_eq!(check("{grpc: {}}").question, Question::Grpc("".into()));
    // Checking more seldom in use than out of it would be odd.
    assert_eq!(
        check("{tcp: {}, interval: 5m}").no_traffic_interval,
        Duration::from_mins(5)
    );
}

#[test]
fn everything_that_can_be_written_is_read() {
    let written = check(
        "{http: {path: '/healthz?deep=1', host: shop.example, port: 8081, expectedStatuses: [200, \"202-204\"], \
         retriableStatuses: [503]}, interval: 1500ms, timeout: 250ms, noTrafficInterval: 2m, \
         unhealthyThreshold: 5, healthyThreshold: 1, panicThreshold: 0}",
    );
    assert_eq!(
        written,
        HealthCheck {
            question: Question::Http(HttpQuestion {
                host: Some("shop.example".into()),
                expected: vec![200..=200, 202..=204],
                retriable: vec![503..=503],
                ..http("/healthz?deep=1")
            }),
            port: Some(8081),
            interval: Duration::from_millis(1500),
            timeout: Duration::from_millis(250),
            no_traffic_interval: Duration::from_mins(2),
            unhealthy_threshold: 5,
            healthy_threshold: 1,
            panic_percent: 0,
        }
    );
    assert_eq!(
        check("{grpc: {service: shop.Cart}, port: 9}").question,
        Question::Grpc("shop.Cart".into())
    );
    assert_eq!(check("{grpc: {service: shop.Cart}, port: 9}").port, Some(9));
}

#[test]
fn what_is_wrong_is_named_and_the_rest_of_the_service_goes_on() {
    for (annotation, field) in [
        ("", ""),
        ("[1]", ""),
        ("{", ""),
        ("{}", ""),
        ("{tcp: {}, grpc: {}}", ""),
        ("{tcp: {}, colour: red}", ".colour"),
        ("{http: {path: /a, colour: red}}", ".http.colour"),
        ("{http: {}}", ".http"),
        ("{http: {path: healthz}}", ".http.path"),
        ("{http: {path: '/a b'}}", ".http.path"),
        ("{http: {path: /, host: 'a b'}}", ".http.host"),
        (
            "{http: {path: /, expectedStatuses: []}}",
            ".http.expectedStatuses",
        ),
        (
            "{http: {path: /, expectedStatuses: [99]}}",
            ".http.expectedStatuses",
        ),
        (
            "{http: {path: /, expectedStatuses: ['300-200']}}",
            ".http.expectedStatuses",
        ),
        (
            "{http: {path: /, retriableStatuses: ['5xx']}}",
            ".http.retriableStatuses",
        ),
        ("{tcp: {}, interval: 10}", ".interval"),
        ("{tcp: {}, interval: 1ms}", ".interval"),
        ("{tcp: {}, timeout: 2h}", ".timeout"),
        ("{tcp: {}, noTrafficInterval: soon}", ".noTrafficInterval"),
        ("{tcp: {}, unhealthyThreshold: 0}", ".unhealthyThreshold"),
        ("{tcp: {}, healthyThreshold: 101}", ".healthyThreshold"),
        ("{tcp: {}, panicThreshold: 101}", ".panicThreshold"),
        ("{tcp: {}, port: 0}", ".port"),
        ("{tcp: {port: 1}, port: 2}", ".port"),
    ] {
        let reading = service(annotation);
        let fields: Vec<_> = named(&reading).into_iter().map(|(_, field)| field).collect();
        assert_eq!(fields.len(), 1, "{annotation}: {fields:?}");
        let at = "metadata.annotations[mesh-agent.dev/health-check]";
        assert!(fields[0].starts_with(at), "{annotation}: {fields:?}");
        if !field.is_empty() {
            assert!(
                fields[0].contains(field) || reading.rejections[0].reason.contains(&field[1..]),
                "{annotation}: {:?}",
                reading.rejections
            );
        }
        let [service] = reading.facts.services.as_slice() else {
            panic!("{annotation}: the Service is gone");
        };
        assert_eq!(service.traffic.health_check, None, "{annotation}");
        assert_eq!(service.ports.len(), 1);
    }
}
