//! What the tokens of a request prove, and what they do not.

mod fuzz;
mod hostile;
mod keys;
mod requests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::{Value, json};

use super::testing::{ISSUER, Signer, inline, policy, rule};
use super::*;
use crate::mesh::policy::request_authentication::JwtRule;
use crate::mesh::workload::fixture::pod;

/// A moment in 2026; tests that are about dates count from here.
const NOW_S: u64 = 1_790_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn compiled(policies: &[RequestAuthentication], previous: Option<&Authentication>) -> Authentication {
    let web = pod("shop", "web-1");
    let (compiled, rejections) =
        Authentication::compile(policies, "mesh-system", [&web].into_iter(), |_| None, previous);
    assert_eq!(rejections, []);
    compiled
}

fn guard(rules: Vec<JwtRule>) -> Arc<Guard> {
    compiled(&[policy(rules)], None).of(&pod("shop", "web-1"))
}

/// What becomes of a request with these fields.
fn asked(guard: &Guard, uri: &str, headers: &[(&'static str, &str)]) -> Result<Admitted, Failure> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let uri: Uri = uri.parse().unwrap();
    guard.admit(8080, &uri, &map, now())
}

/// What becomes of a request with this token.
fn brought(guard: &Guard, token: &str) -> Result<Claims, Failure> {
    let admitted = asked(guard, "/", &[("authorization", &format!("Bearer {token}"))])?;
    Ok(admitted.claims.unwrap())
}

fn alice() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW_S + 600})
}

/// `alice` with other claims.
fn claiming(changed: &Value) -> Value {
    let mut payload = alice();
    for (name, value) in changed.as_object().unwrap() {
        payload[name] = value.clone();
    }
    payload
}
