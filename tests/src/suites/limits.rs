//! `RateLimitPolicy`: requests of unmodified clients are counted on the node of their server, or by a service over Envoy's published
//! messages; for servers on both nodes. Limits are by the hour, so that no claim depends on how fast it is checked.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, curl, equal, get, python, text, until, url};
use super::authz::{IN_FORCE, with};
use super::{Claim, claims};
use crate::agent;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    what_is_over_the_limit_of_a_node_gets_429_and_when_to_come_back,
    each_caller_has_a_bucket_of_its_own,
    a_header_and_a_path_tell_requests_apart,
    only_what_matches_is_counted,
    plaintext_is_counted_too,
    a_greedy_caller_leaves_its_share_to_others,
    a_grpc_client_is_told_in_trailers,
    a_service_counts_for_both_nodes,
    without_an_answer_the_policy_says_what_becomes_of_a_request,
    a_policy_that_cannot_be_read_limits_nothing_and_is_named,
    a_dry_run_refuses_nothing_and_is_counted,
    a_change_of_something_else_gives_no_tokens,
    refusals_are_counted_and_logged_with_their_flag,
];

const CLIENT: &str = "shop/client";
const OTHER_CLIENT: &str = "shop/client-b";
/// On the client's node, and on the other one.
const SERVERS: [(&str, &str); 2] = [("near", "node-a"), ("far", "node-b")];

/// A policy for a Service, named like it.
fn policy(service: &str, limits: &str) -> String {
    format!(
        "---\napiVersion: mesh-agent.dev/v1alpha1\nkind: RateLimitPolicy\n\
         metadata: {{ namespace: shop, name: {service} }}\n\
         spec: {{ targetRefs: [{{ kind: Service, name: {service} }}], limits: [{limits}] }}\n"
    )
}

/// Both servers are limited while `work` is done.
fn limited(lab: &Running, limits: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    with(lab, &(policy("near", limits) + &policy("far", limits)), work)
}

/// The status of as many requests in turn.
fn statuses(lab: &Running, client: &str, url: &str, count: usize) -> Result<Vec<u16>> {
    let ask = |_| get(lab, client, url).map(|reply| reply.status);
    (0..count).map(ask).collect()
}

fn what_is_over_the_limit_of_a_node_gets_429_and_when_to_come_back(lab: &Running) -> Result<()> {
    limited(lab, "{ local: { requests: 3, unit: hour } }", || {
        for (server, _) in SERVERS {
            let url = format!("http://{server}/");
            equal(server, statuses(lab, CLIENT, &url, 4)?, [200, 200, 200, 429])?;
            equal(server, statuses(lab, OTHER_CLIENT, &url, 1)?, [429])?;
            let reply = curl(lab, CLIENT, &["--include", &url])?;
            for line in ["x-envoy-ratelimited: true", "local_rate_limited", "retry-after: "] {
                ensure!(reply.body.contains(line), "{server}: no {line} in {}", reply.body);
            }
        }
        Ok(())
    })
}

fn each_caller_has_a_bucket_of_its_own(lab: &Running) -> Result<()> {
    limited(
        lab,
        "{ key: [{ type: Source }], local: { requests: 2, unit: hour } }",
        || {
            for (server, other) in [("near", "shop/far"), ("far", "shop/near")] {
                let url = format!("http://{server}/");
                equal(server, statuses(lab, CLIENT, &url, 2)?, [200, 200])?;
                // The same service account on another node is the same caller.
                equal(server, statuses(lab, OTHER_CLIENT, &url, 1)?, [429])?;
                equal(server, statuses(lab, other, &url, 3)?, [200, 200, 429])?;
            }
            Ok(())
        },
    )
}

fn a_header_and_a_path_tell_requests_apart(lab: &Running) -> Result<()> {
    let limit =
        "{ key: [{ type: Header, name: x-user }, { type: Path }], local: { requests: 1, unit: hour } }";
    limited(lab, limit, || {
        for (server, _) in SERVERS {
            for (user, path, status) in [
                ("alice", "/a?x=1", 200),
                ("alice", "/a?x=2", 429),
                ("bob", "/a", 200),
                ("alice", "/b", 200),
                ("bob", "/a", 429),
            ] {
                let header = format!("x-user: {user}");
                let reply = curl(lab, CLIENT, &["-H", &header, &format!("http://{server}{path}")])?;
                equal(&format!("{server} {user} {path}"), reply.status, status)?;
            }
        }
        Ok(())
    })
}

