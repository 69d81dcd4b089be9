//! Claims about the root, its file, and what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::super::authority::ROOT_LIFE;
use super::super::peer;
use super::*;

const DAY: Duration = Duration::from_hours(24);

fn open(dir: &Path) -> Result<EmbeddedCa, CaError> {
    EmbeddedCa::open(dir, "cluster.local", DAY)
}

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "web").unwrap()
}

#[test]
fn a_leaf_keeps_every_rule_of_an_x509_svid() {
    let dir = tempfile::tempdir().unwrap();
    let svid = open(dir.path()).unwrap().sign(&web()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();

    assert!(leaf.subject().as_raw().len() <= 2, "the subject is not empty");
    assert_eq!(
        peer::uris(&leaf).unwrap(),
        ["spiffe://cluster.local/ns/shop/sa/web"]
    );
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "only digitalSignature");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let known = leaf.extensions().iter().all(|extension| {
        !matches!(
            extension.parsed_extension(),
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
        )
    });
    assert!(known);
}

#[test]
fn a_leaf_lives_as_long_as_asked_and_starts_before_now() {
    let dir = tempfile::tempdir().unwrap();
    let before = SystemTime::now();
    let svid = open(dir.path()).unwrap().sign(&web()).unwrap();
    let life = svid.not_after().duration_since(before).unwrap();
    assert!(
        life > DAY.checked_sub(Duration::from_mins(1)).unwrap() && life <= DAY + Duration::from_mins(1),
        "{life:?}"
    );
    assert!(svid.not_before() <= before - Duration::from_secs(59));
}

#[test]
fn two_leaves_of_one_identity_share_neither_key_nor_serial() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path()).unwrap();
    let (one, other) = (ca.sign(&web()).unwrap(), ca.sign(&web()).unwrap());
    assert_ne!(one.serial(), other.serial());
    assert_ne!(one.key().to_tls(), other.key().to_tls());
}

#[test]
fn agents_that_start_at_the_same_moment_agree_on_one_root() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("deep/ca");
    let barrier = Barrier::new(8);
    let roots: Vec<_> = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    open(&place).unwrap().roots().borrow().clone()
                })
            })
            .collect();
        agents.into_iter().map(|agent| agent.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| *root == roots[0]));
}

#[test]
fn only_the_owner_may_read_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("ca");
    open(&place).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&root_file::path(&place))), (0o700, 0o600));
}

#[test]
fn a_root_that_others_may_read_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let path = root_file::path(dir.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("mode 644")
    );
}

#[test]
fn a_half_written_root_is_refused_by_name_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let path = root_file::path(dir.path());
    let whole = fs::read_to_string(&path).unwrap();
    for length in [0, 30, whole.len() / 2, whole.len() - 40] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, CaError::Content { path: named, .. } if *named == path),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), whole[..length]);
    }
}

#[test]
fn what_a_crash_left_beside_the_root_does_not_stop_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("root.pem.new"), "half").unwrap();
    let roots = || open(dir.path()).unwrap().roots().borrow().clone();
    assert_eq!(roots(), roots());
}

#[test]
fn a_key_of_another_root_is_refused() {
    let (one, other) = (
        make_root("td", SystemTime::now()).unwrap(),
        make_root("td", SystemTime::now()).unwrap(),
    );
    let (certificate, _) = one.split_once("-----BEGIN PRIVATE").unwrap();
    let (_, key) = other.split_once("-----BEGIN PRIVATE").unwrap();
    let mixed = format!("{certificate}-----BEGIN PRIVATE{key}");
    let error = EmbeddedCa::from_pem(&mixed, Path::new("root"), "td", DAY, SystemTime::now()).unwrap_err();
    assert!(
        error.to_string().contains("the key is not the certificate's"),
        "{error}"
    );
}

#[test]
fn a_root_of_another_trust_domain_or_of_the_past_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let other = EmbeddedCa::open(dir.path(), "other.local", DAY).unwrap_err();
    assert!(matches!(other, CaError::OtherTrustDomain { .. }), "{other}");

    let long_ago = SystemTime::now() - ROOT_LIFE - DAY;
    let old = make_root("cluster.local", long_ago).unwrap();
    let expired =
        EmbeddedCa::from_pem(&old, Path::new("root"), "cluster.local", DAY, SystemTime::now()).unwrap_err();
    assert!(matches!(expired, CaError::Expired(_)), "{expired}");
}

#[test]
fn lives_that_are_too_short_and_names_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let short = EmbeddedCa::open(dir.path(), "cluster.local", Duration::from_secs(29));
    assert!(matches!(short, Err(CaError::Ttl(_))));
    let unnamed = EmbeddedCa::open(dir.path(), "Not A Domain", DAY);
    assert!(matches!(unnamed, Err(CaError::TrustDomain(_))));
}

#[test]
fn signs_for_its_own_trust_domain_only() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = SpiffeId::new("other.local", "shop", "web").unwrap();
    let refused = open(dir.path()).unwrap().sign(&stranger);
    assert!(matches!(refused, Err(IssueError::TrustDomain { .. })));
}
