//! Whatever else is brought as a token: never believed, and nothing panics.

use proptest::prelude::*;

use super::hostile::ISSUES;
use super::*;

proptest! {
    #[test]
    fn no_bytes_are_believed(token in "[ -~]{0,200}|[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}") {
        prop_assert!(brought(&ISSUES.guard, &token).is_err());
    }

    #[test]
    fn no_change_of_a_good_token_is_believed(at in any::<prop::sample::Index>(), byte in 0x21_u8..0x7f, kind in 0..3) {
        let good = ISSUES.ed.sign(&alice());
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => drop(bytes.remove(at)),
        }
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(changed == good || brought(&ISSUES.guard, &changed).is_err(), "{}", changed);
    }

    #[test]
    fn no_json_makes_it_panic(header in json_text(), payload in json_text()) {
        prop_assert!(brought(&ISSUES.guard, &ISSUES.ed.sign_texts(&header, &payload)).is_err());
    }
}

fn json_text() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("alg"),
        Just("kid"),
        Just("crit"),
        Just("iss"),
        Just("aud"),
        Just("exp"),
        Just("nbf"),
        Just("sub"),
    ];
    let value = prop_oneof![
        Just("\"EdDSA\""),
        Just("null"),
        Just("[]"),
        Just("{}"),
        Just("-1"),
        Just("1e400"),
        Just("\"\\u0000\""),
    ];
    prop::collection::vec((name, value), 0..5).prop_map(|members| {
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    })
}
