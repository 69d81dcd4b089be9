//! Tokens that must not be believed: the table, and whatever else there is.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256};

use super::super::testing::{encoded, signed_by};
use super::*;

pub(super) struct Issuer {
    pub(super) ed: Signer,
    rsa: RsaKeyPair,
    pub(super) guard: Arc<Guard>,
}

pub(super) static ISSUES: LazyLock<Issuer> = LazyLock::new(|| {
    let ed = Signer::new("ed");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let keys = [ed.jwk(), rsa_jwk(&rsa, &json!({"kid": "rsa"}))];
    let mut rule = rule(inline(&keys));
    rule.audiences = vec!["shop".into(), "bank".into()];
    let guard = guard(vec![rule]);
    Issuer { ed, rsa, guard }
});

pub(super) fn rsa_jwk(key: &RsaKeyPair, more: &Value) -> Value {
    let public = key.public_key();
    let n = encoded(public.modulus().big_endian_without_leading_zero());
    let e = encoded(public.exponent().big_endian_without_leading_zero());
    let mut jwk = json!({"kty": "RSA", "n": n, "e": e});
    for (name, value) in more.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

pub(super) fn rsa_signed(key: &RsaKeyPair, header: &Value, payload: &Value) -> String {
    signed_by(&header.to_string(), &payload.to_string(), |signed| {
        let mut signature = vec![0; key.public_modulus_len()];
        let random = SystemRandom::new();
        key.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature)
            .unwrap();
        signature
    })
}

/// Properly signed, with any header.
fn headed(header: &str) -> String {
    ISSUES.ed.sign_texts(header, &alice().to_string())
}

