//! Servers that want to know who their client is: by a certificate (`tls` of a DestinationRule, from files of the node), or by the
//! header of the PROXY protocol; and forward proxies. They are nginx, HAProxy, `openssl s_server`, squid and tinyproxy, started by
//! the claims in pods of the lab.

mod tunnel;
mod unproved;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::tunnel::{
    a_forward_proxy_that_refuses_ends_the_connection_and_is_counted,
    bytes_go_through_a_forward_proxy_to_where_a_rule_says,
};
use self::unproved::what_is_not_proved_is_refused_and_named_and_hurts_no_other;
use super::ask::{Reply, addresses, equal, get, python, text};
use super::authz::with;
use super::resilience::Program;
use super::tlsorigin::is_logged;
use super::{Claim, claims};
use crate::manifest;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    a_server_that_asks_for_a_certificate_is_shown_that_of_the_node,
    a_rotated_pair_is_shown_from_the_next_connection_on,
    a_server_whose_certificate_is_revoked_gets_nothing,
    a_rule_that_names_a_secret_refuses_and_says_what_to_name_instead,
    bytes_that_are_no_http_are_wrapped_in_tls_of_the_nodes_pair,
    what_is_not_proved_is_refused_and_named_and_hurts_no_other,
    servers_behind_the_proxy_protocol_see_the_clients_own_socket,
    bytes_go_through_a_forward_proxy_to_where_a_rule_says,
    a_forward_proxy_that_refuses_ends_the_connection_and_is_counted,
];

/// A server in a pod, and how it is reached.
struct Server {
    /// What `guarded.sh` is told, and where its files lie on the nodes.
    name: &'static str,
    pod: &'static str,
    /// As rules name it.
    host: &'static str,
    url: &'static str,
    /// Whose agent speaks TLS with it; that of the client's node where there is none.
    node: Option<&'static str>,
}

const NEAR: Server = Server {
    name: "guarded-near",
    pod: "shop/secure-near",
    host: "guarded-near",
    url: "http://guarded-near/",
    node: Some("node-a"),
};
const FAR: Server = Server {
    name: "guarded-far",
    pod: "shop/secure-far",
    host: "guarded-far",
    url: "http://guarded-far/",
    node: Some("node-b"),
};
/// Outside of the mesh, by addresses that no pod has: see [`entry`].
const OUTSIDE: Server = Server {
    name: "guarded-outside",
    pod: "outside/secure-outside",
    host: "guarded-outside.example.com",
    url: "http://192.0.2.79/",
    node: None,
};
const SERVERS: [&Server; 3] = [&NEAR, &FAR, &OUTSIDE];
const CLIENTS: [(&str, &str); 2] = [("shop/client", "node-a"), ("shop/client-b", "node-b")];

impl Server {
    /// Starts it, with an authority, a certificate and clients of its own, and gives the nodes its authority and `client`.
    fn start<'l>(&self, lab: &'l Running, client: &str) -> Result<Program<'l>> {
        let script = format!("exec sh ../programs/guarded.sh {}", self.name);
        let program = Program::start(lab, self.pod, &script, 9443)?;
        self.keep(lab, "ca.pem", "ca.pem")?;
        self.show(lab, client)?;
        Ok(program)
    }

    /// The nodes' files hold the certificate and the key of `client` from now on.
    fn show(&self, lab: &Running, client: &str) -> Result<()> {
        self.keep(lab, &format!("{client}.pem"), "client.pem")?;
        self.keep(lab, &format!("{client}.key"), "client.key")
    }

    /// Puts what `guarded.sh` has made in the place of a file of the nodes, at once.
    fn keep(&self, lab: &Running, made: &str, kept: &str) -> Result<()> {
        let made = lab.site.scratch(&self.pod.parse()?).join("guarded").join(made);
        let dir = lab.site.tls_files().join("shop").join(self.name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let aside = dir.join("aside");
        fs::copy(&made, &aside).with_context(|| format!("copy {}", made.display()))?;
        fs::rename(&aside, dir.join(kept)).with_context(|| format!("put {kept} in place"))
    }

    /// A path as rules have it.
    fn path(&self, kept: &str) -> String {
        format!("/{}/{kept}", self.name)
    }

    /// What believes the server.
    fn simple(&self) -> Value {
        json!({
            "mode": "SIMPLE", "sni": format!("{}.example.com", self.name), "caCertificates": self.path("ca.pem"),
        })
    }

    /// What believes the server and shows it the nodes' pair.
    fn mutual(&self) -> Value {
        let tls = and(self.simple(), "mode", "MUTUAL");
        let tls = and(tls, "clientCertificate", self.path("client.pem"));
        and(tls, "privateKey", self.path("client.key"))
    }

    /// Fails unless clients of both nodes are answered, as whom the server calls `subject`.
    fn knows(&self, lab: &Running, subject: &str) -> Result<()> {
        for (client, _) in CLIENTS {
            let reply = get(lab, client, self.url)?;
            equal(self.name, reply.says("client")?, subject)?;
            equal(
                self.name,
                reply.says("name")?,
                format!("{}.example.com", self.name),
            )?;
        }
        Ok(())
    }

    /// Fails unless the server itself turns clients of both nodes away, in these words.
    fn complains(&self, lab: &Running, words: &str) -> Result<()> {
        for (client, _) in CLIENTS {
            let Reply { status, body, .. } = get(lab, client, self.url)?;
            equal(self.name, status, 400)?;
            ensure!(body.contains(words), "{}: {body}", self.name);
        }
        Ok(())
    }

    /// Fails unless nothing is sent to the server, for clients of both nodes.
    fn is_refused(&self, lab: &Running, word: &str) -> Result<()> {
        for (client, node) in CLIENTS {
            let path = format!("{word}/{client}");
            let reply = get(lab, client, &format!("{}{path}", self.url))?;
            equal(&format!("{} {path}", self.name), reply.status, 503)?;
            is_logged(lab, self.node.unwrap_or(node), &format!("/{path}"))?;
        }
        Ok(())
    }
}

