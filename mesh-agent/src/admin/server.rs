//! A small HTTP/1.1 server: reads only, few connections, none for long.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::guard::{self, AdminToken, Refused};
use crate::lifecycle::{Readiness, Stop, Tasks};

/// Makes a page's text on each request. It must not block: it runs on the runtime that serves all pages.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers the question in the query of a page's path, with JSON; or says with which status it cannot be answered, and why.
/// It must not block: it runs on the runtime that serves all pages.
pub type Answers = Arc<dyn Fn(&str) -> Result<String, (StatusCode, String)> + Send + Sync>;

/// Bound, and not serving yet.
pub struct AdminServer {
    listener: TcpListener,
    site: Site,
}

/// Why the admin pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody else has the port, or the address is not of this machine.
    #[error("cannot listen on {addr} for the admin pages")]
    Bind {
        /// As configured.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl AdminServer {
    /// Listens, so that a port that is taken shows at start. Serves `/livez` and `/readyz` once it runs.
    pub async fn bind(addr: SocketAddr, readiness: Readiness) -> Result<Self, AdminError> {
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|source| AdminError::Bind { addr, source })?;
        let site = Site {
            readiness,
            token: None,
            pages: BTreeMap::new(),
            deadline: CONNECTION_DEADLINE,
        };
        Ok(Self { listener, site })
    }

    /// Where it listens, with the port that port 0 became.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Shows pages only to who has `token`; without one, to all that reach the address. `/livez` and `/readyz` say
    /// nothing that a token would have to keep, and kubelet has none.
    #[must_use]
    pub fn behind(mut self, token: Option<AdminToken>) -> Self {
        self.site.token = token;
        self
    }

    /// Serves `/metrics`, in OpenMetrics text.
    #[must_use]
    pub fn metrics(self, page: Page) -> Self {
        self.with("/metrics", OPENMETRICS, page)
    }

    /// Serves a page of JSON.
    #[must_use]
    pub fn page(self, path: &'static str, page: Page) -> Self {
        self.with(path, JSON, page)
    }

    /// Serves a page that answers questions.
    #[must_use]
    pub fn answers(mut self, path: &'static str, answers: Answers) -> Self {
        self.site.pages.insert(path, Content::Answers(answers));
        self
    }

    fn with(mut self, path: &'static str, content_type: HeaderValue, page: Page) -> Self {
        self.site.pages.insert(path, Content::Page(content_type, page));
        self
    }

    /// Serves until the stop of `tasks`.
    pub fn run(self, tasks: &Tasks) {
        let connections = tasks.child();
        tasks.spawn("admin", accept(self.listener, Arc::new(self.site), connections));
    }
}

impl fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminServer")
            .field("listener", &self.listener)
            .field("pages", &self.site.pages.keys())
            .finish_non_exhaustive()
    }
}

/// What is served.
struct Site {
    readiness: Readiness,
    token: Option<AdminToken>,
    pages: BTreeMap<&'static str, Content>,
    deadline: Duration,
}

/// What stands on a page.
enum Content {
    Page(HeaderValue, Page),
    Answers(Answers),
}

impl Site {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            path => match guard::admit(self.token.as_ref(), request.headers()) {
                Ok(()) => self.page(path, request.uri().query().unwrap_or_default()),
                Err(refused) => refusal(refused),
            },
        }
    }

    fn page(&self, path: &str, query: &str) -> Response<Full<Bytes>> {
        match self.pages.get(path) {
            Some(Content::Page(content_type, page)) => response(StatusCode::OK, content_type.clone(), page()),
            Some(Content::Answers(answers)) => match answers(query) {
                Ok(answer) => response(StatusCode::OK, JSON, answer),
                Err((status, why)) => text(status, format!("{why}\n")),
            },
            None => text(StatusCode::NOT_FOUND, self.directory()),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let waiting = self.readiness.waiting();
        if waiting.is_empty() {
            text(StatusCode::OK, "ok\n")
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for: {}\n", waiting.join(", ")),
            )
        }
    }

    fn directory(&self) -> String {
        let pages = ["/livez", "/readyz"]
            .into_iter()
            .chain(self.pages.keys().copied());
        pages.fold("no such page; there are:\n".to_owned(), |text, path| {
            text + path + "\n"
        })
    }
}

fn refusal(refused: Refused) -> Response<Full<Bytes>> {
    match refused {
        Refused::Token => {
            let mut response = text(StatusCode::UNAUTHORIZED, "the admin token is needed\n");
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        Refused::Host => text(
            StatusCode::MISDIRECTED_REQUEST,
            "ask by the address, or as localhost\n",
        ),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, PLAIN, body)
}

fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Takes no more connections than it has permits for; the rest wait in the kernel's queue.
async fn accept(listener: TcpListener, site: Arc<Site>, connections: Tasks) {
    let stop = connections.stop();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            // The semaphore is never closed, so that an error cannot happen; then no permit is no limit.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.requested() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (site, stop) = (Arc::clone(&site), stop.clone());
                connections.spawn("admin-connection", async move {
                    serve(stream, site, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: without a pause this loop would take a core.
                tracing::warn!(%error, "cannot accept a connection to the admin pages");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request and its answer, within the deadline.
async fn serve(stream: TcpStream, site: Arc<Site>, stop: Stop) {
    let deadline = site.deadline;
    let service = service_fn(move |request| {
        let response = site.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.requested() => {}
        outcome = tokio::time::timeout(deadline, connection) => match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "connection to the admin pages failed"),
            Err(_) => tracing::debug!("connection to the admin pages took too long"),
        },
    }
}

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const MAX_CONNECTIONS: usize = 64;
const MAX_HEADERS: usize = 64;
/// Hyper's least is 8 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Long enough for a large scrape over a slow link.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
