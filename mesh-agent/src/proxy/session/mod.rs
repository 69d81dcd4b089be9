//! Sessions of clients (GEP-1619): which endpoint a request asks to be kept at, and what its response says so that the
//! next one can ask.
//!
//! Place in the walk: after a rule has matched, before a backend is drawn; once more when an endpoint was picked. Must not
//! know: how an endpoint is picked or reached.

mod token;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use self::token::Token;
use crate::mesh::workload::Workload;
use crate::proxy::affinity::cookie_values;
use crate::route::{Backend, Carrier, Decided, Session};
use crate::snapshot::{Snapshot, Upstream};

/// Where a session is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) backend: Arc<Backend>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoint: SocketAddr,
}

/// How the client of a request is kept at an endpoint of the backend that was chosen.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    sessions: Arc<Session>,
    /// What tokens call the backend.
    backend: u64,
    /// For which paths a cookie is; `None` means all.
    path: Option<Arc<str>>,
    /// Where it is kept already.
    kept: Option<SocketAddr>,
}

impl Keeping {
    /// As the rule says that led to `backend`.
    pub(super) fn of_rule(decided: &Decided, backend: &Backend, upstream: &Upstream) -> Option<Self> {
        let Some(sessions) = &decided.rule.session else {
            return Self::of_service(upstream);
        };
        Some(Self {
            sessions: Arc::clone(sessions),
            backend: sessions.name_of(&backend.service, backend.port, backend.subset.as_ref())?,
            path: decided.cookie_path.clone(),
            kept: None,
        })
    }

    /// As the Service's own policy says.
    fn of_service(upstream: &Upstream) -> Option<Self> {
        let sessions = upstream.sessions()?;
        let backend = sessions.name_of(&upstream.service, upstream.port, upstream.subset.as_ref())?;
        Some(Self {
            sessions: Arc::clone(sessions),
            backend,
            path: None,
            kept: None,
        })
    }

    /// Of a request that reached the Service without a rule.
    pub(super) fn of_dialled(
        upstream: &Upstream,
        seen: (&Snapshot, &Workload),
        request: &HeaderMap,
    ) -> Option<Self> {
        let keeping = Self::of_service(upstream)?;
        let kept = kept(&keeping.sessions, seen, request);
        Some(Self {
            kept: kept.map(|kept| kept.endpoint),
            ..keeping
        })
    }

    /// With a session of the client that is kept there.
    pub(super) fn at(self, endpoint: SocketAddr) -> Self {
        Self {
            kept: Some(endpoint),
            ..self
        }
    }

    /// Whether the Service says so, rather than a rule.
    pub(super) fn is_of(&self, upstream: &Upstream) -> bool {
        let own = upstream.sessions();
        own.is_some_and(|own| Arc::ptr_eq(own, &self.sessions))
    }

    /// The endpoint at which the client is kept, if it has a session.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.kept
    }

    /// The header of a response from `endpoint` that begins a session there, unless the client is in that one already.
    pub(super) fn begin(
        &self,
        upstream: &Upstream,
        endpoint: SocketAddr,
    ) -> Option<(HeaderName, HeaderValue)> {
        if self.kept == Some(endpoint) {
            return None;
        }
        let token = Token {
            backend: self.backend,
            incarnation: upstream.incarnation(endpoint)?,
            endpoint,
            expires: end(self.sessions.lifetime, now()),
        };
        header(&self.sessions, &token, self.path.as_deref())
    }
}

/// Where a request goes that a rule has matched and whose client is kept: as the rule says, else as the Services of its
/// backends say. `None` without such a session: a new one begins.
pub(super) fn kept_by(decided: &Decided, seen: (&Snapshot, &Workload), request: &HeaderMap) -> Option<Kept> {
    if let Some(sessions) = &decided.rule.session {
        return kept(sessions, seen, request);
    }
    let (snapshot, client) = seen;
    decided.rule.backends().existing().find_map(|backend| {
        let kept = kept(snapshot.backend(client, backend)?.sessions()?, seen, request)?;
        Some(Kept {
            // With what the rule changes on the way there.
            backend: Arc::clone(backend),
            ..kept
        })
    })
}

