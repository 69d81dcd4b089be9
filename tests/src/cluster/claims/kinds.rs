//! Every kind of pod of an enrolled namespace: which are captured, from when on, and as whom they speak.
//!
//! Each pod says what it was answered to its first act: a server that is STRICT and authorizes one account answers nobody who
//! is not captured. It must not know how pods are found.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Claim, claims, seen};
use crate::cluster::Cluster;
use crate::cluster::settings::STATIC_PODS;
use crate::kubernetes::api::at;

pub(super) const CLAIMS: &[Claim] = claims![
    init_containers_sidecars_jobs_and_crash_loops_are_captured_from_their_first_packet,
    pods_of_the_host_network_and_those_that_opt_out_are_strangers,
    what_comes_in_by_a_host_port_is_a_strangers,
    a_static_pod_is_captured_and_is_nobody,
];

const SERVER: &str = include_str!("../../../lab/cluster/kinds-server.yaml");
const PODS: &str = include_str!("../../../lab/cluster/kinds.yaml");
const STATIC: &str = include_str!("../../../lab/cluster/kinds-static.yaml");
const NAMESPACE: &str = "kinds";
/// What is sent, as it stands in a manifest.
const REQUEST: &str = "printf 'GET / HTTP/1.0\\\\r\\\\n\\\\r\\\\n'";
/// Where all but the server are, and where that is.
const NODE: &str = "node-a";
const FAR: &str = "node-b";

fn init_containers_sidecars_jobs_and_crash_loops_are_captured_from_their_first_packet(
    cluster: &Cluster,
) -> Result<()> {
    bring(cluster)?;
    in_namespace(cluster, &["create", "job", "job", "--from=cronjob/yearly"])?;
    let ended = ["wait", "--for=condition=Complete", "job/job", "--timeout=120s"];
    in_namespace(cluster, &ended)?;
    for (pod, container, class) in [
        ("pod/init", "first", "Guaranteed"),
        ("job/job", "sidecar", "BestEffort"),
        ("job/job", "main", "BestEffort"),
    ] {
        is_served(&said(cluster, pod, container)?, 1).with_context(|| format!("{container} of {pod}"))?;
        ensure!(class_of(cluster, pod)? == class, "{pod} is not {class}");
    }
    seen::until("a pod has crashed twice", || {
        let pod = object(cluster, "crashes")?;
        let restarts = at(&pod, "/status/containerStatuses/0/restartCount");
        Ok(restarts == 2 && at(&pod, "/status/containerStatuses/0/ready") == true)
    })?;
    seen::until("it stays", || {
        Ok(cluster
            .exec(NAMESPACE, "crashes", &["cat", "/said/all"])?
            .matches("81 ")
            .count()
            == 3)
    })?;
    let all = cluster.exec(NAMESPACE, "crashes", &["cat", "/said/all"])?;
    is_served(&all, 3).context("a pod that crashes")?;
    ensure!(
        class_of(cluster, "pod/crashes")? == "Burstable",
        "it is not burstable"
    );
    for pod in ["init", "crashes"] {
        let shown = seen::pod(cluster, NODE, (NAMESPACE, pod))?;
        let shown = shown.with_context(|| format!("{pod} is not on the status page"))?;
        ensure!(
            seen::is_captured(&shown) && at(&shown, "/learned") == "announced",
            "it was not captured before it started: {shown}"
        );
    }
    seen::until("nothing is left of the Job's pod", || {
        let pods = seen::pods(cluster, NODE)?;
        let is_of_job = |pod: &Value| {
            at(pod, "/pod")
                .as_str()
                .is_some_and(|name| name.starts_with("job-"))
        };
        Ok(!pods.iter().any(is_of_job))
    })
}

