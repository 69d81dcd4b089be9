//! Pods that begin: told to enrolment at once, and answered as soon as their capture is in place.
//!
//! Must not know: sockets, hooks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::server::Heard;
use crate::cni::NAMESPACES;
use crate::cni::wire::{Reply, Sandbox, Told};
use crate::kernel::enrolment::Enrolment;
use crate::kernel::placement::announced::{Announced, Announcement};
use crate::kernel::status::PodStatus;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::snapshot::Snapshot;

/// What the plugin says, and who waits for an answer.
#[derive(Debug)]
pub(in crate::app) struct Announcements {
    heard: Option<mpsc::Receiver<Heard>>,
    timeout: Duration,
    files: Option<Files>,
    /// Namespaces whose pods take part; `None` before the first reading.
    meshed: Option<BTreeSet<Arc<str>>>,
    waiting: Vec<Waiting>,
}

/// What outlives the agent.
#[derive(Debug)]
struct Files {
    announced: PathBuf,
    namespaces: PathBuf,
    written: Announced,
}

/// A pod whose sandbox waits.
#[derive(Debug)]
struct Waiting {
    sandbox: Sandbox,
    uid: String,
    until: Instant,
    why: String,
    reply: oneshot::Sender<Reply>,
}

impl Announcements {
    /// No plugin asks.
    pub(super) fn none() -> Self {
        Self {
            heard: None,
            timeout: Duration::ZERO,
            files: None,
            meshed: None,
            waiting: Vec::new(),
        }
    }

    /// What comes out of `heard` is answered within `timeout`; files in `dir` keep what the next agent, and a plugin without
    /// one, must know.
    pub(super) fn heard(heard: mpsc::Receiver<Heard>, timeout: Duration, dir: &Path) -> Self {
        Self {
            heard: Some(heard),
            timeout,
            files: Some(Files {
                announced: dir.join(ANNOUNCED),
                namespaces: dir.join(NAMESPACES),
                written: Announced::default(),
            }),
            ..Self::none()
        }
    }

    /// What the plugin says next; cancel-safe.
    pub(in crate::app) async fn next(&mut self) -> Heard {
        if let Some(heard) = &mut self.heard
            && let Some(heard) = heard.recv().await
        {
            return heard;
        }
        std::future::pending().await
    }

    /// Tells `enrolment` what an earlier agent was told of pods that still are there: else one that has no address in its
    /// facts yet would lose its hooks.
    pub(in crate::app) fn recall(&mut self, enrolment: &mut Enrolment) {
        let Some(files) = &mut self.files else { return };
        let told = match fs::read(&files.announced) {
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            text => text.and_then(|text| Ok(serde_json::from_slice::<Announced>(&text)?)),
        };
        match told {
            Ok(announced) => {
                files.written = announced.clone();
                enrolment.recall(announced);
            }
            Err(error) => {
                let file = files.announced.display();
                tracing::warn!(%file, %error, "what an earlier agent was told of pods that begin is lost");
            }
        }
    }

    /// Which namespaces take part now.
    pub(in crate::app) fn know(&mut self, meshed: &BTreeSet<Arc<str>>) {
        if self.meshed.as_ref() == Some(meshed) {
            return;
        }
        self.meshed = Some(meshed.clone());
        if let Some(files) = &self.files {
            let names: Vec<&str> = meshed.iter().map(AsRef::as_ref).collect();
            write(&files.namespaces, &names);
        }
    }

    /// Takes in what the plugin said; whether `enrolment` should look at its pods now.
    pub(in crate::app) fn take_in(&mut self, heard: Heard, enrolment: &mut Enrolment, now: Instant) -> bool {
        let Heard { told, reply } = heard;
        match told {
            Told::Begins(sandbox) if self.is_outside(&sandbox.namespace) => {
                say(reply, Reply::NotEnrolled);
                false
            }
            Told::Begins(sandbox) => self.begin(sandbox, reply, enrolment, now),
            Told::Ends(sandbox) => {
                // Without a uid nothing of it was announced.
                if let Some(uid) = &sandbox.uid {
                    // A sandbox that failed may go after the next one of its pod came.
                    let last = enrolment.announced().of(uid);
                    if last.is_some_and(|announcement| announcement.sandbox == sandbox.id) {
                        enrolment.withdraw(uid);
                    }
                }
                self.waiting.retain(|waiting| waiting.sandbox.id != sandbox.id);
                say(reply, Reply::NotEnrolled);
                false
            }
        }
    }

