//! Pods that are started and killed in numbers, at one moment of their start after another.
//!
//! It must not know what the steps of a start are: a moment is a part of the time that a whole start takes, or the one in
//! which the runtime's plugin waits for an agent.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::traces::Before;
use super::{Claim, claims, seen};
use crate::cluster::{Cluster, NODES};
use crate::kubernetes::api::at;

pub(super) const CLAIMS: &[Claim] =
    claims![a_hundred_pods_that_are_killed_as_they_start_leave_nothing_half_captured];

const SERVERS: &str = include_str!("../../../lab/cluster/churn.yaml");
const NAMESPACE: &str = "churn";
const SECRET: &str = "open-sesame";
/// Pods that start as a whole; those that are killed while their plugins wait; lanes of the others, and pods of each.
const WHOLE: usize = 10;
const WAITING: usize = 10;
const LANES: usize = 10;
const ROUNDS: usize = 8;

/// The first act of each is to dial a server on the other node: of one that were not captured by then its request would
/// be on the wire.
fn a_hundred_pods_that_are_killed_as_they_start_leave_nothing_half_captured(cluster: &Cluster) -> Result<()> {
    cluster.apply_text(SERVERS)?;
    cluster.rollout(NAMESPACE, "daemonset/server")?;
    let crowd = Crowd::of(cluster)?;
    let before = Before::now(cluster)?;
    // Nothing else: what other claims leave is the middle of connections that nobody saw begin.
    let what = format!("tcp port 8080 and (host {})", crowd.servers.join(" or host "));
    let wire = cluster.capture("churn", &what)?;
    let began = Instant::now();
    let (mut uids, whole) = crowd.starts_as_a_whole()?;
    uids.extend(crowd.is_killed_while_plugins_wait()?);
    uids.extend(crowd.is_killed_within(whole)?);
    crate::say(&format!(
        "  {} pods started and killed in {:?}, a whole start takes {whole:?}",
        uids.len(),
        began.elapsed()
    ));
    seen::until("the API server has no pod of them", || {
        Ok(cluster.pods(NAMESPACE, "app=crowd")?.is_empty())
    })?;
    before.is_all(cluster)?;
    for node in NODES {
        for pod in seen::pods(cluster, node)? {
            let is_of_crowd = uids.iter().any(|uid| at(&pod, "/uid") == uid.as_str());
            ensure!(!is_of_crowd && seen::is_captured(&pod), "{node} has {pod}");
        }
    }
    let wire = wire.stop()?;
    ensure!(wire.tls_packets > 0, "nobody has dialled: {wire:?}");
    ensure!(
        wire.plaintext_packets == 0 && !wire.contains(SECRET.as_bytes()),
        "plaintext between the nodes: {wire:?}"
    );
    cluster
        .kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])
        .map(drop)
}

/// Where pods come and go.
struct Crowd<'c> {
    cluster: &'c Cluster,
    /// The address of the server that pods of a node dial, in the order of [`NODES`].
    servers: Vec<String>,
}

impl<'c> Crowd<'c> {
    /// Waits until the servers are captured.
    fn of(cluster: &'c Cluster) -> Result<Self> {
        let pods = cluster.pods(NAMESPACE, "app=server")?;
        let mut servers = Vec::new();
        for node in NODES {
            let other = pods.iter().find(|pod| pod.node != node);
            let other = other.with_context(|| format!("no server beside {node}: {pods:?}"))?;
            seen::until("the servers are captured", || {
                let pod = seen::pod(cluster, &other.node, (NAMESPACE, &other.name))?;
                Ok(pod.is_some_and(|pod| seen::is_captured(&pod)))
            })?;
            servers.push(other.addr.clone());
        }
        Ok(Self { cluster, servers })
    }

    /// Some that are answered before they are killed, and how long the slowest of them took.
    fn starts_as_a_whole(&self) -> Result<(Vec<String>, Duration)> {
        let began = Instant::now();
        let numbers = 0..WHOLE;
        let uids = numbers.clone().map(|number| self.start(number));
        let uids = uids.collect::<Result<_>>()?;
        for number in numbers.clone() {
            seen::until("a pod is answered", || {
                let pod = self.cluster.plane().api().get(&path(number))?.success()?;
                let phase = at(&pod, "/status/phase");
                ensure!(phase != "Failed", "a pod is not answered: {pod}");
                Ok(at(&pod, "/status/containerStatuses/0/ready") == true)
            })?;
        }
        let whole = began.elapsed();
        numbers.clone().try_for_each(|number| self.kill(number))?;
        Ok((uids, whole))
    }

