//! The form in which a path is routed, judged and sent on, and the other ways in which an application may read it.
//!
//! The normal form is that of Istio's default (`BASE`): unreserved characters are decoded, a backslash is a slash, and
//! dot segments are gone. Slashes are not merged and `%2f` stays: applications exist that tell them apart. So that the
//! others are not fooled, policy is also asked about what these would see.

use std::borrow::Cow;

/// The normal form of a path; `None` for one that holds a NUL, which serves to cut it short.
pub(crate) fn normal(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path, is_unreserved).replace('\\', "/");
    if decoded.contains("%00") || !decoded.starts_with('/') {
        return None;
    }
    Some(Cow::Owned(without_dots(&decoded)))
}

/// The ways in which an application may read a path in its normal form, that form first.
pub(crate) fn readings(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let lenient = lenient(path).filter(|lenient| lenient != path);
    let without_parameters = path.contains(';').then(|| {
        let stripped = strip_parameters(lenient.as_deref().unwrap_or(path));
        merge(&without_dots(&stripped))
    });
    let others = lenient.into_iter().chain(without_parameters).map(Cow::Owned);
    std::iter::once(Cow::Borrowed(path)).chain(others)
}

/// Encoded slashes decoded and slashes merged: Istio's `DECODE_AND_MERGE_SLASHES`.
fn lenient(path: &str) -> Option<String> {
    if !path.contains('%') && !path.contains("//") {
        return None;
    }
    let decoded = decode(path, |byte| matches!(byte, b'/' | b'\\')).replace('\\', "/");
    Some(without_dots(&merge(&decoded)))
}

/// Decodes what `is_wanted` among the percent-encoded bytes, all of which are ASCII.
fn decode(path: &str, is_wanted: impl Fn(u8) -> bool) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let byte = after.get(..2).and_then(hex);
        if let Some(byte) = byte.filter(|byte| byte.is_ascii() && is_wanted(*byte)) {
            decoded.push(char::from(byte));
            rest = after.get(2..).unwrap_or_default();
        } else {
            decoded.push('%');
            rest = after;
        }
    }
    decoded.push_str(rest);
    decoded
}

fn hex(digits: &str) -> Option<u8> {
    let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

fn merge(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if !(character == '/' && merged.ends_with('/')) {
            merged.push(character);
        }
    }
    merged
}

/// What a servlet container leaves of a path: segments without what follows their semicolon.
fn strip_parameters(path: &str) -> String {
    let plain = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default());
    plain.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_sent_on_in_one_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("/%61dmin", "/admin"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%2e%2e/b", "/b"),
            ("/a\\..\\b", "/b"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("/a%2fb", "/a%2fb"),
            ("/a%252fb", "/a%252fb"),
            ("/%7Euser", "/~user"),
            ("/a%zz", "/a%zz"),
            ("/a%", "/a%"),
            ("/a%2", "/a%2"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("/.hidden", "/.hidden"),
            ("/...", "/..."),
            ("*", "*"),
        ] {
            assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_path_with_a_nul_has_no_form() {
        assert_eq!(normal("/public%00/admin"), None);
    }

    #[test]
    fn every_trick_has_a_reading_that_shows_where_it_leads() {
        for trick in [
            "/admin",
            "//admin",
            "///admin",
            "/public/../admin",
            "/public/%2e%2e/admin",
            "/public/..%2fadmin",
            "/public/..%2Fadmin",
            "/public/..%5cadmin",
            "/public\\..\\admin",
            "/public/..\\admin",
            "/%2fadmin",
            "/%61dmin",
            "/%61%64%6d%69%6e",
            "/./admin",
            "/public/..;/admin",
            "/public/..;x=1/admin",
            "/admin;x=1",
            "/;/admin",
            "/public/x/..%2f..%2fadmin",
        ] {
            let sent = normal(trick).unwrap();
            assert!(
                readings(&sent).any(|reading| reading == "/admin"),
                "{trick}: {:?}",
                readings(&sent).collect::<Vec<_>>()
            );
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(path in "(/|[a-d.;%25fFeE\\\\]|%2[eEfF5]|%5[cC])*") {
            let path = format!("/{path}");
            if let Some(once) = normal(&path) {
                let twice = normal(&once);
                prop_assert_eq!(twice.as_deref(), Some(once.as_ref()));
                prop_assert!(!once.split('/').any(|segment| matches!(segment, "." | "..")));
            }
        }

        #[test]
        fn no_reading_climbs(path in "(/|[a-d.;]|%2[eEfF]|%5[cC])*") {
            let path = format!("/{path}");
            if let Some(sent) = normal(&path) {
                for reading in readings(&sent) {
                    prop_assert!(!reading.split('/').any(|segment| segment == ".."), "{}", reading);
                }
            }
        }
    }
}
