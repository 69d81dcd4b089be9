//! A small HTTP/1.1 server: reads only, few connections, none for long.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::lifecycle::{Readiness, Stop, Tasks};

/// Makes a page's text on each request. It must not block: it runs on the runtime that serves all pages.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

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
            pages: BTreeMap::new(),
            deadline: CONNECTION_DEADLINE,
        };
        Ok(Self { listener, site })
    }

    /// Where it listens, with the port that port 0 became.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
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

    fn with(mut self, path: &'static str, content_type: HeaderValue, page: Page) -> Self {
        self.site.pages.insert(path, (content_type, page));
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
    pages: BTreeMap<&'static str, (HeaderValue, Page)>,
    deadline: Duration,
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
            path => match self.pages.get(path) {
                Some((content_type, page)) => response(StatusCode::OK, content_type.clone(), page()),
                None => text(StatusCode::NOT_FOUND, self.directory()),
            },
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
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::client::{self, Answer};

    struct Fixture {
        addr: SocketAddr,
        readiness: Readiness,
        tasks: Tasks,
    }

    async fn fixture() -> Fixture {
        let (readiness, tasks) = (Readiness::new(), Tasks::new());
        let mut server = AdminServer::bind(([127, 0, 0, 1], 0).into(), readiness.clone())
            .await
            .unwrap()
            .metrics(Arc::new(|| "# EOF\n".to_owned()))
            .page("/status", Arc::new(|| "{}".to_owned()))
            .page("/broken", Arc::new(|| panic!("on purpose")));
        server.site.deadline = Duration::from_millis(200);
        let addr = server.local_addr().unwrap();
        server.run(&tasks);
        Fixture {
            addr,
            readiness,
            tasks,
        }
    }

    async fn get(fixture: &Fixture, path: &str) -> Answer {
        client::get(fixture.addr, path).await.unwrap()
    }

    /// Sends bytes as they are and returns all that comes back.
    async fn raw(fixture: &Fixture, request: &str) -> String {
        let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.to_ascii_lowercase()
    }

    #[tokio::test]
    async fn is_alive_from_the_start_and_ready_when_nothing_is_waited_for() {
        let fixture = fixture().await;
        let source = fixture.readiness.guard("source");
        let kernel = fixture.readiness.guard("kernel");
        assert_eq!(get(&fixture, "/livez").await.status, 200);
        let waiting = get(&fixture, "/readyz").await;
        assert_eq!(
            (waiting.status, waiting.body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for: source, kernel\n")
        );

        drop((source, kernel));
        assert_eq!(get(&fixture, "/readyz").await.status, 200);
    }

    #[tokio::test]
    async fn pages_have_their_content_type() {
        let fixture = fixture().await;
        for (path, content_type) in [
            (
                "/metrics",
                "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
            ),
            ("/status", "content-type: application/json\r\n"),
            ("/livez", "content-type: text/plain; charset=utf-8\r\n"),
        ] {
            let answer = raw(&fixture, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            assert!(
                answer.starts_with("http/1.1 200 ") && answer.contains(content_type),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn head_has_the_head_of_get_and_no_body() {
        let fixture = fixture().await;
        let answer = raw(&fixture, "HEAD /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(
            answer.contains("content-length: 6\r\n") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_query_does_not_hide_a_page_and_an_unknown_one_lists_the_others() {
        let fixture = fixture().await;
        assert_eq!(get(&fixture, "/metrics?a=b").await.body, "# EOF\n");
        let unknown = get(&fixture, "/statu").await;
        assert_eq!(unknown.status, 404);
        assert!(
            unknown.body.contains("/status\n") && unknown.body.contains("/readyz\n"),
            "{}",
            unknown.body
        );
    }

    #[tokio::test]
    async fn nothing_can_be_written() {
        let fixture = fixture().await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = raw(&fixture, &format!("{method} /status HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            assert!(
                answer.starts_with("http/1.1 405 ") && answer.contains("allow: get, head\r\n"),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_page_that_panics_leaves_the_others_served() {
        let fixture = fixture().await;
        client::get(fixture.addr, "/broken").await.unwrap_err();
        assert_eq!(get(&fixture, "/status").await.status, 200);
        assert_eq!(fixture.tasks.panics(), 1);
    }

    #[tokio::test]
    async fn clients_that_say_nothing_are_let_go_and_the_next_is_served() {
        let fixture = fixture().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(fixture.addr).await.unwrap());
        }
        assert_eq!(get(&fixture, "/livez").await.status, 200);
        for mut stream in silent {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn stops_with_a_client_connected() {
        let fixture = fixture().await;
        let _silent = TcpStream::connect(fixture.addr).await.unwrap();
        fixture.tasks.request_stop();
        assert!(fixture.tasks.joined(Duration::from_mins(1)).await);
        TcpStream::connect(fixture.addr).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let fixture = fixture().await;
        let error = AdminServer::bind(fixture.addr, Readiness::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&fixture.addr.to_string()), "{error}");
    }
}
