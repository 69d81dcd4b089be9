//! One HTTP/1.1 GET to an agent's admin address, from inside its node.
//!
//! It must not be used for the application's requests: those are made by unmodified programs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns;

const LIMIT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: String,
}

/// Fetches a page inside a network namespace.
pub fn get(netns: &Path, addr: SocketAddr, page: &str) -> Result<Answer> {
    let bytes = netns::inside(netns, || {
        let mut stream =
            TcpStream::connect_timeout(&addr, LIMIT).with_context(|| format!("connect to {addr}"))?;
        stream.set_read_timeout(Some(LIMIT)).context("set a time limit")?;
        write!(
            stream,
            "GET {page} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
        )
        .with_context(|| format!("ask {addr} for {page}"))?;
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .with_context(|| format!("read {page} from {addr}"))?;
        Ok(bytes)
    })?;
    parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("{addr} gave no HTTP answer for {page}"))
}

/// Parses an answer that ends with its connection and is not chunked, as HTTP/1.0 asks.
fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.lines().next()?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_and_body() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nnot yet\n").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "not yet\n"));
    }

    #[test]
    fn half_a_head_is_no_answer() {
        assert!(parse("HTTP/1.1 200 OK\r\nx:").is_none());
    }
}
