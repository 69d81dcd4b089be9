//! What people read.

use super::*;
use crate::proxy::explain::report::{DialledPlace, RateLimitLine, RuleLine, SourcePod};

fn refused() -> Verdict {
    Verdict {
        outcome: Outcome::Refused,
        status: Some(403),
        grpc_status: None,
        flag: Some("UAEX".to_owned()),
        details: Some("rbac".to_owned()),
        reason: "RBAC: access denied".to_owned(),
    }
}

fn explanation() -> Explanation {
    let matched = |rule: usize, why_not: Option<&str>| MatchLine {
        kind: "HTTPRoute".to_owned(),
        route: "shop/r".to_owned(),
        rule,
        rule_name: (rule == 1).then(|| "named".to_owned()),
        asks: "path /a or below".to_owned(),
        holds: why_not.is_none(),
        mismatch: why_not.map(|_| "path".to_owned()),
        why_not: why_not.map(str::to_owned),
    };
    Explanation {
        node: "node-a".to_owned(),
        snapshot_version: 7,
        source: SourcePod {
            pod: "shop/web".to_owned(),
            identity: "spiffe://d/ns/shop/sa/web".to_owned(),
        },
        request: "GET http://pay/a".to_owned(),
        destination: DialledPlace {
            kind: PlaceKind::Service,
            name: Some("shop/pay".to_owned()),
            addr: Some("10.96.0.1:80".parse().unwrap()),
            protocol: "http".to_owned(),
            notes: Vec::new(),
        },
        routes: Some(Routes {
            matches: vec![
                matched(0, Some("the path is other")),
                matched(1, None),
                matched(2, None),
            ],
            left_out: 0,
            chosen: Some(ChosenRule {
                position: Some(1),
                route: "shop/r".to_owned(),
                rule: 1,
                changes: vec!["request header x is removed".to_owned()],
                faults: Vec::new(),
                request_timeout_ms: Some(300),
                attempt_timeout_ms: None,
                retries: None,
            }),
        }),
        ways: vec![way()],
        verdict: refused(),
    }
}

fn way() -> Way {
    Way {
        backend: Some("shop/pay:80".to_owned()),
        share_percent: 100.0,
        balancer: Some("least_request".to_owned()),
        under_way: Some(3),
        endpoints: vec![EndpointLine {
            addr: "10.0.0.1:8080".parse().unwrap(),
            pod: Some("shop/pay-1".to_owned()),
            node: Some("node-b".to_owned()),
            zone: Some("z".to_owned()),
            region: None,
            under_way: 2,
            is_ejected: true,
            is_unhealthy: false,
            group: 0,
            group_share_percent: 100.0,
            is_picked: true,
        }],
        transport: Some(Transport {
            kind: TransportKind::MutualTls,
            addr: "10.0.0.1:8080".parse().unwrap(),
            peer_identity: Some("spiffe://d/ns/shop/sa/pay".to_owned()),
            speaks: "http/2".to_owned(),
            notes: Vec::new(),
        }),
        policies: Some(Policies {
            pod: "shop/pay-1".to_owned(),
            decided_on: "node-b".to_owned(),
            is_decided_here: false,
            peer: Some("spiffe://d/ns/shop/sa/web".to_owned()),
            mtls_mode: "STRICT".to_owned(),
            request_authentications: vec!["shop/jwt".to_owned()],
            token: "none came".to_owned(),
            authorization: vec![PolicyLine {
                action: "ALLOW".to_owned(),
                policy: "shop/bank".to_owned(),
                is_dry_run: false,
                acts_on_port: true,
                matches: false,
                rules: vec![RuleLine {
                    matches: false,
                    why_not: vec!["from[0]: not so: namespaces is one of bank".to_owned()],
                }],
            }],
            left_out: 0,
            rate_limits: vec![RateLimitLine {
                policy: "shop/few".to_owned(),
                is_dry_run: false,
                local: Some("10 in 60s, 20 at once".to_owned()),
                service: Some("limits.shop:8081".to_owned()),
            }],
            read_as: None,
        }),
        verdict: refused(),
        ..Way::default()
    }
}

#[test]
fn an_explanation_is_a_tree_that_ends_with_the_verdict() {
    let page = serde_json::to_string(&explanation()).unwrap();
    let text = explained(&page).unwrap();
    assert_eq!(
        text,
        "\
shop/web (spiffe://d/ns/shop/sa/web) asks GET http://pay/a
node node-a, snapshot 7

DESTINATION: Service shop/pay, 10.96.0.1:80, http

ROUTES
     HTTPRoute shop/r rule 0: path /a or below; no: the path is other
  => HTTPRoute shop/r rule 1 \"named\": path /a or below
     HTTPRoute shop/r rule 2: path /a or below; holds too, but comes later
  taken: shop/r rule 1
    request header x is removed
    it may take 300 ms

BACKEND: shop/pay:80, 100.0 %
  endpoints, by least_request, 3 under way
  => 10.0.0.1:8080 shop/pay-1 (node-b z), 2 under way, group 0 with 100.0 %, EJECTED
  transport: http/2 by mutual TLS to 10.0.0.1:8080, where spiffe://d/ns/shop/sa/pay must answer
  policies of shop/pay-1
    ! decided on node-b; this is what node-a's configuration makes of it
    PeerAuthentication STRICT; they see spiffe://d/ns/shop/sa/web
    RequestAuthentication shop/jwt: token: none came
    AuthorizationPolicy ALLOW shop/bank does not match
      rule 0: no
        from[0]: not so: namespaces is one of bank
    RateLimitPolicy shop/few counts it: 10 in 60s, 20 at once; limits.shop:8081
  verdict: REFUSED with 403, flag UAEX (rbac): RBAC: access denied

VERDICT: REFUSED with 403, flag UAEX (rbac): RBAC: access denied
"
    );
}

#[test]
fn another_page_is_no_explanation() {
    assert!(explained("{}").is_err());
}
