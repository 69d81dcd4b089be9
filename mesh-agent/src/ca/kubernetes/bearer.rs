//! When a service account's token ends by its own words: read, never believed before the API server vouched for it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    /// Seconds since the epoch (RFC 7519, 4.1.4); fractions are allowed there, and cut off here.
    exp: f64,
}

/// The claim `exp` of a JSON web token; none where it cannot be read.
pub(super) fn expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (Some(_head), Some(claims), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let since = Duration::try_from_secs_f64(claims.exp.trunc()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A token that ends so many seconds after the epoch, and says nothing else.
    pub(in super::super) fn token(name: &str, exp: u64) -> String {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp},"sub":"{name}"}}"#));
        format!("e30.{claims}.c2ln")
    }

    #[test]
    fn reads_the_end_of_a_token() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        assert_eq!(expiry(&token("a", 500_000 * 3_600)), Some(end));
    }

    #[test]
    fn a_token_that_says_nothing_readable_has_no_known_end() {
        let claims = |text: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(text));
        for wrong in [
            String::new(),
            "a.b".into(),
            "a.!!.c".into(),
            claims("{}"),
            claims("[]"),
            claims(r#"{"exp":"soon"}"#),
            claims(r#"{"exp":-1}"#),
            claims(r#"{"exp":1e300}"#),
            format!("{}.more", token("a", 1)),
        ] {
            assert_eq!(expiry(&wrong), None, "{wrong}");
        }
    }
}