/// Where a request of one of the `sessions` goes: to a backend of theirs, whatever its weight, and an endpoint
/// of it that may be used now. `None` without such a session: a new one begins.
fn kept(sessions: &Session, (snapshot, client): (&Snapshot, &Workload), request: &HeaderMap) -> Option<Kept> {
    let now = now();
    tokens(&sessions.carrier, request)
        .filter(|token| is_alive(token, sessions.lifetime, now))
        .find_map(|token| {
            let backend = sessions.backend(token.backend)?;
            let upstream = snapshot.backend(client, backend)?;
            upstream.keeps(token.endpoint, token.incarnation).then(|| Kept {
                backend: Arc::clone(backend),
                upstream: Arc::clone(upstream),
                endpoint: token.endpoint,
            })
        })
}

/// When a session of such a lifetime that begins `now` is over, if ever; both in seconds since the epoch.
fn end(lifetime: Option<Duration>, now: u64) -> Option<u64> {
    Some(now.saturating_add(in_seconds(lifetime?)))
}

/// In seconds since the epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 ends no session.
    since.map_or(0, |since| since.as_secs())
}

/// The header of a response that gives the client its token; `path` is where a rule's match holds.
fn header(sessions: &Session, token: &Token, path: Option<&str>) -> Option<(HeaderName, HeaderValue)> {
    let (name, text) = match &sessions.carrier {
        Carrier::Header(name) => (name.clone(), token.encode()),
        Carrier::Cookie { name, is_permanent } => {
            let max_age = sessions.lifetime.filter(|_| *is_permanent);
            (SET_COOKIE, set_cookie(name, token, path, max_age))
        }
    };
    Some((name, HeaderValue::try_from(text).ok()?))
}

/// A cookie of several paths is sent several times, and other rules may use its name.
fn tokens<'h>(carrier: &'h Carrier, request: &'h HeaderMap) -> impl Iterator<Item = Token> {
    let (cookies, headers) = match carrier {
        Carrier::Cookie { name, .. } => (Some(cookie_values(request, name)), None),
        Carrier::Header(name) => (None, Some(request.get_all(name).iter())),
    };
    let cookies = cookies.into_iter().flatten().map(str::as_bytes);
    let headers = headers.into_iter().flatten().map(HeaderValue::as_bytes);
    cookies.chain(headers).filter_map(Token::decode)
}

/// A session that would last longer than a new one was not begun by this rule as it is now.
fn is_alive(token: &Token, lifetime: Option<Duration>, now: u64) -> bool {
    match (token.expires, end(lifetime, now)) {
        (Some(expires), Some(end)) => expires > now && expires <= end,
        (Some(expires), None) => expires > now,
        (None, Some(_)) => false,
        (None, None) => true,
    }
}

/// GEP-1619 asks for `Secure` too, and leaves it to meshes, whose clients speak HTTP without TLS.
fn set_cookie(name: &str, token: &Token, path: Option<&str>, max_age: Option<Duration>) -> String {
    let mut text = format!("{name}={}; Path={}", token.encode(), path.unwrap_or("/"));
    if let Some(age) = max_age {
        // Writing to a String cannot fail.
        let _written = write!(text, "; Max-Age={}", in_seconds(age));
    }
    text.push_str("; HttpOnly; SameSite=Strict");
    text
}

/// Rounded up: a cookie of no seconds would be taken away.
fn in_seconds(lifetime: Duration) -> u64 {
    lifetime
        .as_secs()
        .saturating_add(u64::from(lifetime.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_as_long_as_the_rule_says_now() {
        const NOW: u64 = 1_000;
        for (lifetime, expires, is_over) in [
            (None, None, false),
            (None, Some(NOW + 1), false),
            (None, Some(NOW), true),
            (Some(10), None, true),
            (Some(10), Some(NOW), true),
            (Some(10), Some(NOW + 1), false),
            (Some(10), Some(NOW + 10), false),
            (Some(10), Some(NOW + 11), true),
            (Some(u64::MAX), Some(u64::MAX - 1), false),
        ] {
            let token = Token {
                backend: 0,
                incarnation: 0,
                endpoint: ([10, 0, 0, 1], 80).into(),
                expires,
            };
            let alive = is_alive(&token, lifetime.map(Duration::from_secs), NOW);
            assert_eq!(alive, !is_over, "{lifetime:?} {expires:?}");
        }
    }

    #[test]
    fn a_lifetime_is_never_rounded_to_nothing() {
        for (lifetime, seconds) in [(1, 1), (1_000, 1), (1_001, 2)] {
            assert_eq!(in_seconds(Duration::from_millis(lifetime)), seconds);
        }
    }
}
