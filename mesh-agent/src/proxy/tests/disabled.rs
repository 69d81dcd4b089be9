//! PeerAuthentication DISABLE: plaintext on the wire, and nobody is known by name, whatever the path.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::App;
use super::authorization::{echo, from, policy, set};
use super::client::{H1, get};
use super::facts::{CART, PAY, WEB, mesh_wide};
use super::lab::{Lab, soon};
use crate::mesh::policy::MtlsMode;
use crate::mesh::policy::authorization::PolicyAction::{Allow, Deny};
use crate::mesh::service::AppProtocol;

fn disable(lab: &Lab) {
    lab.change(|facts| facts.peer_authentications = vec![mesh_wide(MtlsMode::Disable)]);
}

#[tokio::test]
async fn a_pod_of_the_mesh_is_spoken_to_in_plaintext() {
    let lab = Lab::start().await;
    disable(&lab);
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

    assert_eq!((reply.status.as_u16(), reply.text()), (200, "paid"));
    assert_eq!(lab.a.logged(1).await[0]["path_taken"], "plain");
    let line = &lab.b.logged(1).await[0];
    assert_eq!(line["connection_security_policy"], "none", "{line}");
    assert!(line["source_principal"].is_null(), "{line}");
    assert_eq!(lab.b.sum("mesh_handshake_failures_total", &[]), 0);
}

#[tokio::test]
async fn opaque_bytes_go_in_plaintext_too_and_a_client_hello_is_the_applications_own() {
    let lab = Lab::start().await;
    disable(&lab);
    let vip = lab
        .service("pay", AppProtocol::Tcp, &[echo(&lab, PAY).await])
        .await;
    let mut stream = lab.dial(WEB, vip).await;
    // The beginning of a TLS record, which would be waited for where mTLS may come.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    stream.write_all(hello).await.unwrap();
    let mut echoed = [0; 11];
    soon("an echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, hello);
    drop(stream);
    let line = &lab.b.logged(1).await[0];
    assert_eq!(line["connection_security_policy"], "none", "{line}");
}

#[tokio::test]
async fn policies_see_no_principal_on_either_path() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        for (mode, action, status) in [
            (MtlsMode::Permissive, Allow, 200),
            (MtlsMode::Permissive, Deny, 403),
            (MtlsMode::Disable, Allow, 403),
            (MtlsMode::Disable, Deny, 200),
        ] {
            lab.change(|facts| facts.peer_authentications = vec![mesh_wide(mode)]);
            lab.change(set(vec![policy(action, vec![from(WEB)])]));
            let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
            assert_eq!(reply.status, status, "{name} {mode:?} {action:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_let_in_by_name_ends_when_names_are_not_known_any_more() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        lab.change(|facts| facts.peer_authentications.clear());
        lab.change(set(vec![policy(Allow, vec![from(WEB)])]));
        let vip = lab
            .service(name, AppProtocol::Tcp, &[echo(&lab, pod).await])
            .await;
        let mut stream = lab.dial(WEB, vip).await;
        let mut echoed = [0; 1];
        stream.write_all(b"x").await.unwrap();
        soon("an echo", stream.read_exact(&mut echoed)).await.unwrap();

        disable(&lab);

        let ended = soon("the end", stream.read(&mut echoed)).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{name}: {ended:?}");
    }
}
