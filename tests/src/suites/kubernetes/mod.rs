//! A CA that asks a real API server: whose a token is, which pods run where, and for the root; and what it writes there.
//!
//! The claims follow each other: the first makes the control plane and the CA, the others leave them running.

mod scene;
mod statuses;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use self::scene::{AGENT, AUDIENCE, Scene, agent_pod};
use self::statuses::{
    a_policy_of_our_own_says_whether_it_has_a_target,
    a_route_says_what_it_names_in_vain_and_that_it_is_mended,
    entries_of_other_controllers_stay_and_ours_go_with_their_parent,
    nothing_is_written_while_nothing_changes,
    of_two_cas_one_writes_and_the_other_takes_over_when_it_is_killed,
    what_is_wrong_with_an_object_is_told_by_an_event,
};
use super::ask::{equal, get, text, until};
use super::ca::{NODES, all_are_renewed, certificates, client_with_token};
use super::{Claim, claims};
use crate::authority::Authority;
use crate::kubernetes::api::{TokenFor, at};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    two_cas_that_start_at_once_with_the_rules_of_deploy_end_with_one_root,
    agents_of_both_nodes_get_certificates_by_the_tokens_of_their_pods,
    an_agent_gets_no_identity_of_a_pod_that_is_not_on_its_node,
    a_token_that_is_no_agents_is_refused_and_told_why,
    a_token_that_rotates_is_read_again_and_the_old_one_is_not_needed,
    a_root_that_is_added_to_the_secret_is_trusted_without_a_restart,
    without_the_api_server_callers_are_told_to_come_back_and_pods_are_seen_again_afterwards,
    a_missing_rule_is_named_in_answer_and_log,
    of_two_cas_one_writes_and_the_other_takes_over_when_it_is_killed,
    a_route_says_what_it_names_in_vain_and_that_it_is_mended,
    entries_of_other_controllers_stay_and_ours_go_with_their_parent,
    nothing_is_written_while_nothing_changes,
    what_is_wrong_with_an_object_is_told_by_an_event,
    a_policy_of_our_own_says_whether_it_has_a_target,
];

fn two_cas_that_start_at_once_with_the_rules_of_deploy_end_with_one_root(lab: &Running) -> Result<()> {
    let scene = Scene::make(lab)?;
    let other = Authority::another(lab)?;
    scene.ca.launch(&scene.ca_arguments(&scene.ca)?)?;
    other.launch(&scene.ca_arguments(&other)?)?;
    scene.ca.wait_ready()?;
    other.wait_ready()?;
    let bundle = |ca: &Authority<'_>| fs::read_to_string(ca.bundle()).context("read a bundle");
    equal("the roots of both", bundle(&other)?, bundle(&scene.ca)?)?;
    other.kill()?;
    let secret = scene.plane.api().get(SECRET)?.success()?;
    ensure!(
        at(&secret, "/data/ca-key.pem").is_string(),
        "the secret has no key"
    );
    Ok(())
}

fn agents_of_both_nodes_get_certificates_by_the_tokens_of_their_pods(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    for node in NODES {
        scene.give_token(node, &scene.agent_token(&agent_pod(node))?)?;
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &scene.ca.agent_arguments(node))?;
    }
    for node in NODES {
        lab.wait_ready(node)?;
    }
    until(
        Duration::from_secs(20),
        "every identity has a certificate",
        || Ok(certificates(lab)?.iter().all(|one| one.expires.is_some())),
    )?;
    equal("status", get(lab, "shop/client", "http://far/")?.status, 200)?;
    let strict = get(lab, "shop/client", "http://vault.strict/")?;
    equal("a strict pod", strict.status, 200)
}

