//! How traffic is spread: DestinationRule field by field.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::traffic::{
    BalancerKind, ConsistentHash, DestinationRule, Distribution, ErrorCodes, HashCookie, HashKey, HashTable,
    HostPattern, Limits, LocalityPattern, LocalityPolicy, OutlierDetection, PlaceLabel, PriorityLabel,
    RegionFailover, RetryShare, Reuse, Warmup, WrittenPolicy,
};

pub(super) fn reading_of(annotations: &str, spec: &str) -> Reading {
    read(&format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: shop, annotations: \
         {{{annotations}}}}}\nspec: {{{spec}}}\n"
    ))
}

fn rule(policy: &str) -> DestinationRule {
    let mut reading = reading_of("", &format!("host: web, trafficPolicy: {{{policy}}}"));
    assert_eq!(reading.rejections, [], "{policy}");
    reading.facts.destination_rules.remove(0)
}

fn kind(load_balancer: &str) -> Option<BalancerKind> {
    rule(&format!("loadBalancer: {{{load_balancer}}}"))
        .policy
        .load_balancer
        .unwrap()
        .kind
}

fn hashing(key: HashKey, table: HashTable) -> BalancerKind {
    BalancerKind::ConsistentHash(ConsistentHash {
        key,
        table,
        balance_factor: None,
    })
}

#[test]
fn each_algorithm_has_istios_name() {
    let ring = HashTable::Ring(1024);
    let cookie = |ttl, path: Option<&str>| {
        HashKey::Cookie(HashCookie {
            name: "c".into(),
            path: path.map(Into::into),
            ttl,
            attributes: Vec::new(),
        })
    };
    for (written, expected) in [
        ("simple: ROUND_ROBIN", Some(BalancerKind::RoundRobin)),
        ("simple: LEAST_REQUEST", Some(BalancerKind::LeastRequest)),
        ("simple: LEAST_CONN", Some(BalancerKind::LeastRequest)),
        ("simple: RANDOM", Some(BalancerKind::Random)),
        ("simple: UNSPECIFIED, warmup: {duration: 1s}", None),
        (
            "consistentHash: {useSourceIp: true}",
            Some(hashing(HashKey::SourceIp, ring)),
        ),
        (
            "consistentHash: {httpHeaderName: X-User}",
            Some(hashing(HashKey::Header("x-user".into()), ring)),
        ),
        (
            "consistentHash: {httpQueryParameterName: u}",
            Some(hashing(HashKey::QueryParameter("u".into()), ring)),
        ),
        (
            "consistentHash: {httpCookie: {name: c, ttl: 0s, path: /a}}",
            Some(hashing(cookie(Some(Duration::ZERO), Some("/a")), ring)),
        ),
        (
            "consistentHash: {httpCookie: {name: c}}",
            Some(hashing(cookie(None, None), ring)),
        ),
        (
            "consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 64}}",
            Some(hashing(HashKey::SourceIp, HashTable::Ring(64))),
        ),
        (
            "consistentHash: {useSourceIp: true, minimumRingSize: 32}",
            Some(hashing(HashKey::SourceIp, HashTable::Ring(32))),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {}}",
            Some(hashing(HashKey::SourceIp, HashTable::Maglev(65_537))),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {tableSize: 7}}",
            Some(hashing(HashKey::SourceIp, HashTable::Maglev(7))),
        ),
    ] {
        assert_eq!(kind(written), expected, "{written}");
    }
}

