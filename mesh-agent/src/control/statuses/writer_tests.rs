//! Writing beside others, against an API whose object a script changes.

use futures_util::FutureExt as _;
use parking_lot::Mutex;

use super::*;
use crate::control::conditions::{Condition, Entry};
use crate::control::statuses::kinds::KINDS;

/// One object; before each of the first writes somebody else does what the script says.
#[derive(Debug, Default)]
struct Fake {
    kept: Mutex<Option<Value>>,
    script: Mutex<Vec<Other>>,
    written: Mutex<Vec<Value>>,
}

#[derive(Debug, Clone, Copy)]
enum Other {
    /// Writes an entry of its own.
    WritesStatus,
    /// Changes the spec.
    Edits,
    Deletes,
}

impl Fake {
    fn with(object: &Held, script: &[Other]) -> Self {
        let fake = Self::default();
        *fake.kept.lock() = Some(object.value.clone());
        *fake.script.lock() = script.iter().rev().copied().collect();
        fake
    }

    fn disturb(&self, other: Other) {
        let mut kept = self.kept.lock();
        let Some(object) = kept.as_mut() else { return };
        let version: u64 = text(object, "/metadata/resourceVersion").parse().unwrap();
        object["metadata"]["resourceVersion"] = (version + 1).to_string().into();
        match other {
            Other::WritesStatus => {
                object["status"] = json!({ "parents": [{ "controllerName": "example.net/other" }] });
            }
            Other::Edits => object["metadata"]["generation"] = 2.into(),
            Other::Deletes => *kept = None,
        }
    }
}

impl Statuses for Fake {
    fn read<'a>(&'a self, _: &'a Held) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        let found = self.kept.lock().clone();
        std::future::ready(Ok(found)).boxed()
    }

    fn write<'a>(
        &'a self,
        _: &'a Held,
        version: &'a str,
        status: Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        if let Some(other) = self.script.lock().pop() {
            self.disturb(other);
        }
        let kept = self.kept.lock();
        let is_still = kept
            .as_ref()
            .is_some_and(|kept| text(kept, "/metadata/resourceVersion") == version);
        if is_still {
            self.written.lock().push(status);
        }
        std::future::ready(Ok(is_still)).boxed()
    }
}

fn route() -> Held {
    let kind = KINDS.iter().find(|kind| kind.name == "HTTPRoute").unwrap();
    let metadata =
        json!({ "name": "r", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "7" });
    Held::new(&Arc::new(kind.resource("v1")), json!({ "metadata": metadata }))
}

fn wanted() -> Status {
    Status::Parents(vec![Entry {
        reference: json!({ "name": "web" }),
        conditions: vec![Condition {
            r#type: "Accepted".to_owned(),
            status: "True".to_owned(),
            reason: "Accepted".to_owned(),
            message: String::new(),
        }],
    }])
}

async fn settled(script: &[Other]) -> (Result<Outcome, ApiError>, Vec<Value>) {
    let object = route();
    let fake = Fake::with(&object, script);
    let outcome = settle(&fake, &object, &wanted()).await;
    (outcome, fake.written.into_inner())
}

#[tokio::test]
async fn what_another_writes_at_the_same_time_is_kept() {
    let (outcome, written) = settled(&[Other::WritesStatus, Other::WritesStatus]).await;
    assert_eq!(outcome.unwrap(), Outcome::Written);
    let controllers: Vec<_> = written[0]["parents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["controllerName"].as_str().unwrap())
        .collect();
    assert_eq!(
        controllers,
        ["example.net/other", crate::control::conditions::CONTROLLER]
    );
}

#[tokio::test]
async fn what_was_judged_of_an_older_generation_is_not_written() {
    for other in [Other::Edits, Other::Deletes] {
        let (outcome, written) = settled(&[other]).await;
        assert_eq!(outcome.unwrap(), Outcome::Superseded, "{other:?}");
        assert!(written.is_empty());
    }
}

#[tokio::test]
async fn somebody_who_never_stops_writing_is_an_error_to_be_tried_again() {
    let (outcome, written) = settled(&[Other::WritesStatus; 9]).await;
    assert!(matches!(outcome, Err(ApiError::Conflict)), "{outcome:?}");
    assert!(written.is_empty());
}

#[tokio::test]
async fn what_is_there_is_not_written_again() {
    let mut object = route();
    let fake = Fake::with(&object, &[]);
    assert_eq!(settle(&fake, &object, &wanted()).await.unwrap(), Outcome::Written);
    object.value["status"] = fake.written.lock()[0].clone();
    assert_eq!(
        settle(&fake, &object, &wanted()).await.unwrap(),
        Outcome::Unchanged
    );
    assert_eq!(fake.written.lock().len(), 1);
}
