//! Tokens of an issuer that nobody here wrote (PyJWT): believed, refused, rotated, on one node, between two, and in
//! plaintext.

mod issuer;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::issuer::{ISSUER, Issuer, end};
use super::ask::{Reply, addresses, curl, equal, python, text, until, url};
use super::{Claim, claims};
use crate::agent;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    a_token_of_each_algorithm_proves_its_user_on_every_path,
    a_token_that_does_not_hold_is_refused_on_every_path_and_is_told_as_envoy_tells_it,
    policies_ask_for_the_principal_and_the_claims_of_a_token,
    keys_are_rotated_at_their_server_without_a_restart,
    while_the_server_of_keys_is_gone_the_last_keys_stay,
    keys_of_a_server_that_speaks_tls_1_2_only_are_fetched,
    a_policy_that_cannot_be_read_refuses_every_request_and_is_named,
];

/// Who asks, whom, and what the way between them is.
const PATHS: [(&str, &str, &str); 5] = [
    ("shop/client", "near", "one node"),
    ("shop/client", "far", "to the other node"),
    ("shop/client-b", "near", "back"),
    ("outside/stranger", "near", "plaintext on one node"),
    ("outside/stranger", "far", "plaintext to the other node"),
];
const ALICE: &str = r#"{"iss": "lab", "sub": "alice", "aud": ["shop"], "exp": 600, "groups": ["staff", "admin"], "org": {"unit": "it"}}"#;
const NODES: [&str; 2] = ["node-a", "node-b"];
const IN_FORCE: Duration = Duration::from_secs(10);
const FILE: &str = "jwt.yaml";

fn a_token_of_each_algorithm_proves_its_user_on_every_path(lab: &Running) -> Result<()> {
    let issuer = Issuer::of(lab)?;
    let algorithms = [
        "RS256", "RS512", "PS256", "PS384", "ES256", "ES384", "ES512", "EdDSA",
    ];
    let keys: Vec<String> = algorithms.map(|alg| format!("k-{alg}={alg}")).to_vec();
    let jwks = issuer.publish(&keys)?;
    let policy = rule(&format!("jwks: '{jwks}'"));
    with(lab, &policy, || {
        for alg in algorithms {
            let token = issuer.sign(&format!("k-{alg}"), ALICE)?;
            for (client, server, path) in PATHS {
                let what = format!("{alg} {path}");
                let reply = ask(lab, client, server, Some(&token))?;
                let headers = seen(&reply).context(what.clone())?;
                equal(&what, text(&headers, "x-user")?, "alice")?;
                equal(&what, text(&headers, "x-unit")?, "it")?;
                ensure!(
                    headers.get("authorization").is_none(),
                    "{what}: the token was sent on"
                );
                let payload = text(&headers, "x-payload")?;
                equal(&what, Some(payload), token.split('.').nth(1))?;
            }
        }
        for (client, server, path) in PATHS {
            let reply = ask(lab, client, server, None)?;
            let headers = seen(&reply)?;
            ensure!(
                headers.get("x-user").is_none(),
                "{path}: a client says who it is: {headers}"
            );
        }
        Ok(())
    })
}