fn pods_of_the_host_network_and_those_that_opt_out_are_strangers(cluster: &Cluster) -> Result<()> {
    bring(cluster)?;
    for (name, reason) in [("host", "host network"), ("outside", "dataplane")] {
        let pod = format!("pod/{name}");
        in_namespace(
            cluster,
            &["wait", "--for=condition=Ready", &pod, "--timeout=120s"],
        )?;
        seen::until(&format!("{name} has asked"), || {
            Ok(said(cluster, &pod, "main")?.contains("81 "))
        })?;
        let said = said(cluster, &pod, "main")?;
        ensure!(
            answer(&said, "80") == ["none"] && is_ok(&answer(&said, "81")),
            "{name} is no stranger: {said}"
        );
        let shown = seen::pod(cluster, NODE, (NAMESPACE, name))?;
        ensure!(shown.is_none(), "{name} is to be captured: {shown:?}");
        let status = seen::status(cluster, NODE)?;
        let outside = at(&status, "/outside").as_array().cloned().unwrap_or_default();
        let named = outside
            .iter()
            .find(|pod| at(pod, "/namespace") == NAMESPACE && at(pod, "/pod") == name);
        let why = named.and_then(|pod| at(pod, "/why").as_str());
        ensure!(
            why.is_some_and(|why| why.contains(reason)),
            "status does not say that {name} is left out: {outside:?}"
        );
    }
    Ok(())
}

fn what_comes_in_by_a_host_port_is_a_strangers(cluster: &Cluster) -> Result<()> {
    bring(cluster)?;
    let addr = cluster.node_addr(FAR)?;
    let get = |port: u16| -> Result<String> {
        let url = format!("http://{addr}:{port}/");
        let asked = "curl --silent --output /dev/null --write-out %{http_code} --max-time 10";
        let asked: Vec<_> = asked.split(' ').chain([url.as_str()]).collect();
        // Refused is what curl fails for.
        Ok(cluster.run_on(NODE, &asked, LIMIT)?.stdout)
    };
    let (strict, open) = (get(18080)?, get(18081)?);
    ensure!(strict == "000", "a port that is STRICT answers {strict}");
    ensure!(open == "200", "a port that is PERMISSIVE answers {open}");
    Ok(())
}

fn a_static_pod_is_captured_and_is_nobody(cluster: &Cluster) -> Result<()> {
    let server = bring(cluster)?;
    let file = format!("{STATIC_PODS}/static.yaml");
    let put = format!("printf %s \"$1\" > {file}.new && mv {file}.new {file}");
    let manifest = filled(STATIC, &server);
    on_node(cluster, &["sh", "-c", &put, "sh", &manifest])?;
    let held = is_nobody(cluster);
    on_node(cluster, &["rm", &file])?;
    held?;
    let gone = ["wait", "--for=delete", "pod", MIRROR, "--timeout=120s"];
    in_namespace(cluster, &gone)?;
    cluster
        .kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])
        .map(drop)
}

/// What answers it is its own agent, which has no certificate for it.
fn is_nobody(cluster: &Cluster) -> Result<()> {
    let begun = || {
        in_namespace(
            cluster,
            &["get", "pod", MIRROR, "--ignore-not-found", "--output=name"],
        )
    };
    seen::until("the API server hears of the static pod", || {
        Ok(!begun()?.is_empty())
    })?;
    let ready = format!("pod/{MIRROR}");
    in_namespace(
        cluster,
        &["wait", "--for=condition=Ready", &ready, "--timeout=120s"],
    )?;
    let pod = format!("pod/{MIRROR}");
    seen::until(
        "it has asked",
        || Ok(said(cluster, &pod, "main")?.contains("81 ")),
    )?;
    let said = said(cluster, &pod, "main")?;
    for port in ["80", "81"] {
        ensure!(
            answer(&said, port).get(1) == Some(&"503"),
            "it is not refused by its own agent: {said}"
        );
    }
    let shown = seen::pod(cluster, NODE, (NAMESPACE, MIRROR))?;
    let shown = shown.context("it is not on the status page")?;
    ensure!(
        seen::is_captured(&shown) && at(&shown, "/learned") == "announced",
        "it was not captured before it started: {shown}"
    );
    Ok(())
}

