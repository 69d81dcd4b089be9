//! Claims about real handshakes over an in-memory stream: who is let in, and who is not.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, SanType};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::authority::leaf_params;
use super::secret::SecretDer;
use super::testing::{HOUR, TestCa, id};
use super::{
    ALPN_H1, ALPN_H2, ALPN_TCP, Alpn, HandshakeFailure, PeerIdentityError, TrustRules, WorkloadTls,
    peer_identity,
};
use crate::mesh::identity::SpiffeId;

pub(super) type Ends = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

/// Why each side gave up; none for a side that thought all was well.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) client: Option<HandshakeFailure>,
    pub(super) server: Option<HandshakeFailure>,
}

/// A whole handshake, and one byte each way: only then does a client of TLS 1.3 know that it was accepted.
pub(super) async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Ends, Refused> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::from(std::net::IpAddr::from([10, 0, 0, 2]));
    let connecting = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        expect_byte(&mut stream).await?;
        io::Result::Ok(stream)
    };
    let accepting = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        expect_byte(&mut stream).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        io::Result::Ok(stream)
    };
    match tokio::join!(Box::pin(connecting), Box::pin(accepting)) {
        (Ok(client), Ok(server)) => Ok((client, server)),
        (client, server) => Err(Refused {
            client: client.err().map(|error| HandshakeFailure::of(&error)),
            server: server.err().map(|error| HandshakeFailure::of(&error)),
        }),
    }
}

async fn expect_byte(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<()> {
    stream.read_u8().await.map(drop)
}

async fn dial(client: &WorkloadTls, server: &WorkloadTls, expected: &SpiffeId) -> Result<Ends, Refused> {
    shake(client.client(expected, Alpn::Tcp).unwrap(), server.server()).await
}

/// What a leaf of `web` says once `spoil` made it wrong.
pub(super) fn spoilt(spoil: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = leaf_params(&id("web"), now - HOUR, now + HOUR).unwrap();
    spoil(&mut params);
    params
}

/// Client and server configurations as ours, but with a certificate that [`WorkloadTls`] would never take.
pub(super) fn rogue(ca: &TestCa, params: &CertificateParams) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (certificate, key) = ca.ca.sign_unchecked(params).unwrap();
    rogue_with(ca, certificate, &key)
}

/// As [`rogue`], with any certificate.
pub(super) fn rogue_with(
    ca: &TestCa,
    certificate: CertificateDer<'static>,
    key: &SecretDer,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let honest = ca.tls(&id("web"));
    let mut client = ClientConfig::clone(&honest.client(&id("cart"), Alpn::Tcp).unwrap());
    let mut server = ServerConfig::clone(&honest.server());
    let provider = Arc::clone(client.crypto_provider());
    let certified = rustls::sign::CertifiedKey::from_der(vec![certificate], key.to_tls(), &provider).unwrap();
    let certified = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    client.client_auth_cert_resolver = Arc::<rustls::sign::SingleCertAndKey>::clone(&certified);
    server.cert_resolver = certified;
    (Arc::new(client), Arc::new(server))
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = TestCa::new();
    let (web, cart) = (ca.tls(&id("web")), ca.tls(&id("cart")));
    let (client, server) = dial(&web, &cart, &id("cart")).await.unwrap();
    assert_eq!(
        peer_identity(client.get_ref().1.peer_certificates()),
        Ok(id("cart"))
    );
    assert_eq!(
        peer_identity(server.get_ref().1.peer_certificates()),
        Ok(id("web"))
    );
}

#[tokio::test]
async fn speaks_tls_1_3_with_a_post_quantum_group_and_no_server_name() {
    let ca = TestCa::new();
    let (client, server) = dial(&ca.tls(&id("web")), &ca.tls(&id("cart")), &id("cart"))
        .await
        .unwrap();
    let connection = client.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = connection
        .negotiated_key_exchange_group()
        .map(rustls::crypto::SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(server.get_ref().1.server_name(), None);
}

#[tokio::test]
async fn each_protocol_of_ours_is_agreed_on_and_no_other() {
    let ca = TestCa::new();
    let (web, cart) = (ca.tls(&id("web")), ca.tls(&id("cart")));
    for (alpn, bytes) in [(Alpn::H2, ALPN_H2), (Alpn::H1, ALPN_H1), (Alpn::Tcp, ALPN_TCP)] {
        let (_, server) = shake(web.client(&id("cart"), alpn).unwrap(), cart.server())
            .await
            .unwrap();
        assert_eq!(server.get_ref().1.alpn_protocol(), Some(bytes));
        assert_eq!(Alpn::from_bytes(bytes), Some(alpn));
    }
    let mut other = ClientConfig::clone(&web.client(&id("cart"), Alpn::H2).unwrap());
    other.alpn_protocols = vec![b"h2".to_vec()];
    let refused = shake(Arc::new(other), cart.server()).await.unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::Protocol));
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused() {
    let ca = TestCa::new();
    let refused = dial(&ca.tls(&id("web")), &ca.tls(&id("mallory")), &id("cart"))
        .await
        .unwrap_err();
    assert_eq!(refused.client, Some(HandshakeFailure::Identity));
    assert_eq!(refused.server, Some(HandshakeFailure::RefusedByPeer));
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused_even_with_our_root() {
    let ca = TestCa::new();
    let stranger = SpiffeId::new("other.local", "shop", "web").unwrap();
    let params = spoilt(|params| {
        params.subject_alt_names = vec![SanType::URI(stranger.to_string().try_into().unwrap())];
    });
    let (client, _) = rogue(&ca, &params);
    let refused = shake(client, ca.tls(&id("cart")).server()).await.unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::TrustDomain));
}

