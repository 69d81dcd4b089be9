//! The form in which a path is routed, judged and sent on, and the other ways in which an application may read it.
//!
//! The normal form is that of Istio's default (`BASE`): unreserved characters are decoded, a backslash is a slash, and
//! dot segments are gone. Slashes are not merged and `%2f` stays: applications exist that tell them apart. So that the
//! others are not fooled, policy is also asked about what these would see.

use std::borrow::Cow;

use crate::mesh::mesh_config::PathForm;

/// The form of a path that the mesh asks for; `None` for one that holds a NUL, which serves to cut it short.
///
/// Each form is its own: the agents of both nodes may bring a path into it.
pub(crate) fn normal(path: &str, form: PathForm) -> Option<Cow<'_, str>> {
    match form {
        PathForm::AsSent => (!path.contains("%00")).then_some(Cow::Borrowed(path)),
        PathForm::Base => base(path),
        PathForm::MergeSlashes => base(path).map(|path| {
            if path.contains("//") {
                Cow::Owned(merge(&path))
            } else {
                path
            }
        }),
        PathForm::DecodeAndMergeSlashes => {
            let decoded = decode(&base(path)?, is_slash);
            Some(Cow::Owned(merge(&base(&decoded)?)))
        }
    }
}

/// Istio's `BASE`.
fn base(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path, is_unreserved).replace('\\', "/");
    if decoded.contains("%00") || !decoded.starts_with('/') {
        return None;
    }
    Some(Cow::Owned(without_dots(&decoded)))
}

/// The ways in which an application may read a path in the form in which it is sent on, that form first.
pub(crate) fn readings(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let normal = base(path).filter(|normal| normal != path);
    let read = normal.as_deref().unwrap_or(path);
    let lenient = lenient(read).filter(|lenient| lenient != read);
    let without_parameters = read.contains(';').then(|| {
        let stripped = strip_parameters(lenient.as_deref().unwrap_or(read));
        merge(&without_dots(&stripped))
    });
    let others = lenient.into_iter().chain(without_parameters).map(Cow::Owned);
    std::iter::once(Cow::Borrowed(path)).chain(normal).chain(others)
}

/// Encoded slashes decoded and slashes merged.
fn lenient(path: &str) -> Option<String> {
    if !path.contains('%') && !path.contains("//") {
        return None;
    }
    let decoded = decode(path, is_slash).replace('\\', "/");
    Some(without_dots(&merge(&decoded)))
}

/// Decodes what `is_wanted` among the percent-encoded bytes, all of which are ASCII; also what only that makes one
/// (`%6%31` is `%61` is `a`), so that what is decoded once stays as it is.
fn decode(path: &str, is_wanted: impl Fn(u8) -> bool) -> String {
    let mut decoded = String::with_capacity(path.len());
    for character in path.chars() {
        decoded.push(character);
        while let Some(byte) = encoded_at_end(&decoded).filter(|byte| byte.is_ascii() && is_wanted(*byte)) {
            decoded.truncate(decoded.len() - ENCODED);
            decoded.push(char::from(byte));
        }
    }
    decoded
}

/// The byte whose percent-encoding ends a text.
fn encoded_at_end(text: &str) -> Option<u8> {
    let start = text.len().checked_sub(ENCODED)?;
    hex(text.get(start..)?.strip_prefix('%')?)
}

fn hex(digits: &str) -> Option<u8> {
    let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn is_slash(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
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

/// Length of `%61`.
const ENCODED: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMS: [PathForm; 4] = [
        PathForm::AsSent,
        PathForm::Base,
        PathForm::MergeSlashes,
        PathForm::DecodeAndMergeSlashes,
    ];

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
            assert_eq!(normal(path, PathForm::Base).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn slashes_are_merged_and_decoded_where_the_mesh_asks_for_it() {
        for (path, as_sent, merged, decoded) in [
            ("/a//b", "/a//b", "/a/b", "/a/b"),
            ("/a%2Fb", "/a%2Fb", "/a%2Fb", "/a/b"),
            ("/a%2f%2Fb", "/a%2f%2Fb", "/a%2f%2Fb", "/a/b"),
            ("/a%5cb", "/a%5cb", "/a%5cb", "/a/b"),
            ("/a/%2e./b//", "/a/%2e./b//", "/b/", "/b/"),
            ("/a/..%2fb", "/a/..%2fb", "/a/..%2fb", "/b"),
            ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
            ("/a%2%66b", "/a%2%66b", "/a%2fb", "/a/b"),
        ] {
            let forms = [
                PathForm::AsSent,
                PathForm::MergeSlashes,
                PathForm::DecodeAndMergeSlashes,
            ];
            for (form, expected) in forms.into_iter().zip([as_sent, merged, decoded]) {
                assert_eq!(normal(path, form).as_deref(), Some(expected), "{path} {form:?}");
            }
        }
    }

    #[test]
    fn a_path_with_a_nul_has_no_form() {
        for form in FORMS {
            assert_eq!(normal("/public%00/admin", form), None, "{form:?}");
        }
        assert_eq!(normal("/public%0%30/admin", PathForm::Base), None);
    }

    #[test]
    fn every_trick_has_a_reading_that_shows_where_it_leads() {
        for trick in [
            "/admin",
            "/%6%31dmin",
            "/%%36%31dmin",
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
            for form in FORMS {
                let sent = normal(trick, form).unwrap();
                assert!(
                    readings(&sent).any(|reading| reading == "/admin"),
                    "{trick} {form:?}: {:?}",
                    readings(&sent).collect::<Vec<_>>()
                );
            }
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(path in "(/|[a-d.;%0-9fFeE\\\\]|%2[eEfF5]|%5[cC])*") {
            let path = format!("/{path}");
            for form in FORMS {
                if let Some(once) = normal(&path, form) {
                    let twice = normal(&once, form);
                    prop_assert_eq!(twice.as_deref(), Some(once.as_ref()));
                    let climbs = once.split('/').any(|segment| matches!(segment, "." | ".."));
                    prop_assert!(form == PathForm::AsSent || !climbs);
                }
            }
        }

        #[test]
        fn no_reading_climbs(path in "(/|[a-d.;]|%2[eEfF]|%5[cC])*") {
            let path = format!("/{path}");
            if let Some(sent) = normal(&path, PathForm::Base) {
                for reading in readings(&sent) {
                    prop_assert!(!reading.split('/').any(|segment| segment == ".."), "{}", reading);
                }
            }
        }
    }
}
