//! Claims about the copy: what was told is in it, and nothing is taken for a copy that is none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

fn read(path: &Path) -> Result<BTreeMap<String, Value>, CopyError> {
    let mut objects = BTreeMap::new();
    Copy::at(path.to_owned()).read(|name, object| {
        objects.insert(name.to_owned(), object);
        false
    })?;
    Ok(objects)
}

fn name(name: &str) -> Arc<str> {
    format!("Service shop/{name}").into()
}

/// A copy of `a` and `b`, and where it is.
async fn written(dir: &Path) -> (Copy, PathBuf) {
    let path = dir.join("objects");
    let mut copy = Copy::at(path.clone());
    copy.note(&name("a"), Some(json!({ "v": 1 }).to_string().into()), true);
    copy.note(
        &name("b"),
        Some(json!({ "v": "x\ny\tz" }).to_string().into()),
        true,
    );
    copy.is_whole_now();
    copy.finish().await;
    (copy, path)
}

#[tokio::test]
async fn what_was_noted_is_read_and_changes_are_joined_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut copy, path) = written(dir.path()).await;
    let expected = [("a", json!({ "v": 1 })), ("b", json!({ "v": "x\ny\tz" }))];
    let named = |objects: Vec<(&str, Value)>| -> BTreeMap<String, Value> {
        objects
            .into_iter()
            .map(|(one, object)| (name(one).to_string(), object))
            .collect()
    };
    assert_eq!(read(&path).unwrap(), named(expected.into()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    copy.note(&name("a"), None, false);
    copy.note(&name("c"), Some(json!(3).to_string().into()), true);
    copy.finish().await;
    let expected = vec![("b", json!({ "v": "x\ny\tz" })), ("c", json!(3))];
    assert_eq!(read(&path).unwrap(), named(expected));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn a_copy_is_replaced_only_when_everything_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects");
    assert!(matches!(read(&path), Err(CopyError::Absent)));
    let (_, path) = written(dir.path()).await;
    let mut next = Copy::at(path.clone());
    next.note(&name("c"), Some(json!(1).to_string().into()), true);
    next.finish().await;
    assert_eq!(read(&path).unwrap().len(), 2, "that of the agent before");
    next.note(&name("d"), Some(json!(2).to_string().into()), true);
    next.is_whole_now();
    next.finish().await;
    let names: Vec<_> = read(&path).unwrap().into_keys().collect();
    assert_eq!(
        names,
        ["Service shop/c", "Service shop/d"],
        "what is gone since is not in it"
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn a_copy_is_whole_though_nothing_changes_after_the_last_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects");
    let mut copy = Copy::at(path.clone());
    copy.note(&name("a"), Some(json!(1).to_string().into()), true);
    copy.finish().await;
    assert!(matches!(read(&path), Err(CopyError::Absent)));
    copy.is_whole_now();
    copy.finish().await;
    assert_eq!(read(&path).unwrap().len(), 1);
}

#[tokio::test]
async fn a_copy_that_was_read_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = written(dir.path()).await;
    let mut next = Copy::at(path.clone());
    next.read(|_, _| true).unwrap();
    next.note(&name("a"), None, false);
    next.is_whole_now();
    next.finish().await;
    let names: Vec<_> = read(&path).unwrap().into_keys().collect();
    assert_eq!(names, ["Service shop/b"]);
}

#[tokio::test]
async fn whatever_is_changed_in_a_copy_it_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = written(dir.path()).await;
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(read(&path).is_err(), "byte {at} is flipped");
    }
    for length in 0..good.len() - 1 {
        fs::write(&path, &good[..length]).unwrap();
        assert!(read(&path).is_err(), "cut to {length} bytes");
    }
    fs::write(&path, [good.as_slice(), b"Service shop/c\t{}\n"].concat()).unwrap();
    assert!(read(&path).is_err(), "something is added");
}

