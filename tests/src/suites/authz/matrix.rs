//! The matrix: identity, node, method, path, port and protocol, each cell one real request with an outcome that is
//! declared here by hand, apart from what the agent computes.

use std::sync::Mutex;
use std::{fs, sync::PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{protect, with};
use crate::running::Running;
use crate::suites::ask::{addresses, equal};

/// What came of the matrix.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Outcome {
    /// Requests made.
    pub cells: usize,
    /// Those that were let in, or refused, against what is declared.
    pub wrong: usize,
}

/// What came of the matrix; `None` when it was not asked.
pub fn outcome() -> Option<Outcome> {
    OUTCOME.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

static OUTCOME: Mutex<Option<Outcome>> = Mutex::new(None);

pub(super) fn every_cell_of_the_matrix_is_let_in_or_refused_as_declared(lab: &Running) -> Result<()> {
    with(lab, &policies(), || {
        let mut outcome = Outcome::default();
        let mut wrong = Vec::new();
        for client in CLIENTS {
            let cells = cells(lab, client)?;
            for (cell, answer) in cells.iter().zip(answers(lab, client, &cells)?) {
                outcome.cells += 1;
                if is_let_in(cell.kind, &answer) != Some(cell.may) {
                    outcome.wrong += 1;
                    wrong.push(format!("{} → {}: {answer}", client.pod, cell.words()));
                }
            }
        }
        let (cells, count) = (outcome.cells, outcome.wrong);
        *OUTCOME.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        ensure!(cells >= 300, "only {cells} cells");
        wrong.truncate(20);
        ensure!(count == 0, "{count} of {cells} cells are wrong: {wrong:#?}");
        Ok(())
    })
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Client {
    pod: &'static str,
    who: Who,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Service account `client` of the shop.
    Client,
    /// Another of the shop.
    Other,
    /// Plaintext from outside of the mesh.
    Nobody,
}

/// One of each on either node.
const CLIENTS: [Client; 6] = [
    of("shop/client", Who::Client),
    of("shop/client-b", Who::Client),
    of("shop/near", Who::Other),
    of("shop/far", Who::Other),
    of("outside/stranger", Who::Nobody),
    of("outside/stranger-b", Who::Nobody),
];

const fn of(pod: &'static str, who: Who) -> Client {
    Client { pod, who }
}

/// For the HTTP servers, the TCP servers and the gRPC server; one of each kind on either node, but for the last.
fn policies() -> String {
    let mut all = String::new();
    for app in ["fast", "fast-near"] {
        all += &protect(
            app,
            "ALLOW",
            "[{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}],\
               to: [{operation: {methods: [GET], paths: ['/public/*', '/v/{*}/items']}}]},\
              {from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [POST], paths: [/orders]}}],\
               when: [{key: 'request.headers[X-Tier]', values: [gold]}]},\
              {to: [{operation: {ports: ['8081'], paths: [/health]}}]}]",
        );
        all += &protect(
            app,
            "DENY",
            "[{to: [{operation: {paths: ['/public/secret*']}}]},\
              {from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/client]}}],\
               to: [{operation: {paths: [/orders/internal, /health/internal]}}]}]",
        );
    }
    all += &protect(
        "greeter",
        "ALLOW",
        "[{from: [{source: {serviceAccounts: [client]}}], to: [{operation: {ports: ['7000']}}]},\
          {from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}]}]",
    );
    all += &protect(
        "greeter-near",
        "DENY",
        "[{from: [{source: {principals: ['*/sa/near', '*/sa/far']}}], to: [{operation: {paths: [/never]}}]},\
          {from: [{source: {notNamespaces: [shop]}}]}]",
    );
    all + &protect(
        "grpc",
        "ALLOW",
        "[{from: [{source: {principals: ['*']}}], to: [{operation: {paths: ['/lab.Greeter/Un*']}}]}]",
    )
}

/// One request, and what is declared of it.
#[derive(Debug)]
struct Cell {
    kind: &'static str,
    server: &'static str,
    host: String,
    port: u16,
    method: &'static str,
    path: &'static str,
    is_gold: bool,
    may: bool,
}

impl Cell {
    fn words(&self) -> String {
        let Self {
            kind,
            server,
            method,
            path,
            may,
            ..
        } = self;
        let tier = if self.is_gold { " gold" } else { "" };
        format!(
            "{kind} {server} {method} {path}{tier}, which {}",
            if *may { "may" } else { "may not" }
        )
    }
}

/// Each path as it is sent, as an application would read it at worst, and whether any rule of `ALLOW` may hold for it.
const PATHS: [(&str, &str); 14] = [
    ("/public/a", "/public/a"),
    ("/public/", "/public/"),
    ("/public", "/public"),
    ("/public/secret", "/public/secret"),
    ("/public/%73ecret", "/public/secret"),
    ("/public/x/../secret", "/public/secret"),
    ("/public//secret", "/public/secret"),
    ("/public/..%2fpublic/secret", "/public/secret"),
    ("/public/../other", "/other"),
    ("/other", "/other"),
    ("/orders", "/orders"),
    ("/health", "/health"),
    ("/v/1/items", "/v/1/items"),
    ("/v/1/2/items", "/v/1/2/items"),
];

/// What the policies above mean, in other words.
fn may_http(who: Who, method: &str, path: &str, port: u16, is_gold: bool) -> bool {
    let is_client = who == Who::Client && method == "GET";
    match path {
        "/public/a" | "/public/" | "/v/1/items" => is_client,
        "/orders" => who != Who::Nobody && method == "POST" && is_gold,
        "/health" => port == 8081,
        _ => false,
    }
}

fn cells(lab: &Running, client: Client) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for server in ["fast", "fast-near"] {
        let host = host(lab, client, server)?;
        for (kind, port, methods) in [
            ("http1", 8080, &["GET", "POST", "DELETE"][..]),
            ("http2", 8081, &["GET", "POST"]),
        ] {
            for method in methods {
                for (path, read) in PATHS {
                    cells.extend(tiers(path).iter().map(|&is_gold| Cell {
                        kind,
                        server,
                        host: host.clone(),
                        port: dialled(client, port),
                        method,
                        path,
                        is_gold,
                        may: may_http(client.who, method, read, port, is_gold),
                    }));
                }
            }
        }
    }
    let other = |kind, server, port, path, may| -> Result<Cell> {
        let host = host(lab, client, server)?;
        Ok(Cell {
            kind,
            server,
            host,
            port,
            method: "",
            path,
            is_gold: false,
            may,
        })
    };
    let is_client = client.who == Who::Client;
    cells.push(other("tcp", "greeter", 7000, "", is_client)?);
    cells.push(other("tcp", "greeter-near", 7000, "", is_client)?);
    let is_known = client.who != Who::Nobody;
    cells.push(other("grpc", "grpc", 50051, "/lab.Greeter/Unary", is_known)?);
    cells.push(other("grpc", "grpc", 50051, "/lab.Greeter/Stream", false)?);
    Ok(cells)
}

/// The header changes the answer for one path only.
fn tiers(path: &str) -> &'static [bool] {
    if path == "/orders" {
        &[false, true]
    } else {
        &[false]
    }
}

