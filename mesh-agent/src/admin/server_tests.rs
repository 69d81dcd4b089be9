//! Claims about the admin server: what it shows, to whom, and what it bears.

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
        .answers(
            "/ask",
            Arc::new(|question| match question {
                "" => Err((StatusCode::BAD_REQUEST, "ask something".to_owned())),
                question => Ok(format!("{question:?}")),
            }),
        )
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
    client::get(fixture.addr, None, path).await.unwrap()
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
async fn a_question_is_answered_or_told_why_not() {
    let fixture = fixture().await;
    let answer = get(&fixture, "/ask?a=b&c=%20").await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (200, "\"a=b&c=%20\"")
    );
    let answer = get(&fixture, "/ask").await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (400, "ask something\n")
    );
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
        let answer = raw(
            &fixture,
            &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with("http/1.1 200 ") && answer.contains(content_type),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn head_has_the_head_of_get_and_no_body() {
    let fixture = fixture().await;
    let answer = raw(&fixture, "HEAD /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
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
        let answer = raw(
            &fixture,
            &format!("{method} /status HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with("http/1.1 405 ") && answer.contains("allow: get, head\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_page_that_panics_leaves_the_others_served() {
    let fixture = fixture().await;
    client::get(fixture.addr, None, "/broken").await.unwrap_err();
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

#[tokio::test]
async fn pages_behind_a_token_are_shown_to_who_has_it_and_health_to_all() {
    let token = AdminToken::stand_in("0123456789abcdef0123456789abcdef");
    let tasks = Tasks::new();
    let server = AdminServer::bind(([127, 0, 0, 1], 0).into(), Readiness::new())
        .await
        .unwrap()
        .behind(Some(token.clone()))
        .page("/status", Arc::new(|| "{}".to_owned()));
    let addr = server.local_addr().unwrap();
    server.run(&tasks);
    let other = AdminToken::stand_in("another-token-of-the-same-length");
    for (token, path, status) in [
        (None, "/livez", 200),
        (None, "/readyz", 200),
        (None, "/status", 401),
        (None, "/nowhere", 401),
        (Some(&other), "/status", 401),
        (Some(&token), "/status", 200),
        (Some(&token), "/nowhere", 404),
    ] {
        let answer = client::get(addr, token, path).await.unwrap();
        assert_eq!(answer.status, status, "{token:?} {path}");
    }
}

#[tokio::test]
async fn a_browser_that_a_foreign_name_led_here_sees_nothing() {
    let fixture = fixture().await;
    for path in ["/status", "/metrics"] {
        let answer = raw(
            &fixture,
            &format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("http/1.1 421 "), "{answer}");
    }
}
