//! Health: endpoints that are asked how they are, and endpoints that go away while they are in use.
//!
//! The back ends of these claims are started by them, beside those that the lab itself runs in the same pods.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::ask::{addresses, equal, get, h2load_succeeded, number, python, text, until};
use super::resilience::Program;
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    traffic_leaves_a_replica_that_says_no_and_comes_back,
    a_replica_that_takes_questions_and_never_answers_is_left_out,
    checks_are_the_callers_and_no_more_than_their_interval_says,
    grpc_health_decides_who_is_called,
    a_replica_that_takes_no_connections_is_left_out,
    a_rolling_restart_by_slices_under_load_fails_no_request,
    a_stream_to_an_endpoint_that_terminates_comes_to_its_end,
];

const CLIENT: &str = "shop/client";
const NODE: &str = "node-a";
const NEAR: &str = "shop/replica-1";
const FAR: &str = "shop/replica-4";
const REPLICAS: [&str; 5] = [NEAR, "shop/replica-2", "shop/replica-3", FAR, "shop/replica-5"];
const PATIENCE: Duration = Duration::from_secs(30);
const HTTP: u16 = 8091;
const GRPC: u16 = 8092;

/// A server in each replica that says how it is.
fn start<'l>(lab: &'l Running, kind: &str, port: u16) -> Result<Vec<Program<'l>>> {
    REPLICAS
        .into_iter()
        .map(|pod| {
            let script = format!(
                "rm -f \"$SCRATCH/notes\"; echo yes > \"$SCRATCH/mood\"; \
                 exec python3 ../programs/healthy.py {kind} {port} \"$SCRATCH/mood\" \"$SCRATCH/notes\""
            );
            Program::start(lab, pod, &script, port)
        })
        .collect()
}

fn set_mood(lab: &Running, pod: &str, mood: &str) -> Result<()> {
    let script = format!("echo {mood} > \"$SCRATCH/mood.new\" && mv \"$SCRATCH/mood.new\" \"$SCRATCH/mood\"");
    lab.exec(pod, &["sh", "-c", &script])?.success().map(drop)
}