#[test]
fn a_whole_policy_is_read_with_istios_defaults() {
    let rule = rule(
        "loadBalancer: {warmup: {duration: 1m, aggression: 2.5}}, connectionPool: {tcp: {maxConnections: 7, connectTimeout: \
         250ms, idleTimeout: 2h, maxConnectionDuration: 24h}, http: {http1MaxPendingRequests: 8, http2MaxRequests: 9, maxRetries: 3, \
         maxRequestsPerConnection: 10, maxConcurrentStreams: 11, idleTimeout: 90s, h2UpgradePolicy: UPGRADE, useClientProtocol: \
         true}}, retryBudget: {percent: 12.5}, outlierDetection: {consecutive5xxErrors: 3, interval: 1s, \
         baseEjectionTime: 10m, minHealthPercent: 40}, portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: \
         RANDOM}}]",
    );
    assert_eq!(
        rule.policy.load_balancer.unwrap().warmup,
        Some(Warmup {
            duration: Duration::from_mins(1),
            minimum_percent: 10,
            aggression_milli: 2500,
        })
    );
    assert_eq!(
        rule.policy.limits,
        Some(Limits {
            connections: Some(7),
            pending: Some(8),
            requests: Some(9),
            retries: Some(3),
            retry_share: None,
            connect_timeout: Some(Duration::from_millis(250)),
            opaque_idle: Some(Duration::from_hours(2)),
            opaque_duration: Some(Duration::from_hours(24)),
            reuse: Reuse {
                idle: Some(Duration::from_secs(90)),
                requests: NonZeroU32::new(10),
                streams: NonZeroU32::new(11),
            },
            upgrades: true,
        })
    );
    assert_eq!(
        rule.policy.retry_share,
        Some(RetryShare {
            percent_milli: 12_500,
            least: 3,
        })
    );
    assert_eq!(
        rule.policy.outliers,
        Some(OutlierDetection {
            consecutive_5xx: 3,
            interval: Duration::from_secs(1),
            base_ejection: Duration::from_mins(10),
            max_ejection: Duration::from_mins(10),
            min_health_percent: 40,
            ..OutlierDetection::default()
        })
    );
    let (port, of_port) = &rule.ports[0];
    assert_eq!(*port, 81);
    assert_eq!(
        of_port.load_balancer.as_ref().unwrap().kind,
        Some(BalancerKind::Random)
    );
    assert_eq!(of_port.outliers, None);
}

#[test]
fn locality_settings_are_read() {
    let of = |setting: &str| {
        let policy = rule(&format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}")).policy;
        policy.load_balancer.unwrap().locality
    };
    let pattern = |region: &str, zone: Option<&str>| LocalityPattern {
        region: Some(region.into()),
        zone: zone.map(Into::into),
    };
    assert_eq!(of("enabled: false"), Some(LocalityPolicy::Off));
    assert_eq!(of("enabled: true"), Some(LocalityPolicy::Failover(Vec::new())));
    assert_eq!(
        of("failover: [{from: eu, to: us}]"),
        Some(LocalityPolicy::Failover(vec![RegionFailover {
            from: "eu".into(),
            to: "us".into(),
        }]))
    );
    assert_eq!(
        of("failoverPriority: [topology.kubernetes.io/region=eu, topology.kubernetes.io/zone]"),
        Some(LocalityPolicy::Priority(vec![
            PriorityLabel {
                of: PlaceLabel::Region,
                value: Some("eu".into()),
            },
            PriorityLabel {
                of: PlaceLabel::Zone,
                value: None,
            },
        ]))
    );
    assert_eq!(
        of("distribute: [{from: 'eu/*', to: {'eu/*': 20, 'eu/a/*': 80}}]"),
        Some(LocalityPolicy::Distribute(vec![Distribution {
            from: pattern("eu", None),
            to: vec![(pattern("eu", Some("a")), 80), (pattern("eu", None), 20)],
        }]))
    );
}

#[test]
fn annotations_say_what_istio_has_no_field_for() {
    let of = |annotations: &str| -> Option<WrittenPolicy> {
        let reading = reading_of(
            annotations,
            "host: web, trafficPolicy: {outlierDetection: {}, loadBalancer: {consistentHash: {useSourceIp: true}}}",
        );
        let policy = reading
            .facts
            .destination_rules
            .first()
            .map(|rule| rule.policy.clone());
        assert_eq!(policy.is_none(), !reading.rejections.is_empty(), "{annotations}");
        policy
    };
    let both = "mesh-agent.dev/hash-balance-factor: '150', mesh-agent.dev/success-rate-stdev-factor: '1900'";
    let policy = of(both).unwrap();
    assert_eq!(policy.outliers.unwrap().success_rate_stdev_milli, Some(1900));
    let Some(BalancerKind::ConsistentHash(hash)) = policy.load_balancer.unwrap().kind else {
        panic!("not hashing");
    };
    assert_eq!(hash.balance_factor, Some(150));
    assert_eq!(of("mesh-agent.dev/hash-balance-factor: '99'"), None);
    assert_eq!(of("mesh-agent.dev/success-rate-stdev-factor: much"), None);
}

