//! External authorization: CUSTOM policies and gates of routes whose decision is that of programs which know nothing of
//! this mesh, a gRPC server over Envoy's published messages and an nginx; for servers on both nodes.

mod connections;
mod edges;
mod gates;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::connections::{
    a_connection_is_asked_about_before_the_application_hears_of_it,
    a_live_direct_connection_ends_when_somebody_must_be_asked_about_it,
    an_http_provider_is_not_asked_about_connections_and_is_named,
    without_a_decision_the_provider_says_what_becomes_of_a_connection,
};
use self::edges::{
    a_grpc_client_is_told_in_trailers, a_provider_that_is_not_declared_refuses_and_is_named,
    refusals_are_counted_and_logged_as_those_of_an_authorizer, slashes_are_merged_where_the_mesh_asks_for_it,
    what_the_authorizer_lets_in_is_still_judged,
    without_a_decision_the_provider_says_what_becomes_of_a_request,
};
use self::gates::{
    a_gate_of_a_route_refuses_in_its_own_words_at_the_clients_node,
    a_gate_of_a_route_sees_what_the_client_wrote_and_changes_what_the_back_end_sees,
    a_gate_of_a_route_that_nobody_answers_stays_shut, who_dials_the_pod_passes_no_gate_of_a_route,
};
use super::ask::{addresses, curl, equal, get, text, url};
use super::authz::{protect, with};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    a_grpc_authorizer_lets_in_and_changes_the_request,
    a_grpc_authorizer_is_told_who_asks_whom_for_what,
    a_grpc_authorizer_refuses_in_its_own_words,
    an_http_authorizer_lets_in_and_changes_the_request,
    an_http_authorizer_refuses_in_its_own_words,
    plaintext_is_asked_about_too,
    a_body_is_shown_and_sent_on_whole,
    without_a_decision_the_provider_says_what_becomes_of_a_request,
    a_grpc_client_is_told_in_trailers,
    a_connection_is_asked_about_before_the_application_hears_of_it,
    without_a_decision_the_provider_says_what_becomes_of_a_connection,
    an_http_provider_is_not_asked_about_connections_and_is_named,
    a_live_direct_connection_ends_when_somebody_must_be_asked_about_it,
    what_the_authorizer_lets_in_is_still_judged,
    slashes_are_merged_where_the_mesh_asks_for_it,
    a_provider_that_is_not_declared_refuses_and_is_named,
    refusals_are_counted_and_logged_as_those_of_an_authorizer,
    a_gate_of_a_route_sees_what_the_client_wrote_and_changes_what_the_back_end_sees,
    a_gate_of_a_route_refuses_in_its_own_words_at_the_clients_node,
    a_gate_of_a_route_that_nobody_answers_stays_shut,
    who_dials_the_pod_passes_no_gate_of_a_route,
];

const CLIENT: &str = "shop/client";
/// On the client's node, and on the other one.
const SERVERS: [(&str, &str); 2] = [("near", "node-a"), ("far", "node-b")];

/// `MeshConfig` with the gRPC authorizer as `grpc` and the nginx as `http`; each with more fields.
fn mesh_config(grpc: &str, http: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: ROOT }}\ndata:\n  mesh: |\n    \
         extensionProviders:\n    - name: grpc\n      envoyExtAuthzGrpc: {{ service: \
         authorizer.shop.svc.cluster.local, port: 9000, timeout: 5s{grpc} }}\n    - name: http\n      \
         envoyExtAuthzHttp: {{ service: doorman.shop.svc.cluster.local, port: 80, timeout: 5s, pathPrefix: \
         /check{http} }}\n"
    )
    .replace("ROOT", ROOT)
}

/// A CUSTOM policy for what lies below `/asked` at an app.
fn custom(app: &str, provider: &str) -> String {
    let rules = "[{to: [{operation: {paths: ['/asked/*']}}]}]";
    protect(app, "CUSTOM", rules).replace(
        "action: CUSTOM",
        &format!("action: CUSTOM, provider: {{ name: {provider} }}"),
    )
}

/// Both servers are protected by `provider` while `work` is done.
fn guarded(
    lab: &Running,
    provider: &str,
    (grpc, http): (&str, &str),
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let manifests = mesh_config(grpc, http) + &custom("near", provider) + &custom("far", provider);
    with(lab, &manifests, work)
}

