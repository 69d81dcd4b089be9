//! What each field of a rule matches.

use super::*;

#[test]
fn each_field_matches_as_istio_says() {
    for (what, condition, matches) in table() {
        let client = id("shop", "client");
        let mut headers = HeaderMap::new();
        headers.insert("x-role", HeaderValue::from_static("admin"));
        headers.append("x-many", HeaderValue::from_static("a"));
        headers.append("x-many", HeaderValue::from_static("b"));
        let (connection, request) = (connection(Some(&client)), request("GET", "/info", &headers));
        for (action, is_let_in) in [(Allow, matches), (Deny, !matches)] {
            let rule = PolicyRule {
                when: vec![condition.clone()],
                ..PolicyRule::default()
            };
            for rule in [from(condition.clone()), to(condition.clone()), rule] {
                let answer =
                    protect(&[shop("p", action, vec![rule])]).of_request(&connection, &request, None);
                assert_eq!(answer.is_ok(), is_let_in, "{what} {action:?}");
            }
        }
    }
}

fn table() -> Vec<(&'static str, Condition, bool)> {
    [of_peers(), of_addresses(), of_requests()].concat()
}

fn of_peers() -> Vec<(&'static str, Condition, bool)> {
    vec![
        ("principal", of_client(exact(CLIENT)), true),
        (
            "another principal",
            of_client(exact("cluster.local/ns/shop/sa/other")),
            false,
        ),
        (
            "principal by prefix",
            of_client(prefix("cluster.local/ns/shop/")),
            true,
        ),
        ("principal by suffix", of_client(suffix("/sa/client")), true),
        ("any principal", of_client(TextMatch::Present), true),
        (
            "not this principal",
            is_not(TextAttribute::Principal, exact(CLIENT)),
            false,
        ),
        ("namespace", is(TextAttribute::Namespace, exact("shop")), true),
        (
            "namespace by prefix",
            is(TextAttribute::Namespace, prefix("sh")),
            true,
        ),
        (
            "another namespace",
            is(TextAttribute::Namespace, exact("bank")),
            false,
        ),
        (
            "service account",
            is(TextAttribute::ServiceAccount, exact("shop/client")),
            true,
        ),
        (
            "that account of another namespace",
            is(TextAttribute::ServiceAccount, exact("bank/client")),
            false,
        ),
        (
            "trust domain",
            is(TextAttribute::TrustDomain, exact("cluster.local")),
            true,
        ),
    ]
}

fn of_addresses() -> Vec<(&'static str, Condition, bool)> {
    vec![
        (
            "source block",
            lies(AddressAttribute::Source, "10.0.1.0/24"),
            true,
        ),
        (
            "another block",
            lies(AddressAttribute::Source, "10.0.3.0/24"),
            false,
        ),
        (
            "remote block",
            lies(AddressAttribute::Remote, "192.0.2.0/24"),
            true,
        ),
        (
            "remote is not the peer",
            lies(AddressAttribute::Remote, "10.0.1.0/24"),
            false,
        ),
        (
            "destination",
            lies(AddressAttribute::Destination, "10.0.2.9/32"),
            true,
        ),
    ]
}

fn of_requests() -> Vec<(&'static str, Condition, bool)> {
    vec![
        ("host", is(TextAttribute::Host, exact("web.shop")), true),
        (
            "host with port",
            is(TextAttribute::Host, exact("web.shop:8080")),
            true,
        ),
        (
            "host with another port",
            is(TextAttribute::Host, exact("web.shop:81")),
            false,
        ),
        ("host by suffix", is(TextAttribute::Host, suffix(".shop")), true),
        (
            "not this host",
            is_not(TextAttribute::Host, exact("web.shop")),
            false,
        ),
        ("method", is(TextAttribute::Method, exact("GET")), true),
        ("method by case", is(TextAttribute::Method, exact("get")), false),
        ("path", path("/info"), true),
        ("path by prefix", is(TextAttribute::Path, prefix("/in")), true),
        ("longer path", path("/info/"), false),
        (
            "header",
            is(TextAttribute::Header("x-role".into()), exact("admin")),
            true,
        ),
        (
            "lines of a header are joined",
            is(TextAttribute::Header("x-many".into()), exact("a,b")),
            true,
        ),
        (
            "absent header",
            is(TextAttribute::Header("x-none".into()), TextMatch::Present),
            false,
        ),
        (
            "not an absent header",
            is_not(TextAttribute::Header("x-none".into()), TextMatch::Present),
            true,
        ),
        (
            "port",
            Condition::Port(Values {
                any: vec![80, 8080],
                none: vec![],
            }),
            true,
        ),
        (
            "not this port",
            Condition::Port(Values {
                any: vec![],
                none: vec![8080],
            }),
            false,
        ),
    ]
}

fn prefix(text: &str) -> TextMatch {
    TextMatch::Prefix(text.into())
}

fn suffix(text: &str) -> TextMatch {
    TextMatch::Suffix(text.into())
}
