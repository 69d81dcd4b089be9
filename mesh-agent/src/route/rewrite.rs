//! What a rule makes of a path, and of a URL that a client is sent to.
//!
//! Place in the walk: after a rule was chosen. Must not know: requests beyond their target.

use http::uri::{PathAndQuery, Scheme};

use crate::mesh::route::{PathRewrite, Redirect};

/// The path and query after a rewrite; `prefix` is the part that the rule's match named. `None` for one that no
/// request can carry.
pub fn rewritten(target: &PathAndQuery, rewrite: &PathRewrite, prefix: Option<&str>) -> Option<PathAndQuery> {
    let path = path(target.path(), rewrite, prefix);
    let written = match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    written.parse().ok()
}

fn path(path: &str, rewrite: &PathRewrite, prefix: Option<&str>) -> String {
    match rewrite {
        PathRewrite::Full(full) => rooted(full),
        PathRewrite::Regex(pattern, substitution) => {
            let replaced = pattern.replace(path.as_bytes(), substitution.as_bytes());
            rooted(&String::from_utf8_lossy(&replaced))
        }
        PathRewrite::Beginning(replacement) => {
            // As long as the text that matched, whatever its case.
            let rest = prefix.and_then(|prefix| path.get(prefix.len()..));
            rooted(&[replacement, rest.unwrap_or_default()].concat())
        }
        PathRewrite::Prefix(replacement) => {
            let prefix = prefix.unwrap_or_default().trim_end_matches('/');
            let rest = path.strip_prefix(prefix).unwrap_or(path);
            // `/foo` replaced by `/` in `/foo/bar` is `/bar`, and in `/foo` it is `/`.
            let replacement = replacement.trim_end_matches('/');
            rooted(&[replacement, rest].concat())
        }
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// What a redirected client asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its authority, without the port.
    pub host: &'a str,
    /// The port that it dialled.
    pub port: u16,
    /// Path and query.
    pub target: &'a PathAndQuery,
}

/// The `location` of a redirect; `prefix` as in [`rewritten`]. The scheme of what the mesh routes is `http`.
pub fn location(redirect: &Redirect, asked: Asked<'_>, prefix: Option<&str>) -> Option<String> {
    let scheme = redirect.scheme.as_ref().unwrap_or(&Scheme::HTTP);
    let well_known = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => well_known,
        (None, None) => asked.port,
    };
    let port = if port == well_known {
        String::new()
    } else {
        format!(":{port}")
    };
    let host = redirect.host.as_deref().unwrap_or(asked.host);
    let target = match &redirect.path {
        Some(path) => rewritten(asked.target, path, prefix)?,
        None => asked.target.clone(),
    };
    Some(format!("{scheme}://{host}{port}{target}"))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::mesh::route::Pattern;

    #[test]
    fn a_prefix_is_replaced_as_the_api_says() {
        // The table of HTTPPathModifier in Gateway API's reference, and its edges.
        for (target, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar?q=1", "/", "/xyz", "/xyz/foo/bar?q=1"),
        ] {
            let rewrite = PathRewrite::Prefix(replacement.into());
            let found = rewritten(&target.parse().unwrap(), &rewrite, Some(prefix)).unwrap();
            assert_eq!(found, expected, "{target} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_beginning_is_replaced_to_the_letter() {
        for (target, prefix, replacement, expected) in [
            ("/foo/bar", Some("/foo"), "/xyz", "/xyz/bar"),
            ("/foobar", Some("/foo"), "/xyz", "/xyzbar"),
            ("/foo/bar", Some("/foo/"), "/", "/bar"),
            ("/foo/bar", Some("/foo"), "/", "//bar"),
            ("/FOO/bar", Some("/foo"), "/xyz", "/xyz/bar"),
            ("/foo?q=1", Some("/"), "/xyz/", "/xyz/foo?q=1"),
            ("/foo?q=1", None, "/xyz", "/xyz?q=1"),
        ] {
            let rewrite = PathRewrite::Beginning(replacement.into());
            let found = rewritten(&target.parse().unwrap(), &rewrite, prefix).unwrap();
            assert_eq!(found, expected, "{target} {prefix:?} {replacement}");
        }
    }

    #[test]
    fn a_whole_path_and_an_expression_leave_the_query() {
        let target = "/a/b?q=1".parse().unwrap();
        let full = PathRewrite::Full("/one".into());
        assert_eq!(rewritten(&target, &full, None).unwrap(), "/one?q=1");
        let regex = PathRewrite::Regex(Pattern::new("/(.*)/(.*)").unwrap(), "/$2/$1".into());
        assert_eq!(rewritten(&target, &regex, None).unwrap(), "/b/a?q=1");
        let broken = PathRewrite::Full("/a b".into());
        assert_eq!(rewritten(&target, &broken, None), None);
    }

    #[test]
    fn a_location_has_a_port_only_where_it_says_something() {
        let target: PathAndQuery = "/a/b?q=1".parse().unwrap();
        let https = Some(Scheme::HTTPS);
        let http = Some(Scheme::HTTP);
        for (scheme, host, port, dialled, expected) in [
            (None, None, None, 80, "http://web/a/b?q=1"),
            (None, None, None, 8080, "http://web:8080/a/b?q=1"),
            (None, Some("example.org"), None, 80, "http://example.org/a/b?q=1"),
            (None, None, Some(8443), 80, "http://web:8443/a/b?q=1"),
            (https.clone(), None, None, 8080, "https://web/a/b?q=1"),
            (https.clone(), None, Some(443), 80, "https://web/a/b?q=1"),
            (https, None, Some(8443), 80, "https://web:8443/a/b?q=1"),
            (http, None, None, 8080, "http://web/a/b?q=1"),
        ] {
            let redirect = Redirect {
                scheme,
                host: host.map(Into::into),
                port,
                path: None,
                status: StatusCode::FOUND,
            };
            let asked = Asked {
                host: "web",
                port: dialled,
                target: &target,
            };
            assert_eq!(location(&redirect, asked, None).unwrap(), expected);
        }
    }
}
