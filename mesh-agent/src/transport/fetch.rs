//! Fetches a small document from a web server, as the agent itself: from the node's own network.
//!
//! Place in the walk: none; what `control` must know besides manifests comes this way. Must not know: what it fetches.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Collected, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::identity::{WebTlsError, web_client};

/// Reads documents from `http` and `https` URLs. Follows no redirect: it may lead where nobody meant the agent to look.
#[derive(Debug, Clone)]
pub struct Fetcher {
    root_file: PathBuf,
}

/// How much a document may ask of the agent.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// For all of it: the name, the connection, the answer.
    pub time: Duration,
    /// Bytes of the document.
    pub bytes: usize,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL names no web server.
    #[error("not an http or https url")]
    Url,
    /// The server's name has no address, or nobody answers there.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The file of roots cannot be read.
    #[error("cannot read the roots in {}", path.display())]
    RootFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file holds no root.
    #[error("the roots in {} cannot be used", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: WebTlsError,
    },
    /// The server did not prove its name.
    #[error("the tls handshake failed")]
    Handshake(#[source] io::Error),
    /// The answer is no HTTP, or was cut off.
    #[error("the answer cannot be read")]
    Http(#[source] hyper::Error),
    /// Anything but 200.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The document is longer than it may be.
    #[error("the document is too large")]
    TooLarge,
    /// Not all of it came in time.
    #[error("no complete answer in time")]
    TimedOut,
}

impl Fetcher {
    /// Servers of `https` URLs must have a certificate that ends in a root of this PEM file, read anew each time.
    pub fn new(root_file: &Path) -> Self {
        Self {
            root_file: root_file.to_owned(),
        }
    }

    /// The document at `url`. Cancel-safe: a dropped future closes its connection.
    pub async fn fetch(&self, url: &Uri, limits: FetchLimits) -> Result<Bytes, FetchError> {
        timeout(limits.time, Box::pin(self.get(url, limits.bytes)))
            .await
            .map_err(|_elapsed| FetchError::TimedOut)?
    }

    async fn get(&self, url: &Uri, most: usize) -> Result<Bytes, FetchError> {
        let host = url.host().ok_or(FetchError::Url)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_tls = url.scheme() == Some(&Scheme::HTTPS);
        if !is_tls && url.scheme() != Some(&Scheme::HTTP) {
            return Err(FetchError::Url);
        }
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        // Before the connection, so that what is wrong here is not blamed on the server.
        let connector = if is_tls {
            Some(self.connector().await?)
        } else {
            None
        };
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(FetchError::Connect)?;
        match connector {
            None => Box::pin(exchange(stream, url, most)).await,
            Some(connector) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| FetchError::Url)?;
                let stream = connector.connect(name, stream).await;
                Box::pin(exchange(stream.map_err(FetchError::Handshake)?, url, most)).await
            }
        }
    }

    async fn connector(&self) -> Result<TlsConnector, FetchError> {
        let path = || self.root_file.clone();
        let roots = tokio::fs::read(&self.root_file)
            .await
            .map_err(|source| FetchError::RootFile { path: path(), source })?;
        let config = web_client(&roots).map_err(|source| FetchError::Roots { path: path(), source })?;
        Ok(TlsConnector::from(Arc::clone(&config)))
    }
}

/// One request on a connection of its own.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    url: &Uri,
    most: usize,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let authority = url.authority().ok_or(FetchError::Url)?;
    let path = url.path_and_query().map_or("/", PathAndQuery::as_str);
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "mesh-agent")
        .body(Empty::<Bytes>::new())
        .map_err(|_invalid| FetchError::Url)?;
    let mut answer = pin!(async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let document = Limited::new(response.into_body(), most).collect().await;
        document.map(Collected::to_bytes).map_err(|error| {
            if error.is::<LengthLimitError>() {
                return FetchError::TooLarge;
            }
            match error.downcast::<hyper::Error>() {
                Ok(error) => FetchError::Http(*error),
                Err(_) => FetchError::TooLarge,
            }
        })
    });
    tokio::select! {
        answer = answer.as_mut() => answer,
        // The server has closed; what it said is still to be read, or there is nothing, and the answer says so.
        _closed = connection => answer.await,
    }
}