fn a_token_that_does_not_hold_is_refused_on_every_path_and_is_told_as_envoy_tells_it(
    lab: &Running,
) -> Result<()> {
    let issuer = Issuer::of(lab)?;
    let jwks = issuer.publish(&["k=RS256".to_owned()])?;
    with(lab, &rule(&format!("jwks: '{jwks}', audiences: [shop]")), || {
        let late = issuer.sign("k", &ALICE.replace("600", "-120"))?;
        let skewed = issuer.sign("k", &ALICE.replace("600", "-30"))?;
        let early = issuer.sign("k", &ALICE.replace(r#""exp": 600"#, r#""nbf": 300"#))?;
        let other = issuer.sign("k", &ALICE.replace("lab", "other"))?;
        let bank = issuer.sign("k", &ALICE.replace("shop", "bank"))?;
        for (client, server, path) in PATHS {
            equal(path, ask(lab, client, server, Some(&skewed))?.status, 200)?;
            for (token, told) in [
                (&late, "Jwt is expired"),
                (&early, "Jwt not yet valid"),
                (&other, "Jwt issuer is not configured"),
                (&bank, "Audiences in Jwt are not allowed"),
            ] {
                let reply = ask(lab, client, server, Some(token))?;
                equal(path, (reply.status, reply.body.as_str()), (401, told))?;
            }
        }
        let forged = python(lab, ISSUER, "jwt_issuer.py", &["forge", &issuer.dir, "k", ALICE])?;
        let forged = forged.as_object().context("no forged tokens")?;
        ensure!(forged.len() >= 8, "too few: {}", forged.len());
        for (what, token) in forged {
            for (client, server, path) in PATHS {
                let reply = ask(lab, client, server, token.as_str())?;
                equal(&format!("{what}, {path}"), reply.status, 401)?;
            }
        }
        let at = addresses(lab, "shop/far")?[0];
        let head = curl(
            lab,
            "shop/client",
            &["--head", "--header", &bearer(&late), &url(at, 8080, "/a?b")],
        )?;
        let wanted = format!("Bearer realm=\"http://{at}:8080/a\", error=\"invalid_token\"");
        ensure!(head.body.contains(&wanted), "{}", head.body);
        until(IN_FORCE, "the access log tells why", || {
            let lines = agent::access_log(&lab.site, "node-b")?;
            let details = "jwt_authn_access_denied{Jwt_is_expired}";
            Ok(lines.iter().any(|line| line["response_code_details"] == details))
        })?;
        let refused = [("reason", "jwt_expired")];
        ensure!(
            lab.metrics("node-b")?.sum("mesh_policy_denials_total", &refused) >= 1.0,
            "not counted"
        );
        Ok(())
    })
}

fn policies_ask_for_the_principal_and_the_claims_of_a_token(lab: &Running) -> Result<()> {
    let issuer = Issuer::of(lab)?;
    let jwks = issuer.publish(&["k=ES256".to_owned()])?;
    let policies = rule(&format!("jwks: '{jwks}'"))
        + &authorization(
            "ALLOW",
            "[{from: [{source: {requestPrincipals: ['lab/*']}}], \
             when: [{key: 'request.auth.claims[groups]', values: [admin]}, \
             {key: 'request.auth.claims[org][unit]', values: [it]}]}]",
        )
        + &authorization("DENY", "[{from: [{source: {requestPrincipals: [lab/mallory]}}]}]");
    with(lab, &policies, || {
        for (claims, status) in [
            (ALICE.to_owned(), 200),
            (ALICE.replace("alice", "mallory"), 403),
            (ALICE.replace(", \"admin\"", ""), 403),
            (ALICE.replace("\"it\"", "\"hr\""), 403),
        ] {
            let token = issuer.sign("k", &claims)?;
            for (client, server, path) in PATHS {
                let reply = ask(lab, client, server, Some(&token))?;
                equal(&format!("{path} {claims}"), reply.status, status)?;
            }
        }
        for (client, server, path) in PATHS {
            let reply = ask(lab, client, server, None)?;
            equal(
                path,
                (reply.status, reply.body.as_str()),
                (403, "RBAC: access denied"),
            )?;
        }
        Ok(())
    })
}

fn keys_are_rotated_at_their_server_without_a_restart(lab: &Running) -> Result<()> {
    let issuer = Issuer::of(lab)?;
    issuer.publish(&["old=RS256".to_owned()])?;
    let old = issuer.sign("old", ALICE)?;
    let server = issuer.serve()?;
    let judged = with(lab, &rule(&format!("jwksUri: '{}'", issuer.url()?)), || {
        believed(lab, &old, "the first keys are fetched")?;
        issuer.publish(&["new=EdDSA".to_owned()])?;
        let new = issuer.sign("new", ALICE)?;
        believed(lab, &new, "the new key is fetched")?;
        for (client, server, path) in PATHS {
            let reply = ask(lab, client, server, Some(&old))?;
            let told = "Jwks doesn't have key to match kid or alg from Jwt";
            equal(path, (reply.status, reply.body.as_str()), (401, told))?;
        }
        Ok(())
    });
    end(server)?;
    judged
}

fn while_the_server_of_keys_is_gone_the_last_keys_stay(lab: &Running) -> Result<()> {
    let issuer = Issuer::of(lab)?;
    issuer.publish(&["k=RS256".to_owned()])?;
    let token = issuer.sign("k", ALICE)?;
    let policy = rule(&format!("jwksUri: '{}'", issuer.url()?));
    with(lab, &policy, || {
        for node in NODES {
            until(IN_FORCE, "the status tells that there are no keys", || {
                let jwks = keys_of(lab, node)?;
                Ok(jwks.contains("cannot connect") && jwks.contains("\"fetched_unix_s\":null"))
            })?;
            equal(node, lab.metrics(node)?.sum("mesh_jwks_missing", &[]), 1.0)?;
        }
        for (client, server, path) in PATHS {
            let reply = ask(lab, client, server, Some(&token))?;
            equal(
                path,
                (reply.status, reply.body.as_str()),
                (401, "Jwks remote fetch is failed"),
            )?;
            equal(path, ask(lab, client, server, None)?.status, 200)?;
        }
        let server = issuer.serve()?;
        let fetched = believed(lab, &token, "keys are fetched as soon as there are any");
        end(server)?;
        fetched?;
        issuer.publish(&["other=RS256".to_owned()])?;
        let other = issuer.sign("other", ALICE)?;
        for (client, server, path) in PATHS {
            equal(path, ask(lab, client, server, Some(&other))?.status, 401)?;
        }
        for node in NODES {
            until(IN_FORCE, "the status tells that the server is gone", || {
                let jwks = keys_of(lab, node)?;
                Ok(jwks.contains("cannot connect") && !jwks.contains("\"fetched_unix_s\":null"))
            })?;
        }
        for (client, server, path) in PATHS {
            equal(path, ask(lab, client, server, Some(&token))?.status, 200)?;
        }
        Ok(())
    })
}

fn keys_of_a_server_that_speaks_tls_1_2_only_are_fetched(lab: &Running) -> Result<()> {
    let issuer = Issuer::of(lab)?;
    issuer.publish(&["k=ES256".to_owned()])?;
    let token = issuer.sign("k", ALICE)?;
    let root = issuer.certify()?;
    for node in NODES {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &["--jwks-root-file".to_owned(), root.clone()])?;
    }
    for node in NODES {
        lab.wait_ready(node)?;
    }
    let server = issuer.serve_tls_1_2()?;
    let url = issuer.url()?.replace("http://", "https://");
    let judged = with(lab, &rule(&format!("jwksUri: '{url}'")), || {
        believed(lab, &token, "the keys are fetched")?;
        for node in NODES {
            ensure!(
                keys_of(lab, node)?.contains("\"last_error\":null"),
                "{node} complains"
            );
        }
        Ok(())
    });
    end(server)?;
    judged
}

fn a_policy_that_cannot_be_read_refuses_every_request_and_is_named(lab: &Running) -> Result<()> {
    with(lab, &rule("jwks: '{}', audience: [shop]"), || {
        for (client, server, path) in PATHS {
            equal(path, ask(lab, client, server, None)?.status, 401)?;
        }
        let status = lab.status("node-a")?.to_string();
        ensure!(
            status.contains("RequestAuthentication shop/lab") && status.contains("spec.jwtRules[0].audience"),
            "the status does not name it: {status}"
        );
        Ok(())
    })
}

/// Waits until the token is believed on every path.
fn believed(lab: &Running, token: &str, what: &str) -> Result<()> {
    for (client, server, path) in PATHS {
        until(IN_FORCE, &format!("{what}: {path}"), || {
            Ok(ask(lab, client, server, Some(token))?.status == 200)
        })?;
    }
    Ok(())
}

/// A request to a pod's own address, whose sender claims to be somebody.
fn ask(lab: &Running, client: &str, server: &str, token: Option<&str>) -> Result<Reply> {
    let at = addresses(lab, &format!("shop/{server}"))?[0];
    let mut arguments = vec!["--header".to_owned(), "x-user: root".to_owned()];
    if let Some(token) = token {
        arguments.extend(["--header".to_owned(), bearer(token)]);
    }
    arguments.push(url(at, 8080, "/"));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    curl(lab, client, &arguments)
}

/// The request's fields as the application saw them.
fn seen(reply: &Reply) -> Result<Value> {
    let json = reply.json()?;
    json.get("headers").cloned().context("the answer has no headers")
}

/// What the status of an agent says of public keys.
fn keys_of(lab: &Running, node: &str) -> Result<String> {
    let status = lab.status(node)?;
    status
        .get("jwks")
        .map(ToString::to_string)
        .context("the status has no jwks")
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// A policy for `near` and `far` alike, with a rule for the issuer `lab`.
fn rule(more: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{ namespace: shop, name: lab }}\n\
         spec: {{ targetRefs: {TARGETS}, jwtRules: [{{ issuer: lab, outputPayloadToHeader: x-payload, \
         outputClaimToHeaders: [{{ header: x-user, claim: sub }}, {{ header: x-unit, claim: org.unit }}], {more} }}] }}\n"
    )
}

fn authorization(action: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ namespace: shop, name: {} }}\n\
         spec: {{ targetRefs: {TARGETS}, action: {action}, rules: {rules} }}\n",
        action.to_lowercase()
    )
}

const TARGETS: &str = "[{ kind: Service, name: near }, { kind: Service, name: far }]";

/// Does `work` while manifests are in force at both agents.
fn with(lab: &Running, manifests: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    lab.put_manifest(FILE, manifests)?;
    let worked = lab.settled(IN_FORCE).and_then(|()| work());
    lab.remove_manifest(FILE)?;
    worked?;
    lab.settled(IN_FORCE)
}