fn an_agent_gets_no_identity_of_a_pod_that_is_not_on_its_node(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    for (node, wanted) in [("node-a", "PERMISSION_DENIED"), ("node-b", "OK")] {
        let token = scene.agent_token(&agent_pod(node))?;
        equal(node, text(&scene.ask(&token, "shop", "far")?, "code")?, wanted)?;
    }
    // Decided by where the pod is now, not by its name or account.
    let token = scene.agent_token(&agent_pod("node-a"))?;
    let answered = |code: &'static str| {
        until(Duration::from_secs(20), code, || {
            Ok(text(&scene.ask(&token, "moving", "mover")?, "code")? == code)
        })
    };
    scene.make_pod(("moving", "mover"), "mover", "node-b", false)?;
    let said = scene.ask(&token, "moving", "mover")?;
    equal("on the other node", text(&said, "code")?, "PERMISSION_DENIED")?;
    scene.delete_pod("moving", "mover")?;
    scene.make_pod(("moving", "mover"), "mover", "node-a", false)?;
    answered("OK")?;
    scene.delete_pod("moving", "mover")?;
    answered("PERMISSION_DENIED")?;
    // The node itself is no workload, its agent neither.
    let said = scene.ask(&token, AGENT.0, AGENT.1)?;
    equal("its own identity", text(&said, "code")?, "PERMISSION_DENIED")
}

fn a_token_that_is_no_agents_is_refused_and_told_why(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let agents_pod = agent_pod("node-a");
    let agent = TokenFor {
        account: AGENT,
        audience: AUDIENCE,
        pod: Some(&agents_pod),
    };
    let near = TokenFor {
        account: ("shop", "near"),
        pod: Some("near"),
        ..agent
    };
    let table = [
        (near, "shop/near is not an agent's"),
        (
            TokenFor {
                audience: None,
                ..agent
            },
            "does not accept it",
        ),
        (
            TokenFor {
                audience: Some("vault"),
                ..agent
            },
            "does not accept it",
        ),
        (TokenFor { pod: None, ..agent }, "not bound to a pod"),
    ];
    for (token, why) in table {
        let said = scene.ask(&scene.plane.api().token(token)?, "shop", "near")?;
        scene.ensure_refused(&said, why)?;
    }
    // Of a pod that is gone, though its signature and its dates are good.
    scene.make_pod(AGENT, "mesh-agent-gone", "node-a", true)?;
    let token = scene.agent_token("mesh-agent-gone")?;
    scene.delete_pod(AGENT.0, "mesh-agent-gone")?;
    // The API server itself learns of it by a watch.
    until(Duration::from_secs(20), "the pod's token ends with it", || {
        let said = scene.ask(&token, "shop", "near")?;
        Ok(text(&said, "code")? == "UNAUTHENTICATED")
    })?;
    let said = scene.ask("not.a.token", "shop", "near")?;
    scene.ensure_refused(&said, "does not accept it")?;
    equal(
        "the agent's own",
        text(
            &scene.ask(&scene.plane.api().token(agent)?, "shop", "near")?,
            "code",
        )?,
        "OK",
    )
}

fn a_token_that_rotates_is_read_again_and_the_old_one_is_not_needed(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let refused = || -> Result<f64> {
        Ok(scene
            .ca
            .metrics()?
            .sum("mesh_ca_refused_total", &[("reason", "token")]))
    };
    let before = refused()?;
    // The old token dies with its pod.
    for node in NODES {
        let next = format!("{}-next", agent_pod(node));
        scene.make_pod(AGENT, &next, node, true)?;
        scene.give_token(node, &scene.agent_token(&next)?)?;
        scene.delete_pod(AGENT.0, &agent_pod(node))?;
    }
    all_are_renewed(lab, "by the new tokens")?;
    equal("tokens refused since", refused()? - before, 0.0)?;
    equal("status", get(lab, "shop/client", "http://far/")?.status, 200)
}

fn a_root_that_is_added_to_the_secret_is_trusted_without_a_restart(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let next = scene.plane.dir().join("next");
    scene.ca.make_root(&next)?;
    let new = fs::read_to_string(next.join("bundle.pem")).context("read the new root")?;
    let add = json!({ "stringData": { "also-trusted.pem": new } });
    scene.plane.api().patch(SECRET, &add)?;
    until(Duration::from_secs(20), "two roots are trusted", || {
        let bundle = fs::read_to_string(scene.ca.bundle()).context("read the bundle")?;
        Ok(bundle.matches("BEGIN CERTIFICATE").count() == 2 && bundle.contains(new.trim()))
    })?;
    all_are_renewed(lab, "with both roots trusted")
}

