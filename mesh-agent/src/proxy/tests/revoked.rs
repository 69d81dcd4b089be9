//! A certificate that is revoked while connections rest on it, known to either end alone.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::written_by_hand;
use super::authorization::echo;
use super::client::{H1, get};
use super::facts::{PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

#[tokio::test]
async fn a_pooled_connection_ends_with_what_is_under_way_on_it() {
    for (revoked, heard_by_client) in [(PAY, true), (PAY, false), (WEB, true), (WEB, false)] {
        let lab = Lab::start().await;
        let (app, mut bodies) = written_by_hand(&lab, PAY).await;
        let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
        let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
        let frames = soon("response", bodies.recv()).await.unwrap();
        let (done, end) = tokio::sync::oneshot::channel();
        lab.tasks.spawn("reader", async move {
            // Only that it ends, and how, matters.
            let _told = done.send(response.into_body().collect().await.is_err());
        });
        let pool = || lab.a.mesh.pods.find(&WEB.workload().uid).unwrap();
        assert_eq!(pool().pool.len(), 1);

        let agent = if heard_by_client { &lab.a } else { &lab.b };
        lab.revoke(agent, &lab.serial(revoked));

        let what = format!("{} {heard_by_client}", revoked.name);
        assert!(soon(&what, end).await.unwrap(), "{what}: it ends as an error");
        eventually("an empty pool", || {
            lab.a.mesh.sweep_pools();
            pool().pool.is_empty()
        })
        .await;
        let counted = lab
            .b
            .sum("mesh_policy_denials_total", &[("reason", "certificate_revoked")]);
        assert_eq!(counted > 0, !heard_by_client, "{what}");
        drop(frames);
    }
}

#[tokio::test]
async fn an_opaque_connection_ends_and_is_logged_as_revoked_and_the_next_is_served() {
    for heard_by_client in [true, false] {
        let lab = Lab::start().await;
        let vip = lab
            .service("pay", AppProtocol::Tcp, &[echo(&lab, PAY).await])
            .await;
        let mut stream = lab.dial(WEB, vip).await;
        let mut echoed = [0; 1];
        stream.write_all(b"x").await.unwrap();
        soon("an echo", stream.read_exact(&mut echoed)).await.unwrap();

        let (agent, serial) = (if heard_by_client { &lab.a } else { &lab.b }, lab.serial(PAY));
        lab.revoke(agent, &serial);

        let ended = soon("the end", stream.read(&mut echoed)).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let line = &agent.logged(1).await[0];
        assert_eq!(
            line["connection_termination_details"], "certificate_revoked",
            "{line}"
        );
        // Its own agent asks for another certificate as soon as it hears of the list.
        lab.revoke(&lab.b, &serial);
        eventually("another certificate", || {
            let status = lab.b.mesh.certificates.status();
            let now = status.iter().find(|one| one.identity == PAY.identity());
            now.is_some_and(|one| one.serial.as_ref().is_some_and(|now| *now != serial))
        })
        .await;
        let mut stream = lab.dial(WEB, vip).await;
        stream.write_all(b"y").await.unwrap();
        soon("an echo", stream.read_exact(&mut echoed)).await.unwrap();
    }
}
