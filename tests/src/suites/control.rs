//! Control: facts that change while the mesh runs, facts that are wrong, and the pages that tell of both.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{equal, get, until};
use super::{Claim, claims};
use crate::agent;
use crate::lab::{self, Lab, Options};
use crate::process;
use crate::running::Running;
use crate::sandbox;
use crate::site::Site;

pub(super) const CLAIMS: &[Claim] = claims![
    pages_answer,
    status_names_each_enrolled_pod_and_no_other,
    every_hook_of_every_enrolled_pod_is_linked,
    status_is_printed_for_people_and_for_programs,
    each_request_has_one_access_log_line_at_each_end,
    a_route_that_is_added_counts_within_a_second,
    a_route_that_is_removed_is_gone_within_a_second,
    an_endpoint_that_gets_unready_is_left_within_a_second,
    a_policy_that_changes_counts_within_a_second,
    a_file_that_is_no_yaml_is_named_and_all_else_goes_on,
    an_object_with_a_wrong_field_is_named_and_all_else_goes_on,
    check_accepts_what_is_whole,
    check_names_a_back_end_that_is_not_there,
    check_names_file_object_and_field_of_a_rejection,
    a_lab_whose_maker_and_agents_were_killed_goes_down_whole,
];

const CLIENT: &str = "shop/client";
const SECOND: Duration = Duration::from_secs(1);
const METRIC: &str = "mesh_config_rejections";
const HOOKS: [&str; 6] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "sock_ops",
    "sk_lookup",
];
const NODES: [&str; 2] = ["node-a", "node-b"];

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: added, namespace: shop }
spec:
  parentRefs: [{ group: "", kind: Service, name: near }]
  rules:
    - matches: [{ path: { type: Exact, value: /only-this } }]
      backendRefs: [{ name: far, port: 80 }]
"#;

fn pages_answer(lab: &Running) -> Result<()> {
    for node in NODES {
        for page in ["/livez", "/readyz", "/metrics", "/status"] {
            equal(&format!("{page} of {node}"), lab.page(node, page)?.status, 200)?;
        }
        equal(
            "a page that is not there",
            lab.page(node, "/not-a-page")?.status,
            404,
        )?;
    }
    Ok(())
}

fn status_names_each_enrolled_pod_and_no_other(lab: &Running) -> Result<()> {
    for node in NODES {
        let status = lab.status(node)?.to_string();
        for (pod, state) in lab.state.pods.iter().filter(|(_, state)| state.node == node) {
            let is_meshed = pod.namespace != "outside" && pod.name != "leaver";
            let is_shown = status.contains(&format!("\"{pod}\"")) || status.contains(&state.uid);
            equal(&format!("{pod} in the status of {node}"), is_shown, is_meshed)?;
        }
    }
    Ok(())
}

fn every_hook_of_every_enrolled_pod_is_linked(lab: &Running) -> Result<()> {
    for node in NODES {
        let status = lab.status(node)?;
        let pods = status
            .pointer("/enrolment/pods")
            .and_then(Value::as_array)
            .context("no pods")?;
        ensure!(!pods.is_empty(), "{node} has enrolled no pod");
        for pod in pods {
            for hook in HOOKS {
                let hooks = pod.get("hooks").and_then(Value::as_array).context("no hooks")?;
                ensure!(
                    hooks.iter().any(|linked| linked == hook),
                    "{hook} is not linked: {pod}"
                );
            }
        }
    }
    Ok(())
}

fn status_is_printed_for_people_and_for_programs(lab: &Running) -> Result<()> {
    let agent = lab.site.run_dir().join("mesh-agent").display().to_string();
    let print = |flags: &[&str]| -> Result<String> {
        let program = [&[agent.as_str(), "status"], flags].concat();
        let program: Vec<_> = program.into_iter().map(str::to_owned).collect();
        let mut command = sandbox::observer(&lab.site, &lab.site.node_netns("node-a")).command(&program)?;
        Ok(process::run(&mut command, Duration::from_secs(10))?
            .success()?
            .stdout)
    };
    let people = print(&[])?;
    for word in [
        "node-a",
        "shop/client",
        "connect4",
        "spiffe://cluster.local/ns/shop/sa/client",
    ] {
        ensure!(people.contains(word), "it does not show {word}: {people}");
    }
    let programs: Value = serde_json::from_str(&print(&["-o", "json"])?).context("status -o json")?;
    equal(
        "node",
        programs.get("node").and_then(Value::as_str),
        Some("node-a"),
    )
}

