//! Configuration that changes all the time: routes that are written again and again under load.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::ask::{curl, equal, h2load_succeeded, until};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![a_thousand_route_changes_a_minute_under_load_fail_no_request];

const CLIENT: &str = "shop/client";
const FILE: &str = "changing.yaml";
/// A thousand a minute.
const PACE: Duration = Duration::from_millis(60);
const CHANGES: u32 = 200;

fn a_thousand_route_changes_a_minute_under_load_fail_no_request(lab: &Running) -> Result<()> {
    let version = |node| Ok::<_, anyhow::Error>(lab.metrics(node)?.sum("mesh_config_version", &[]));
    let rejected = || {
        let of_routes = [("kind", "HTTPRoute")];
        Ok::<_, anyhow::Error>(lab.metrics("node-a")?.sum("mesh_config_rejections", &of_routes))
    };
    let (before, rejected_before) = (version("node-a")?, rejected()?);
    let said = thread::scope(|scope| -> Result<String> {
        let load = scope.spawn(|| {
            let load = [
                "h2load",
                "--h1",
                "--rps",
                "50",
                "--clients",
                "8",
                "--duration",
                "20",
                "http://fast/",
            ];
            lab.exec_within(Duration::from_mins(1), CLIENT, &load)
        });
        let changed = change(lab);
        let is_under_load = !load.is_finished();
        let said = load.join().map_err(|_panic| anyhow!("the load panicked"))??;
        changed?;
        ensure!(is_under_load, "the load was over before the last change");
        Ok(said.success()?.stdout)
    })?;
    let succeeded = h2load_succeeded(&said)?;
    ensure!(succeeded >= 1_000, "no load worth the name: {succeeded} requests");
    // Those that come within one look at the directory are one.
    let seen = version("node-a")? - before;
    ensure!(seen >= 20.0, "{seen} of {CHANGES} changes were seen one by one");
    until(Duration::from_secs(1), "the last change counts", || {
        let reply = curl(lab, CLIENT, &["--include", "http://fast/"])?;
        Ok(reply.body.contains(&format!("x-change: {CHANGES}")))
    })?;
    lab.remove_manifest(FILE)?;
    until(Duration::from_secs(1), "the route is gone", || {
        let reply = curl(lab, CLIENT, &["--include", "http://fast/"])?;
        Ok(!reply.body.contains("x-change"))
    })?;
    equal("rejected routes", rejected()?, rejected_before)
}

fn change(lab: &Running) -> Result<()> {
    let began = Instant::now();
    for number in 1..=CHANGES {
        lab.put_manifest(FILE, &route(number))?;
        // The rate is what is asked for: nothing is waited for.
        thread::sleep((began + PACE * number).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// The same Service each time, by another rule.
fn route(number: u32) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: changing, namespace: shop }}
spec:
  parentRefs: [{{ group: "", kind: Service, name: fast }}]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /never-{number} }} }}]
      backendRefs: [{{ name: near, port: 80 }}]
    - filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {{ set: [{{ name: x-change, value: "{number}" }}] }}
      backendRefs: [{{ name: fast, port: 80, weight: {number} }}]
"#
    )
}
