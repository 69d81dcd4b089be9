//! Claims about the lines that the access log shows.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::tests::{flow, http_start, tcp_start};
use super::{AccessLog, FlowLabels, HttpStart, Reporter, ResponseFlag, Telemetry};

/// A place to write to that can be read afterwards.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(work: impl FnOnce(&Telemetry)) -> Vec<serde_json::Value> {
    let text = text_of(work);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn text_of(work: impl FnOnce(&Telemetry)) -> String {
    let memory = Memory::default();
    let telemetry = Telemetry::with_access_log(AccessLog::to(memory.clone(), 16).unwrap());
    work(&telemetry);
    assert!(telemetry.access_log().flush(Duration::from_mins(1)));
    String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn a_request_line_has_istios_keys_and_who_spoke_with_whom() {
    let lines = logged(|telemetry| {
        let record = telemetry.http(flow(Reporter::Destination), http_start());
        record.route("shop/cart");
        let FlowLabels {
            destination,
            security,
            ..
        } = flow(Reporter::Destination);
        record.sent_to(destination, security, "10.1.0.2:8080".parse().unwrap());
        record.details("via_upstream");
        record.add_request_bytes(5);
        record.respond(200);
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let expected = serde_json::json!({
        "method": "GET", "path": "/items?id=\"7\"", "protocol": "HTTP/1.1", "authority": "cart:80",
        "response_code": 200, "response_flags": "-", "response_code_details": "via_upstream",
        "bytes_received": 5, "bytes_sent": 0, "user_agent": "curl/7", "request_id": null,
        "route_name": "shop/cart", "upstream_host": "10.1.0.2:8080",
        "upstream_cluster": "cart.shop.svc.cluster.local",
        "downstream_remote_address": "10.0.0.1:4000", "downstream_local_address": "10.96.0.1:80",
        "direction": "inbound", "source_workload": "web", "source_namespace": "shop",
        "source_principal": "spiffe://cluster.local/ns/shop/sa/web", "destination_workload": "cart",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key}");
    }
    let start = line["start_time"].as_str().unwrap();
    assert_eq!(
        (start.len(), &start[10..11], &start[23..]),
        (24, "T", "Z"),
        "{start}"
    );
    for key in [
        "connection_termination_details",
        "requested_server_name",
        "upstream_local_address",
    ] {
        assert!(line.get(key).is_some_and(serde_json::Value::is_null), "{key}");
    }
}

#[test]
fn a_connection_is_logged_once_at_its_end() {
    let lines = logged(|telemetry| {
        let record = telemetry.tcp(flow(Reporter::Source), tcp_start());
        record.add_sent_bytes(8);
        record.details("reset");
        record.flag(ResponseFlag::Uc);
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(line["protocol"], "TCP");
    assert_eq!(line["response_flags"], "UC");
    assert_eq!(line["connection_termination_details"], "reset");
    assert_eq!(
        (&line["bytes_sent"], &line["response_code"]),
        (&8.into(), &serde_json::Value::Null)
    );
}

#[test]
fn nothing_that_a_peer_says_ends_a_line_or_reaches_a_terminal() {
    let hostile = "\u{1b}[2J\r\n{\"forged\":1}\u{9b}31m\u{202e}\u{2028}\u{7f}";
    let work = |telemetry: &Telemetry| {
        let start = HttpStart {
            path: hostile.to_owned(),
            authority: hostile.to_owned(),
            user_agent: Some(hostile.to_owned()),
            request_id: Some(hostile.to_owned()),
            x_forwarded_for: Some(hostile.to_owned()),
            ..http_start()
        };
        let record = telemetry.http(flow(Reporter::Source), start);
        record.route(hostile);
        record.details(hostile.to_owned());
    };
    let text = text_of(work);
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    let is_plain = |char: char| char == '\n' || (' '..='~').contains(&char);
    assert!(text.chars().all(is_plain), "{text:?}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "path",
        "authority",
        "user_agent",
        "request_id",
        "x_forwarded_for",
        "route_name",
    ] {
        assert_eq!(line[key], hostile, "{key}");
    }
}
