//! What keeps a client's later requests at the endpoint that answered its first (GEP-1619), as a rule says it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// `sessionPersistence` of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPersistence {
    /// What carries the session's token.
    pub carrier: SessionCarrier,
    /// `absoluteTimeout`: how long a session lasts from its first request on; `None` means without end.
    pub lifetime: Option<Duration>,
}

/// What carries the token of a session, from the agent to the client and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A cookie.
    Cookie {
        /// `sessionName`, a token of HTTP; without one, a name that no other rule has.
        name: Option<Arc<str>>,
        /// `cookieConfig.lifetimeType: Permanent`: the client keeps it for the session's lifetime, rather than until it
        /// is closed.
        is_permanent: bool,
    },
    /// A header of the response, which the client repeats in its requests.
    Header(HeaderName),
}