/// The request headers that the application says it saw.
fn header(seen: &Value, name: &str) -> Option<String> {
    Some(seen.get("headers")?.get(name)?.as_str()?.to_owned())
}

fn seen(lab: &Running, arguments: &[&str]) -> Result<Value> {
    curl(lab, CLIENT, arguments)?.json()
}

fn a_grpc_authorizer_lets_in_and_changes_the_request(lab: &Running) -> Result<()> {
    guarded(lab, "grpc", ("", ""), || {
        for (server, _) in SERVERS {
            let url = format!("http://{server}/asked/allow?token=t&x=1");
            let forged = ["-H", "x-user: mallory", "-H", "x-secret: s", "-H", "x-many: a"];
            let seen = seen(lab, &[&forged[..], &[&url]].concat())?;
            equal(server, text(&seen, "path")?, "/asked/allow?x=1&by=alice")?;
            equal(server, header(&seen, "x-user").as_deref(), Some("alice"))?;
            equal(server, header(&seen, "x-secret"), None)?;
            equal(server, header(&seen, "host").as_deref(), Some(server))?;
            let many = header(&seen, "x-many");
            ensure!(
                many.is_some_and(|many| many.contains('b')),
                "{server}: nothing was added to x-many"
            );
            let reply = curl(lab, CLIENT, &["--include", &url])?;
            ensure!(reply.body.contains("x-told: yes"), "{server}: {}", reply.body);
        }
        Ok(())
    })
}

fn a_grpc_authorizer_is_told_who_asks_whom_for_what(lab: &Running) -> Result<()> {
    guarded(lab, "grpc", ("", ""), || {
        for (server, _) in SERVERS {
            let url = format!("http://{server}/asked/allow?x=1");
            let seen = seen(lab, &["-X", "PUT", "-H", "x-a: b", &url])?;
            let asked = header(&seen, "x-asked").context("the authorizer said nothing")?;
            let asked: Value = serde_json::from_str(&asked)?;
            let at = |pointer: &str| asked.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            for (pointer, wanted) in [
                (
                    "/source/principal",
                    "spiffe://cluster.local/ns/shop/sa/client".to_owned(),
                ),
                (
                    "/destination/principal",
                    format!("spiffe://cluster.local/ns/shop/sa/{server}"),
                ),
                ("/destination/service", format!("{server}.shop.svc.cluster.local")),
                ("/request/http/method", "PUT".to_owned()),
                ("/request/http/path", "/asked/allow?x=1".to_owned()),
                ("/request/http/host", server.to_owned()),
                ("/request/http/scheme", "http".to_owned()),
                ("/request/http/protocol", "HTTP/1.1".to_owned()),
                ("/request/http/headers/x-a", "b".to_owned()),
                ("/request/http/headers/:path", "/asked/allow?x=1".to_owned()),
            ] {
                equal(&format!("{server} {pointer}"), at(pointer), wanted.as_str())?;
            }
            let pod = lab.pod(&CLIENT.parse()?)?;
            let source = at("/source/address/socket_address/address");
            let own = [pod.ipv4.to_string(), pod.ipv6.to_string()];
            ensure!(
                own.iter().any(|own| own == source),
                "{server}: the source is {source}"
            );
            ensure!(!at("/request/time").is_empty(), "{server}: no time");
        }
        Ok(())
    })
}

fn a_grpc_authorizer_refuses_in_its_own_words(lab: &Running) -> Result<()> {
    guarded(lab, "grpc", ("", ""), || {
        for (server, _) in SERVERS {
            let reply = curl(
                lab,
                CLIENT,
                &["--include", &format!("http://{server}/asked/deny")],
            )?;
            equal(server, reply.status, 402)?;
            ensure!(reply.body.contains("pay first"), "{server}: {}", reply.body);
            ensure!(reply.body.contains("x-price: 5"), "{server}: {}", reply.body);
            equal(
                server,
                get(lab, CLIENT, &format!("http://{server}/asked/empty"))?.status,
                403,
            )?;
            equal(
                server,
                get(lab, CLIENT, &format!("http://{server}/open/deny"))?.status,
                200,
            )?;
        }
        Ok(())
    })
}

