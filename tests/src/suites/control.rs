//! Control: facts that change while the mesh runs, facts that are wrong, and the pages that tell of both.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::ask::{equal, get, until};
use super::{Claim, claims};
use crate::process;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    pages_answer,
    status_names_each_enrolled_pod_and_no_other,
    a_route_that_is_added_counts_within_a_second,
    a_route_that_is_removed_is_gone_within_a_second,
    an_endpoint_that_gets_unready_is_left_within_a_second,
    a_policy_that_changes_counts_within_a_second,
    a_file_that_is_no_yaml_is_named_and_all_else_goes_on,
    an_object_with_a_wrong_field_is_named_and_all_else_goes_on,
    check_accepts_what_is_whole,
    check_names_a_back_end_that_is_not_there,
    check_names_file_object_and_field_of_a_rejection,
];

const CLIENT: &str = "shop/client";
const SECOND: Duration = Duration::from_secs(1);
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
    lab.put_manifest(file, text)?;
    let shown = NODES.into_iter().try_for_each(|node| {
        until(SECOND, &format!("{node} names {named:?} in its status"), || {
            let rejections = rejections(node)?;
            Ok(named.iter().all(|word| rejections.contains(word)))
        })
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