fn each_request_has_one_access_log_line_at_each_end(lab: &Running) -> Result<()> {
    let path = "/in-the-access-log?once";
    equal(
        "status",
        get(lab, CLIENT, &format!("http://far{path}"))?.status,
        200,
    )?;
    for (node, reporter) in [("node-a", "source"), ("node-b", "destination")] {
        let lines = || -> Result<Vec<Value>> {
            let all = agent::access_log(&lab.site, node)?;
            Ok(all
                .into_iter()
                .filter(|line| line.get("path").is_some_and(|found| found == path))
                .collect())
        };
        until(SECOND, &format!("a line in the access log of {node}"), || {
            Ok(!lines()?.is_empty())
        })?;
        let lines = lines()?;
        equal(&format!("lines at {node}"), lines.len(), 1)?;
        for line in &lines {
            let field = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
            equal("reporter", field("reporter"), reporter)?;
            equal("method", field("method"), "GET")?;
            equal(
                "status",
                line.get("response_code").and_then(Value::as_u64),
                Some(200),
            )?;
        }
    }
    Ok(())
}

fn a_route_that_is_added_counts_within_a_second(lab: &Running) -> Result<()> {
    equal("before", get(lab, CLIENT, "http://near/")?.says("pod")?, "near")?;
    lab.put_manifest("added.yaml", ROUTE)?;
    until(SECOND, "the new route refuses what it does not match", || {
        Ok(get(lab, CLIENT, "http://near/")?.status == 404)
    })?;
    equal(
        "by the new route",
        get(lab, CLIENT, "http://near/only-this")?.says("pod")?,
        "far",
    )
}

fn a_route_that_is_removed_is_gone_within_a_second(lab: &Running) -> Result<()> {
    lab.remove_manifest("added.yaml")?;
    until(SECOND, "the route is gone", || {
        Ok(get(lab, CLIENT, "http://near/")?.status == 200)
    })
    .map(|_| ())
}

fn an_endpoint_that_gets_unready_is_left_within_a_second(lab: &Running) -> Result<()> {
    let file = "endpointslices-shop-far.yaml";
    let ready = lab.manifest(file)?;
    equal("before", get(lab, CLIENT, "http://far/")?.status, 200)?;
    let unready = ready
        .replace("ready: true", "ready: false")
        .replace("serving: true", "serving: false");
    lab.put_manifest(file, &unready)?;
    let left = until(SECOND, "no endpoint is left", || {
        Ok(get(lab, CLIENT, "http://far/")?.status == 503)
    });
    lab.put_manifest(file, &ready)?;
    left?;
    until(SECOND, "the endpoint is back", || {
        Ok(get(lab, CLIENT, "http://far/")?.status == 200)
    })
    .map(|_| ())
}

fn a_policy_that_changes_counts_within_a_second(lab: &Running) -> Result<()> {
    let address = super::ask::addresses(lab, "strict/open")?[0];
    let url = super::ask::url(address, 8080, "/");
    let stranger = "outside/stranger";
    equal("while PERMISSIVE", get(lab, stranger, &url)?.status, 200)?;
    let file = "policy.yaml";
    let before = lab.manifest(file)?;
    lab.put_manifest(file, &before.replace("PERMISSIVE", "STRICT"))?;
    let refused = until(SECOND, "plaintext is refused", || {
        Ok(get(lab, stranger, &url)?.status == 0)
    });
    lab.put_manifest(file, &before)?;
    refused?;
    until(SECOND, "plaintext is taken again", || {
        Ok(get(lab, stranger, &url)?.status == 200)
    })
    .map(|_| ())
}

fn a_file_that_is_no_yaml_is_named_and_all_else_goes_on(lab: &Running) -> Result<()> {
    is_rejected(
        lab,
        "no-yaml.yaml",
        "kind: HTTPRoute\n  metadata: [broken\n",
        &["no-yaml.yaml"],
    )
}

fn an_object_with_a_wrong_field_is_named_and_all_else_goes_on(lab: &Running) -> Result<()> {
    let wrong = ROUTE
        .replace("name: added", "name: wrong")
        .replace("port: 80", "port: eighty");
    is_rejected(
        lab,
        "wrong-field.yaml",
        &wrong,
        &["wrong-field.yaml", "wrong", "port"],
    )
}

