//! TLS with an application that serves nothing else, on a stream to it.
//!
//! Place in the walk: after the endpoint was dialled, or before bytes are delivered to the application. Must not know: which
//! policy asked for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, client};

use crate::transport::handshakes::Workshop;
use crate::transport::tls::at;
use crate::transport::{ByteStream, DialError};

/// A TLS stream to an application, on the stream `S`.
pub type BackendStream<S> = client::TlsStream<S>;

/// Begins TLS on `stream` with the application there, which must prove what `config` asks for, within `limit`. The handshake
/// is computed at `workshop`. Cancel-safe: the stream is closed.
pub async fn begin<S: ByteStream + 'static>(
    stream: S,
    (config, name): (Arc<ClientConfig>, ServerName<'static>),
    workshop: &Workshop,
    limit: Duration,
) -> Result<BackendStream<S>, DialError> {
    let handshake = TlsConnector::from(config).connect(name, stream);
    at(workshop, handshake, limit).await.map_err(DialError::Handshake)
}

impl<S: ByteStream> ByteStream for BackendStream<S> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        self.get_ref().0.proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        self.get_ref().0.revoked()
    }
}
