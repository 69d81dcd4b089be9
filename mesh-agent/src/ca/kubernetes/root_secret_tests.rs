use std::sync::Mutex;

use super::*;
use crate::ca::{KeyFiles, KeyringPlace, Keys};

/// One Secret, with the API server's optimistic locking.
#[derive(Debug, Default)]
struct Fake {
    secret: Mutex<Option<Stored>>,
    writes: Mutex<u64>,
}

impl SecretApi for Fake {
    fn read<'a>(&'a self, _: &'a SecretName) -> BoxFuture<'a, Result<Option<Stored>, ApiError>> {
        Box::pin(async {
            let read = self.secret.lock().unwrap().clone();
            // The others read the same before anybody writes.
            tokio::task::yield_now().await;
            Ok(read)
        })
    }

    fn write<'a>(&'a self, _: &'a SecretName, new: Stored) -> BoxFuture<'a, Result<bool, ApiError>> {
        Box::pin(async move {
            let mut secret = self.secret.lock().unwrap();
            let is_current =
                secret.as_ref().map(|secret| secret.version.clone()) == new.version.clone().map(Some);
            if is_current {
                let mut writes = self.writes.lock().unwrap();
                *writes += 1;
                let version = Some(writes.to_string());
                *secret = Some(Stored { version, ..new });
            }
            Ok(is_current)
        })
    }
}

impl Fake {
    fn with(data: BTreeMap<String, Vec<u8>>) -> Self {
        let fake = Self::default();
        let version = Some("0".to_owned());
        *fake.secret.lock().unwrap() = Some(Stored { data, version });
        fake
    }
}

fn name() -> SecretName {
    "mesh-system/mesh-ca-root".parse().unwrap()
}

const MAKE: Option<&str> = Some("cluster.local");

async fn two_at_once(api: &Fake) {
    let name = name();
    let (one, other) = tokio::join!(obtain(api, &name, MAKE), obtain(api, &name, MAKE));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(*api.writes.lock().unwrap(), 1);
}

#[tokio::test]
async fn two_cas_that_start_at_once_end_with_one_root() {
    two_at_once(&Fake::default()).await;
}

#[tokio::test]
async fn an_empty_secret_is_filled_once() {
    two_at_once(&Fake::with(BTreeMap::new())).await;
}

#[tokio::test]
async fn nothing_is_made_unless_asked_for_and_nothing_is_overwritten() {
    let error = obtain(&Fake::default(), &name(), None).await.unwrap_err();
    assert!(matches!(error, RootSecretError::Absent(_)), "{error}");
    let foreign = Fake::with([("password".to_owned(), b"x".to_vec())].into());
    let error = obtain(&foreign, &name(), MAKE).await.unwrap_err();
    assert!(matches!(error, RootSecretError::NoKey(_)), "{error}");
    assert_eq!(*foreign.writes.lock().unwrap(), 0);
}

fn place(files: &Arc<SecretFiles>) -> KeyringPlace {
    KeyringPlace {
        files: KeyFiles::Secret(Arc::clone(files)),
        bundle_file: None,
        trust_domain: "cluster.local".into(),
        names: vec!["mesh-ca".parse().unwrap()],
    }
}

#[test]
fn a_made_root_signs_and_a_replaced_one_is_taken_over() {
    let now = std::time::SystemTime::now;
    let files = Arc::new(SecretFiles::new("s".into(), root_files("cluster.local").unwrap()));
    let keys = Keys::open(place(&files)).unwrap();
    let bundle = keys.load().bundle().to_owned();
    assert!(!keys.reload(now()).unwrap());

    assert!(files.replace(root_files("cluster.local").unwrap()));
    assert!(keys.reload(now()).unwrap());
    assert_ne!(keys.load().bundle(), bundle);

    let last = keys.load().bundle().to_owned();
    assert!(files.replace(BTreeMap::new()));
    let error = keys.reload(now()).unwrap_err();
    assert!(error.to_string().contains("no key to sign with"), "{error}");
    assert_eq!(keys.load().bundle(), last, "the last keys stay in force");
}

#[test]
fn names_of_cert_manager_are_understood_and_istios_win() {
    let istio = root_files("cluster.local").unwrap();
    let renamed = |name: &str| match name {
        CA_CERT => "tls.crt".to_owned(),
        CA_KEY => "tls.key".to_owned(),
        _ => "ca.crt".to_owned(),
    };
    let tls: BTreeMap<_, _> = istio
        .iter()
        .map(|(name, content)| (renamed(name), content.clone()))
        .collect();
    let expected = String::from_utf8(tls["ca.crt"].clone()).unwrap();
    let files = Arc::new(SecretFiles::new("s".into(), tls));
    assert_eq!(Keys::open(place(&files)).unwrap().load().bundle(), expected);

    let mut both = root_files("cluster.local").unwrap();
    let expected = String::from_utf8(both[ROOT_CERT].clone()).unwrap();
    both.insert("tls.crt".into(), b"no certificate".to_vec());
    both.insert("tls.key".into(), b"no key".to_vec());
    let files = Arc::new(SecretFiles::new("s".into(), both));
    assert_eq!(Keys::open(place(&files)).unwrap().load().bundle(), expected);
}

#[test]
fn debug_output_shows_no_key() {
    let files = SecretFiles::new("s".into(), root_files("cluster.local").unwrap());
    let shown = format!("{files:?}");
    assert!(!shown.contains("PRIVATE") && shown.contains(CA_KEY), "{shown}");
}
