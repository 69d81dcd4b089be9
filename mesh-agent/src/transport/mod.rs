//! Out: dialling, mTLS between agents, HTTP connections that are used again, and the copying of bytes.
//!
//! Place in the walk: after the endpoint was chosen. Must not know: routes, policies, which pod is allowed what.

mod announced;
pub mod backend;
pub mod deliver;
pub mod dial;
pub mod fetch;
pub mod gathered;
pub mod handshakes;
pub mod http;
pub mod leg;
pub mod paced;
pub mod pool;
pub mod proxy_header;
pub mod relay;
pub mod tls;

use std::io;
use std::time::SystemTime;

use ::http::StatusCode;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::identity::{BackendTlsError, TlsError};
use crate::transport::handshakes::TooMany;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket could not be made or bound in the pod's namespace.
    #[error("cannot open a socket in the pod's namespace")]
    Socket(#[source] io::Error),
    /// The kernel said no: refused, unreachable, reset.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No answer within the connect timeout.
    #[error("connect timed out")]
    TimedOut,
    /// The pod in whose name the connection is made has no valid certificate yet.
    #[error("no certificate for the source pod yet")]
    NoCertificate,
    /// Our own certificate or keys cannot be used.
    #[error("cannot begin an mTLS handshake")]
    Tls(#[source] TlsError),
    /// The pod in whose name the connection is made has too many handshakes already.
    #[error("no mTLS handshake is begun")]
    Crowded(#[source] TooMany),
    /// No TLS can be begun with an application that speaks it itself.
    #[error("cannot begin a TLS handshake with the backend")]
    Backend(#[source] BackendTlsError),
    /// TLS failed: a peer without a certificate that is believed, or with another identity than expected.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The traffic policy of the destination allows no more connections.
    #[error("as many connections as the traffic policy allows")]
    Overflow,
    /// It sends something else than HTTP/2.
    #[error("the server does not speak HTTP/2")]
    NotHttp2,
    /// A forward proxy answers so when it is asked to connect.
    #[error("the forward proxy makes no tunnel: {0}")]
    NoTunnel(StatusCode),
    /// The HTTP connection could not be started.
    #[error("HTTP handshake failed")]
    Http(#[source] hyper::Error),
}

/// A byte stream of any kind that a connection can be carried on.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the close that follows a reset instead of a FIN, so that a peer's failure is passed on as one.
    fn reset_on_close(&self);

    /// Until when both ends have proved who they are; nothing new is sent afterwards. None where nobody had to.
    ///
    /// A stream that wraps another one says what that one says.
    fn proved_until(&self) -> Option<SystemTime>;

    /// Completes when a certificate on which the connection rests is revoked: it must end then. Independent of the
    /// stream; [`never()`] where nobody had to prove anything.
    ///
    /// A stream that wraps another one says what that one says.
    fn revoked(&self) -> BoxFuture<'static, ()>;
}

/// [`ByteStream::revoked`] of a stream that rests on no certificate.
pub fn never() -> BoxFuture<'static, ()> {
    Box::pin(std::future::pending())
}

impl<S: ByteStream + ?Sized> ByteStream for Box<S> {
    fn reset_on_close(&self) {
        (**self).reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        (**self).proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        (**self).revoked()
    }
}