fn an_http_authorizer_lets_in_and_changes_the_request(lab: &Running) -> Result<()> {
    let more = ", includeRequestHeadersInCheck: [x-shown], headersToUpstreamOnAllow: [x-user, x-asked], \
                headersToDownstreamOnAllow: [x-told]";
    guarded(lab, "http", ("", more), || {
        for (server, _) in SERVERS {
            let url = format!("http://{server}/asked/allow");
            let headers = ["-H", "x-user: mallory", "-H", "x-shown: 1", "-H", "x-hidden: 2"];
            let seen = seen(lab, &[&headers[..], &[&url]].concat())?;
            equal(server, header(&seen, "x-user").as_deref(), Some("alice"))?;
            equal(
                server,
                header(&seen, "x-asked").as_deref().map(str::trim),
                Some(format!("GET {server} /check/asked/allow 1").as_str()),
            )?;
            let reply = curl(lab, CLIENT, &["--include", &url])?;
            ensure!(reply.body.contains("x-told: yes"), "{server}: {}", reply.body);
            ensure!(!reply.body.contains("x-untold"), "{server}: {}", reply.body);
        }
        Ok(())
    })
}

fn an_http_authorizer_refuses_in_its_own_words(lab: &Running) -> Result<()> {
    guarded(lab, "http", ("", ", statusOnError: '503'"), || {
        for (server, _) in SERVERS {
            let ask = |path: &str| {
                curl(
                    lab,
                    CLIENT,
                    &["--include", &format!("http://{server}/asked/{path}")],
                )
            };
            let reply = ask("no")?;
            equal(server, reply.status, 401)?;
            ensure!(reply.body.contains("who are you"), "{server}: {}", reply.body);
            ensure!(
                reply.body.contains("Basic realm=\"lab\""),
                "{server}: {}",
                reply.body
            );
            let reply = ask("login")?;
            equal(server, reply.status, 302)?;
            ensure!(
                reply.body.contains("http://login.example/"),
                "{server}: {}",
                reply.body
            );
            equal(server, ask("broken")?.status, 503)?;
        }
        Ok(())
    })
}

fn plaintext_is_asked_about_too(lab: &Running) -> Result<()> {
    guarded(lab, "grpc", ("", ""), || {
        for stranger in ["outside/stranger", "outside/stranger-b"] {
            for (server, _) in SERVERS {
                let [address, _] = addresses(lab, &format!("shop/{server}"))?;
                let ask = |path: &str| {
                    let url = url(address, 8080, path);
                    curl(lab, stranger, &["--path-as-is", &url])
                };
                equal(stranger, ask("/asked/allow")?.says("version")?, server)?;
                equal(stranger, ask("/asked/deny")?.status, 402)?;
                equal(stranger, ask("/x/../asked/deny")?.status, 402)?;
            }
        }
        Ok(())
    })
}

fn a_body_is_shown_and_sent_on_whole(lab: &Running) -> Result<()> {
    let partial = ", includeRequestBodyInCheck: { maxRequestBytes: 5, allowPartialMessage: true }";
    let whole = ", includeRequestBodyInCheck: { maxRequestBytes: 5 }";
    for (more, shown, large) in [(partial, "01234", 200), (whole, "", 413)] {
        guarded(lab, "grpc", (more, ""), || {
            for (server, _) in SERVERS {
                let post = |body: &str, path: &str| {
                    let url = format!("http://{server}/asked/{path}");
                    curl(lab, CLIENT, &["--data-binary", body, &url])
                };
                equal(server, post("0123456789", "allow")?.status, large)?;
                equal(server, post("01234", "deny")?.status, 402)?;
                let seen = post("0123", "allow")?.json()?;
                let asked = header(&seen, "x-asked").context("the authorizer said nothing")?;
                ensure!(asked.contains("\"body\": \"0123\""), "{server}: {asked}");
                equal(server, header(&seen, "content-length").as_deref(), Some("4"))?;
                if large == 200 {
                    let asked = header(&post("0123456789", "allow")?.json()?, "x-asked").unwrap_or_default();
                    ensure!(
                        asked.contains(&format!("\"body\": \"{shown}\"")),
                        "{server}: {asked}"
                    );
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The default of the agent's setting `root_namespace`.
const ROOT: &str = "mesh-system";
