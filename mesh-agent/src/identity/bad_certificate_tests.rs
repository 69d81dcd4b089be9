//! Claims about certificates that break a rule, each in a real handshake: every one is refused for its own reason.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::handshake_tests::{rogue, rogue_with, shake, spoilt};
use super::testing::{HOUR, TestCa, id, revoking};
use super::{Alpn, Federation, HandshakeFailure, Revoked, TrustRules};
use crate::mesh::identity::SpiffeId;

/// Each spoilt leaf, signed by the proper CA, and what is said of it.
fn spoilt_leaves() -> Vec<(&'static str, CertificateParams, HandshakeFailure)> {
    use HandshakeFailure::{Expired, Name, NotLeaf, NotValidYet, TrustDomain, WrongUsage};
    let web = || SanType::URI(id("web").to_string().try_into().unwrap());
    let cart = || SanType::URI(id("cart").to_string().try_into().unwrap());
    let now = SystemTime::now();
    vec![
        (
            "two uris",
            spoilt(|p| p.subject_alt_names = vec![cart(), web()]),
            Name,
        ),
        (
            "dns name only",
            spoilt(|p| p.subject_alt_names = vec![SanType::DnsName("cart".try_into().unwrap())]),
            Name,
        ),
        ("no name", spoilt(|p| p.subject_alt_names = vec![]), Name),
        (
            "not a workload's uri",
            spoilt(|p| {
                p.subject_alt_names = vec![SanType::URI(
                    "spiffe://cluster.local/node/one".try_into().unwrap(),
                )];
            }),
            Name,
        ),
        (
            "another trust domain's workload",
            spoilt(|p| {
                let other = SpiffeId::new("other.local", "shop", "web").unwrap();
                p.subject_alt_names = vec![SanType::URI(other.to_string().try_into().unwrap())];
            }),
            TrustDomain,
        ),
        (
            "expired",
            spoilt(|p| p.not_after = (now - HOUR / 2).into()),
            Expired,
        ),
        (
            "not valid yet",
            spoilt(|p| p.not_before = (now + HOUR / 2).into()),
            NotValidYet,
        ),
        (
            "a ca",
            spoilt(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            NotLeaf,
        ),
        (
            "signs certificates",
            spoilt(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            NotLeaf,
        ),
        ("no key usage", spoilt(|p| p.key_usages.clear()), NotLeaf),
        (
            "for code signing",
            spoilt(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            WrongUsage,
        ),
    ]
}

#[tokio::test]
async fn a_leaf_that_breaks_a_rule_is_refused_as_a_client() {
    let ca = TestCa::new();
    for (what, params, expected) in spoilt_leaves() {
        let (client, _) = rogue(&ca, &params);
        let refused = shake(client, ca.tls(&id("cart")).server())
            .await
            .map(drop)
            .expect_err(what);
        assert_eq!(refused.server, Some(expected), "{what}");
        assert_eq!(refused.client, Some(HandshakeFailure::RefusedByPeer), "{what}");
    }
}

#[tokio::test]
async fn a_leaf_that_breaks_a_rule_is_refused_as_a_server() {
    let ca = TestCa::new();
    for (what, params, expected) in spoilt_leaves() {
        let (_, server) = rogue(&ca, &params);
        let client = ca.tls(&id("cart")).client(&id("web"), Alpn::Tcp).unwrap();
        let refused = shake(client, server).await.map(drop).expect_err(what);
        assert_eq!(refused.client, Some(expected), "{what}");
    }
}

#[tokio::test]
async fn an_unspoilt_leaf_passes_where_the_spoilt_ones_fail() {
    let ca = TestCa::new();
    let (client, server) = rogue(&ca, &spoilt(|_| {}));
    shake(client, ca.tls(&id("cart")).server()).await.unwrap();
    let dialler = ca.tls(&id("cart")).client(&id("web"), Alpn::Tcp).unwrap();
    shake(dialler, server).await.unwrap();
}

/// A certificate that nobody but itself vouches for.
#[tokio::test]
async fn a_self_signed_certificate_is_refused_by_both_sides() {
    let ca = TestCa::new();
    let key = KeyPair::generate().unwrap();
    let params = spoilt(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "me");
    });
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = super::secret::SecretDer::new(
        rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    );
    let (client, server) = rogue_with(&ca, certificate, &key);
    let refused = shake(client, ca.tls(&id("cart")).server())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::SelfSigned));
    let dialler = ca.tls(&id("cart")).client(&id("web"), Alpn::Tcp).unwrap();
    let refused = shake(dialler, server).await.map(drop).unwrap_err();
    assert_eq!(refused.client, Some(HandshakeFailure::SelfSigned));
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_both_sides_and_others_of_its_issuer_pass() {
    let ca = TestCa::new();
    let params = spoilt(|_| {});
    let (client, server) = rogue(&ca, &params);
    let rules = revoking(&ca.ca, params.serial_number.clone().unwrap());
    let cart = ca.tls(&id("cart")).trusting(&ca.roots(), &rules).unwrap();
    let refused = shake(client, cart.server()).await.map(drop).unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::Revoked));
    let refused = shake(cart.client(&id("web"), Alpn::Tcp).unwrap(), server)
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(refused.client, Some(HandshakeFailure::Revoked));
    let web = ca.tls(&id("web"));
    shake(web.client(&id("cart"), Alpn::Tcp).unwrap(), cart.server())
        .await
        .unwrap();
}

