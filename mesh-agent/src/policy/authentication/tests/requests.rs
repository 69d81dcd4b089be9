//! Requests: where tokens come, what the application is shown, and which rules count.

use super::*;
use crate::mesh::policy::request_authentication::ClaimHeader;

fn claim(header: &'static str, path: &[&str]) -> ClaimHeader {
    ClaimHeader {
        header: HeaderName::from_static(header),
        claim: path.iter().map(|name| Arc::from(*name)).collect(),
    }
}

#[test]
fn without_a_token_a_request_passes_and_proves_nothing() {
    let one = guard(vec![rule(inline(&[Signer::new("k").jwk()]))]);
    for headers in [
        &[][..],
        &[("authorization", "Basic YTpi")],
        &[("cookie", "access_token=x")],
    ] {
        assert!(
            asked(&one, "/?token=x", headers).unwrap().claims.is_none(),
            "{headers:?}"
        );
    }
}

/// What a place is called, the target, and the fields.
type Place = (&'static str, String, Vec<(&'static str, String)>);

#[test]
fn a_token_is_looked_for_where_a_rule_says_and_nowhere_else() {
    let signer = Signer::new("k");
    let token = signer.sign(&alice());
    let header = || TokenLocation::Header {
        name: HeaderName::from_static("x-token"),
        prefix: "jwt-".into(),
    };
    let cookie = || TokenLocation::Cookie("id".into());
    let parameter = || TokenLocation::Parameter("t".into());
    let places: [Place; 5] = [
        (
            "bearer",
            "/".to_owned(),
            vec![("authorization", format!("bearer {token}"))],
        ),
        (
            "header",
            "/".to_owned(),
            vec![("x-token", format!("jwt-{token}"))],
        ),
        (
            "cookie",
            "/".to_owned(),
            vec![("cookie", format!("a=b; id={token}"))],
        ),
        ("parameter", format!("/?a=b&t={token}"), vec![]),
        ("usual parameter", format!("/?access_token={token}"), vec![]),
    ];
    let usual = rule(inline(&[signer.jwk()])).locations;
    for (locations, found) in [
        (usual, &["bearer", "usual parameter"][..]),
        (vec![header()], &["header"]),
        (vec![cookie()], &["cookie"]),
        (vec![parameter(), cookie()], &["cookie", "parameter"]),
    ] {
        let mut one = rule(inline(&[signer.jwk()]));
        one.locations = locations;
        let one = guard(vec![one]);
        for (place, uri, headers) in &places {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let claims = asked(&one, uri, &headers).unwrap().claims;
            assert_eq!(claims.is_some(), found.contains(place), "{place} {found:?}");
        }
    }
}

#[test]
fn one_bad_token_among_good_ones_refuses() {
    let signer = Signer::new("k");
    let good = format!("Bearer {}", signer.sign(&alice()));
    let one = guard(vec![rule(inline(&[signer.jwk()]))]);
    assert!(asked(&one, "/", &[("authorization", &good), ("authorization", &good)]).is_ok());
    for (uri, second) in [
        ("/", "Bearer x.y.z"),
        ("/?access_token=x.y.z", "Basic x"),
        ("/?access_token", "Basic x"),
    ] {
        let refused = asked(&one, uri, &[("authorization", &good), ("authorization", second)]);
        assert!(refused.is_err(), "{uri} {second}");
    }
    let nine: Vec<_> = (0..9).map(|_| ("authorization", good.as_str())).collect();
    assert_eq!(asked(&one, "/", &nine).err(), Some(Failure::TooMany));
}

#[test]
fn the_application_is_shown_what_the_rule_says() {
    let signer = Signer::new("k");
    let payload = claiming(&json!({
        "n": 7, "yes": true, "list": ["a"], "float": 1.5, "deep": {"er": {"still": "here"}}, "bad": "a\nb",
    }));
    let token = signer.sign(&payload);
    let mut one = rule(inline(&[signer.jwk()]));
    one.payload_header = Some(HeaderName::from_static("x-payload"));
    one.claim_headers = vec![
        claim("x-sub", &["sub"]),
        claim("x-n", &["n"]),
        claim("x-yes", &["yes"]),
        claim("x-deep", &["deep", "er", "still"]),
        claim("x-list", &["list"]),
        claim("x-float", &["float"]),
        claim("x-object", &["deep"]),
        claim("x-bad", &["bad"]),
        claim("x-none", &["none", "sub"]),
    ];
    let one = guard(vec![one]);
    let admitted = asked(&one, "/", &[("authorization", &format!("Bearer {token}"))]).unwrap();
    let set: Vec<_> = admitted
        .set
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let sent = token.split('.').nth(1).unwrap();
    assert_eq!(
        set,
        [
            ("x-payload", sent),
            ("x-sub", "alice"),
            ("x-n", "7"),
            ("x-yes", "true"),
            ("x-deep", "here")
        ]
    );
    assert_eq!(admitted.stripped, [TokenLocation::Bearer]);
    assert_eq!(admitted.cleared.len(), 10, "each header is the agent's alone");
    let nobody = asked(&one, "/", &[]).unwrap();
    assert_eq!(
        (nobody.set.len(), nobody.cleared.len()),
        (0, 10),
        "also without a token"
    );
}