#[tokio::test]
async fn certificates_of_another_root_are_refused_by_both_sides() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    let (web, cart) = (theirs.tls(&id("web")), ours.tls(&id("cart")));
    let refused = dial(&web, &cart, &id("cart")).await.unwrap_err();
    assert_eq!(refused.client, Some(HandshakeFailure::Untrusted));

    // A client that would take any server of ours still cannot come in with its own certificate.
    let (trusting, _) = rogue(&ours, &spoilt(|_| {}));
    let mut trusting = ClientConfig::clone(&trusting);
    let own = web.client(&id("cart"), Alpn::Tcp).unwrap();
    trusting.client_auth_cert_resolver = Arc::clone(&own.client_auth_cert_resolver);
    let refused = shake(Arc::new(trusting), cart.server()).await.unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::Untrusted));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = TestCa::new();
    let mut bare = ClientConfig::clone(&ca.tls(&id("web")).client(&id("cart"), Alpn::Tcp).unwrap());
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let refused = shake(Arc::new(bare), ca.tls(&id("cart")).server())
        .await
        .unwrap_err();
    assert_eq!(refused.server, Some(HandshakeFailure::NoCertificate));
    assert_eq!(refused.client, Some(HandshakeFailure::RefusedByPeer));
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_second_connection_resumes_and_still_knows_its_peer() {
    let ca = TestCa::new();
    let (web, cart) = (ca.tls(&id("web")), ca.tls(&id("cart")));
    let (first, _) = dial(&web, &cart, &id("cart")).await.unwrap();
    assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));

    let (second, server) = dial(&web, &cart, &id("cart")).await.unwrap();
    assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(
        peer_identity(second.get_ref().1.peer_certificates()),
        Ok(id("cart"))
    );
    assert_eq!(
        peer_identity(server.get_ref().1.peer_certificates()),
        Ok(id("web"))
    );
}

#[tokio::test]
async fn a_session_with_one_peer_is_never_resumed_with_another() {
    let ca = TestCa::new();
    let web = ca.tls(&id("web"));
    dial(&web, &ca.tls(&id("cart")), &id("cart")).await.unwrap();
    // The same address, now another pod.
    let (stream, _) = dial(&web, &ca.tls(&id("mail")), &id("mail")).await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(
        peer_identity(stream.get_ref().1.peer_certificates()),
        Ok(id("mail"))
    );
}

#[tokio::test]
async fn a_renewed_certificate_accepts_no_ticket_of_the_old_and_old_connections_go_on() {
    let ca = TestCa::new();
    let (web, old) = (ca.tls(&id("web")), ca.tls(&id("cart")));
    let (mut client, mut server) = dial(&web, &old, &id("cart")).await.unwrap();

    let renewed = ca.tls(&id("cart"));
    drop(old);
    let (stream, _) = dial(&web, &renewed, &id("cart")).await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));

    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[test]
fn the_same_peer_gets_the_same_client_side() {
    let tls = TestCa::new().tls(&id("web"));
    let one = tls.client(&id("cart"), Alpn::H2).unwrap();
    assert!(Arc::ptr_eq(&one, &tls.client(&id("cart"), Alpn::H2).unwrap()));
    assert!(!Arc::ptr_eq(&one, &tls.client(&id("cart"), Alpn::Tcp).unwrap()));
    assert!(!Arc::ptr_eq(&one, &tls.client(&id("mail"), Alpn::H2).unwrap()));
}

#[test]
fn a_peer_whose_certificate_has_run_out_since_is_nobody() {
    let ca = TestCa::new();
    let now = SystemTime::now();
    let (expired, _) = ca
        .ca
        .sign_unchecked(&leaf_params(&id("web"), now - 2 * HOUR, now - HOUR).unwrap())
        .unwrap();
    assert_eq!(peer_identity(Some(&[expired])), Err(PeerIdentityError::Expired));
    assert_eq!(peer_identity(None), Err(PeerIdentityError::NoCertificate));
    assert_eq!(peer_identity(Some(&[])), Err(PeerIdentityError::NoCertificate));
    assert_eq!(
        peer_identity(Some(&[vec![0x30, 0x00].into()])),
        Err(PeerIdentityError::Malformed)
    );
}

#[test]
fn the_reason_of_a_failure_is_found_wherever_it_was_noticed() {
    let wrapped = |error| HandshakeFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
    assert_eq!(wrapped(PeerIdentityError::Expired), HandshakeFailure::Expired);
    assert_eq!(
        wrapped(PeerIdentityError::NoCertificate),
        HandshakeFailure::NoCertificate
    );
    assert_eq!(wrapped(PeerIdentityError::UriCount(2)), HandshakeFailure::Name);
    assert_eq!(
        HandshakeFailure::of(&io::ErrorKind::TimedOut.into()),
        HandshakeFailure::Timeout
    );
    assert_eq!(
        HandshakeFailure::of(&io::ErrorKind::UnexpectedEof.into()),
        HandshakeFailure::Io
    );
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let ca = TestCa::new();
    let now = SystemTime::now();
    let params = leaf_params(&id("web"), now - HOUR, now + HOUR).unwrap();
    let (certificate, _) = ca.ca.sign_unchecked(&params).unwrap();
    let (_, other_key) = ca.ca.sign_unchecked(&params).unwrap();
    let svid = super::Svid::new(vec![certificate], other_key).unwrap();
    assert!(matches!(
        WorkloadTls::new(&svid, &ca.roots(), &TrustRules::default()),
        Err(super::TlsError::Key(_))
    ));
}