#[test]
fn what_is_no_revocation_list_is_refused_and_none_is_none() {
    assert!(Revoked::from_pem(b"").unwrap().is_empty());
    let junk = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    Revoked::from_pem(junk.as_bytes()).unwrap_err();
    Revoked::from_pem(&junk.as_bytes()[..junk.len() / 2]).unwrap_err();
}

#[tokio::test]
async fn a_workload_of_an_alias_counts_as_one_of_ours_in_both_roles() {
    let ca = TestCa::new();
    let old = SpiffeId::new("old.local", "shop", "web").unwrap();
    let params = spoilt(|params| {
        params.subject_alt_names = vec![SanType::URI(old.to_string().try_into().unwrap())];
    });
    let (client, server) = rogue(&ca, &params);
    let rules = TrustRules {
        aliases: vec!["old.local".into()],
        ..TrustRules::default()
    };
    let cart = ca.tls(&id("cart")).trusting(&ca.roots(), &rules).unwrap();
    shake(client, cart.server()).await.unwrap();
    shake(cart.client(&id("web"), Alpn::Tcp).unwrap(), Arc::clone(&server))
        .await
        .unwrap();
    let refused = shake(cart.client(&id("mail"), Alpn::Tcp).unwrap(), server)
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(refused.client, Some(HandshakeFailure::Identity));
}

/// Bundles of other meshes, by their trust domains.
fn federated(bundles: &[(&str, &TestCa)]) -> TrustRules {
    let dir = tempfile::tempdir().unwrap();
    for (trust_domain, ca) in bundles {
        let text = super::pem::encode(&ca.roots()[0]);
        std::fs::write(dir.path().join(format!("{trust_domain}.pem")), text).unwrap();
    }
    TrustRules {
        federation: Federation::read(dir.path(), &[]).unwrap(),
        ..TrustRules::default()
    }
}