/// The mesh dials Services; who is outside of it knows no names, and dials pods.
fn host(lab: &Running, client: Client, server: &str) -> Result<String> {
    match client.who {
        Who::Client | Who::Other => Ok(server.to_owned()),
        Who::Nobody => Ok(addresses(lab, &format!("shop/{server}"))?[0].to_string()),
    }
}

fn dialled(client: Client, port: u16) -> u16 {
    match (client.who, port) {
        (Who::Nobody, _) => port,
        (Who::Client | Who::Other, 8080) => 80,
        (Who::Client | Who::Other, _) => 81,
    }
}

fn answers(lab: &Running, client: Client, cells: &[Cell]) -> Result<Vec<String>> {
    let asks: Vec<Value> = cells
        .iter()
        .map(|cell| {
            let headers = if cell.is_gold {
                json!({"x-tier": "gold"})
            } else {
                json!({})
            };
            json!({
                "kind": cell.kind, "host": cell.host, "port": cell.port,
                "method": cell.method, "path": cell.path, "headers": headers,
            })
        })
        .collect();
    let file = lab.site.scratch(&client.pod.parse()?).join("asks.json");
    fs::write(&file, Value::from(asks).to_string()).context("write what is asked")?;
    let file = file.display().to_string();
    let output = lab
        .exec(client.pod, &["python3", "../programs/ask_many.py", &file])?
        .success()?;
    let answers: Vec<String> =
        serde_json::from_str(&output.stdout).with_context(|| format!("no answers: {}", output.stdout))?;
    equal("answers", answers.len(), cells.len())?;
    Ok(answers)
}

/// `None` for an answer that neither the application nor a policy gives.
fn is_let_in(kind: &str, answer: &str) -> Option<bool> {
    match (kind, answer) {
        ("http1" | "http2", "200") | ("tcp", "ok") | ("grpc", "OK") => Some(true),
        ("http1" | "http2", "403") | ("tcp", "refused") | ("grpc", "PERMISSION_DENIED") => Some(false),
        _ => None,
    }
}