/// Properly signed, with any payload.
fn saying(payload: &str) -> String {
    ISSUES.ed.sign_texts(r#"{"alg":"EdDSA","kid":"ed"}"#, payload)
}

fn changed(claims: &Value) -> String {
    saying(&claiming(claims).to_string())
}

/// A token with one of its three parts changed.
fn part(index: usize, change: impl Fn(&str) -> String) -> String {
    let token = ISSUES.ed.sign(&alice());
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[index] = change(&parts[index]);
    parts.join(".")
}

#[test]
fn a_good_token_is_believed_in_every_form_that_is_allowed() {
    let Issuer { ed, rsa, guard } = &*ISSUES;
    for (what, token) in [
        ("EdDSA", ed.sign(&alice())),
        ("without kid", headed(r#"{"alg":"EdDSA"}"#)),
        ("RFC 9864", headed(r#"{"alg":"Ed25519","kid":"ed"}"#)),
        (
            "typ and more",
            headed(r#"{"alg":"EdDSA","typ":"at+jwt","x":[{}]}"#),
        ),
        ("b64 true", headed(r#"{"alg":"EdDSA","b64":true}"#)),
        ("a list of audiences", changed(&json!({"aud": ["x", "bank"]}))),
        (
            "a date with a fraction",
            changed(&json!({"exp": 1_790_000_600.5})),
        ),
        (
            "a key of another token",
            headed(r#"{"alg":"EdDSA","jwk":{"kty":"oct","k":"AA"},"jku":"http://x"}"#),
        ),
        (
            "RS256",
            rsa_signed(rsa, &json!({"alg": "RS256", "kid": "rsa"}), &alice()),
        ),
        (
            "RS256 without kid",
            rsa_signed(rsa, &json!({"alg": "RS256"}), &alice()),
        ),
        ("without exp", {
            let mut payload = alice();
            payload.as_object_mut().unwrap().remove("exp");
            saying(&payload.to_string())
        }),
    ] {
        assert_eq!(
            brought(guard, &token).map(|claims| claims.principal().map(str::to_owned)),
            Ok(Some(format!("{ISSUER}/alice"))),
            "{what}"
        );
    }
}

#[test]
fn no_hostile_header_is_believed() {
    use Failure::{Algorithm, Critical, Header, Kid, NoAlgorithm, Signature, UnknownKey};
    for (header, why) in [
        (r#"{"alg":"none","kid":"ed"}"#, Algorithm),
        (r#"{"alg":"None"}"#, Algorithm),
        (r#"{"alg":"NONE"}"#, Algorithm),
        (r#"{"alg":""}"#, Algorithm),
        (r#"{"alg":"HS256","kid":"ed"}"#, Algorithm),
        (r#"{"alg":"HS512"}"#, Algorithm),
        (r#"{"alg":"eddsa"}"#, Algorithm),
        (r#"{"alg":"ES256K"}"#, Algorithm),
        (r#"{"alg":"RS1"}"#, Algorithm),
        (r#"{"alg":"RSA-OAEP","enc":"A128GCM"}"#, Algorithm),
        (r#"{"alg":null}"#, NoAlgorithm),
        (r#"{"alg":["EdDSA"]}"#, NoAlgorithm),
        (r#"{"kid":"ed"}"#, NoAlgorithm),
        (r"{}", NoAlgorithm),
        (r#"{"alg":"EdDSA","alg":"EdDSA"}"#, Header),
        (r#"{"alg":"EdDSA","alg":"none"}"#, Header),
        (r#"{"alg":"EdDSA","\u0061lg":"none"}"#, Header),
        (r#"["alg"]"#, Header),
        (r#""EdDSA""#, Header),
        (r#"{"alg":"EdDSA"} "x""#, Header),
        (r#"{"alg":"EdDSA""#, Header),
        (r#"{"alg":"EdDSA","kid":7}"#, Kid),
        (r#"{"alg":"EdDSA","kid":null}"#, Kid),
        (r#"{"alg":"EdDSA","kid":["ed"]}"#, Kid),
        (r#"{"alg":"EdDSA","kid":"other"}"#, UnknownKey),
        (r#"{"alg":"EdDSA","kid":""}"#, UnknownKey),
        (r#"{"alg":"EdDSA","kid":"ED"}"#, UnknownKey),
        (r#"{"alg":"EdDSA","kid":"../ed"}"#, UnknownKey),
        // Its key is RSA.
        (r#"{"alg":"EdDSA","kid":"rsa"}"#, UnknownKey),
        (r#"{"alg":"RS256","kid":"ed"}"#, UnknownKey),
        (r#"{"alg":"ES256","kid":"ed"}"#, UnknownKey),
        // Signed with the other key.
        (r#"{"alg":"RS256","kid":"rsa"}"#, Signature),
        (r#"{"alg":"PS256"}"#, Signature),
        (r#"{"alg":"EdDSA","crit":["exp"]}"#, Critical),
        (r#"{"alg":"EdDSA","crit":[]}"#, Critical),
        (r#"{"alg":"EdDSA","b64":false,"crit":["b64"]}"#, Critical),
        (r#"{"alg":"EdDSA","b64":false}"#, Critical),
        (r#"{"alg":"EdDSA","b64":"false"}"#, Critical),
    ] {
        assert_eq!(
            brought(&ISSUES.guard, &headed(header)).err(),
            Some(why),
            "{header}"
        );
    }
}

#[test]
fn no_hostile_payload_is_believed() {
    use Failure::{Audience, Claim, Expired, Issuer, NotYetValid, Payload};
    for payload in [
        "",
        "7",
        "[]",
        "null",
        "\"x\"",
        "{",
        "{}x",
        "{\"iss\":1,}",
        "\u{feff}{}",
        &format!("{{\"iss\":\"{ISSUER}\",\"iss\":\"{ISSUER}\"}}"),
        &format!("{{\"iss\":\"{ISSUER}\",\"a\":{{\"b\":1,\"b\":2}}}}"),
        &format!("{{\"iss\":\"{ISSUER}\",\"a\":{}}}", "[".repeat(5000)),
    ] {
        let failed = brought(&ISSUES.guard, &saying(payload)).err();
        // An empty part is no part.
        let why = if payload.is_empty() {
            Failure::Form
        } else {
            Payload
        };
        assert_eq!(failed, Some(why), "{payload:.60}");
    }
    for (claims, why) in [
        (json!({"iss": "https://other.example"}), Issuer),
        (json!({"iss": format!("{ISSUER}/")}), Issuer),
        (json!({"iss": ISSUER.to_uppercase()}), Issuer),
        (json!({"iss": ""}), Issuer),
        (json!({"iss": [ISSUER]}), Claim),
        (json!({"iss": null}), Claim),
        (json!({"sub": 7}), Claim),
        (json!({"jti": 7}), Claim),
        (json!({"aud": 7}), Claim),
        (json!({"aud": ["shop", 7]}), Claim),
        (json!({"aud": {"shop": true}}), Claim),
        (json!({"aud": "shops"}), Audience),
        (json!({"aud": "SHOP"}), Audience),
        (json!({"aud": ""}), Audience),
        (json!({"aud": []}), Audience),
        (json!({"aud": "shop bank"}), Audience),
        (json!({"exp": (NOW_S + 600).to_string()}), Claim),
        (json!({"exp": null}), Claim),
        (json!({"exp": true}), Claim),
        (json!({"exp": -1}), Claim),
        (json!({"exp": [NOW_S + 600]}), Claim),
        (json!({"nbf": "0"}), Claim),
        (json!({"iat": "now"}), Claim),
        (json!({"exp": 0}), Expired),
        (json!({"exp": NOW_S - 3600}), Expired),
        (json!({"nbf": NOW_S + 3600}), NotYetValid),
        (json!({"nbf": 1e300}), NotYetValid),
    ] {
        assert_eq!(
            brought(&ISSUES.guard, &changed(&claims)).err(),
            Some(why),
            "{claims}"
        );
    }
    let no_issuer = saying(r#"{"sub":"alice","aud":"shop"}"#);
    assert_eq!(brought(&ISSUES.guard, &no_issuer).err(), Some(Issuer));
    let no_audience = saying(&format!(r#"{{"iss":"{ISSUER}"}}"#));
    assert_eq!(brought(&ISSUES.guard, &no_audience).err(), Some(Audience));
}

#[test]
fn no_hostile_form_is_believed() {
    use Failure::{Form, Header, Payload, SignatureForm, TooLarge};
    let good = ISSUES.ed.sign(&alice());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("a token has three parts");
    };
    let none = encoded(br#"{"alg":"none"}"#);
    for (what, token, why) in [
        ("nothing", String::new(), Form),
        ("two parts", format!("{header}.{payload}"), Form),
        ("no signature", format!("{header}.{payload}."), Form),
        ("no header", format!(".{payload}.{signature}"), Form),
        ("no payload", format!("{header}..{signature}"), Form),
        ("dots only", "..".to_owned(), Form),
        ("four parts", format!("{good}.x"), Form),
        ("five parts, as of JWE", format!("{good}.x.y"), Form),
        ("none without a signature", format!("{none}.{payload}."), Form),
        (
            "none with one",
            format!("{none}.{payload}.{signature}"),
            Failure::Algorithm,
        ),
        ("padding", part(0, |part| format!("{part}=")), Header),
        (
            "padding of the payload",
            part(1, |part| format!("{part}==")),
            Payload,
        ),
        (
            "padding of the signature",
            part(2, |part| format!("{part}=")),
            SignatureForm,
        ),
        (
            "the other alphabet",
            part(2, |part| format!("+/{}", &part[2..])),
            SignatureForm,
        ),
        (
            "a space within",
            part(1, |part| format!("{} {}", &part[..4], &part[4..])),
            Payload,
        ),
        (
            "bits that nobody sees",
            part(2, |part| format!("{}_", &part[..part.len() - 1])),
            SignatureForm,
        ),
        (
            "a truncated header",
            part(0, |part| part[..part.len() - 4].to_owned()),
            Header,
        ),
        (
            "a huge one",
            changed(&json!({"x": "x".repeat(16 * 1024)})),
            TooLarge,
        ),
        ("two in one", format!("{good} {good}"), Form),
        ("two in one, with a comma", format!("{good},{good}"), Form),
    ] {
        assert_eq!(brought(&ISSUES.guard, &token).err(), Some(why), "{what}");
    }
}

#[test]
fn no_other_signature_is_believed() {
    use Failure::{Signature, UnknownKey};
    for (what, token, why) in [
        (
            "a truncated signature",
            part(2, |part| part[..part.len() - 2].to_owned()),
            Signature,
        ),
        (
            "a longer signature",
            part(2, |part| format!("AAAA{part}")),
            Signature,
        ),
        ("a signature of zeros", part(2, |_| encoded(&[0; 64])), Signature),
        ("another's signature", Signer::new("ed").sign(&alice()), Signature),
        ("another's key", Signer::new("mallory").sign(&alice()), UnknownKey),
        (
            "another payload",
            part(1, |_| {
                encoded(claiming(&json!({"sub": "root"})).to_string().as_bytes())
            }),
            Signature,
        ),
    ] {
        assert_eq!(brought(&ISSUES.guard, &token).err(), Some(why), "{what}");
    }
}

/// The public key is known to all: whoever takes it for a shared secret lets everybody sign.
#[test]
fn a_public_key_is_no_shared_secret() {
    let Issuer { rsa, guard, .. } = &*ISSUES;
    let public = rsa.public_key();
    let jwk = rsa_jwk(rsa, &json!({})).to_string();
    for secret in [
        public.as_ref(),
        public.modulus().big_endian_without_leading_zero(),
        jwk.as_bytes(),
    ] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        for alg in ["HS256", "RS256"] {
            let header = json!({"alg": alg, "kid": "rsa"}).to_string();
            let forged = signed_by(&header, &alice().to_string(), |signed| {
                hmac::sign(&key, signed).as_ref().to_vec()
            });
            assert!(brought(guard, &forged).is_err(), "{alg}");
        }
    }
}

#[test]
fn clocks_may_differ_by_a_minute_and_no_more() {
    for (claims, is_good) in [
        (json!({"exp": NOW_S - 59}), true),
        (json!({"exp": NOW_S - 60}), true),
        (json!({"exp": NOW_S - 61}), false),
        (json!({"nbf": NOW_S + 60}), true),
        (json!({"nbf": NOW_S + 61}), false),
    ] {
        // Twice: what was believed once is known again, and still not after its time.
        for _ in 0..2 {
            assert_eq!(
                brought(&ISSUES.guard, &changed(&claims)).is_ok(),
                is_good,
                "{claims}"
            );
        }
    }
}

#[test]
fn a_token_that_is_known_is_refused_when_its_time_has_passed() {
    let token = ISSUES.ed.sign(&claiming(&json!({"exp": NOW_S + 10})));
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    headers.insert("authorization", value);
    let at = |seconds: u64| {
        let now = now() + Duration::from_secs(seconds);
        ISSUES.guard.admit(8080, &Uri::from_static("/"), &headers, now)
    };
    assert!(at(0).is_ok());
    assert!(at(70).is_ok());
    assert_eq!(at(71).err(), Some(Failure::Expired));
}