fn only_what_matches_is_counted(lab: &Running) -> Result<()> {
    let limit = "{ match: { path: { value: /login }, method: POST }, local: { requests: 1, unit: hour } }";
    limited(lab, limit, || {
        for (server, _) in SERVERS {
            let ask = |method: &str, path: &str| {
                let url = format!("http://{server}{path}");
                curl(lab, CLIENT, &["--path-as-is", "-X", method, &url]).map(|reply| reply.status)
            };
            equal(server, ask("POST", "/login")?, 200)?;
            for path in [
                "/login",
                "/login/x",
                "//login",
                "/%6cogin",
                "/x/..%2flogin",
                "/login;a=b",
            ] {
                equal(&format!("{server} {path}"), ask("POST", path)?, 429)?;
            }
            equal(server, ask("GET", "/login")?, 200)?;
            equal(server, ask("POST", "/logins")?, 200)?;
        }
        Ok(())
    })
}

fn plaintext_is_counted_too(lab: &Running) -> Result<()> {
    limited(
        lab,
        "{ key: [{ type: Source }], local: { requests: 2, unit: hour } }",
        || {
            for (server, _) in SERVERS {
                let [address, _] = addresses(lab, &format!("shop/{server}"))?;
                let url = url(address, 8080, "/");
                let first = statuses(lab, "outside/stranger", &url, 2)?;
                equal(server, first, [200, 200])?;
                equal(server, statuses(lab, "outside/stranger-b", &url, 1)?, [429])?;
                equal(
                    server,
                    statuses(lab, CLIENT, &format!("http://{server}/"), 1)?,
                    [200],
                )?;
            }
            Ok(())
        },
    )
}

fn a_greedy_caller_leaves_its_share_to_others(lab: &Running) -> Result<()> {
    let limit = "{ key: [{ type: Source }], local: { requests: 20, unit: hour, divided: true } }";
    limited(lab, limit, || {
        for (server, _) in SERVERS {
            let url = format!("http://{server}/");
            let greedy = statuses(lab, CLIENT, &url, 20)?;
            let got = greedy.iter().filter(|status| **status == 200).count();
            ensure!((8..20).contains(&got), "{server}: the greedy one got {got}");
            let other = if server == "near" { "shop/far" } else { "shop/near" };
            equal(server, statuses(lab, other, &url, 3)?, [200; 3])?;
            equal(server, statuses(lab, CLIENT, &url, 1)?, [429])?;
        }
        Ok(())
    })
}

fn a_grpc_client_is_told_in_trailers(lab: &Running) -> Result<()> {
    let limit = policy("grpc", "{ local: { requests: 1, unit: hour } }");
    for (more, code) in [
        ("", "UNAVAILABLE"),
        ("grpcStatus: RESOURCE_EXHAUSTED, ", "RESOURCE_EXHAUSTED"),
    ] {
        let limit = limit.replace("limits:", &format!("{more}limits:"));
        with(lab, &limit, || {
            let call = || python(lab, CLIENT, "grpc_client.py", &["grpc:50051", "unary", "1"]);
            equal("the first", text(&call()?, "code")?, "OK")?;
            let refused = call()?;
            equal("the second", text(&refused, "code")?, code)?;
            equal("the second", text(&refused, "details")?, "local_rate_limited")
        })?;
    }
    Ok(())
}

/// A limit that the service counts, of `domain` and the value of `x-user`.
fn global(domain: &str, more: &str) -> String {
    format!(
        "{{ global: {{ service: ratelimiter.shop.svc.cluster.local, port: 8081, domain: {domain}, descriptors: [{{ \
         entries: [{{ key: most-3, value: all }}, {{ key: user, from: {{ type: Header, name: x-user }} }}] }}]{more} }} }}"
    )
}

fn ask_as(lab: &Running, user: &str, server: &str) -> Result<super::ask::Reply> {
    let header = format!("x-user: {user}");
    let url = format!("http://{server}/");
    curl(lab, CLIENT, &["--include", "-H", &header, &url])
}

fn a_service_counts_for_both_nodes(lab: &Running) -> Result<()> {
    limited(lab, &global("both", ", timeout: 5s, failureMode: deny"), || {
        for (server, status) in [
            ("near", 200),
            ("far", 200),
            ("near", 200),
            ("far", 429),
            ("near", 429),
        ] {
            let reply = ask_as(lab, "alice", server)?;
            equal(server, reply.status, status)?;
            ensure!(reply.body.contains("x-told: yes"), "{server}: {}", reply.body);
            if status == 429 {
                for line in ["x-envoy-ratelimited: true", "retry-after: 42", "come back later"] {
                    ensure!(reply.body.contains(line), "{server}: no {line} in {}", reply.body);
                }
            }
        }
        let seen = curl(lab, CLIENT, &["-H", "x-user: bob", "http://far/"])?.json()?;
        let asked = seen.pointer("/headers/x-asked").and_then(Value::as_str);
        let asked: Value = serde_json::from_str(asked.context("the service said nothing")?)?;
        for (pointer, wanted) in [
            ("/domain", "both"),
            ("/descriptors/0/entries/1/key", "user"),
            ("/descriptors/0/entries/1/value", "bob"),
        ] {
            let told = asked.pointer(pointer).and_then(Value::as_str);
            equal(pointer, told, Some(wanted))?;
        }
        Ok(())
    })
}