/// The questions that a replica was asked.
fn notes(lab: &Running, pod: &str) -> Result<Vec<Value>> {
    let said = lab.exec(pod, &["sh", "-c", "cat \"$SCRATCH/notes\" || true"])?;
    let lines = said.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

/// How many endpoints, in words.
fn unhealthy(lab: &Running, service: &str) -> Result<String> {
    let of_service = [("service", service)];
    let count = lab.metrics(NODE)?.sum("mesh_unhealthy_endpoints", &of_service);
    Ok(format!("{count:.0}"))
}

fn until_unhealthy(lab: &Running, service: &str, count: &str) -> Result<Duration> {
    until(PATIENCE, &format!("{count} of {service} are unhealthy"), || {
        // The health of what nobody uses is asked seldom.
        let _in_use = get(lab, CLIENT, &format!("http://{service}/"))?;
        Ok(unhealthy(lab, service)? == count)
    })
}

/// Who answers so many requests.
fn answering(lab: &Running, count: usize) -> Result<Vec<String>> {
    let asked = (0..count).map(|_| get(lab, CLIENT, "http://healthy/")?.says("pod"));
    asked.collect()
}

fn name_of(pod: &str) -> &str {
    pod.rsplit('/').next().unwrap_or(pod)
}

fn traffic_leaves_a_replica_that_says_no_and_comes_back(lab: &Running) -> Result<()> {
    let _servers = start(lab, "http", HTTP)?;
    get(lab, CLIENT, "http://healthy/")?;
    for pod in [NEAR, FAR] {
        let name = name_of(pod);
        set_mood(lab, pod, "no")?;
        until_unhealthy(lab, "healthy", "1")?;
        let answering_now = answering(lab, 30)?;
        ensure!(!answering_now.iter().any(|one| one == name), "{name} was asked");
        let status = lab.page(NODE, "/status")?.body;
        ensure!(status.contains("shop/healthy"), "status does not name it");
        set_mood(lab, pod, "yes")?;
        until_unhealthy(lab, "healthy", "0")?;
        until(PATIENCE, "it is asked again", || {
            Ok(answering(lab, 10)?.iter().any(|one| one == name))
        })?;
    }
    Ok(())
}

fn a_replica_that_takes_questions_and_never_answers_is_left_out(lab: &Running) -> Result<()> {
    let _servers = start(lab, "http", HTTP)?;
    set_mood(lab, FAR, "mute")?;
    until_unhealthy(lab, "healthy", "1")?;
    let before = notes(lab, FAR)?.len();
    until(PATIENCE, "it is asked some more", || {
        Ok(notes(lab, FAR)?.len() >= before + 4)
    })?;
    for note in notes(lab, FAR)? {
        equal("questions at a time", number(&note, "open")?.to_string(), "1")?;
    }
    set_mood(lab, FAR, "yes")?;
    until_unhealthy(lab, "healthy", "0").map(drop)
}

fn checks_are_the_callers_and_no_more_than_their_interval_says(lab: &Running) -> Result<()> {
    let _servers = start(lab, "http", HTTP)?;
    let [client, _] = addresses(lab, CLIENT)?;
    for pod in [NEAR, FAR] {
        until(PATIENCE, "a dozen questions", || {
            get(lab, CLIENT, "http://healthy/")?;
            Ok(notes(lab, pod)?.len() >= 12)
        })?;
        let notes = notes(lab, pod)?;
        for note in &notes {
            equal("who asks", text(note, "by")?, client.to_string())?;
        }
        let times: Vec<f64> = notes
            .iter()
            .map(|note| number(note, "at"))
            .collect::<Result<_>>()?;
        let (first, last) = (times.first().context("none")?, times.last().context("none")?);
        // Of one agent, although both know the Service: nobody on the other node uses it.
        let most = (last - first) / (0.4 * 0.9) + 2.0;
        let count = f64::from(u32::try_from(times.len())?);
        ensure!(count <= most, "{count} questions to {pod} in {} s", last - first);
    }
    Ok(())
}

fn grpc_health_decides_who_is_called(lab: &Running) -> Result<()> {
    let _servers = start(lab, "grpc", GRPC)?;
    let call = |count: &str| {
        python(
            lab,
            CLIENT,
            "grpc_client.py",
            &["healthy-grpc:50051", "unary", "hello", count],
        )
    };
    call("1")?;
    set_mood(lab, FAR, "no")?;
    until(PATIENCE, "the far one is left out", || {
        call("1")?;
        Ok(unhealthy(lab, "healthy-grpc")? == "1")
    })?;
    let said = call("40")?;
    equal("code", text(&said, "code")?, "OK")?;
    ensure!(!said.to_string().contains(name_of(FAR)), "{said}");
    set_mood(lab, FAR, "yes")?;
    until(PATIENCE, "the far one is called again", || {
        Ok(call("20")?.to_string().contains(name_of(FAR)))
    })
    .map(drop)
}

fn a_replica_that_takes_no_connections_is_left_out(lab: &Running) -> Result<()> {
    let mut servers = Vec::new();
    for pod in REPLICAS {
        servers.push(Program::nginx(lab, pod)?);
    }
    let ask = || get(lab, CLIENT, "http://healthy-tcp:9000/").map(|reply| reply.status);
    equal("status", ask()?, 200)?;
    let far = servers.remove(3);
    drop(far);
    until(PATIENCE, "the far one is left out", || {
        ask()?;
        Ok(unhealthy(lab, "healthy-tcp")? == "1")
    })?;
    for _ in 0..20 {
        equal("status", ask()?, 200)?;
    }
    let _far = Program::nginx(lab, FAR)?;
    until(PATIENCE, "the far one is healthy again", || {
        ask()?;
        Ok(unhealthy(lab, "healthy-tcp")? == "0")
    })
    .map(drop)
}

/// The slice of a Service whose endpoints are these pods; `going` terminates.
fn slice(lab: &Running, service: &str, port: u16, pods: &[&str], going: Option<&str>) -> Result<String> {
    let mut endpoints = String::new();
    for pod in pods {
        let [addr, _] = addresses(lab, pod)?;
        let is_going = going == Some(pod);
        let conditions = format!("{{ready: {}, serving: true, terminating: {is_going}}}", !is_going);
        writeln!(endpoints, "- {{addresses: [{addr}], conditions: {conditions}}}")?;
    }
    let name = if port == 8085 { "http" } else { "grpc" };
    Ok(format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: {name}, port: {port}, protocol: TCP}}]\nendpoints:\n{endpoints}"
    ))
}

