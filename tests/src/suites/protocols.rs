//! Protocols: HTTP/1.1, HTTP/2, gRPC, WebSocket and TCP of every temper, on one node and between two.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ask::{curl, equal, number, python, text};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    http1_keeps_version_method_path_and_headers,
    http1_bodies_arrive_whole,
    http1_head_has_no_body,
    http1_connections_are_used_again,
    http2_with_prior_knowledge_stays_http2,
    http2_carries_many_streams_at_once,
    grpc_unary_calls_and_their_trailers_arrive,
    grpc_streams_arrive_message_by_message,
    grpc_errors_keep_code_text_and_trailers,
    websocket_messages_are_echoed_both_ways,
    websockets_over_http2_reach_servers_of_either_version,
    a_websocket_over_http1_reaches_a_server_of_http2,
    a_server_that_speaks_first_is_heard_within_a_second,
    a_server_that_speaks_first_on_an_unnamed_port_is_heard_within_a_second,
    half_closed_connections_go_on_in_the_other_direction,
    redis_works_as_opaque_tcp,
];

const CLIENT: &str = "shop/client";
const BOTH_PATHS: [&str; 2] = ["near", "far"];

fn http1_keeps_version_method_path_and_headers(lab: &Running) -> Result<()> {
    for server in BOTH_PATHS {
        let url = format!("http://{server}/a/b%20c?d=e&f=%2F");
        let reply = curl(
            lab,
            CLIENT,
            &["-X", "PUT", "-H", "X-Lab: one, two", "-d", "", &url],
        )?;
        equal("version", reply.version.as_str(), "1.1")?;
        equal("method", reply.says("method")?, "PUT")?;
        equal("path", reply.says("path")?, "/a/b%20c?d=e&f=%2F")?;
        let answer = reply.json()?;
        let header = |name: &str| {
            answer
                .pointer(&format!("/headers/{name}"))
                .and_then(Value::as_str)
        };
        equal("a header", header("x-lab"), Some("one, two"))?;
        equal("the host", header("host"), Some(server))?;
        equal(
            "the user agent",
            header("user-agent").is_some_and(|agent| agent.starts_with("curl/")),
            true,
        )?;
    }
    Ok(())
}

fn http1_bodies_arrive_whole(lab: &Running) -> Result<()> {
    let make = "head -c 3000000 /dev/urandom > \"$SCRATCH/body\"";
    lab.exec(CLIENT, &["sh", "-c", make])?.success()?;
    for server in BOTH_PATHS {
        let script = format!(
            "curl -sS -m 20 --data-binary @\"$SCRATCH/body\" http://{server}/echo | cmp - \"$SCRATCH/body\""
        );
        lab.exec(CLIENT, &["sh", "-c", &script])?
            .success()
            .with_context(|| format!("echo by {server}"))?;
        let script = format!("curl -sS -m 20 http://{server}/bytes/3000000 | wc -c");
        let output = lab.exec(CLIENT, &["sh", "-c", &script])?.success()?;
        equal("bytes received", output.stdout.trim(), "3000000")?;
    }
    Ok(())
}

fn http1_head_has_no_body(lab: &Running) -> Result<()> {
    for server in BOTH_PATHS {
        let reply = curl(lab, CLIENT, &["--head", &format!("http://{server}/bytes/10")])?;
        equal("status", reply.status, 200)?;
        ensure!(
            reply.body.to_lowercase().contains("content-length: 10"),
            "{}",
            reply.body
        );
    }
    Ok(())
}

fn http1_connections_are_used_again(lab: &Running) -> Result<()> {
    for server in BOTH_PATHS {
        let url = format!("http://{server}/");
        let output = lab.exec(
            CLIENT,
            &[
                "curl",
                "-sS",
                "-m",
                "10",
                "-w",
                "%{num_connects} ",
                "-o",
                "/dev/null",
                &url,
                "-o",
                "/dev/null",
                &url,
            ],
        )?;
        equal(
            "connections made for two requests",
            output.success()?.stdout.trim(),
            "1 0",
        )?;
    }
    Ok(())
}

fn http2_with_prior_knowledge_stays_http2(lab: &Running) -> Result<()> {
    for server in ["fast-near", "fast"] {
        let reply = curl(
            lab,
            CLIENT,
            &["--http2-prior-knowledge", &format!("http://{server}:81/")],
        )?;
        equal("version at the client", reply.version.as_str(), "2")?;
        equal("version at the server", reply.says("protocol")?, "HTTP/2.0")?;
    }
    Ok(())
}

fn http2_carries_many_streams_at_once(lab: &Running) -> Result<()> {
    for server in ["fast-near", "fast"] {
        let url = format!("http://{server}:81/");
        let output = lab
            .exec(CLIENT, &["h2load", "-n", "2000", "-c", "2", "-m", "50", &url])?
            .success()?;
        ensure!(
            output.stdout.contains("2000 succeeded, 0 failed, 0 errored"),
            "{}",
            output.stdout
        );
        ensure!(
            output.stdout.contains("status codes: 2000 2xx"),
            "{}",
            output.stdout
        );
    }
    Ok(())
}

fn grpc_unary_calls_and_their_trailers_arrive(lab: &Running) -> Result<()> {
    let said = python(
        lab,
        CLIENT,
        "grpc_client.py",
        &["grpc:50051", "unary", "you", "20"],
    )?;
    equal("code", text(&said, "code")?, "OK")?;
    ensure!((number(&said, "calls")? - 20.0).abs() < 0.5, "{said}");
    ensure!(
        said.pointer("/messages/19")
            .and_then(Value::as_str)
            .is_some_and(|m| m.starts_with("hello you")),
        "{said}"
    );
    equal(
        "trailer",
        said.pointer("/trailers/x-served-by").and_then(Value::as_str),
        Some("grpc"),
    )
}