#[test]
fn the_header_of_the_proxy_protocol_is_a_line_unless_the_rule_says_version_2() {
    for (written, expected) in [
        ("proxyProtocol: {}", ProxyProtocol::V1),
        ("proxyProtocol: {version: V1}", ProxyProtocol::V1),
        ("proxyProtocol: {version: V2}", ProxyProtocol::V2),
    ] {
        assert_eq!(rule(written).policy.proxied, Some(expected), "{written}");
    }
    assert_eq!(rule("outlierDetection: {}").policy.proxied, None);
}

#[test]
fn a_tunnel_leads_to_a_host_and_port() {
    for (written, expected) in [
        (
            "tunnel: {targetHost: db.example.com, targetPort: 5432}",
            "db.example.com:5432",
        ),
        (
            "tunnel: {protocol: CONNECT, targetHost: 192.0.2.7, targetPort: 1}",
            "192.0.2.7:1",
        ),
        (
            "tunnel: {targetHost: '2001:db8::1', targetPort: 65535}",
            "[2001:db8::1]:65535",
        ),
    ] {
        let tunnel = rule(written).policy.tunnel.unwrap();
        assert_eq!(tunnel.as_str(), expected, "{written}");
    }
    assert_eq!(rule("outlierDetection: {}").policy.tunnel, None);
}

#[test]
fn a_rule_may_say_which_statuses_are_errors() {
    let errors = |written| rule(written).policy.outliers.unwrap().errors;
    let codes = "outlierDetection: {outlierDetectionHttpErrorCodes: [429, 503]}";
    assert_eq!(errors(codes), ErrorCodes::of(&[429, 503]));
    assert_eq!(
        errors("outlierDetection: {outlierDetectionHttpErrorCodes: []}"),
        None
    );
}

#[test]
fn hosts_are_completed_by_the_rules_namespace() {
    let reading = reading_of("", "host: web, trafficPolicy: {outlierDetection: {}}");
    let rule = &reading.facts.destination_rules[0];
    assert_eq!(
        rule.host,
        HostPattern::Service(crate::mesh::service::ServiceName::new("shop", "web"))
    );
    assert_eq!(&*rule.namespace, "shop");
}

#[test]
fn subsets_are_read_with_policies_of_their_own() {
    let mut reading = reading_of(
        "",
        "host: web, subsets: [
           {name: v1, labels: {version: v1}},
           {name: v2, labels: {version: v2, tier: a}, trafficPolicy: {
             loadBalancer: {simple: RANDOM},
             portLevelSettings: [{port: {number: 80}, connectionPool: {http: {http2MaxRequests: 1}}}]}}]",
    );
    assert_eq!(reading.rejections, []);
    let rule = reading.facts.destination_rules.remove(0);
    assert_eq!(rule.policy, WrittenPolicy::default());
    let [first, second] = rule.subsets.as_slice() else {
        panic!("{rule:?}");
    };
    assert_eq!((&*first.name, &first.labels["version"][..]), ("v1", "v1"));
    assert_eq!(first.policy, WrittenPolicy::default());
    assert_eq!((&*second.name, second.labels.len()), ("v2", 2));
    let balancer = second.policy.load_balancer.as_ref();
    assert_eq!(balancer.unwrap().kind, Some(BalancerKind::Random));
    assert_eq!(second.ports[0].0, 80);
    assert_eq!(second.ports[0].1.limits.unwrap().requests, Some(1));
}