fn a_rolling_restart_by_slices_under_load_fails_no_request(lab: &Running) -> Result<()> {
    let mut servers = Vec::new();
    for pod in REPLICAS {
        servers.push(Program::nginx(lab, pod)?);
    }
    roll(lab, None)?;
    until(PATIENCE, "it serves", || {
        Ok(get(lab, CLIENT, "http://rolling/")?.status == 200)
    })?;
    let said = thread::scope(|scope| -> Result<String> {
        let load = scope.spawn(|| {
            let load = [
                "h2load",
                "--h1",
                "--rps",
                "50",
                "--clients",
                "20",
                "--duration",
                "40",
                "http://rolling/",
            ];
            lab.exec_within(Duration::from_secs(90), CLIENT, &load)
        });
        let restarted = restart_all(lab, &mut servers);
        let is_under_load = !load.is_finished();
        let said = load.join().map_err(|_panic| anyhow!("the load panicked"))??;
        restarted?;
        ensure!(is_under_load, "the load was over before all were restarted");
        Ok(said.success()?.stdout)
    })?;
    lab.remove_manifest("rolling.yaml")?;
    let succeeded = h2load_succeeded(&said)?;
    ensure!(succeeded >= 2_000, "no load worth the name: {succeeded} requests");
    Ok(())
}

/// Each in turn: its endpoint terminates, the agents let go of it, it is killed and starts again.
fn restart_all<'l>(lab: &'l Running, servers: &mut [Program<'l>]) -> Result<()> {
    for (index, pod) in REPLICAS.into_iter().enumerate() {
        roll(lab, Some(pod))?;
        until(PATIENCE, "nobody is connected to it", || {
            Ok(!is_connected(lab, pod)?)
        })?;
        let server = servers.get_mut(index).context("no such server")?;
        server.signal("-KILL")?;
        *server = Program::nginx(lab, pod)?;
        roll(lab, None)?;
        until(PATIENCE, "it is used again", || is_connected(lab, pod))?;
    }
    Ok(())
}

/// Has one endpoint terminate, or none, and waits until both agents know.
fn roll(lab: &Running, going: Option<&str>) -> Result<()> {
    lab.put_manifest("rolling.yaml", &slice(lab, "rolling", 8085, &REPLICAS, going)?)?;
    lab.settled(PATIENCE)
}

/// Whether a connection to the application itself is open; those between agents have its port too.
fn is_connected(lab: &Running, pod: &str) -> Result<bool> {
    let look = ["ss", "-Htnp", "state", "established", "sport = :8085"];
    let open = lab.exec(pod, &look)?.success()?.stdout;
    Ok(open.lines().any(|line| line.contains("nginx")))
}

fn a_stream_to_an_endpoint_that_terminates_comes_to_its_end(lab: &Running) -> Result<()> {
    let pods = ["shop/grpc"];
    let put = |going| {
        lab.put_manifest(
            "rolling-grpc.yaml",
            &slice(lab, "rolling-grpc", 50051, &pods, going)?,
        )
    };
    put(None)?;
    let call = |kind: &'static str, argument: &'static str| {
        python(
            lab,
            CLIENT,
            "grpc_client.py",
            &["rolling-grpc:50051", kind, argument],
        )
    };
    until(PATIENCE, "it serves", || {
        Ok(text(&call("unary", "x")?, "code")? == "OK")
    })?;
    let said = thread::scope(|scope| -> Result<Value> {
        // Four seconds.
        let stream = scope.spawn(|| call("stream", "200"));
        put(pods.first().copied())?;
        lab.settled(PATIENCE)?;
        stream.join().map_err(|_panic| anyhow!("the stream panicked"))?
    })?;
    lab.remove_manifest("rolling-grpc.yaml")?;
    equal("code", text(&said, "code")?, "OK")?;
    let messages = said.get("messages").and_then(Value::as_array);
    equal("messages", messages.map(Vec::len), Some(200))
}
