//! Applications that speak TLS themselves: an nginx on either node and one outside of the mesh, with authorities of their
//! own. Clients speak plain HTTP to them, and what they prove is judged by a `BackendTLSPolicy` or a `DestinationRule`.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ask::{Reply, addresses, equal, get, text, until, url};
use super::authz::{IN_FORCE, replaced, with};
use super::{Claim, claims};
use crate::agent;
use crate::manifest;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    without_a_policy_the_application_itself_refuses_plaintext,
    plaintext_clients_are_answered_by_applications_that_speak_only_tls,
    who_dials_the_pod_is_answered_too,
    an_authority_that_did_not_sign_is_not_believed,
    a_certificate_for_another_name_is_not_believed,
    alternative_names_stand_instead_of_the_host_name,
    a_policy_without_an_authority_lets_nobody_through_and_is_named,
    a_changed_policy_uses_no_connection_of_the_old_one,
    a_destination_rule_speaks_tls_within_the_mesh_too,
    a_destination_rule_speaks_tls_with_an_endpoint_outside_of_the_mesh,
    an_endpoint_outside_of_the_mesh_that_proves_nothing_gets_nothing,
];

/// On the clients' node and on the other one; both serve clients of both nodes.
const SERVERS: [(&str, &str); 2] = [("secure-near", "node-a"), ("secure-far", "node-b")];
const CLIENTS: [&str; 2] = ["shop/client", "shop/client-b"];
const OUTSIDE: &str = "outside/secure-outside";
/// The host of [`OUTSIDE`], whose address no pod has.
const ENTRY: &str = "http://192.0.2.78/";

/// The host name in the certificate of an application.
fn host_name(app: &str) -> String {
    format!("{app}.example.com")
}

/// A `ConfigMap` with the authority of the application in `pod`.
fn authority(lab: &Running, name: &str, pod: &str) -> Result<Value> {
    let path = lab.site.scratch(&pod.parse()?).join("ca.pem");
    let pem = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "shop" },
        "data": { "ca.crt": pem },
    }))
}

/// A `BackendTLSPolicy` for the Service of an application, whose authority is the `ConfigMap` of this name.
fn policy(app: &str, authority: &str, host_name: &str, names: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": { "name": app, "namespace": "shop" },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": app }],
            "validation": {
                "hostname": host_name, "subjectAltNames": names,
                "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": authority }],
            },
        },
    })
}

/// Policies for both applications, each with the authority of `signer`: what they are asked for, and the names that do.
fn policies(
    lab: &Running,
    signer: impl Fn(&str) -> String,
    host_name: impl Fn(&str) -> String,
    names: impl Fn(&str) -> Value,
) -> Result<String> {
    let mut documents = Vec::new();
    for (app, _) in SERVERS {
        let name = format!("{app}-ca");
        documents.push(authority(lab, &name, &format!("shop/{}", signer(app)))?);
        documents.push(policy(app, &name, &host_name(app), &names(app)));
    }
    manifest::to_yaml(&documents)
}

/// The policies that the applications fulfil.
fn right(lab: &Running) -> Result<String> {
    policies(lab, str::to_owned, host_name, |_| json!([]))
}

/// The other one of the two applications.
fn other(app: &str) -> String {
    let [(near, _), (far, _)] = SERVERS;
    if app == near { far } else { near }.to_owned()
}

/// Fails unless the application answered, over TLS of the newest version that it speaks, having been asked for `name`.
fn answered(what: &str, reply: &Reply, version: &str, name: &str) -> Result<()> {
    let said = reply.json().with_context(|| what.to_owned())?;
    equal(what, text(&said, "tls")?, version)?;
    equal(what, text(&said, "name")?, name)
}

/// Fails unless both applications are refused to clients of both nodes, for what they proved to the agent next to them.
fn nobody_is_believed(lab: &Running, word: &str) -> Result<()> {
    for (app, node) in SERVERS {
        for client in CLIENTS {
            let path = format!("/{word}/{app}/{client}");
            let reply = get(lab, client, &format!("http://{app}{path}"))?;
            equal(&path, reply.status, 503)?;
            is_logged(lab, node, &path)?;
        }
    }
    Ok(())
}