/// All three servers, each with a client of its authority in the nodes' files.
fn servers<'l>(lab: &'l Running, client: &str) -> Result<Vec<Program<'l>>> {
    SERVERS.iter().map(|server| server.start(lab, client)).collect()
}

/// The host outside of the mesh, at one endpoint: HTTP, TLS without HTTP, and three ports behind the PROXY protocol.
fn entry(lab: &Running) -> Result<Value> {
    let [address, _] = addresses(lab, OUTSIDE.pod)?;
    Ok(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": OUTSIDE.name, "namespace": "shop" },
        "spec": {
            "hosts": [OUTSIDE.host], "addresses": ["192.0.2.79", "2001:db8::79"], "resolution": "STATIC",
            "location": "MESH_EXTERNAL", "endpoints": [{ "address": address }],
            "ports": [
                { "number": 80, "name": "http", "targetPort": 9443 },
                { "number": 44, "name": "tcp", "targetPort": 9444 },
                { "number": 45, "name": "http-nginx", "targetPort": 9445 },
                { "number": 46, "name": "http-nginx-tls", "targetPort": 9446 },
                { "number": 47, "name": "http-haproxy", "targetPort": 9447 },
            ],
        },
    }))
}

fn rule(server: &Server, policy: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": server.name, "namespace": "shop" },
        "spec": { "host": server.host, "trafficPolicy": policy },
    })
}

/// Does `work` while each server has a rule with such `tls`.
fn with_tls(
    lab: &Running,
    tls: impl Fn(&Server) -> Value,
    work: impl Fn(&Server) -> Result<()>,
) -> Result<()> {
    let mut documents = vec![entry(lab)?];
    documents.extend(SERVERS.map(|server| rule(server, &json!({ "tls": tls(server) }))));
    with(lab, &manifest::to_yaml(&documents)?, || {
        SERVERS.into_iter().try_for_each(work)
    })
}

/// `tls` with this field so, and the others as they are.
fn and(mut tls: Value, field: &str, value: impl Into<Value>) -> Value {
    if let Value::Object(fields) = &mut tls {
        fields.insert(field.to_owned(), value.into());
    }
    tls
}

fn a_server_that_asks_for_a_certificate_is_shown_that_of_the_node(lab: &Running) -> Result<()> {
    let _servers = servers(lab, "alpha")?;
    with_tls(lab, Server::simple, |server| {
        server.complains(lab, "No required SSL certificate was sent")
    })?;
    with_tls(lab, Server::mutual, |server| {
        server.knows(lab, "CN=alpha")?;
        server.show(lab, "stranger")?;
        server.complains(lab, "The SSL certificate error")
    })
}

fn a_rotated_pair_is_shown_from_the_next_connection_on(lab: &Running) -> Result<()> {
    let _servers = servers(lab, "alpha")?;
    with_tls(lab, Server::mutual, |server| {
        server.knows(lab, "CN=alpha")?;
        // Half of a pair is none.
        server.keep(lab, "beta.pem", "client.pem")?;
        server.knows(lab, "CN=alpha")?;
        server.keep(lab, "beta.key", "client.key")?;
        server.knows(lab, "CN=beta")
    })
}

