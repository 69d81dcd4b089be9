//! Finds tokens in a request.
//!
//! Place in the walk: the first step of an authentication. Must not know: what a token is.
//!
//! Each occurrence is found, also where a field or parameter stands twice: nobody knows which one the application takes.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Uri};

use crate::mesh::policy::request_authentication::TokenLocation;

/// What stands at `location`, token or not; texts that are no UTF-8 hold a replacement character and so are no token.
pub(super) fn find<'r>(location: &TokenLocation, uri: &'r Uri, headers: &'r HeaderMap) -> Vec<Cow<'r, str>> {
    match location {
        TokenLocation::Bearer => lines(headers, AUTHORIZATION.as_str())
            .filter_map(|line| bearer(&line))
            .collect(),
        TokenLocation::Header { name, prefix } => lines(headers, name.as_str())
            .filter_map(|line| after(&line, prefix))
            .collect(),
        TokenLocation::Parameter(name) => parameters(uri.query().unwrap_or_default())
            .filter(|parameter| parameter.name == name.as_ref())
            .map(|parameter| parameter.value)
            .collect(),
        TokenLocation::Cookie(name) => lines(headers, COOKIE.as_str())
            .flat_map(|line| cookies_of(&line))
            .filter(|(own, _)| own == name.as_ref())
            .map(|(_, value)| Cow::Owned(value))
            .collect(),
    }
}

/// One parameter of a query.
#[derive(Debug)]
pub(crate) struct Parameter<'q> {
    /// As it stands in the query, name and value.
    pub(crate) raw: &'q str,
    /// Its name as an application reads it.
    pub(crate) name: Cow<'q, str>,
    value: Cow<'q, str>,
}

/// The parameters of a query, decoded.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = Parameter<'_>> {
    query.split('&').map(|raw| {
        let (name, value) = raw.split_once('=').unwrap_or((raw, ""));
        Parameter {
            raw,
            name: plain(name),
            value: plain(value),
        }
    })
}

/// The name of a cookie, of `NAME=VALUE`.
pub(crate) fn cookie_name(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default().trim()
}

fn lines<'r>(headers: &'r HeaderMap, name: &str) -> impl Iterator<Item = Cow<'r, str>> {
    let values = headers.get_all(name).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// The scheme's case does not matter (RFC 9110 section 11.1): an application may take `bearer`, so it is looked at.
fn bearer<'r>(line: &str) -> Option<Cow<'r, str>> {
    let trimmed = line.trim_start();
    let (scheme, token) = trimmed.split_once([' ', '\t']).unwrap_or((trimmed, ""));
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Cow::Owned(token.trim().to_owned()))
}

fn after<'r>(line: &str, prefix: &str) -> Option<Cow<'r, str>> {
    let token = line.trim_start().strip_prefix(prefix)?;
    Some(Cow::Owned(token.trim().to_owned()))
}

fn cookies_of(line: &str) -> Vec<(String, String)> {
    let pairs = line.split(';').filter_map(|pair| pair.split_once('='));
    let quoted = |value: &str| {
        let value = value.trim();
        let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.unwrap_or(value).to_owned()
    };
    pairs
        .map(|(name, value)| (name.trim().to_owned(), quoted(value)))
        .collect()
}

/// Percent-encoding and `+` undone; bytes that are no UTF-8 are replaced.
fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let pair = after.get(..2).filter(|_| *first == b'%');
        let hex = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        let is_hex = |hex: &&str| hex.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(byte) = hex
            .filter(is_hex)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            bytes.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(if *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn found(location: &TokenLocation, uri: &str, headers: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let uri = uri.parse().unwrap();
        find(location, &uri, &map)
            .into_iter()
            .map(Cow::into_owned)
            .collect()
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_and_spaces_of_its_scheme() {
        for (line, token) in [
            ("Bearer t", Some("t")),
            ("bearer t", Some("t")),
            ("BEARER   t ", Some("t")),
            ("Bearer\tt", Some("t")),
            ("Bearer", Some("")),
            ("Bearer a b", Some("a b")),
            ("Basic t", None),
            ("Bearert", None),
        ] {
            let expected: Vec<_> = token.into_iter().collect();
            assert_eq!(
                found(&TokenLocation::Bearer, "/", &[("authorization", line)]),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn every_line_parameter_and_cookie_of_a_name_is_found() {
        let header = TokenLocation::Header {
            name: HeaderName::from_static("x-token"),
            prefix: "jwt ".into(),
        };
        let lines = [("x-token", "jwt a"), ("x-token", "b"), ("x-token", "jwt c")];
        assert_eq!(found(&header, "/", &lines), ["a", "c"]);
        let parameter = TokenLocation::Parameter("access_token".into());
        let uri = "/?access_token=a&b=c&access%5Ftoken=d%2e&access_token";
        assert_eq!(found(&parameter, uri, &[]), ["a", "d.", ""]);
        let cookie = TokenLocation::Cookie("id".into());
        let lines = [("cookie", "a=b; id=c; xid=d"), ("cookie", " id = \"e\"")];
        assert_eq!(found(&cookie, "/", &lines), ["c", "e"]);
    }
}
