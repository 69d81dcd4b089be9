//! Who may read the pages: everybody on this machine, or who has the token.
//!
//! Place in the walk: none. Must not know: which pages there are.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The bearer token (RFC 6750 §2.1) that reads the pages.
#[derive(Clone)]
pub struct AdminToken(Arc<Zeroizing<String>>);

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the admin token {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may use it.
    #[error("the admin token {} may be read by others (mode {mode:03o}); set it to 600", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is easily guessed, or cannot be sent.
    #[error("the admin token {} is not one line of {MIN_TOKEN} or more printable characters", .0.display())]
    Weak(PathBuf),
}

impl AdminToken {
    /// Reads the token of a file that only its owner may read. Blocks.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Read {
            path: path.to_owned(),
            source,
        };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(TokenError::Open { path, mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        let token = text.trim();
        if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Weak(path.to_owned()));
        }
        Ok(Self(Arc::new(Zeroizing::new(token.to_owned()))))
    }

    /// A token that no file holds.
    #[cfg(test)]
    pub(super) fn stand_in(token: &str) -> Self {
        Self(Arc::new(Zeroizing::new(token.to_owned())))
    }

    /// The header's value; never shown by its `Debug`. None only for a token that no header can hold, which
    /// [`Self::read`] refuses.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.as_str()));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn is_in(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let (scheme, token) = sent.and_then(|sent| sent.split_at_checked(7)).unwrap_or_default();
        let is_same = token.ct_eq(self.0.as_bytes());
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(is_same)
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// Why a page is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The token is not there, or another.
    Token,
    /// The name in `Host` is none of this machine: a browser was led here by a name of somebody else's (DNS rebinding).
    Host,
}

/// Whether a request with `headers` may see a page.
pub(super) fn admit(token: Option<&AdminToken>, headers: &HeaderMap) -> Result<(), Refused> {
    match token {
        // Who knows the token is no browser that was led astray.
        Some(token) if token.is_in(headers) => Ok(()),
        Some(_) => Err(Refused::Token),
        None if headers.get_all(HOST).iter().all(names_this_machine) => Ok(()),
        None => Err(Refused::Host),
    }
}

/// An address cannot be made to mean another one by a name server.
fn names_this_machine(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
    })
}

/// 128 bits in base 64 or hexadecimal.
const MIN_TOKEN: usize = 22;

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn token() -> AdminToken {
        let (_dir, path) = written(&format!("{TOKEN}\n"), 0o600);
        AdminToken::read(&path).unwrap()
    }

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn only_the_whole_token_opens_the_pages() {
        let token = token();
        for (sent, opens) in [
            (format!("Bearer {TOKEN}"), true),
            (format!("bearer {TOKEN}"), true),
            (format!("Bearer {}", &TOKEN[1..]), false),
            (format!("Bearer {TOKEN}0"), false),
            (format!("Basic  {TOKEN}"), false),
            (TOKEN.to_owned(), false),
            ("Bearer ".to_owned(), false),
            ("B".to_owned(), false),
        ] {
            let admitted = admit(Some(&token), &headers(AUTHORIZATION, &sent));
            assert_eq!(admitted.is_ok(), opens, "{sent}");
        }
        assert_eq!(admit(Some(&token), &HeaderMap::new()), Err(Refused::Token));
    }

    #[test]
    fn a_name_of_somebody_elses_shows_nothing() {
        for (host, is_own) in [
            ("127.0.0.1:15020", true),
            ("[::1]:15020", true),
            ("localhost:15020", true),
            ("LOCALHOST", true),
            ("10.0.0.7", true),
            ("evil.example:15020", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("", false),
        ] {
            assert_eq!(admit(None, &headers(HOST, host)).is_ok(), is_own, "{host}");
        }
        let mut twice = headers(HOST, "127.0.0.1");
        twice.append(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(admit(None, &twice), Err(Refused::Host));
        // HTTP/1.0: a browser always says whom it asks.
        assert_eq!(admit(None, &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn a_token_that_others_can_read_or_guess_is_refused() {
        let read = |text: &str, mode| {
            let (_dir, path) = written(text, mode);
            AdminToken::read(&path)
        };
        assert!(matches!(
            read(TOKEN, 0o644),
            Err(TokenError::Open { mode: 0o644, .. })
        ));
        for weak in ["", "secret", "0123456789 abcdef0123456789"] {
            assert!(matches!(read(weak, 0o600), Err(TokenError::Weak(_))), "{weak}");
        }
        assert!(matches!(
            AdminToken::read(Path::new("/nonexistent")),
            Err(TokenError::Read { .. })
        ));
    }

    #[test]
    fn debug_output_shows_no_token() {
        let shown = format!("{:?} {:?}", token(), token().header());
        assert!(!shown.contains(TOKEN), "{shown}");
    }
}