    /// Some whose agents stand still, so that all are killed in the middle of their enrolment.
    fn is_killed_while_plugins_wait(&self) -> Result<Vec<String>> {
        let agents = NODES.map(|node| seen::agent(self.cluster, node));
        let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
        for agent in &agents {
            agent.signal(Signal::SIGSTOP)?;
        }
        let killed = self.is_killed_unanswered();
        for agent in &agents {
            agent.signal(Signal::SIGCONT)?;
        }
        killed
    }

    fn is_killed_unanswered(&self) -> Result<Vec<String>> {
        let numbers = WHOLE..WHOLE + WAITING;
        let uids = numbers.clone().map(|number| self.start(number));
        let uids = uids.collect::<Result<_>>()?;
        for node in NODES {
            seen::until(&format!("plugins of {node} wait"), || {
                Ok(waiting(self.cluster, node)? >= WAITING / NODES.len())
            })?;
        }
        numbers.clone().try_for_each(|number| self.kill(number))?;
        Ok(uids)
    }

    /// The others, each killed a part of `whole` after it was made.
    fn is_killed_within(&self, whole: Duration) -> Result<Vec<String>> {
        let of_lane = |lane: usize| -> Result<Vec<String>> {
            let mut uids = Vec::new();
            for round in 0..ROUNDS {
                let number = WHOLE + WAITING + ROUNDS * lane + round;
                uids.push(self.start(number)?);
                // Which moment it is says what is tried, not whether the claim holds.
                thread::sleep(whole * u32::try_from(round)? / u32::try_from(ROUNDS)?);
                self.kill(number)?;
            }
            Ok(uids)
        };
        let uids = thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES)
                .map(|lane| scope.spawn(move || of_lane(lane)))
                .collect();
            let lanes = lanes
                .into_iter()
                .map(|lane| lane.join().map_err(|_panic| anyhow!("a lane panicked"))?);
            lanes.collect::<Result<Vec<_>>>()
        })?;
        Ok(uids.concat())
    }

    /// Makes a pod; its uid.
    fn start(&self, number: usize) -> Result<String> {
        // So that at each moment pods of both nodes are killed in both ways.
        let place = (number + number / (2 * ROUNDS)) % NODES.len();
        let (node, server) = NODES.iter().zip(&self.servers).nth(place).context("a node")?;
        let made = self
            .cluster
            .plane()
            .api()
            .create(&collection(), &pod(number, node, server))?;
        Ok(at(&made, "/metadata/uid").as_str().context("no uid")?.to_owned())
    }

    /// Half of them without grace: the API server knows nothing of such a pod from then on.
    fn kill(&self, number: usize) -> Result<()> {
        let api = self.cluster.plane().api();
        if (number / ROUNDS).is_multiple_of(2) {
            api.delete(&path(number))
        } else {
            api.end(&path(number))
        }
    }
}

fn pod(number: usize, node: &str, server: &str) -> Value {
    let ask = format!(
        "printf 'GET / HTTP/1.0\\r\\nx-secret: {SECRET}\\r\\n\\r\\n' | nc -w 10 {server} 8080 | grep -q '^HTTP/' && \
         echo yes > /tmp/answered; cat /tmp/answered && exec sleep 2147483647"
    );
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name(number), "namespace": NAMESPACE, "labels": { "app": "crowd" } },
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": "localhost/busybox:lab", "imagePullPolicy": "Never",
                "command": ["sh", "-c", ask],
                "readinessProbe": { "exec": { "command": ["cat", "/tmp/answered"] }, "periodSeconds": 1 },
            }],
        },
    })
}

/// How many runs of the plugin on a node want a pod to be captured and have no answer.
fn waiting(cluster: &Cluster, node: &str) -> Result<usize> {
    let plugins = seen::processes(cluster, node, "/opt/cni/bin/mesh-agent-cni")?;
    let adds = plugins.iter().filter(|plugin| {
        // One that has ended meanwhile has no environment.
        let environment = fs::read(format!("/proc/{}/environ", plugin.pid)).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == b"CNI_COMMAND=ADD")
    });
    Ok(adds.count())
}

fn name(number: usize) -> String {
    format!("crowd-{number}")
}

fn collection() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

fn path(number: usize) -> String {
    format!("{}/{}", collection(), name(number))
}