fn without_an_answer_the_policy_says_what_becomes_of_a_request(lab: &Running) -> Result<()> {
    for (mode, status) in [("open", 200), ("deny", 500)] {
        let more = format!(", timeout: 500ms, failureMode: {mode}");
        limited(lab, &global("silent", &more), || {
            for (server, _) in SERVERS {
                for user in ["hang", "fail", "garbage", "unknown"] {
                    equal(
                        &format!("{server} {user}"),
                        ask_as(lab, user, server)?.status,
                        status,
                    )?;
                }
            }
            Ok(())
        })?;
        let nowhere = global("silent", &more).replace("port: 8081", "port: 8082");
        limited(lab, &nowhere, || {
            for (server, _) in SERVERS {
                equal(server, ask_as(lab, "alice", server)?.status, status)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn a_policy_that_cannot_be_read_limits_nothing_and_is_named(lab: &Running) -> Result<()> {
    limited(lab, "{ local: { requests: 1, unit: fortnight } }", || {
        for (server, node) in SERVERS {
            equal(
                server,
                statuses(lab, CLIENT, &format!("http://{server}/"), 3)?,
                [200; 3],
            )?;
            let status = lab.status(node)?.to_string();
            ensure!(
                status.contains(&format!("RateLimitPolicy shop/{server}"))
                    && status.contains("spec.limits[0].local.unit"),
                "the status of {node} does not name it: {status}"
            );
        }
        Ok(())
    })
}

fn a_dry_run_refuses_nothing_and_is_counted(lab: &Running) -> Result<()> {
    let trial = policy("far", "{ local: { requests: 1, unit: hour } }").replace(
        "namespace: shop,",
        "namespace: shop, annotations: { istio.io/dry-run: 'true' },",
    );
    with(lab, &trial, || {
        let count = || {
            let metrics = lab.metrics("node-b")?;
            Ok::<_, anyhow::Error>(metrics.sum("mesh_rate_limit_dry_runs_total", &[("result", "deny")]))
        };
        let before = count()?;
        equal("status", statuses(lab, CLIENT, "http://far/", 3)?, [200; 3])?;
        ensure!(count()? - before > 1.5, "it is not counted");
        Ok(())
    })
}

fn a_change_of_something_else_gives_no_tokens(lab: &Running) -> Result<()> {
    limited(lab, "{ local: { requests: 1, unit: hour } }", || {
        let asked = |times, expected: &[u16]| {
            for (server, _) in SERVERS {
                let got = statuses(lab, CLIENT, &format!("http://{server}/"), times)?;
                ensure!(got == expected, "{server} answers {got:?}, not {expected:?}");
            }
            Ok(())
        };
        asked(2, &[200, 429])?;
        let changed = lab
            .put_manifest(ELSE, &policy("grpc", "{ local: { requests: 1000, unit: hour } }"))
            .and_then(|()| lab.settled(IN_FORCE))
            .and_then(|()| asked(1, &[429]));
        lab.remove_manifest(ELSE)?;
        changed
    })
}

fn refusals_are_counted_and_logged_with_their_flag(lab: &Running) -> Result<()> {
    limited(lab, "{ local: { requests: 1, unit: hour } }", || {
        for (server, node) in SERVERS {
            let count = || {
                let metrics = lab.metrics(node)?;
                let reason = [("reason", "local_rate_limited")];
                Ok::<_, anyhow::Error>(metrics.sum("mesh_policy_denials_total", &reason))
            };
            let before = count()?;
            let path = format!("/limited-{server}");
            equal(
                server,
                statuses(lab, CLIENT, &format!("http://{server}{path}"), 2)?,
                [200, 429],
            )?;
            ensure!(count()? - before > 0.5, "{node} does not count it");
            until(IN_FORCE, "the access log tells it", || {
                let lines = agent::access_log(&lab.site, node)?;
                Ok(lines.iter().any(|line| {
                    line["path"] == path.as_str()
                        && line["response_flags"] == "RL"
                        && line["response_code_details"] == "local_rate_limited"
                }))
            })?;
        }
        Ok(())
    })
}

/// Beside the policies of a claim.
const ELSE: &str = "something-else.yaml";