/// Waits until the access log of a node tells that TLS with the application failed.
pub(super) fn is_logged(lab: &Running, node: &str, path: &str) -> Result<()> {
    until(IN_FORCE, &format!("{node} logs {path}"), || {
        let lines = agent::access_log(&lab.site, node)?;
        Ok(lines.iter().any(|line| {
            line["path"] == path
                && line["response_flags"] == "UF"
                && line["response_code_details"] == "upstream_tls_failed"
        }))
    })
    .map(|_| ())
}

fn without_a_policy_the_application_itself_refuses_plaintext(lab: &Running) -> Result<()> {
    for (app, _) in SERVERS {
        for client in CLIENTS {
            let reply = get(lab, client, &format!("http://{app}/"))?;
            equal(app, reply.status, 400)?;
            ensure!(
                reply.body.contains("plain HTTP request was sent to HTTPS port"),
                "{client} {app}: {}",
                reply.body
            );
        }
    }
    Ok(())
}

fn plaintext_clients_are_answered_by_applications_that_speak_only_tls(lab: &Running) -> Result<()> {
    with(lab, &right(lab)?, || {
        for (app, _) in SERVERS {
            for client in CLIENTS {
                let reply = get(lab, client, &format!("http://{app}/a?b=c"))?;
                answered(&format!("{client} {app}"), &reply, "TLSv1.3", &host_name(app))?;
                equal(app, reply.says("host")?, app)?;
                equal(app, reply.says("path")?, "/a?b=c")?;
            }
        }
        Ok(())
    })
}

fn who_dials_the_pod_is_answered_too(lab: &Running) -> Result<()> {
    with(lab, &right(lab)?, || {
        for (app, _) in SERVERS {
            for address in addresses(lab, &format!("shop/{app}"))? {
                let dialled = url(address, 8443, "/");
                for client in CLIENTS {
                    let what = format!("{client} {dialled}");
                    answered(&what, &get(lab, client, &dialled)?, "TLSv1.3", &host_name(app))?;
                }
            }
        }
        Ok(())
    })
}

fn an_authority_that_did_not_sign_is_not_believed(lab: &Running) -> Result<()> {
    let policies = policies(lab, other, host_name, |_| json!([]))?;
    with(lab, &policies, || nobody_is_believed(lab, "authority"))
}

fn a_certificate_for_another_name_is_not_believed(lab: &Running) -> Result<()> {
    let policies = policies(lab, str::to_owned, |app| host_name(&other(app)), |_| json!([]))?;
    with(lab, &policies, || nobody_is_believed(lab, "name"))
}

fn alternative_names_stand_instead_of_the_host_name(lab: &Running) -> Result<()> {
    let asked_for = |_: &str| "asked-for.example.com".to_owned();
    let uri = |app: &str| json!([{ "type": "URI", "uri": format!("spiffe://example.com/{app}") }]);
    let hostname = |app: &str| json!([{ "type": "Hostname", "hostname": host_name(app) }]);
    let kinds: [&dyn Fn(&str) -> Value; 2] = [&uri, &hostname];
    for names in kinds {
        with(lab, &policies(lab, str::to_owned, asked_for, names)?, || {
            for (app, _) in SERVERS {
                let reply = get(lab, "shop/client", &format!("http://{app}/"))?;
                answered(
                    &names(app).to_string(),
                    &reply,
                    "TLSv1.3",
                    "asked-for.example.com",
                )?;
            }
            Ok(())
        })?;
        // The certificate has the host name, and not the name that was wanted instead.
        let wanted = |app: &str| names(&other(app));
        let policies = policies(lab, str::to_owned, host_name, wanted)?;
        let kind = names("")
            .pointer("/0/type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        with(lab, &policies, || nobody_is_believed(lab, &kind))?;
    }
    Ok(())
}

fn a_policy_without_an_authority_lets_nobody_through_and_is_named(lab: &Running) -> Result<()> {
    let of = |(app, _): (&str, &str)| policy(app, "no-such-map", &host_name(app), &json!([]));
    with(lab, &manifest::to_yaml(&SERVERS.map(of))?, || {
        nobody_is_believed(lab, "nobody")?;
        for (app, node) in SERVERS {
            let status = lab.status(node)?.to_string();
            ensure!(
                status.contains(&format!("BackendTLSPolicy shop/{app}"))
                    && status.contains("caCertificateRefs[0]"),
                "the status of {node} does not name it: {status}"
            );
        }
        Ok(())
    })
}

fn a_changed_policy_uses_no_connection_of_the_old_one(lab: &Running) -> Result<()> {
    let connections = || {
        let of = |(app, _)| get(lab, "shop/client", &format!("http://{app}/"))?.says("connection");
        SERVERS.into_iter().map(of).collect::<Result<Vec<_>>>()
    };
    let others = policies(lab, other, host_name, |_| json!([]))?;
    with(lab, &right(lab)?, || {
        // Connections are kept, so that a later request could use one by mistake.
        equal(
            "the connections of the second requests",
            connections()?,
            connections()?,
        )?;
        replaced(lab, &others)?;
        nobody_is_believed(lab, "changed")
    })
}

/// A `DestinationRule` for `host`, whose endpoints prove themselves by the `ConfigMap` `authority`.
fn simple(host: &str, authority: &str, host_name: &str, names: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": host, "namespace": "shop" },
        "spec": { "host": host, "trafficPolicy": { "tls": {
            "mode": "SIMPLE", "sni": host_name, "subjectAltNames": names,
            "credentialName": format!("configmap://{authority}"),
        } } },
    })
}