#[tokio::test]
async fn a_peer_of_another_mesh_is_verified_against_the_roots_of_its_own_trust_domain_only() {
    let [ours, east, west] = ["cluster.local", "east", "west"].map(TestCa::of);
    let rules = federated(&[("east", &east), ("west", &west)]);
    let cart = ours.tls(&id("cart")).trusting(&ours.roots(), &rules).unwrap();
    for (what, signer, trust_domain, refused) in [
        ("east by east", &east, "east", None),
        ("west by west", &west, "west", None),
        ("ours by ours", &ours, "cluster.local", None),
        ("west by east", &east, "west", Some(HandshakeFailure::Untrusted)),
        ("east by ours", &ours, "east", Some(HandshakeFailure::Untrusted)),
        (
            "ours by east",
            &east,
            "cluster.local",
            Some(HandshakeFailure::Untrusted),
        ),
        (
            "a stranger by east",
            &east,
            "north",
            Some(HandshakeFailure::Untrusted),
        ),
        (
            "a stranger by ours",
            &ours,
            "north",
            Some(HandshakeFailure::TrustDomain),
        ),
    ] {
        let peer = SpiffeId::new(trust_domain, "shop", "web").unwrap();
        let params = spoilt(|params| {
            params.subject_alt_names = vec![SanType::URI(peer.to_string().try_into().unwrap())];
        });
        let (certificate, key) = signer.ca.sign_unchecked(&params).unwrap();
        let (client, server) = rogue_with(&ours, certificate, &key);
        let shaken = shake(client, cart.server()).await.map(drop);
        assert_eq!(shaken.err().and_then(|ends| ends.server), refused, "{what}");
        // As a server it is nobody whom discovery names, whatever its roots.
        let dialler = cart.client(&id("web"), Alpn::Tcp).unwrap();
        let is_accepted = shake(dialler, server).await.is_ok();
        assert_eq!(is_accepted, what == "ours by ours", "{what}");
    }
}

#[tokio::test]
async fn a_session_of_a_certificate_that_was_revoked_since_is_not_resumed() {
    let ca = TestCa::new();
    let params = spoilt(|_| {});
    let (client, _) = rogue(&ca, &params);
    let cart = ca.tls(&id("cart"));
    for _ in 0..2 {
        shake(Arc::clone(&client), cart.server()).await.unwrap();
    }
    let rules = revoking(&ca.ca, params.serial_number.clone().unwrap());
    let warned = cart.trusting(&ca.roots(), &rules).unwrap();
    let refused = shake(client, warned.server()).await.map(drop).unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::Revoked));
}

#[tokio::test]
async fn clocks_that_differ_by_seconds_refuse_nobody() {
    let ca = TestCa::new();
    let (now, little) = (SystemTime::now(), Duration::from_secs(5));
    for params in [
        spoilt(|p| p.not_after = (now - little).into()),
        spoilt(|p| p.not_before = (now + little).into()),
    ] {
        let (client, _) = rogue(&ca, &params);
        shake(client, ca.tls(&id("cart")).server()).await.unwrap();
    }
}

/// What a server makes of bytes that are no handshake, or only the beginning of one.
async fn accepting(server: Arc<ServerConfig>, bytes: &[u8]) -> HandshakeFailure {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let error = TlsAcceptor::from(server).accept(far).await.map(drop).unwrap_err();
    HandshakeFailure::of(&error)
}

#[tokio::test]
async fn truncated_and_hostile_handshakes_are_refused_and_never_panic() {
    let ca = TestCa::new();
    let server = ca.tls(&id("cart")).server();
    let client: Arc<ClientConfig> = ca.tls(&id("web")).client(&id("cart"), Alpn::Tcp).unwrap();
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let name = rustls::pki_types::ServerName::from(std::net::IpAddr::from([10, 0, 0, 2]));
    let hello = async {
        let mut bytes = vec![0; 16 * 1024];
        let length = tokio::io::AsyncReadExt::read(&mut far, &mut bytes).await.unwrap();
        bytes.truncate(length);
        bytes
    };
    let hello = tokio::select! {
        bytes = hello => bytes,
        _ = Box::pin(TlsConnector::from(client).connect(name, near)) => panic!("nobody answered"),
    };
    for length in [0, 1, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
        assert_eq!(
            accepting(Arc::clone(&server), &hello[..length]).await,
            HandshakeFailure::Io,
            "{length} bytes"
        );
    }
    let mut spoilt = hello.clone();
    for index in 0..hello.len() {
        spoilt[index] ^= 0xff;
        let failure = accepting(Arc::clone(&server), &spoilt).await;
        assert!(
            matches!(failure, HandshakeFailure::Protocol | HandshakeFailure::Io),
            "byte {index}: {failure:?}"
        );
        spoilt[index] ^= 0xff;
    }
}
