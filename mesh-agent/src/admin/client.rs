//! Reads one page of an agent, for `mesh-agent status` and `mesh-agent explain`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::AdminToken;

/// What the agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The page.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there: the agent does not run, or its admin address is another.
    #[error("cannot connect to the agent at {addr}")]
    Connect {
        /// Where it was looked for.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The path is not one.
    #[error("{path:?} is not a path")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        #[source]
        source: http::Error,
    },
    /// What listens there does not speak HTTP, or hung up.
    #[error("the exchange with the agent failed")]
    Http(#[from] hyper::Error),
    /// The page is too large or broke off.
    #[error("cannot read the agent's answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The page is not text.
    #[error("the agent's answer is not utf-8")]
    Text(#[from] std::string::FromUtf8Error),
    /// The agent did not answer in time.
    #[error("the agent at {0} did not answer within {DEADLINE:?}")]
    Timeout(SocketAddr),
}

/// Reads `path` with the token that the agent asks for, if any, whatever the status code. Gives up after ten seconds. Cancel-safe.
pub async fn get(addr: SocketAddr, token: Option<&AdminToken>, path: &str) -> Result<Answer, ClientError> {
    tokio::time::timeout(DEADLINE, exchange(addr, token, path))
        .await
        .unwrap_or(Err(ClientError::Timeout(addr)))
}

async fn exchange(addr: SocketAddr, token: Option<&AdminToken>, path: &str) -> Result<Answer, ClientError> {
    let mut request = Request::get(path)
        .header(HOST, addr.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|source| ClientError::Path {
            path: path.to_owned(),
            source,
        })?;
    if let Some(value) = token.and_then(AdminToken::header) {
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let stream = TcpStream::connect(addr)
        .await
        .map_err(|source| ClientError::Connect { addr, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE)
            .collect()
            .await
            .map_err(ClientError::Body)?;
        Ok(Answer {
            status,
            body: String::from_utf8(body.to_bytes().into())?,
        })
    };
    // The connection must be driven while the answer comes in; a server that hangs up early ends it first.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

const DEADLINE: Duration = Duration::from_secs(10);

/// Metrics of the largest meshes that we plan for stay below.
const MAX_PAGE: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_agent_that_does_not_run_is_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = get(addr, None, "/status").await.unwrap_err();
        assert!(
            matches!(error, ClientError::Connect { addr: named, .. } if named == addr),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_an_error_and_not_an_empty_page() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (answer, ()) = tokio::join!(get(addr, None, "/status"), async {
            drop(listener.accept().await.unwrap());
        });
        assert!(matches!(answer, Err(ClientError::Http(_))), "{answer:?}");
    }
}