    fn begin(
        &mut self,
        sandbox: Sandbox,
        reply: oneshot::Sender<Reply>,
        enrolment: &mut Enrolment,
        now: Instant,
    ) -> bool {
        let Some(uid) = sandbox.uid.clone().filter(|uid| !uid.is_empty()) else {
            let why = "the runtime does not say K8S_POD_UID: use containerd 1.6, CRI-O 1.23 or later";
            say(reply, Reply::Refused { why: why.to_owned() });
            return false;
        };
        let announcement = Announcement {
            sandbox: sandbox.id.clone(),
            netns: sandbox.netns.clone(),
            addrs: sandbox.addrs.clone(),
        };
        enrolment.announce(&uid, announcement);
        self.waiting.push(Waiting {
            sandbox,
            uid,
            until: now + self.timeout,
            why: "the agent has no configuration yet".to_owned(),
            reply,
        });
        true
    }

    fn is_outside(&self, namespace: &str) -> bool {
        let meshed = self.meshed.as_ref();
        meshed.is_some_and(|meshed| !meshed.contains(namespace))
    }

    /// Answers whoever can be answered, after `enrolment` looked at its pods and said `pods`.
    pub(in crate::app) fn settle(
        &mut self,
        snapshot: &Snapshot,
        pods: &[PodStatus],
        enrolment: &mut Enrolment,
        now: Instant,
    ) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|waiting| !waiting.reply.is_closed());
        for mut waiting in waiting {
            let known = pod_of(snapshot, &waiting.uid);
            match verdict(known, pods) {
                Ok(reply) => {
                    // One that takes no part needs no place; should it come to, it is found.
                    if reply == Reply::NotEnrolled {
                        enrolment.withdraw(&waiting.uid);
                    }
                    say(waiting.reply, reply);
                }
                Err(why) => {
                    waiting.why = why;
                    self.waiting.push(waiting);
                }
            }
        }
        self.keep_time(enrolment, now);
    }

    /// Refuses whoever waited too long, and forgets pods that are gone.
    pub(in crate::app) fn keep_time(&mut self, enrolment: &mut Enrolment, now: Instant) {
        let late = self.waiting.extract_if(.., |waiting| waiting.until <= now);
        for Waiting {
            sandbox, why, reply, ..
        } in late
        {
            let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
            tracing::warn!(
                pod,
                why,
                "a pod is not enrolled in time, and is held back or let go unmeshed"
            );
            say(reply, Reply::Refused { why });
        }
        enrolment.forget_gone();
        if let Some(files) = &mut self.files
            && files.written != *enrolment.announced()
        {
            files.written = enrolment.announced().clone();
            write(&files.announced, &files.written);
        }
    }
}

/// The answer, or why there is none yet.
fn verdict(pod: Option<&Arc<Workload>>, pods: &[PodStatus]) -> Result<Reply, String> {
    let Some(pod) = pod else {
        return Err(
            "the pod is not known to the agent yet: does its source of configuration answer?".to_owned(),
        );
    };
    if !pod.is_enrolled() {
        return Ok(Reply::NotEnrolled);
    }
    let uid = pod.uid.to_string();
    let Some(status) = pods.iter().find(|status| status.uid == uid) else {
        return Err("the pod is not of this node".to_owned());
    };
    match &status.why_not {
        None if status.present => Ok(Reply::Enrolled),
        why => Err(why.clone().unwrap_or_else(|| "it is not enrolled yet".to_owned())),
    }
}

/// A static pod's kubelet knows it by another uid than the API server.
fn pod_of<'s>(snapshot: &'s Snapshot, uid: &str) -> Option<&'s Arc<Workload>> {
    let by_uid = snapshot.workload(&WorkloadUid::new(uid));
    by_uid.or_else(|| {
        let mut static_pods = snapshot
            .workloads()
            .filter(|workload| workload.static_hash.is_some());
        static_pods.find(|workload| workload.kubelet_uid() == uid)
    })
}

/// Whoever asked may have gone.
fn say(reply: oneshot::Sender<Reply>, answer: Reply) {
    if let Err(unheard) = reply.send(answer) {
        tracing::debug!(?unheard, "the CNI plugin did not wait for its answer");
    }
}

/// All of it or nothing. A failure is logged: the next change tries again.
fn write(path: &Path, value: &impl Serialize) {
    let fresh = path.with_extension("new");
    let text = serde_json::to_vec(value).map_err(io::Error::from);
    let written = text
        .and_then(|text| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = written {
        tracing::error!(file = %path.display(), %error, "cannot write what a plugin without an agent must know");
    }
}

/// Where an agent keeps what it was told, for the next one.
const ANNOUNCED: &str = "announced.json";

#[cfg(test)]
#[path = "announcements_tests.rs"]
mod tests;