#[test]
fn a_token_is_forwarded_only_where_the_rule_says_so() {
    let signer = Signer::new("k");
    let mut one = rule(inline(&[signer.jwk()]));
    one.forwards_token = true;
    let token = format!("Bearer {}", signer.sign(&alice()));
    let admitted = asked(&guard(vec![one]), "/", &[("authorization", &token)]).unwrap();
    assert_eq!(admitted.stripped, []);
}

#[test]
fn each_issuer_has_its_own_keys() {
    let (a, b) = (Signer::new("k"), Signer::new("k"));
    let mut of_b = rule(inline(&[b.jwk()]));
    of_b.issuer = "b".into();
    let one = guard(vec![rule(inline(&[a.jwk()])), of_b]);
    let as_b = claiming(&json!({"iss": "b"}));
    assert!(brought(&one, &a.sign(&alice())).is_ok());
    assert!(brought(&one, &b.sign(&as_b)).is_ok());
    assert_eq!(brought(&one, &a.sign(&as_b)).err(), Some(Failure::Signature));
    assert_eq!(brought(&one, &b.sign(&alice())).err(), Some(Failure::Signature));
}

#[test]
fn of_two_rules_of_one_issuer_one_is_enough() {
    let signer = Signer::new("k");
    let with = |audience: &str| JwtRule {
        audiences: vec![audience.into()],
        ..rule(inline(&[signer.jwk()]))
    };
    let two = guard(vec![with("bank"), with("shop")]);
    assert!(brought(&two, &signer.sign(&alice())).is_ok());
}

#[test]
fn a_policy_that_cannot_be_read_refuses_every_request() {
    let broken = RequestAuthentication {
        is_whole: false,
        ..policy(vec![])
    };
    let one = compiled(&[broken], None).of(&pod("shop", "web-1"));
    assert_eq!(asked(&one, "/", &[]).err(), Some(Failure::Policy));
    let keyless = guard(vec![rule(KeySource::Unreadable)]);
    assert!(
        asked(&keyless, "/", &[]).is_ok(),
        "without keys, only tokens are refused"
    );
    let token = Signer::new("k").sign(&alice());
    assert_eq!(brought(&keyless, &token).err(), Some(Failure::NoKeys));
}

#[test]
fn policies_add_up_by_namespace_and_mesh_and_others_do_not_count() {
    let named = |namespace: &str, issuer: &str, signer: &Signer| RequestAuthentication {
        namespace: namespace.into(),
        rules: vec![JwtRule {
            issuer: issuer.into(),
            ..rule(inline(&[signer.jwk()]))
        }],
        ..policy(vec![])
    };
    let signers = [Signer::new("k"), Signer::new("k"), Signer::new("k")];
    let [own, mesh, other] = &signers;
    let policies = [
        named("shop", "own", own),
        named("mesh-system", "mesh", mesh),
        named("bank", "other", other),
    ];
    let one = compiled(&policies, None).of(&pod("shop", "web-1"));
    for (issuer, signer, is_known) in [("own", own, true), ("mesh", mesh, true), ("other", other, false)] {
        let token = signer.sign(&claiming(&json!({ "iss": issuer })));
        assert_eq!(brought(&one, &token).is_ok(), is_known, "{issuer}");
    }
    let stranger = compiled(&policies, None).of(&pod("nowhere", "x"));
    let token = mesh.sign(&claiming(&json!({"iss": "mesh"})));
    assert!(
        brought(&stranger, &token).is_ok(),
        "a pod that is not this node's is guarded too"
    );
}

#[test]
fn claims_are_found_by_path_and_word() {
    let signer = Signer::new("k");
    let mut one = rule(inline(&[signer.jwk()]));
    one.spaced = vec!["rights".into()];
    let payload = claiming(&json!({
        "scope": "read write", "rights": "a b", "name": "a b", "groups": ["x", "y z", 7], "n": 7,
        "deep": {"er": ["z"], "scope": "p q"}, "azp": "app", "a.b": "dotted",
    }));
    let claims = brought(&guard(vec![one]), &signer.sign(&payload)).unwrap();
    let has = |path: &[&str], text: &str| {
        let path: Vec<Arc<str>> = path.iter().map(|name| Arc::from(*name)).collect();
        claims.any_text(&path, |own| own == text)
    };
    for (path, text, expected) in [
        (&["scope"][..], "read", true),
        (&["scope"], "read write", false),
        (&["rights"], "b", true),
        (&["name"], "a b", true),
        (&["name"], "a", false),
        (&["groups"], "y z", true),
        (&["groups"], "z", false),
        (&["groups"], "7", false),
        (&["n"], "7", false),
        (&["deep", "er"], "z", true),
        (&["deep", "scope"], "p", false),
        (&["deep", "scope"], "p q", true),
        (&["deep"], "z", false),
        (&["a.b"], "dotted", true),
        (&["a", "b"], "dotted", false),
        (&["groups", "0"], "x", false),
        (&[], "x", false),
    ] {
        assert_eq!(has(path, text), expected, "{path:?} {text}");
    }
    assert_eq!(claims.presenter(), Some("app"));
    assert_eq!(claims.audiences(), ["shop"]);
}

#[test]
fn a_principal_needs_both_issuer_and_subject() {
    let signer = Signer::new("k");
    let one = guard(vec![rule(inline(&[signer.jwk()]))]);
    let mut payload = alice();
    payload["sub"] = json!("");
    assert_eq!(brought(&one, &signer.sign(&payload)).unwrap().principal(), None);
    payload.as_object_mut().unwrap().remove("sub");
    assert_eq!(brought(&one, &signer.sign(&payload)).unwrap().principal(), None);
}