/// Puts a file in place, sees it named in `status`, sees everything else go on, and sees the rejection go with it.
fn is_rejected(lab: &Running, file: &str, text: &str, named: &[&str]) -> Result<()> {
    let rejections = |node: &str| -> Result<String> {
        let status = lab.status(node)?;
        Ok(status
            .get("rejections")
            .map(ToString::to_string)
            .unwrap_or_default())
    };
    let before = lab.metrics("node-a")?.sum(METRIC, &[]);
    lab.put_manifest(file, text)?;
    let shown = NODES.into_iter().try_for_each(|node| {
        until(
            SECOND,
            &format!("{node} names {named:?} in its status and counts it"),
            || {
                let rejections = rejections(node)?;
                let is_counted = lab.metrics(node)?.sum(METRIC, &[]) > before;
                Ok(is_counted && named.iter().all(|word| rejections.contains(word)))
            },
        )
        .map(|_| ())
    });
    let goes_on = ["http://near/", "http://far/"]
        .into_iter()
        .try_for_each(|url| equal(url, get(lab, CLIENT, url)?.status, 200));
    lab.remove_manifest(file)?;
    shown?;
    goes_on?;
    for node in NODES {
        until(SECOND, &format!("{node} forgets the rejection"), || {
            Ok(!rejections(node)?.contains(file))
        })?;
    }
    Ok(())
}

fn check_accepts_what_is_whole(lab: &Running) -> Result<()> {
    let dir = lab.site.staging().join("whole");
    fs::create_dir_all(&dir)?;
    for file in ["namespaces.yaml", "http.yaml", "protocols.yaml", "policy.yaml"] {
        fs::copy(lab.site.manifests().join(file), dir.join(file))?;
    }
    let output = check(lab, &dir)?;
    ensure!(output.is_success(), "{}{}", output.stdout, output.stderr);
    Ok(())
}

fn check_names_a_back_end_that_is_not_there(lab: &Running) -> Result<()> {
    // The lab's own routes hold one such, for the claim about its status code.
    let output = check(lab, &lab.site.manifests())?;
    equal("exit code", output.status.code(), Some(1))?;
    let said = output.stdout + &output.stderr;
    for word in ["routes.yaml", "shop/no-backend", "backendRefs", "not-there"] {
        ensure!(said.contains(word), "it does not name {word}: {said}");
    }
    ensure!(said.contains("1 rejected"), "it names more than that: {said}");
    Ok(())
}

fn check_names_file_object_and_field_of_a_rejection(lab: &Running) -> Result<()> {
    let dir = lab.site.staging().join("to-check");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("bad.yaml"), ROUTE.replace("port: 80", "port: eighty"))?;
    let output = check(lab, &dir)?;
    equal("exit code", output.status.code(), Some(1))?;
    let said = output.stdout + &output.stderr;
    for word in ["bad.yaml", "shop/added", "port"] {
        ensure!(said.contains(word), "it does not name {word}: {said}");
    }
    Ok(())
}

fn check(lab: &Running, dir: &std::path::Path) -> Result<process::Output> {
    let agent = lab.site.run_dir().join("mesh-agent");
    process::run(Command::new(agent).arg("check").arg(dir), Duration::from_secs(20))
}

fn a_lab_whose_maker_and_agents_were_killed_goes_down_whole(lab: &Running) -> Result<()> {
    let site = Site::named("crash-lab")?;
    let options = Options {
        site: site.clone(),
        dir: lab.state.input.join("../demo"),
        agent: Some(lab.site.run_dir().join("mesh-agent")),
        tools: lab.state.tools.clone(),
    };
    let crashed = Lab::up(&options, &|_| {})?;
    let agents: Vec<_> = crashed
        .running()
        .state
        .nodes
        .values()
        .flatten()
        .copied()
        .collect();
    ensure!(agents.len() == 2, "the lab has {} agents", agents.len());
    // As after a crash: nobody feels responsible, agents had no time to end, and the notes of what was made are gone.
    crashed.keep();
    agents
        .iter()
        .try_for_each(|agent| agent.signal(Signal::SIGKILL))?;
    fs::remove_file(site.run_dir().join("state.json")).context("remove the notes")?;
    ensure!(
        !lab::remains(&site)?.is_empty(),
        "nothing is there to be taken down"
    );
    lab::down(&site)?;
    equal("left", lab::remains(&site)?, Vec::<String>::new())
}
