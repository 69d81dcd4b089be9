//! Events about objects of which something is wrong: one for each thing that is said of an object, told again as a series.
//!
//! An event's name follows from what it says, so that the next leader finds the one of the last and counts on.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use twox_hash::XxHash64;

use super::judge::Finding;
use super::objects::Held;
use super::patience::Patience;
use super::standing::Unwritten;
use crate::ca::kubernetes::{ApiError, answered};
use crate::control::conditions::{CONTROLLER, shortened};
use crate::identity::error_chain;

/// Something to tell of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Of the event.
    name: Arc<str>,
    text: String,
}

/// Where events go: the seam for tests. Bounded in time.
pub(super) trait EventApi: Send + Sync + Debug {
    /// Creates the event, or tells that it came to pass for the `count`th time where it is there already.
    fn tell<'a>(
        &'a self,
        object: &'a Held,
        note: &'a Note,
        count: i32,
    ) -> BoxFuture<'a, Result<(), ApiError>>;
}

/// Tells each thing once while it lasts, and not too much at once.
#[derive(Debug)]
pub(super) struct Teller<A> {
    api: A,
    /// What is wrong now and was told, by the object's uid.
    told: HashMap<String, Note>,
    /// How often each event was told by this one.
    counts: HashMap<Arc<str>, i32>,
    bucket: Bucket,
    patience: Patience,
}

/// How much was told, and when something that is left is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Told {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) again: Option<Instant>,
    pub(super) unwritten: Unwritten,
}

impl<A: EventApi> Teller<A> {
    pub(super) fn new(api: A) -> Self {
        Self {
            api,
            told: HashMap::new(),
            counts: HashMap::new(),
            bucket: Bucket::full(Instant::now()),
            patience: Patience::default(),
        }
    }

    /// Tells what is new among all that is wrong now; what could not be told before comes last.
    pub(super) async fn tell(&mut self, findings: &[Finding]) -> Told {
        let wrong = findings.iter().filter(|finding| !finding.wrong.is_empty());
        let mut wrong: Vec<_> = wrong
            .map(|finding| &finding.object)
            .zip(notes(findings))
            .collect();
        let still: HashSet<&str> = wrong.iter().map(|(object, _)| object.metadata("uid")).collect();
        self.told.retain(|uid, _| still.contains(uid.as_str()));
        let names: HashSet<&str> = wrong.iter().map(|(_, note)| &*note.name).collect();
        self.patience.retain(|name| names.contains(name));
        if self.counts.len() > MOST_COUNTED {
            self.counts.clear();
        }
        wrong.retain(|(object, note)| self.told.get(object.metadata("uid")) != Some(note));
        wrong.sort_by_key(|(_, note)| self.patience.has_failed(&note.name));
        let mut told = Told::default();
        let mut is_full = false;
        for (object, note) in &wrong {
            let now = Instant::now();
            if !self.patience.is_due(&note.name, None, now) {
                continue;
            }
            is_full = !self.bucket.take(now);
            if is_full {
                told.again = Some(now + RETRY);
                break;
            }
            if self.tell_one(object, note).await {
                told.done += 1;
            } else {
                told.failed += 1;
            }
        }
        if !is_full {
            told.again = self.patience.next();
        }
        let named = wrong.iter().map(|(object, note)| (&*note.name, &*object.name));
        told.unwritten = Unwritten::of(&self.patience, named);
        told
    }

    async fn tell_one(&mut self, object: &Arc<Held>, note: &Note) -> bool {
        let before = self.counts.get(&*note.name).copied();
        // One that is there and was not told by this leader was told by another.
        let count = before.unwrap_or(1).saturating_add(1);
        match self.api.tell(object, note, count).await {
            Ok(()) => {
                let count = before.map_or(1, |_| count);
                self.counts.insert(Arc::clone(&note.name), count);
                self.told.insert(object.metadata("uid").to_owned(), note.clone());
                self.patience.succeeded(&note.name);
                true
            }
            Err(error) => {
                let said = error_chain(&error);
                if self.patience.failed(&note.name, None, &said, Instant::now()) {
                    tracing::error!(object = %object.name, error = said, "an event cannot be written; tried again");
                }
                false
            }
        }
    }
}

fn notes(findings: &[Finding]) -> impl Iterator<Item = Note> {
    let wrong = findings.iter().filter(|finding| !finding.wrong.is_empty());
    wrong.map(|finding| {
        let object = &finding.object;
        let end = finding.wrong.floor_char_boundary(LONGEST_NOTE);
        let text = finding.wrong.get(..end).unwrap_or_default().to_owned();
        let told = format!("{}\n{text}", object.metadata("uid"));
        let named = shortened(object.metadata("name").to_owned(), LONGEST_NAME);
        Note {
            name: format!("{named}.{:016x}", XxHash64::oneshot(0, told.as_bytes())).into(),
            text,
        }
    })
}

/// As client-go bounds its events: so many at once, then so many a second.
#[derive(Debug)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.saturating_duration_since(self.since) >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        true
    }
}

/// The real one.
pub(super) struct ClusterEvents {
    client: Client,
    instance: String,
}

impl ClusterEvents {
    /// `instance` is the name of this process.
    pub(super) fn new(client: Client, instance: String) -> Self {
        let instance = shortened(instance, LONGEST_INSTANCE);
        Self { client, instance }
    }

    fn event(&self, object: &Held, note: &Note, namespace: &str, now: Timestamp) -> Event {
        let text = |field: &str| Some(object.metadata(field).to_owned()).filter(|text| !text.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(note.name.to_string()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(object.resource.api_version.clone()),
                kind: Some(object.resource.kind.clone()),
                name: text("name"),
                namespace: text("namespace"),
                uid: text("uid"),
                resource_version: text("resourceVersion"),
                ..ObjectReference::default()
            }),
            action: Some("Judge".to_owned()),
            reason: Some("Rejected".to_owned()),
            note: Some(note.text.clone()),
            type_: Some("Warning".to_owned()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

impl EventApi for ClusterEvents {
    fn tell<'a>(
        &'a self,
        object: &'a Held,
        note: &'a Note,
        count: i32,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            // Where events about objects without a namespace belong.
            let namespace = match object.metadata("namespace") {
                "" => "default",
                namespace => namespace,
            };
            let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
            let now = Timestamp::now();
            let event = self.event(object, note, namespace, now);
            match answered(api.create(&PostParams::default(), &event)).await {
                Ok(_) => return Ok(()),
                Err(ApiError::Failed(error)) if is_there(&error) => {}
                Err(error) => return Err(error),
            }
            let last_observed_time = MicroTime(now);
            let series = EventSeries {
                count,
                last_observed_time,
            };
            let patch = Patch::Merge(json!({ "series": series }));
            answered(api.patch(&note.name, &PatchParams::default(), &patch)).await?;
            Ok(())
        })
    }
}

fn is_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

impl Debug for ClusterEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterEvents")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(1);
/// What found no room is told after this.
const RETRY: Duration = Duration::from_secs(5);
/// In bytes; the API takes 1 kB.
const LONGEST_NOTE: usize = 1000;
/// The API takes 253 characters of a name, of which the hash has 17.
const LONGEST_NAME: usize = 200;
const LONGEST_INSTANCE: usize = 128;
/// Counts are of no use for ever: an event lives for an hour.
const MOST_COUNTED: usize = 4096;

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
