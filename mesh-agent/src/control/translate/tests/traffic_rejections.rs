//! What of a DestinationRule is named as wrong or without effect.

use super::traffic::reading_of;
use super::*;

/// Spec, the fields that are named, and whether the rule acts all the same.
const WRONG: &[(&str, &[&str], bool)] = &[
    ("host: web", &[], false),
    ("host: web, trafficPolicy: {}", &[], false),
    (
        "host: w*b.example.com, trafficPolicy: {outlierDetection: {}}",
        &["spec.host"],
        false,
    ),
    (
        "host: web, exportTo: ['*'], trafficPolicy: {outlierDetection: {}}",
        &[],
        true,
    ),
    (
        "host: web, exportTo: [., 'a b'], trafficPolicy: {outlierDetection: {}}",
        &["spec.exportTo"],
        true,
    ),
    (
        "host: web, workloadSelector: {matchLabels: {a: b}, colour: c}, trafficPolicy: {outlierDetection: {}}",
        &["spec.workloadSelector.colour"],
        false,
    ),
    (
        "host: web, subsets: [{name: a, colour: red}, {name: a}, {name: ''}], workloadSelector: {}, trafficPolicy: {colour: red, outlierDetection: {}}",
        &[
            "spec.trafficPolicy.colour",
            "spec.subsets[0].colour",
            "spec.subsets[1].name",
            "spec.subsets[2].name",
        ],
        true,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}, outlierDetection: {}}",
        &["spec.trafficPolicy.loadBalancer.simple"],
        true,
    ),
    (
        "host: web, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1, tcpKeepalive: {}}, http: {http2KeepAlive: {}}}, \
         retryBudget: {budgetInterval: 1s}}",
        &[
            "spec.trafficPolicy.connectionPool.tcp.tcpKeepalive",
            "spec.trafficPolicy.connectionPool.http.http2KeepAlive",
            "spec.trafficPolicy.retryBudget.budgetInterval",
        ],
        true,
    ),
    (
        "host: web, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0s}}}",
        &["spec.trafficPolicy.connectionPool.tcp.connectTimeout"],
        false,
    ),
    (
        "host: web, trafficPolicy: {connectionPool: {http: {idleTimeout: never}}}",
        &["spec.trafficPolicy.connectionPool.http.idleTimeout"],
        false,
    ),
    (
        "host: web, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: PERHAPS}}}",
        &["spec.trafficPolicy.connectionPool.http.h2UpgradePolicy"],
        false,
    ),
    (
        "host: web, trafficPolicy: {retryBudget: {percent: 101}}",
        &["spec.trafficPolicy.retryBudget.percent"],
        false,
    ),
    (
        "host: web, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tunnel: {}, outlierDetection: {novel: 1}}]}",
        &[
            "spec.trafficPolicy.portLevelSettings[0].outlierDetection.novel",
            "spec.trafficPolicy.portLevelSettings[0].tunnel",
        ],
        true,
    ),
    (
        "host: web, trafficPolicy: {tunnel: {protocol: POST, targetHost: db, targetPort: 1}}",
        &["spec.trafficPolicy.tunnel.protocol"],
        false,
    ),
    (
        "host: web, trafficPolicy: {tunnel: {targetHost: db}}",
        &["spec.trafficPolicy.tunnel.targetPort"],
        false,
    ),
    (
        "host: web, trafficPolicy: {tunnel: {targetPort: 1}}",
        &["spec.trafficPolicy.tunnel.targetHost"],
        false,
    ),
    (
        "host: web, trafficPolicy: {tunnel: {targetHost: 'me@db', targetPort: 1}}",
        &["spec.trafficPolicy.tunnel.targetHost"],
        false,
    ),
    (
        "host: web, trafficPolicy: {tunnel: {targetHost: \"db\\r\\nx: y\", targetPort: 1}}",
        &["spec.trafficPolicy.tunnel.targetHost"],
        false,
    ),
    (
        "host: web, trafficPolicy: {tunnel: {targetHost: db, targetPort: 1, colour: red}}",
        &["spec.trafficPolicy.tunnel.colour"],
        true,
    ),
    (
        "host: web, trafficPolicy: {portLevelSettings: [{port: {number: 80}, proxyProtocol: {version: V2}}], outlierDetection: {}}",
        &["spec.trafficPolicy.portLevelSettings[0].proxyProtocol"],
        true,
    ),
    (
        "host: web, trafficPolicy: {proxyProtocol: {version: V2, tlvs: []}}",
        &["spec.trafficPolicy.proxyProtocol.tlvs"],
        true,
    ),
    (
        "host: web, trafficPolicy: {proxyProtocol: {version: V3}}",
        &["spec.trafficPolicy.proxyProtocol.version"],
        false,
    ),
    (
        "host: web, trafficPolicy: {outlierDetection: {outlierDetectionHttpErrorCodes: [503, 600]}}",
        &["spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes"],
        false,
    ),
    (
        "host: web, trafficPolicy: {portLevelSettings: [{outlierDetection: {}}]}",
        &["spec.trafficPolicy.portLevelSettings[0]"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {consistentHash: {}}}",
        &["spec.trafficPolicy.loadBalancer.consistentHash"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}",
        &["spec.trafficPolicy.loadBalancer.consistentHash"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 8}}}}",
        &["spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: 'a;b'}}}}",
        &["spec.trafficPolicy.loadBalancer.consistentHash.httpCookie"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: a, path: \"/\\r\\nX: y\"}}}}",
        &["spec.trafficPolicy.loadBalancer.consistentHash.httpCookie"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {warmup: {duration: soon}}}",
        &["spec.trafficPolicy.loadBalancer.warmup.duration"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {warmup: {duration: 1s, aggression: 0.5}}}",
        &["spec.trafficPolicy.loadBalancer.warmup.aggression"],
        false,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: 99}}]}}}",
        &["spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to"],
        true,
    ),
    (
        "host: web, trafficPolicy: {loadBalancer: {localityLbSetting: {failoverPriority: [app]}}}",
        &["spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[0]"],
        true,
    ),
    (
        "host: web, trafficPolicy: {outlierDetection: {interval: 0s}}",
        &["spec.trafficPolicy.outlierDetection.interval"],
        false,
    ),
    (
        "host: web, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
        &["spec.trafficPolicy.outlierDetection.maxEjectionPercent"],
        false,
    ),
    (
        "host: web, trafficPolicy: {outlierDetection: {consecutive5xxErrors: -1}}",
        &["spec.trafficPolicy.outlierDetection.consecutive5xxErrors"],
        false,
    ),
];

#[test]
fn what_a_destination_rule_says_without_effect_is_named() {
    for (spec, fields, is_kept) in WRONG {
        let reading = reading_of("", spec);
        let found: Vec<_> = named(&reading).into_iter().map(|(_, field)| field).collect();
        assert_eq!(found, *fields, "{spec}");
        assert_eq!(!reading.facts.destination_rules.is_empty(), *is_kept, "{spec}");
    }
}
