//! `sessionPersistence` of a rule or of a backend's policy (GEP-1619).
//!
//! Place in the walk: part of [`super::http_rule`], [`super::grpc_rule`] and [`super::backend_traffic_policy`]. Must not know: how tokens are carried.

use std::time::Duration;

use http::HeaderName;
use http::header::{COOKIE, SET_COOKIE};
use serde_json::Value;

use super::http_rule::duration;
use super::object::unknown_fields;
use super::route_filter::header_name;
use super::route_rule::Rule;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{SessionCarrier, SessionPersistence};

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Declared {
    session_name: Option<String>,
    #[serde(default)]
    r#type: Type,
    cookie_config: Option<CookieConfig>,
}

#[derive(Debug, Default, Clone, Copy, serde::Deserialize)]
enum Type {
    #[default]
    Cookie,
    Header,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct CookieConfig {
    #[serde(default)]
    lifetime_type: LifetimeType,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
enum LifetimeType {
    Permanent,
    #[default]
    Session,
}

/// What an object says of sessions. `idleTimeout`, which Gateway API 1.6 dropped, is reported: an agent that keeps no
/// sessions does not know when one was last seen.
pub(super) fn read(
    reading: &mut Rule<'_>,
    part: Option<&Value>,
) -> Result<Option<SessionPersistence>, Rejection> {
    let Some(part) = part.filter(|part| !part.is_null()) else {
        return Ok(None);
    };
    for field in unknown_fields(part, &["sessionName", "type", "absoluteTimeout", "cookieConfig"]) {
        reading.ignore(&format!("{FIELD}.{field}"));
    }
    let cookie_config = part.get("cookieConfig").unwrap_or(&Value::Null);
    for field in unknown_fields(cookie_config, &["lifetimeType"]) {
        reading.ignore(&format!("{FIELD}.cookieConfig.{field}"));
    }
    let declared: Declared = reading
        .object
        .parse_part(part, &format!("{}.{FIELD}", reading.at))?;
    let lifetime = duration(reading, part, FIELD, "absoluteTimeout")?;
    Ok(Some(SessionPersistence {
        carrier: carrier(reading, declared, lifetime)?,
        lifetime,
    }))
}

fn carrier(
    reading: &Rule<'_>,
    declared: Declared,
    lifetime: Option<Duration>,
) -> Result<SessionCarrier, Rejection> {
    let malformed = |field: &str, reason: &str| Err(reading.malformed(&format!("{FIELD}.{field}"), reason));
    if lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
        return malformed("absoluteTimeout", "a session that is over at once is none");
    }
    let name = declared.session_name.as_deref();
    if name.is_some_and(|name| name.len() > LONGEST_NAME) {
        return malformed("sessionName", "longer than 128 characters");
    }
    let lifetime_type = declared.cookie_config.unwrap_or_default().lifetime_type;
    match declared.r#type {
        Type::Header => {
            let field = format!("{FIELD}.sessionName");
            let name = header_name(reading, &field, name.unwrap_or(DEFAULT_HEADER))?;
            if name == COOKIE || name == SET_COOKIE {
                return malformed("sessionName", "cookies are carried by the type Cookie");
            }
            Ok(SessionCarrier::Header(name))
        }
        // The name of a cookie has the characters of a header's.
        Type::Cookie if name.is_some_and(|name| HeaderName::try_from(name).is_err()) => {
            malformed("sessionName", "holds characters that no cookie's name has")
        }
        Type::Cookie if lifetime_type == LifetimeType::Permanent && lifetime.is_none() => {
            malformed("absoluteTimeout", "needed for a permanent cookie")
        }
        Type::Cookie => Ok(SessionCarrier::Cookie {
            name: name.map(Into::into),
            is_permanent: lifetime_type == LifetimeType::Permanent,
        }),
    }
}

const FIELD: &str = "sessionPersistence";
/// Of the API.
const LONGEST_NAME: usize = 128;
const DEFAULT_HEADER: &str = "mesh-session";