/// The pods of this file, unless they are there; the address of the servers' Service.
fn bring(cluster: &Cluster) -> Result<String> {
    let address = ["get", "service", "server", "--output=jsonpath={.spec.clusterIP}"];
    let there = cluster.kubectl(&[
        "get",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--output=name",
    ])?;
    if !there.is_empty() {
        return Ok(in_namespace(cluster, &address)?.trim().to_owned());
    }
    cluster.apply_text(SERVER)?;
    let ready = [
        "wait",
        "--for=condition=Ready",
        "pod/server",
        "pod/asks",
        "--timeout=120s",
    ];
    in_namespace(cluster, &ready)?;
    let server = in_namespace(cluster, &address)?.trim().to_owned();
    let ask = filled("ASK", &server).replace("\\\\", "\\");
    seen::until("the account has its certificate, and the server is known", || {
        let said = cluster.exec(NAMESPACE, "asks", &["sh", "-c", &ask])?;
        Ok(is_served(&said, 1).is_ok())
    })?;
    cluster.apply_text(&filled(PODS, &server))?;
    Ok(server)
}

/// A manifest with the shell's words for `ASK`: to ask both servers, and say what each answers. For `LINGER` the same, by a
/// client that does not end its side before it has the answer: an agent takes plaintext that ends so for given up.
fn filled(manifest: &str, server: &str) -> String {
    let ask = |request: &str| {
        let answer = format!("{request} | nc -w 10 {server} $port | grep '^HTTP/' || echo none");
        format!("for port in 80 81; do echo $port $({answer}); done")
    };
    let lingering = format!("{{ {REQUEST}; sleep 1; }}");
    manifest
        .replace("LINGER", &ask(&lingering))
        .replace("ASK", &ask(REQUEST))
}

/// That both servers have answered each of so many starts.
fn is_served(said: &str, starts: usize) -> Result<()> {
    let answers: Vec<_> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    let is_whole = answers.len() == 2 * starts;
    ensure!(
        is_whole
            && answers
                .iter()
                .all(|words| is_ok(words.get(1..).unwrap_or_default())),
        "not answered in each of {starts} starts: {said}"
    );
    Ok(())
}

/// What the server of a port answered first.
fn answer<'s>(said: &'s str, port: &str) -> Vec<&'s str> {
    let mut lines = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines
        .find(|words| words.first() == Some(&port))
        .unwrap_or_default();
    line.into_iter().skip(1).collect()
}

fn is_ok(answer: &[&str]) -> bool {
    answer.get(1) == Some(&"200")
}

fn said(cluster: &Cluster, pod: &str, container: &str) -> Result<String> {
    in_namespace(cluster, &["logs", pod, "--container", container])
}

fn class_of(cluster: &Cluster, pod: &str) -> Result<String> {
    let of = match pod.split_once('/') {
        Some(("job", job)) => format!("--selector=job-name={job}"),
        Some((_, name)) => format!("--field-selector=metadata.name={name}"),
        None => anyhow::bail!("{pod} names no kind"),
    };
    let class = [
        "get",
        "pods",
        &of,
        "--output=jsonpath={.items[0].status.qosClass}",
    ];
    in_namespace(cluster, &class)
}

fn object(cluster: &Cluster, pod: &str) -> Result<Value> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}");
    cluster.plane().api().get(&path)?.success()
}

fn on_node(cluster: &Cluster, program: &[&str]) -> Result<()> {
    cluster.run_on(NODE, program, LIMIT)?.success().map(drop)
}

fn in_namespace(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

/// What the API server shows of the static pod.
const MIRROR: &str = "static-node-a";
const LIMIT: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_was_answered_is_read_from_what_it_says() {
        let said = "80 HTTP/1.0 200 OK\r\n81 none\r\n";
        assert_eq!(answer(said, "80"), ["HTTP/1.0", "200", "OK"]);
        assert_eq!(answer(said, "81"), ["none"]);
        assert!(is_served(said, 1).is_err());
        assert!(is_served("80 HTTP/1.0 200 OK\n81 HTTP/1.0 200 OK\n", 1).is_ok());
        assert!(is_served("80 HTTP/1.0 200 OK\n81 HTTP/1.0 200 OK\n", 2).is_err());
    }
}