fn grpc_streams_arrive_message_by_message(lab: &Running) -> Result<()> {
    let said = python(lab, CLIENT, "grpc_client.py", &["grpc:50051", "stream", "20"])?;
    equal("code", text(&said, "code")?, "OK")?;
    let messages = said.get("messages").and_then(Value::as_array).map(Vec::len);
    equal("messages", messages, Some(20))?;
    let at = |n: usize| {
        said.pointer(&format!("/at_ms/{n}"))
            .and_then(Value::as_f64)
            .context("no time")
    };
    // The server takes 20 ms between messages: a buffering proxy would hand all over at the end.
    let spread = at(19)? - at(0)?;
    ensure!(spread > 200.0, "20 messages came within {spread} ms");
    Ok(())
}

fn grpc_errors_keep_code_text_and_trailers(lab: &Running) -> Result<()> {
    let said = python(lab, CLIENT, "grpc_client.py", &["grpc:50051", "fail", "x"])?;
    equal("code", text(&said, "code")?, "FAILED_PRECONDITION")?;
    equal("details", text(&said, "details")?, "not today")?;
    equal(
        "trailer",
        said.pointer("/trailers/x-served-by").and_then(Value::as_str),
        Some("grpc"),
    )
}

fn websocket_messages_are_echoed_both_ways(lab: &Running) -> Result<()> {
    // client-b is on the server's node, client on the other.
    for client in [CLIENT, "shop/client-b"] {
        let said = python(lab, client, "ws_client.py", &["ws://ws/chat", "5"])?;
        equal(
            "last message",
            said.pointer("/received/4").and_then(Value::as_str),
            Some("ws: hello 4"),
        )?;
        equal(
            "binary message",
            said.get("binary_intact").and_then(Value::as_bool),
            Some(true),
        )?;
    }
    Ok(())
}

/// RFC 8441, by h2 and wsproto on one side, by Hypercorn on the other.
fn websockets_over_http2_reach_servers_of_either_version(lab: &Running) -> Result<()> {
    for client in [CLIENT, "shop/client-b"] {
        for (port, spoken, refused) in [("80", "ws: hello", "200"), ("81", "2: hello", "403")] {
            let said = python(lab, client, "ws_h2_client.py", &["ws", port, "20"])?;
            let expected = json!({
                "statuses": ["200"], "leftovers": [], "texts": [spoken], "echoed": 20, "intact": 20,
                "resets": [], "other": "501", "refused": refused,
            });
            equal("what came back", &said, &expected).with_context(|| format!("{client} to port {port}"))?;
        }
    }
    Ok(())
}

fn a_websocket_over_http1_reaches_a_server_of_http2(lab: &Running) -> Result<()> {
    for client in [CLIENT, "shop/client-b"] {
        let said = python(lab, client, "ws_client.py", &["ws://ws:81/chat", "5"])?;
        let expected = json!({
            "status": 101, "binary_intact": true, "received": (0..5).map(|n| format!("2: hello {n}")).collect::<Vec<_>>(),
        });
        equal("what came back", &said, &expected)?;
    }
    Ok(())
}

fn a_server_that_speaks_first_is_heard_within_a_second(lab: &Running) -> Result<()> {
    ["greeter", "greeter-near"]
        .into_iter()
        .try_for_each(|server| speaks_first(lab, server))
}

fn a_server_that_speaks_first_on_an_unnamed_port_is_heard_within_a_second(lab: &Running) -> Result<()> {
    speaks_first(lab, "greeter-unnamed")
}

fn speaks_first(lab: &Running, server: &str) -> Result<()> {
    let said = python(lab, CLIENT, "tcp_client.py", &["--listen-first", server, "7000"])?;
    ensure!(text(&said, "received")?.starts_with("220 greeter"), "{said}");
    let first_line = number(&said, "first_line_ms")?;
    ensure!(first_line < 1000.0, "{server} was heard after {first_line} ms");
    Ok(())
}

fn half_closed_connections_go_on_in_the_other_direction(lab: &Running) -> Result<()> {
    for server in ["greeter", "greeter-near"] {
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--send", "one\ntwo\n", server, "7000"],
        )?;
        equal("error", said.get("error"), Some(&Value::Null))?;
        // The last line is sent only after the client has closed its side.
        ensure!(text(&said, "received")?.ends_with("one\ntwo\nbye\n"), "{said}");
    }
    Ok(())
}

fn redis_works_as_opaque_tcp(lab: &Running) -> Result<()> {
    for client in [CLIENT, "shop/client-b"] {
        let redis = |words: &[&str]| -> Result<String> {
            let output = lab.exec_within(
                Duration::from_secs(10),
                client,
                &[&["redis-cli", "-h", "redis"], words].concat(),
            )?;
            Ok(output.success()?.stdout.trim().to_owned())
        };
        equal("set", redis(&["set", client, "a value"])?, "OK")?;
        equal("get", redis(&["get", client])?, "a value")?;
        let benchmark = [
            "redis-benchmark",
            "-h",
            "redis",
            "-q",
            "-n",
            "2000",
            "-c",
            "10",
            "-P",
            "8",
            "-t",
            "set,get",
        ];
        lab.exec(client, &benchmark)?.success()?;
    }
    Ok(())
}
