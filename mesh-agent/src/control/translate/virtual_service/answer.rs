//! What a rule of a VirtualService makes of a URL: `rewrite` for the application, `redirect` for the client; and
//! `directResponse`.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: destinations.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::StatusCode;
use http::uri::{Authority, Scheme};
use serde::Deserialize;
use serde_json::Value;

use super::super::object::unknown_fields;
use super::super::route_rule::Rule;
use super::text::part;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{DirectResponse, PathRewrite, Redirect, Rewrite};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRewrite {
    uri: Option<String>,
    authority: Option<String>,
    uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegexRewrite {
    r#match: String,
    rewrite: String,
}

/// What matched by `prefix` is replaced, else the whole path.
pub(super) fn rewrite(rule: &Rule<'_>, written: &Value, into: &mut Rewrite) -> Result<(), Rejection> {
    let declared: WrittenRewrite = rule.object.parse_part(written, &format!("{}.rewrite", rule.at))?;
    if let Some(written) = declared.authority {
        let (host, port) = authority(rule, "rewrite.authority", &written)?;
        let whole = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        into.authority = whole.parse().ok();
    }
    into.path = match (declared.uri, declared.uri_regex_rewrite) {
        (None, None) => None,
        (Some(uri), None) => Some(PathRewrite::Beginning(path(rule, "rewrite.uri", uri)?.into())),
        (None, Some(RegexRewrite { r#match, rewrite })) => {
            let pattern = rule.pattern("rewrite.uriRegexRewrite.match", &r#match)?;
            Some(PathRewrite::Regex(pattern, groups(&rewrite).into()))
        }
        (Some(_), Some(_)) => {
            return Err(rule.malformed("rewrite.uriRegexRewrite", "give it or uri, not both"));
        }
    };
    Ok(())
}

/// RE2's `\1` as `${1}`; a dollar sign stands for itself there.
fn groups(substitution: &str) -> String {
    let mut written = String::new();
    let mut letters = substitution.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek().copied()) {
            ('$', _) => written.push_str("$$"),
            ('\\', Some(digit @ '0'..='9')) => {
                written.extend(['$', '{', digit, '}']);
                letters.next();
            }
            ('\\', Some('\\')) => {
                written.push('\\');
                letters.next();
            }
            (letter, _) => written.push(letter),
        }
    }
    written
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRedirect {
    uri: Option<String>,
    prefix_rewrite: Option<String>,
    authority: Option<String>,
    port: Option<u16>,
    derive_port: Option<String>,
    scheme: Option<String>,
    redirect_code: Option<u16>,
}

pub(super) fn redirect(rule: &Rule<'_>, written: &Value) -> Result<Redirect, Rejection> {
    let declared: WrittenRedirect = rule
        .object
        .parse_part(written, &format!("{}.redirect", rule.at))?;
    let scheme = match declared.scheme.as_deref() {
        None | Some("") => None,
        Some("http") => Some(Scheme::HTTP),
        Some("https") => Some(Scheme::HTTPS),
        Some(_) => return Err(rule.malformed("redirect.scheme", "expected http or https")),
    };
    let well_known = if scheme == Some(Scheme::HTTPS) { 443 } else { 80 };
    let (host, own_port) = match declared.authority.filter(|authority| !authority.is_empty()) {
        None => (None, None),
        Some(written) => {
            let (host, port) = authority(rule, "redirect.authority", &written)?;
            // Another authority is meant whole: the port that was dialled says nothing of it.
            (Some(host.into()), Some(port.unwrap_or(well_known)))
        }
    };
    let port = match (declared.port, declared.derive_port.as_deref()) {
        (Some(port), None) => Some(port),
        (None, None) => own_port,
        (None, Some("FROM_PROTOCOL_DEFAULT")) => Some(well_known),
        (None, Some("FROM_REQUEST_PORT")) if scheme.is_none() => None,
        _ => {
            let reason = "expected FROM_PROTOCOL_DEFAULT, or without a scheme FROM_REQUEST_PORT, and no port";
            return Err(rule.malformed("redirect.derivePort", reason));
        }
    };
    let code = declared.redirect_code.unwrap_or(301);
    let status = StatusCode::from_u16(code)
        .ok()
        .filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308))
        .ok_or_else(|| rule.malformed("redirect.redirectCode", "expected 301, 302, 303, 307 or 308"))?;
    let uri = declared.uri.filter(|uri| !uri.is_empty());
    let beginning = declared.prefix_rewrite.filter(|uri| !uri.is_empty());
    let path = match (uri, beginning) {
        (None, None) => None,
        (Some(uri), None) => Some(PathRewrite::Full(path(rule, "redirect.uri", uri)?.into())),
        (None, Some(uri)) => {
            let uri = path(rule, "redirect.prefixRewrite", uri)?;
            Some(PathRewrite::Beginning(uri.into()))
        }
        (Some(_), Some(_)) => {
            return Err(rule.malformed("redirect.prefixRewrite", "give it or uri, not both"));
        }
    };
    Ok(Redirect {
        scheme,
        host,
        port,
        path,
        status,
    })
}

/// An answer without the application.
pub(super) fn direct_response(rule: &mut Rule<'_>, written: &Value) -> Result<DirectResponse, Rejection> {
    for field in unknown_fields(written, &["status", "body"]) {
        rule.refuse(&format!("directResponse.{field}"));
    }
    let status = written.get("status").and_then(Value::as_u64);
    let status = status.filter(|code| (200..600).contains(code));
    let status = status
        .and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| rule.malformed("directResponse.status", "expected 200 to 599"))?;
    let body = part(written, "body").unwrap_or(&Value::Null);
    for field in unknown_fields(body, &["string", "bytes"]) {
        rule.refuse(&format!("directResponse.body.{field}"));
    }
    let text = part(body, "string").and_then(Value::as_str);
    let bytes = part(body, "bytes").map(|written| written.as_str().unwrap_or("?"));
    let body = match (text, bytes) {
        (text, None) => text.unwrap_or_default().as_bytes().to_vec(),
        (None, Some(written)) => decoded(written)
            .ok_or_else(|| rule.malformed("directResponse.body.bytes", "expected bytes in base64"))?,
        (Some(_), Some(_)) => return Err(rule.malformed("directResponse.body", "give string or bytes")),
    };
    Ok(DirectResponse {
        status,
        body: body.into(),
    })
}

/// Bytes as protobuf's JSON has them: either alphabet, padded or not.
fn decoded(written: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let mut alphabets = [STANDARD, URL_SAFE].into_iter();
    alphabets.find_map(|alphabet| GeneralPurpose::new(&alphabet, config).decode(written).ok())
}

/// A host with or without a port.
fn authority(rule: &Rule<'_>, at: &str, written: &str) -> Result<(String, Option<u16>), Rejection> {
    let parsed: Option<Authority> = written.parse().ok();
    let whole = parsed
        .filter(|_| !written.contains(['@', '*']))
        .and_then(|authority| {
            let port = authority.port_u16();
            // One that is none, such as 99999, parses, and is not there.
            let is_whole = port.is_some() || authority.host() == written;
            is_whole.then(|| (authority.host().to_owned(), port))
        });
    whole.ok_or_else(|| rule.malformed(at, "expected a host name, with a port or without"))
}

fn path(rule: &Rule<'_>, at: &str, path: String) -> Result<String, Rejection> {
    if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(rule.malformed(at, "a path holds printable ASCII without '?' and '#'"));
    }
    Ok(path)
}
