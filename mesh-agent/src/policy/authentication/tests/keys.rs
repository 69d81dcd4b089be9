//! JWK sets: which keys are keys, and that each is used for what it is.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaSignatureEncoding,
};

use super::super::testing::{encoded, set, signed_by};
use super::hostile::{rsa_jwk, rsa_signed};
use super::*;

#[test]
fn every_algorithm_proves_with_a_key_of_its_own_type() {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa: [(&str, &'static RsaSignatureEncoding); 6] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    let one = guard(vec![rule(inline(&[rsa_jwk(&key, &json!({}))]))]);
    for (alg, encoding) in rsa {
        let header = json!({ "alg": alg }).to_string();
        let token = signed_by(&header, &alice().to_string(), |signed| {
            let mut signature = vec![0; key.public_modulus_len()];
            let random = SystemRandom::new();
            key.sign(encoding, &random, signed, &mut signature).unwrap();
            signature
        });
        assert!(brought(&one, &token).is_ok(), "{alg}");
    }
    let curves: [(&str, &str, &'static EcdsaSigningAlgorithm); 3] = [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    for (alg, crv, algorithm) in curves {
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let one = guard(vec![rule(inline(&[ec_jwk(crv, &key)]))]);
        let header = json!({ "alg": alg }).to_string();
        let token = signed_by(&header, &alice().to_string(), |signed| {
            key.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec()
        });
        assert!(brought(&one, &token).is_ok(), "{alg}");
    }
}

fn ec_jwk(crv: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": crv, "x": encoded(x), "y": encoded(y)})
}

#[test]
fn a_key_that_is_for_something_else_proves_nothing() {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let token = rsa_signed(&key, &json!({"alg": "RS256"}), &alice());
    // With a second key, so that there is a set at all.
    let other = Signer::new("other").jwk();
    for (what, more, is_used) in [
        ("plain", json!({}), true),
        (
            "for signatures",
            json!({"use": "sig", "key_ops": ["verify"], "alg": "RS256"}),
            true,
        ),
        ("with certificates", json!({"x5c": ["x"], "x5t": "y"}), true),
        ("for encryption", json!({"use": "enc"}), false),
        ("for signing only", json!({"key_ops": ["sign"]}), false),
        ("for nothing", json!({"key_ops": []}), false),
        ("for another algorithm", json!({"alg": "PS256"}), false),
        ("for an unknown algorithm", json!({"alg": "RS1"}), false),
        ("for another type", json!({"alg": "ES256"}), false),
        ("a use of another type", json!({"use": 7}), false),
        ("a name of another type", json!({"kid": 7}), false),
        ("of another type", json!({"kty": "EC"}), false),
        ("a shared secret", json!({"kty": "oct", "k": "AAAA"}), false),
        ("an exponent of one", json!({"e": "AQ"}), false),
        ("an even exponent", json!({"e": "Ag"}), false),
        ("no exponent", json!({"e": ""}), false),
        ("no modulus", json!({"n": "AA"}), false),
        ("padding", json!({"e": "AQAB="}), false),
    ] {
        let one = guard(vec![rule(inline(&[other.clone(), rsa_jwk(&key, &more)]))]);
        let failed = brought(&one, &token).err();
        let expected = (!is_used).then_some(Failure::UnknownKey);
        assert_eq!(failed, expected, "{what}");
    }
}

#[test]
fn what_is_no_set_of_keys_is_none() {
    let bits = |count: usize| encoded(&[&[0xff_u8][..], &vec![0xff; count / 8 - 1]].concat());
    let rsa = |count: usize| json!({"kty": "RSA", "e": "AQAB", "n": bits(count)});
    let ec = |x: &str| json!({"kty": "EC", "crv": "P-256", "x": x, "y": encoded(&[1; 32])});
    let many = |count| set(&vec![Signer::new("k").jwk(); count]);
    for (what, text, expected) in [
        ("nothing", String::new(), Err(KeySetError::Malformed)),
        ("no object", "[]".to_owned(), Err(KeySetError::Malformed)),
        (
            "no list",
            r#"{"keys":{}}"#.to_owned(),
            Err(KeySetError::Malformed),
        ),
        (
            "keys twice",
            r#"{"keys":[],"keys":[]}"#.to_owned(),
            Err(KeySetError::Malformed),
        ),
        ("no key", set(&[]), Err(KeySetError::NoUsableKey)),
        (
            "no keys of ours",
            set(&[json!({"kty": "oct", "k": "AA"}), json!(7)]),
            Err(KeySetError::NoUsableKey),
        ),
        (
            "RSA of 1024 bits",
            set(&[rsa(1024)]),
            Err(KeySetError::NoUsableKey),
        ),
        (
            "RSA of 2040 bits",
            set(&[rsa(2040)]),
            Err(KeySetError::NoUsableKey),
        ),
        ("RSA of 2048 bits", set(&[rsa(2048)]), Ok(())),
        (
            "RSA of 16384 bits",
            set(&[rsa(16384)]),
            Err(KeySetError::NoUsableKey),
        ),
        (
            "a point beside the curve",
            set(&[ec(&encoded(&[1; 32]))]),
            Err(KeySetError::NoUsableKey),
        ),
        (
            "a short coordinate",
            set(&[ec("AQ")]),
            Err(KeySetError::NoUsableKey),
        ),
        (
            "an unknown curve",
            set(&[json!({"kty": "OKP", "crv": "X25519", "x": encoded(&[1; 32])})]),
            Err(KeySetError::NoUsableKey),
        ),
        ("128 keys", many(128), Ok(())),
        ("129 keys", many(129), Err(KeySetError::TooMany)),
        (
            "too many bytes",
            " ".repeat(KeySet::MAX_BYTES) + &many(1),
            Err(KeySetError::TooLarge),
        ),
    ] {
        assert_eq!(KeySet::read(text.as_bytes()).map(drop), expected, "{what}");
    }
}

#[test]
fn without_a_kid_a_bounded_number_of_keys_is_tried() {
    let signer = Signer::new("last");
    let token = signer.sign_texts(r#"{"alg":"EdDSA"}"#, &alice().to_string());
    for (before, is_found) in [(15, true), (16, false)] {
        let mut keys: Vec<Value> = (0..before).map(|_| Signer::new("k").jwk()).collect();
        keys.push(signer.jwk());
        let one = guard(vec![rule(inline(&keys))]);
        assert_eq!(brought(&one, &token).is_ok(), is_found, "{before}");
    }
}

#[test]
fn keys_that_are_published_elsewhere_come_and_go_and_outlive_a_snapshot() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let source = KeySource::Uri("https://issuer.example/keys".into());
    let policies = [policy(vec![rule(source.clone())])];
    let web = pod("shop", "web-1");
    let first = compiled(&policies, None);
    let wanted = first.wanted_keys().next().unwrap().clone();
    assert_eq!(wanted.keys.source(), &source);
    let refused = |authentication: &Authentication, signer: &Signer| {
        brought(&authentication.of(&web), &signer.sign(&alice())).err()
    };
    assert!(!wanted.keys.take_missed());
    assert_eq!(refused(&first, &old), Some(Failure::NoKeys));
    assert!(wanted.keys.take_missed(), "who fetches is told");
    let publish = |signer: &Signer| {
        let set = set(&[signer.jwk()]);
        wanted.keys.replace(KeySet::read(set.as_bytes()).unwrap());
    };
    publish(&old);
    assert_eq!(refused(&first, &old), None);
    assert!(!wanted.keys.take_missed());
    let second = compiled(&policies, Some(&first));
    assert_eq!(refused(&second, &old), None, "a new snapshot forgets no key");
    assert_eq!(refused(&second, &new), Some(Failure::UnknownKey));
    assert!(wanted.keys.take_missed());
    publish(&new);
    assert_eq!(refused(&second, &new), None);
    assert_eq!(
        refused(&second, &old),
        Some(Failure::UnknownKey),
        "not even from memory"
    );
}
