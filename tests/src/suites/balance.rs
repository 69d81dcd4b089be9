//! Balancing: which of five replicas a request goes to, and which of them is left out.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, curl, equal, get, until, url};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    replicas_are_served_in_turn,
    a_replica_that_answers_500_is_ejected_and_comes_back,
    a_header_that_is_hashed_keeps_its_replica,
    a_client_without_the_cookie_gets_one_that_leads_to_the_same_replica,
    session_affinity_keeps_a_client_at_one_replica,
    replicas_of_the_own_zone_come_first,
    a_local_service_has_the_replicas_of_the_node_only,
    a_request_more_than_the_limit_is_refused_at_once,
];

const CLIENT: &str = "shop/client";
const CLIENT_B: &str = "shop/client-b";
const NODE: &str = "node-a";
const PATIENCE: Duration = Duration::from_secs(30);
const SICK: &str = "shop/replica-4";

/// Who answers so many requests.
fn replicas(lab: &Running, client: &str, url: &str, count: usize) -> Result<Vec<String>> {
    (0..count).map(|_| get(lab, client, url)?.says("pod")).collect()
}

fn distinct(replicas: &[String]) -> BTreeSet<&str> {
    replicas.iter().map(String::as_str).collect()
}

fn replicas_are_served_in_turn(lab: &Running) -> Result<()> {
    let served = replicas(lab, CLIENT, "http://replicas/", 10)?;
    for replica in distinct(&served) {
        let turns = served.iter().filter(|one| *one == replica).count();
        equal(&format!("turns of {replica} in {served:?}"), turns, 2)?;
    }
    equal("replicas", distinct(&served).len(), 5)
}

fn a_replica_that_answers_500_is_ejected_and_comes_back(lab: &Running) -> Result<()> {
    let [address, _] = addresses(lab, SICK)?;
    let order = |path: &str| equal(path, get(lab, CLIENT, &url(address, 8080, path))?.status, 200);
    let before = ejections(lab)?;
    order("/sick/on")?;
    let found = until(PATIENCE, "the sick replica is ejected", || {
        get(lab, CLIENT, "http://replicas/")?;
        Ok(!ejected(lab)?.is_empty())
    });
    // Whatever came of it, later claims find a healthy replica.
    let spared = found.and_then(|_| replicas(lab, CLIENT, "http://replicas/", 8));
    order("/sick/off")?;
    let spared = spared?;
    ensure!(
        !distinct(&spared).contains("replica-4"),
        "the sick one answered: {spared:?}"
    );
    until(PATIENCE, "the ejection is in the metrics", || {
        Ok(ejections(lab)? > before)
    })?;
    until(PATIENCE, "the replica that is well again is asked again", || {
        Ok(get(lab, CLIENT, "http://replicas/")?.says("pod")? == "replica-4")
    })?;
    ensure!(ejected(lab)?.is_empty(), "still ejected: {:?}", ejected(lab)?);
    Ok(())
}

/// What the status page of the clients' node names as ejected.
fn ejected(lab: &Running) -> Result<Vec<Value>> {
    let status = lab.status(NODE)?;
    let ejected = status.get("ejected").and_then(Value::as_array);
    Ok(ejected
        .context("the status page has no list of ejected endpoints")?
        .clone())
}

fn ejections(lab: &Running) -> Result<f64> {
    let page = lab.page(NODE, "/metrics")?.body;
    let mut of_service = page
        .lines()
        .filter(|line| line.starts_with("mesh_ejections_total{") && line.contains("service=\"replicas\""));
    let line = of_service
        .find(|line| line.contains("cause=\"consecutive_5xx\""))
        .context("no mesh_ejections_total of the Service")?;
    let value = line.rsplit(' ').next().unwrap_or_default();
    value.parse().with_context(|| format!("no number: {line}"))
}

fn a_header_that_is_hashed_keeps_its_replica(lab: &Running) -> Result<()> {
    let mut all = BTreeSet::new();
    for user in 0..12 {
        let header = format!("x-user: user-{user}");
        let ask = || curl(lab, CLIENT, &["-H", &header, "http://by-header/"])?.says("pod");
        let replica = ask()?;
        equal(&header, &ask()?, &replica)?;
        // The agents of all nodes send it to the same one.
        let elsewhere = curl(lab, CLIENT_B, &["-H", &header, "http://by-header/"])?.says("pod")?;
        equal(&header, &elsewhere, &replica)?;
        all.insert(replica);
    }
    ensure!(all.len() > 1, "all users are at {all:?}");
    Ok(())
}

fn a_client_without_the_cookie_gets_one_that_leads_to_the_same_replica(lab: &Running) -> Result<()> {
    for _ in 0..5 {
        let first = curl(lab, CLIENT, &["-D", "-", "http://by-cookie/bytes/0"])?;
        let header = |name: &str| -> Result<String> {
            let mut lines = first.body.lines();
            let line = lines.find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
            Ok(line
                .with_context(|| format!("no {name} in {}", first.body))?
                .trim()
                .to_owned())
        };
        let set = header("set-cookie:")?;
        ensure!(set.contains("max-age=60") && set.contains("path=/"), "{set}");
        let cookie = format!("cookie: {}", set.split(';').next().unwrap_or_default());
        for _ in 0..3 {
            let next = curl(lab, CLIENT, &["-H", &cookie, "http://by-cookie/"])?.says("pod")?;
            equal(&cookie, next, header("x-pod:")?)?;
        }
    }
    Ok(())
}

fn session_affinity_keeps_a_client_at_one_replica(lab: &Running) -> Result<()> {
    for client in [CLIENT, CLIENT_B] {
        let served = replicas(lab, client, "http://affine/", 6)?;
        equal(
            &format!("replicas of {client}: {served:?}"),
            distinct(&served).len(),
            1,
        )?;
    }
    Ok(())
}

fn replicas_of_the_own_zone_come_first(lab: &Running) -> Result<()> {
    near(lab, "http://close/")
}

fn a_local_service_has_the_replicas_of_the_node_only(lab: &Running) -> Result<()> {
    near(lab, "http://local-only/")?;
    equal(
        "without a replica here",
        get(lab, CLIENT, "http://local-elsewhere/")?.status,
        503,
    )?;
    equal(
        "beside the replica",
        get(lab, CLIENT_B, "http://local-elsewhere/")?.says("pod")?,
        "replica-5",
    )
}

/// The clients of each node see no replica of the other one.
fn near(lab: &Running, url: &str) -> Result<()> {
    for (client, own) in [
        (CLIENT, &["replica-1", "replica-2"][..]),
        (CLIENT_B, &["replica-3", "replica-4", "replica-5"]),
    ] {
        let served = replicas(lab, client, url, 10)?;
        let strange: Vec<_> = served.iter().filter(|one| !own.contains(&one.as_str())).collect();
        ensure!(strange.is_empty(), "{client} was served by {strange:?}");
    }
    Ok(())
}

fn a_request_more_than_the_limit_is_refused_at_once(lab: &Running) -> Result<()> {
    // Three at a time, each of which would take three seconds.
    let script =
        "for n in 1 2 3; do curl -s -o /dev/null -w '%{http_code}\\n' http://limited/slow/3000 & done; wait";
    let said = lab.exec(CLIENT, &["sh", "-c", script])?.success()?.stdout;
    let count = |status: &str| said.lines().filter(|line| *line == status).count();
    ensure!(
        count("200") >= 1 && count("503") >= 1,
        "the answers were {said:?}"
    );
    equal("a later one", get(lab, CLIENT, "http://limited/")?.status, 200)
}
