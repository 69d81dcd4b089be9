//! One run of the plugin: what the runtime asks, what it is answered.
//!
//! Must not know: the environment, standard input and output; `main` has those.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::netconf::{Entry, FailMode, NetConf, PodArgs, VERSIONS, addrs_in};
use super::wire::{NoAnswer, Reply, Sandbox, Told, ask};

/// The parameters of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_ARGS`.
    pub args: String,
}

/// What becomes of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// For standard output; nothing where the specification wants nothing.
    pub said: Option<Value>,
    /// For standard error, which runtimes log.
    pub noted: Option<String>,
    /// Whether the exit code is 0.
    pub is_ok: bool,
}

/// A failure as the specification numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    code: u32,
    msg: String,
    details: String,
}

/// Does what the runtime asks; `stdin` is its configuration. Blocks as long as the agent takes.
pub fn run(call: &Call, stdin: &[u8]) -> Outcome {
    let done = match call.command.as_str() {
        "ADD" => add(call, stdin),
        "DEL" => Ok(del(call, stdin)),
        // What the plugins before made is theirs to check, and nothing of this one outlives its pod.
        "CHECK" | "GC" => read(stdin).map(|_| Outcome::silent()),
        // An agent that is away is no reason to call the node's network unusable: its own pods must start.
        "STATUS" => read(stdin).map(|_| Outcome::silent()),
        "VERSION" => Ok(Outcome::saying(json!({
            "cniVersion": VERSIONS.last(),
            "supportedVersions": VERSIONS,
        }))),
        other => Err(failure(4, "CNI_COMMAND is not known", other)),
    };
    done.unwrap_or_else(|failure| failure.outcome(version_in(stdin).as_deref()))
}

fn add(call: &Call, stdin: &[u8]) -> Result<Outcome, Failure> {
    let conf = read(stdin)?;
    let Some(result) = &conf.prev_result else {
        return Err(failure(
            7,
            "no prevResult: this plugin comes after one that makes the network",
            "",
        ));
    };
    let passed = passed_on(result, &conf.cni_version);
    let pod = PodArgs::parse(&call.args);
    let Some(namespace) = pod.namespace.clone() else {
        return Ok(passed.noting("no K8S_POD_NAMESPACE: not a pod, left alone"));
    };
    if conf.entry.exempt_namespaces.contains(&namespace) {
        return Ok(passed);
    }
    let told = Told::Begins(sandbox(call, pod, addrs_in(result)));
    let why = match ask_patiently(&conf.entry, &told, &namespace) {
        None | Some(Ok(Reply::Enrolled | Reply::NotEnrolled)) => return Ok(passed),
        Some(Ok(Reply::Refused { why })) => why,
        Some(Err(error)) => {
            format!("the mesh agent of this node does not answer: {}", spelled(&error))
        }
    };
    match conf.entry.fail_mode {
        FailMode::Open => Ok(passed.noting(&format!("starts unmeshed: {why}"))),
        FailMode::Closed => Err(failure(
            TRY_AGAIN,
            &format!("the pod cannot be meshed and must not start without: {why}"),
            "",
        )),
    }
}

/// An agent that is away may be one that is being replaced, so it is asked until the time is over. `None` for a pod that
/// would not take part, and needs no answer.
fn ask_patiently(entry: &Entry, told: &Told, namespace: &str) -> Option<Result<Reply, NoAnswer>> {
    let until = Instant::now() + Duration::from_secs(entry.timeout_seconds);
    loop {
        let error = match ask(&entry.socket, told, patience(entry)) {
            Ok(reply) => return Some(Ok(reply)),
            Err(error) => error,
        };
        if is_outside(&entry.namespaces, namespace) {
            return None;
        }
        if entry.fail_mode == FailMode::Open || Instant::now() >= until {
            return Some(Err(error));
        }
        thread::sleep(PAUSE);
    }
}

/// The agent would find out by itself: nothing here keeps a sandbox from going.
fn del(call: &Call, stdin: &[u8]) -> Outcome {
    let Ok(conf) = read(stdin) else {
        return Outcome::silent();
    };
    let told = Told::Ends(sandbox(call, PodArgs::parse(&call.args), Vec::new()));
    match ask(&conf.entry.socket, &told, GOODBYE) {
        Ok(_) => Outcome::silent(),
        Err(error) => Outcome::silent().noting(&spelled(&error)),
    }
}

fn sandbox(call: &Call, pod: PodArgs, addrs: Vec<std::net::IpAddr>) -> Sandbox {
    Sandbox {
        id: call.container.clone(),
        namespace: pod.namespace.unwrap_or_default(),
        name: pod.name.unwrap_or_default(),
        uid: pod.uid,
        netns: call.netns.as_str().into(),
        addrs,
    }
}

/// Whether the agent, when it lived, knew the namespace for one that takes no part. Without its file nobody knows.
fn is_outside(namespaces: &Path, namespace: &str) -> bool {
    let known: Option<Vec<String>> = fs::read(namespaces)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    known.is_some_and(|known| known.iter().all(|known| known != namespace))
}

fn read(stdin: &[u8]) -> Result<NetConf, Failure> {
    if let Some(version) = version_in(stdin).filter(|version| !VERSIONS.contains(&version.as_str())) {
        let known = VERSIONS.join(", ");
        return Err(failure(
            1,
            "incompatible CNI version",
            &format!("{version}; known are {known}"),
        ));
    }
    serde_json::from_slice(stdin)
        .map_err(|error| failure(6, "the configuration cannot be read", &error.to_string()))
}

fn version_in(stdin: &[u8]) -> Option<String> {
    let conf: Value = serde_json::from_slice(stdin).ok()?;
    Some(conf.get("cniVersion")?.as_str()?.to_owned())
}

/// The result is what the plugin before made, in the version that the runtime speaks.
fn passed_on(result: &Value, version: &str) -> Outcome {
    let mut result = result.clone();
    if let Some(fields) = result.as_object_mut() {
        fields.insert("cniVersion".to_owned(), version.into());
    }
    Outcome::saying(result)
}

/// The agent's own deadline comes first, and says more.
fn patience(entry: &Entry) -> Duration {
    Duration::from_secs(entry.timeout_seconds) + GOODBYE
}

fn spelled(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn failure(code: u32, msg: &str, details: &str) -> Failure {
    Failure {
        code,
        msg: msg.to_owned(),
        details: details.to_owned(),
    }
}

impl Failure {
    fn outcome(self, version: Option<&str>) -> Outcome {
        let latest = VERSIONS.last().copied().unwrap_or_default();
        Outcome {
            said: Some(json!({
                "cniVersion": version.unwrap_or(latest),
                "code": self.code,
                "msg": format!("{}: {}", super::PLUGIN, self.msg),
                "details": self.details,
            })),
            noted: None,
            is_ok: false,
        }
    }
}

impl Outcome {
    fn silent() -> Self {
        Self {
            said: None,
            noted: None,
            is_ok: true,
        }
    }

    fn saying(said: Value) -> Self {
        Self {
            said: Some(said),
            ..Self::silent()
        }
    }

    fn noting(self, text: &str) -> Self {
        Self {
            noted: Some(format!("{}: {text}", super::PLUGIN)),
            ..self
        }
    }
}

/// "Try again later", of the specification's table.
const TRY_AGAIN: u32 = 11;
/// What the agent gets to hear that a sandbox goes, and beyond its own deadline.
const GOODBYE: Duration = Duration::from_secs(3);
/// Before an agent that is away is asked again.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
