//! What agents find in the `ConfigMap`, and when it is written.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::wire_tests::{Asked, failure, once, serve, until};
use super::{PublishedRoots, ROOTS};
use crate::ca::{KeyFiles, KeyringPlace, Keys};

fn keys(dir: &std::path::Path) -> Arc<Keys> {
    let place = KeyringPlace {
        files: KeyFiles::Dir(dir.to_owned()),
        bundle_file: None,
        trust_domain: "cluster.local".into(),
        names: vec!["mesh-ca".parse().unwrap()],
    };
    Arc::new(Keys::open(place).unwrap())
}

fn kept(asked: &Asked, store: &Mutex<Value>) -> Value {
    assert!(
        asked
            .line
            .contains(" /api/v1/namespaces/mesh-system/configmaps/roots"),
        "{}",
        asked.line
    );
    let mut store = store.lock().unwrap();
    if asked.line.starts_with("PATCH") {
        *store = asked.body["data"].clone();
    }
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "roots" }, "data": *store })
}

#[tokio::test]
async fn roots_are_written_at_start_and_again_when_one_joins_them() {
    let store = Arc::new(Mutex::new(Value::Null));
    let seen = Arc::clone(&store);
    let server = serve(move |asked| once(200, kept(asked, &seen))).await;
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path());
    let name = "mesh-system/roots".parse().unwrap();
    let shown = PublishedRoots::new(server.client.clone(), name, Arc::clone(&keys));
    server.tasks.spawn("roots", shown.follow(server.tasks.stop()));
    let written = || store.lock().unwrap()[ROOTS].as_str().map(str::to_owned);
    let first = keys.load().bundle().to_owned();
    until("the first root", || written() == Some(first.clone())).await;

    let other = tempfile::tempdir().unwrap();
    let next = self::keys(other.path()).load().bundle().to_owned();
    fs::write(dir.path().join("also-trusted.pem"), &next).unwrap();
    assert!(keys.reload(SystemTime::now()).unwrap());
    until("both roots", || {
        written().is_some_and(|text| text.contains(first.trim()) && text.contains(next.trim()))
    })
    .await;
}

#[tokio::test]
async fn what_was_refused_once_is_written_when_the_rule_is_there() {
    let (store, turns) = (Arc::new(Mutex::new(Value::Null)), Mutex::new(0));
    let seen = Arc::clone(&store);
    let server = serve(move |asked| {
        let mut turns = turns.lock().unwrap();
        *turns += 1;
        if *turns < 3 {
            return once(403, failure(403, "Forbidden", "configmaps is forbidden"));
        }
        once(200, kept(asked, &seen))
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let name = "mesh-system/roots".parse().unwrap();
    let shown = PublishedRoots::new(server.client.clone(), name, keys(dir.path()));
    server.tasks.spawn("roots", shown.follow(server.tasks.stop()));
    until("the root", || store.lock().unwrap()[ROOTS].is_string()).await;
}

#[tokio::test]
async fn a_map_that_was_emptied_is_filled_and_what_somebody_else_wrote_stays() {
    for (found, is_filled) in [(Value::Null, true), (json!({ ROOTS: "another CA's" }), false)] {
        let store = Arc::new(Mutex::new(found.clone()));
        let seen = Arc::clone(&store);
        let server = serve(move |asked| once(200, kept(asked, &seen))).await;
        let dir = tempfile::tempdir().unwrap();
        let name = "mesh-system/roots".parse().unwrap();
        let shown = PublishedRoots::new(server.client.clone(), name, keys(dir.path()));
        assert_eq!(shown.show("the root", false).await.unwrap(), is_filled);
        let now = store.lock().unwrap().clone();
        assert_eq!(now == found, !is_filled, "{now}");
    }
}