fn a_destination_rule_speaks_tls_within_the_mesh_too(lab: &Running) -> Result<()> {
    let of = |signer: &dyn Fn(&str) -> String| {
        let mut documents = Vec::new();
        for (app, _) in SERVERS {
            let name = format!("{app}-ca");
            documents.push(authority(lab, &name, &format!("shop/{}", signer(app)))?);
            documents.push(simple(app, &name, &host_name(app), &json!([])));
        }
        manifest::to_yaml(&documents)
    };
    with(lab, &of(&str::to_owned)?, || {
        for (app, _) in SERVERS {
            for client in CLIENTS {
                let reply = get(lab, client, &format!("http://{app}/"))?;
                answered(&format!("{client} {app}"), &reply, "TLSv1.3", &host_name(app))?;
            }
        }
        Ok(())
    })?;
    with(lab, &of(&other)?, || nobody_is_believed(lab, "rule"))
}

/// A host outside of the mesh whose only endpoint is [`OUTSIDE`], and the rule for it: its signer and names.
fn outside(lab: &Running, signer: &str, names: &Value) -> Result<String> {
    let [address, _] = addresses(lab, OUTSIDE)?;
    let host = host_name("secure-outside");
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": "secure-outside", "namespace": "shop" },
        "spec": {
            "hosts": [host], "addresses": ["192.0.2.78"], "resolution": "STATIC", "location": "MESH_EXTERNAL",
            "ports": [{ "number": 80, "name": "http", "targetPort": 8443 }],
            "endpoints": [{ "address": address }],
        },
    });
    manifest::to_yaml(&[
        authority(lab, "outside-ca", signer)?,
        entry,
        simple(&host, "outside-ca", &host, names),
    ])
}

fn a_destination_rule_speaks_tls_with_an_endpoint_outside_of_the_mesh(lab: &Running) -> Result<()> {
    for names in [
        json!([]),
        json!(["secure-outside.example.com"]),
        json!(["spiffe://example.com/secure-outside"]),
    ] {
        with(lab, &outside(lab, OUTSIDE, &names)?, || {
            for client in CLIENTS {
                let what = format!("{client} {names}");
                answered(
                    &what,
                    &get(lab, client, ENTRY)?,
                    "TLSv1.2",
                    &host_name("secure-outside"),
                )?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn an_endpoint_outside_of_the_mesh_that_proves_nothing_gets_nothing(lab: &Running) -> Result<()> {
    for (word, signer, names) in [
        ("signer", "shop/secure-near", json!([])),
        ("named", OUTSIDE, json!(["spiffe://example.com/secure-near"])),
    ] {
        with(lab, &outside(lab, signer, &names)?, || {
            // The agent next to the client speaks TLS.
            for (client, node) in CLIENTS.into_iter().zip(["node-a", "node-b"]) {
                let path = format!("{word}/{client}");
                equal(&path, get(lab, client, &format!("{ENTRY}{path}"))?.status, 503)?;
                is_logged(lab, node, &format!("/{path}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