#[tokio::test]
async fn what_cannot_be_written_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let path = home.join("objects");
    let mut copy = Copy::at(path.clone());
    copy.note(&name("a"), Some(json!(1).to_string().into()), true);
    copy.is_whole_now();
    copy.finish().await;
    assert!(copy.complaint.is_some());
    fs::create_dir(&home).unwrap();
    copy.note(&name("b"), Some(json!(2).to_string().into()), true);
    copy.finish().await;
    assert_eq!((read(&path).unwrap().len(), copy.complaint), (2, None));
}

#[tokio::test]
async fn what_somebody_changes_under_its_hands_is_given_up_and_never_taken_for_whole() {
    for damage in [Some("nonsense\n"), None] {
        let dir = tempfile::tempdir().unwrap();
        let (mut copy, path) = written(dir.path()).await;
        match damage {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        for one in ["c", "d"] {
            copy.note(&name(one), Some(json!(3).to_string().into()), true);
            copy.finish().await;
        }
        assert!(read(&path).is_err(), "{damage:?}");
    }
}

#[tokio::test]
async fn what_changes_while_a_copy_grows_is_in_it_as_it_is_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects");
    let mut copy = Copy::at(path.clone());
    let value = |number: u32| Some(number.to_string().into());
    for one in ["kept", "changed", "gone", "back"] {
        copy.note(&name(one), value(1), true);
    }
    copy.note(&name("never written"), value(1), true);
    copy.note(&name("never written"), None, false);
    copy.finish().await;
    copy.note(&name("changed"), value(2), false);
    copy.note(&name("gone"), None, false);
    copy.note(&name("back"), None, false);
    copy.note(&name("late"), value(1), true);
    copy.note(&name("back"), value(2), true);
    copy.is_whole_now();
    copy.finish().await;
    let expected = [("back", 2), ("changed", 2), ("kept", 1), ("late", 1)];
    let expected = expected.map(|(one, number)| (name(one).to_string(), json!(number)));
    assert_eq!(read(&path).unwrap(), expected.into());
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn however_much_is_told_at_once_little_waits_to_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects");
    let mut copy = Copy::at(path.clone());
    let (object, mut told): (Box<str>, _) = (format!("\"{}\"", "x".repeat(64 << 10)).into(), 0);
    let mut most = 0;
    while told < 256 {
        // As a source does.
        tokio::select! {
            biased;
            () = copy.tend() => {}
            () = std::future::ready(()), if !copy.is_full() => {
                copy.note(&name(&told.to_string()), Some(object.clone()), true);
                told += 1;
                most = most.max(copy.pending_bytes);
            }
        }
    }
    copy.is_whole_now();
    copy.finish().await;
    assert_eq!(read(&path).unwrap().len(), 256);
    assert!(most < MUCH + object.len(), "{most} bytes waited");
}

#[tokio::test]
async fn whoever_stands_by_leaves_the_copy_as_it_is_until_it_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = written(dir.path()).await;
    let mut next = Copy::at(path.clone()).hold_back();
    next.note(&name("c"), Some(json!(1).to_string().into()), true);
    next.is_whole_now();
    next.finish().await;
    assert_eq!(read(&path).unwrap().len(), 2, "that of the other");
    next.keep();
    next.finish().await;
    assert_eq!(
        read(&path).unwrap().into_keys().collect::<Vec<_>>(),
        ["Service shop/c"]
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn what_was_told_before_a_copy_is_read_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = written(dir.path()).await;
    let mut next = Copy::at(path.clone());
    next.note(&name("a"), Some(json!(2).to_string().into()), true);
    next.finish().await;
    next.read(|one, _| *one != *name("a")).unwrap();
    next.is_whole_now();
    next.finish().await;
    let expected = [("a", json!(2)), ("b", json!({ "v": "x\ny\tz" }))];
    let expected = expected.map(|(one, object)| (name(one).to_string(), object));
    assert_eq!(read(&path).unwrap(), expected.into());
}
