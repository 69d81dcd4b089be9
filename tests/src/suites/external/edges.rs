//! Where external authorization ends: no decision, no HTTP, other policies, other forms of paths.

use anyhow::{Result, ensure};

use super::{CLIENT, SERVERS, custom, guarded, mesh_config, seen};
use crate::agent;
use crate::running::Running;
use crate::suites::ask::{curl, equal, get, python, text, until};
use crate::suites::authz::{IN_FORCE, protect, with};

pub(super) fn without_a_decision_the_provider_says_what_becomes_of_a_request(lab: &Running) -> Result<()> {
    let nowhere = mesh_config("", "").replace("port: 9000", "port: 9001");
    for (more, status) in [(", statusOnError: '503'", 503), (", failOpen: true", 200)] {
        let short = mesh_config(more, "").replace("timeout: 5s", "timeout: 0.5s");
        let manifests = short + &custom("near", "grpc") + &custom("far", "grpc");
        with(lab, &manifests, || {
            for (server, _) in SERVERS {
                for word in ["hang", "fail", "garbage", "huge"] {
                    let reply = get(lab, CLIENT, &format!("http://{server}/asked/{word}"))?;
                    equal(&format!("{server} {word}"), reply.status, status)?;
                }
            }
            Ok(())
        })?;
        let gone = nowhere.replace("timeout: 5s", &format!("timeout: 5s{more}"));
        let manifests = gone + &custom("near", "grpc") + &custom("far", "grpc");
        with(lab, &manifests, || {
            for (server, _) in SERVERS {
                let reply = get(lab, CLIENT, &format!("http://{server}/asked/allow"))?;
                equal(&format!("{server} nowhere"), reply.status, status)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn a_grpc_client_is_told_in_trailers(lab: &Running) -> Result<()> {
    let all = protect("grpc", "CUSTOM", "[{}]")
        .replace("action: CUSTOM", "action: CUSTOM, provider: { name: http }");
    with(lab, &(mesh_config("", "") + &all), || {
        for client in [CLIENT, "shop/client-b"] {
            let said = python(lab, client, "grpc_client.py", &["grpc:50051", "unary", "1"])?;
            equal(client, text(&said, "code")?, "UNAUTHENTICATED")?;
            ensure!(
                text(&said, "details")?.contains("who are you"),
                "{client}: {said}"
            );
        }
        Ok(())
    })
}

pub(super) fn what_the_authorizer_lets_in_is_still_judged(lab: &Running) -> Result<()> {
    let rules = "[{to: [{operation: {paths: ['/asked/*']}}], when: [{key: 'request.headers[x-user]', values: [USER]}]}]";
    for (user, status) in [("alice", 200), ("mallory", 403)] {
        let allow = |app| protect(app, "ALLOW", &rules.replace("USER", user));
        let manifests = mesh_config("", "") + &custom("near", "grpc") + &custom("far", "grpc");
        with(lab, &(manifests + &allow("near") + &allow("far")), || {
            for (server, _) in SERVERS {
                let url = format!("http://{server}/asked/allow");
                let reply = curl(lab, CLIENT, &["-H", "x-user: mallory", &url])?;
                equal(&format!("{server} {user}"), reply.status, status)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn slashes_are_merged_where_the_mesh_asks_for_it(lab: &Running) -> Result<()> {
    for (form, merged) in [
        ("NONE", "/%61//b%2fc"),
        ("MERGE_SLASHES", "/a/b%2fc"),
        ("DECODE_AND_MERGE_SLASHES", "/a/b/c"),
    ] {
        let config = mesh_config("", "").replace(
            "    extensionProviders:",
            &format!("    pathNormalization: {{ normalization: {form} }}\n    extensionProviders:"),
        );
        with(lab, &config, || {
            for (server, _) in SERVERS {
                let url = format!("http://{server}/%61//b%2fc");
                equal(
                    &format!("{server} {form}"),
                    text(&seen(lab, &["--path-as-is", &url])?, "path")?,
                    merged,
                )?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn a_provider_that_is_not_declared_refuses_and_is_named(lab: &Running) -> Result<()> {
    guarded(lab, "nobody", ("", ""), || {
        for (server, node) in SERVERS {
            equal(
                server,
                get(lab, CLIENT, &format!("http://{server}/asked/allow"))?.status,
                403,
            )?;
            equal(
                server,
                get(lab, CLIENT, &format!("http://{server}/"))?.status,
                200,
            )?;
            let status = lab.status(node)?.to_string();
            ensure!(
                status.contains(&format!("AuthorizationPolicy shop/{server}-custom"))
                    && status.contains("spec.provider.name"),
                "the status of {node} does not name it: {status}"
            );
        }
        Ok(())
    })
}

pub(super) fn refusals_are_counted_and_logged_as_those_of_an_authorizer(lab: &Running) -> Result<()> {
    guarded(lab, "http", ("", ""), || {
        for (server, node) in SERVERS {
            let count = || {
                let metrics = lab.metrics(node)?;
                Ok::<_, anyhow::Error>(metrics.sum("mesh_external_checks_total", &[("result", "denied")]))
            };
            let before = count()?;
            let path = "/asked/logged";
            equal(
                server,
                get(lab, CLIENT, &format!("http://{server}{path}"))?.status,
                401,
            )?;
            ensure!(count()? - before > 0.5, "{node} does not count it");
            until(IN_FORCE, "the access log tells it", || {
                let lines = agent::access_log(&lab.site, node)?;
                Ok(lines.iter().any(|line| {
                    line["path"] == path
                        && line["response_flags"] == "UAEX"
                        && line["response_code_details"] == "ext_authz_denied"
                }))
            })?;
        }
        Ok(())
    })
}