fn a_server_whose_certificate_is_revoked_gets_nothing(lab: &Running) -> Result<()> {
    let _servers = servers(lab, "alpha")?;
    let list = |server: &Server, name: &str| server.keep(lab, name, "list.crl");
    for server in SERVERS {
        list(server, "none.crl")?;
    }
    let revoked = |server: &Server| and(server.mutual(), "caCrl", server.path("list.crl"));
    with_tls(lab, revoked, |server| {
        server.knows(lab, "CN=alpha")?;
        list(server, "revoked.crl")?;
        server.is_refused(lab, "revoked")?;
        list(server, "none.crl")?;
        server.knows(lab, "CN=alpha")
    })
}

fn a_rule_that_names_a_secret_refuses_and_says_what_to_name_instead(lab: &Running) -> Result<()> {
    for mode in ["SIMPLE", "MUTUAL"] {
        let secret = |_: &Server| json!({ "mode": mode, "credentialName": "pair" });
        with_tls(lab, secret, |server| {
            server.is_refused(lab, mode)?;
            for (_, node) in CLIENTS {
                let status = lab.status(node)?.to_string();
                for words in [
                    format!("DestinationRule shop/{}", server.name),
                    "spec.trafficPolicy.tls.credentialName".to_owned(),
                    "configmap://NAME".to_owned(),
                    "tls_files_dir".to_owned(),
                ] {
                    ensure!(status.contains(&words), "no {words:?} in the status of {node}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn bytes_that_are_no_http_are_wrapped_in_tls_of_the_nodes_pair(lab: &Running) -> Result<()> {
    let _files = OUTSIDE.start(lab, "alpha")?;
    let said = |client: &str| -> Result<String> {
        let arguments = ["--send", "stressed\n", "192.0.2.79", "44"];
        let said = python(lab, client, "tcp_client.py", &arguments)?;
        Ok(text(&said, "received")?.to_owned())
    };
    let documents = [entry(lab)?, rule(&OUTSIDE, &json!({ "tls": OUTSIDE.mutual() }))];
    for version in ["-tls1_2", "-tls1_3"] {
        // It answers each line backwards, once the client is verified.
        let server = format!(
            "cd \"$SCRATCH/guarded\" && exec openssl s_server -4 -accept 9444 {version} -cert server.pem -key server.key \
             -CAfile who-can.pem -Verify 1 -verify_return_error -rev"
        );
        let _server = Program::start(lab, OUTSIDE.pod, &server, 9444)?;
        with(lab, &manifest::to_yaml(&documents)?, || {
            for (client, _) in CLIENTS {
                OUTSIDE.show(lab, "beta")?;
                equal(version, said(client)?, "desserts\n")?;
                OUTSIDE.show(lab, "stranger")?;
                equal(version, said(client)?, "")?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn servers_behind_the_proxy_protocol_see_the_clients_own_socket(lab: &Running) -> Result<()> {
    let _nginx = OUTSIDE.start(lab, "alpha")?;
    let _haproxy = Program::start(
        lab,
        OUTSIDE.pod,
        "exec haproxy -db -f ../programs/accept_proxy.cfg",
        9447,
    )?;
    let tls = json!([{ "port": { "number": 46 }, "tls": OUTSIDE.simple() }]);
    let untold = rule(&OUTSIDE, &json!({ "portLevelSettings": tls }));
    with(lab, &manifest::to_yaml(&[entry(lab)?, untold])?, || {
        for port in PROXIED {
            let reply = get(lab, "shop/client", &format!("http://192.0.2.79:{port}/"))?;
            ensure!(reply.status != 200, "{port} answers who tells nothing");
        }
        Ok(())
    })?;
    for version in ["V1", "V2"] {
        let policy = json!({ "proxyProtocol": { "version": version }, "portLevelSettings": tls });
        let told = [entry(lab)?, rule(&OUTSIDE, &policy)];
        with(lab, &manifest::to_yaml(&told)?, || {
            PROXIED.into_iter().try_for_each(|port| is_introduced(lab, port))
        })?;
    }
    Ok(())
}

/// nginx, nginx that speaks TLS behind the header, and HAProxy.
const PROXIED: [u16; 3] = [45, 46, 47];

/// Fails unless the server on this port was told of the sockets of both clients, and which addresses they dialled.
fn is_introduced(lab: &Running, port: u16) -> Result<()> {
    for (client, _) in CLIENTS {
        let own = addresses(lab, client)?;
        for (own, dialled) in own.into_iter().zip(["192.0.2.79", "2001:db8::79"]) {
            let host = if own.is_ipv4() {
                dialled.to_owned()
            } else {
                format!("[{dialled}]")
            };
            let what = format!("{client} {host}:{port}");
            let reply = get(lab, client, &format!("http://{host}:{port}/"))?;
            equal(&what, reply.says("client")?, own.to_string())?;
            equal(&what, reply.says("port")?, reply.local_port.to_string())?;
            equal(&what, reply.says("dialled")?, dialled)?;
            equal(&what, reply.says("dialled_port")?, port.to_string())?;
        }
    }
    Ok(())
}