fn without_the_api_server_callers_are_told_to_come_back_and_pods_are_seen_again_afterwards(
    lab: &Running,
) -> Result<()> {
    let scene = Scene::of(lab)?;
    let token = scene.agent_token(&format!("{}-next", agent_pod("node-a")))?;
    scene.plane.kill_api_server()?;
    let said = scene.ask(&token, "shop", "near")?;
    equal("code", text(&said, "code")?, "UNAVAILABLE")?;
    scene.plane.start_api_server()?;
    // Not seen by the watch that was cut.
    scene.make_pod(("moving", "late"), "late", "node-a", false)?;
    until(
        Duration::from_mins(1),
        "a pod that came meanwhile is known",
        || Ok(text(&scene.ask(&token, "moving", "late")?, "code")? == "OK"),
    )
    .map(drop)
}

fn a_missing_rule_is_named_in_answer_and_log(lab: &Running) -> Result<()> {
    let scene = Scene::of(lab)?;
    let (api, path) = (
        scene.plane.api(),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/mesh-ca",
    );
    let rules = at(&api.get(path)?.success()?, "/rules").clone();
    let only = |resource: &str| {
        let rules = rules.as_array().into_iter().flatten();
        let kept: Vec<_> = rules
            .filter(|rule| at(rule, "/resources") == &json!([resource]))
            .collect();
        api.patch(path, &json!({ "rules": kept }))
    };
    let agents_pod = format!("{}-next", agent_pod("node-a"));

    only("pods")?;
    until(Duration::from_secs(20), "the missing rule is named", || {
        let said = scene.ask(&scene.agent_token(&agents_pod)?, "shop", "near")?;
        let is_named = text(&said, "details").is_ok_and(|said| said.contains("\"tokenreviews\""));
        Ok(text(&said, "code")? == "UNAVAILABLE" && is_named)
    })?;

    only("tokenreviews")?;
    scene.ca.kill()?;
    scene.ca.launch(&scene.ca_arguments(&scene.ca)?)?;
    until(Duration::from_secs(20), "the log names the missing rule", || {
        let log = fs::read_to_string(scene.ca.log()).context("read the log of the ca")?;
        Ok(log.contains(r#"cannot list resource \"pods\""#))
    })?;
    let said = scene.ask(&scene.agent_token(&agents_pod)?, "shop", "near")?;
    equal("before the first list", text(&said, "code")?, "UNAVAILABLE")?;
    equal("ready", scene.ca.page("/readyz")?.status, 503)?;

    api.patch(path, &json!({ "rules": rules }))?;
    // The watch is tried again with a pause that has grown meanwhile.
    until(Duration::from_mins(1), "the ca is ready", || {
        Ok(scene.ca.page("/readyz")?.status == 200)
    })?;
    let said = scene.ask(&scene.agent_token(&agents_pod)?, "shop", "near")?;
    equal("with all rules again", text(&said, "code")?, "OK")
}

impl Scene<'_> {
    /// Asks for an identity with a token, from the node of the CA.
    fn ask(&self, token: &str, namespace: &str, account: &str) -> Result<Value> {
        let file = self.secret_file("asked.token", token)?;
        let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        client_with_token(self.lab, self.ca.node(), &file, &identity)
    }

    fn ensure_refused(&self, said: &Value, why: &str) -> Result<()> {
        equal("code", text(said, "code")?, "UNAUTHENTICATED")?;
        ensure!(text(said, "details")?.contains(why), "not {why:?}: {said}");
        let log = fs::read_to_string(self.ca.log()).context("read the log of the ca")?;
        ensure!(log.contains(why), "the log does not say {why:?}");
        Ok(())
    }
}

const SECRET: &str = "/api/v1/namespaces/mesh-system/secrets/mesh-ca-root";
