//! Asks the service that a CUSTOM policy names about a connection of bytes that are no HTTP.
//!
//! Place in the walk: at the destination, once a connection, before a byte of it reaches the application. Must not know:
//! which policy it was, what the bytes say.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use tokio::time::{Instant, timeout, timeout_at};

use crate::external::{self, Contact, End, Reply};
use crate::mesh::policy::external::{Authorizer, CheckProtocol};
use crate::mesh::service::AppProtocol;
use crate::policy::authorization::Ask;
use crate::proxy::Mesh;
use crate::proxy::arrival::{Arrival, Visit};
use crate::proxy::http::admission::check::{self, AskError};
use crate::proxy::http::admission::external::result_of;
use crate::proxy::refusal::{Refusal, Unapproved};
use crate::snapshot::Snapshot;
use crate::telemetry::CheckResult;

/// Lets a connection of `client` in or not: by the policies alone, or by the provider that one of them names and then
/// by the others.
///
/// Waits only for a provider, as long as its timeout allows. Cancel-safe: the check is given up.
pub(super) async fn admit(mesh: &Arc<Mesh>, visit: &mut Visit, client: SocketAddr) -> Result<(), Refusal> {
    match visit.arrival().admit_bytes(mesh)? {
        None => Ok(()),
        Some(ask) => Box::pin(approved(mesh, visit, client, ask)).await,
    }
}

async fn approved(mesh: &Arc<Mesh>, visit: &mut Visit, client: SocketAddr, ask: Ask) -> Result<(), Refusal> {
    let asked = whom(&mesh.snapshots.load(), &visit.arrival(), ask);
    let outcome = match asked {
        Ok((provider, authorizer)) => {
            let outcome = decision(mesh, visit, client, &authorizer).await;
            mesh.telemetry.mesh().checked(result_of(&outcome));
            outcome.map(|_decided| provider)
        }
        Err(refusal) => {
            mesh.telemetry.mesh().checked(CheckResult::NotAsked);
            Err(refusal)
        }
    };
    let provider = outcome.inspect_err(|refusal| visit.arrival().refused(mesh, refusal))?;
    visit.approved = Some(provider);
    match visit.arrival().admit_bytes(mesh)? {
        None => Ok(()),
        // Policies name another one since a moment ago; the client may dial again.
        Some(ask) => Err(Refusal::Denied(ask.unanswered)),
    }
}

/// Who is asked, if anybody can be. A request that is none must not be a way round the author's rules: where a port
/// is known to carry HTTP, nobody is asked about other bytes.
pub(super) fn whom(
    snapshot: &Snapshot,
    arrival: &Arrival<'_>,
    ask: Ask,
) -> Result<(Arc<str>, Arc<Authorizer>), Refusal> {
    let carries_http = match arrival.port(snapshot).protocol {
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => true,
        AppProtocol::Tcp | AppProtocol::Detect => false,
    };
    let authorizer = snapshot.authorizer(&ask.provider).map(Arc::clone);
    match authorizer {
        Some(authorizer) if matches!(authorizer.protocol, CheckProtocol::Grpc(_)) && !carries_http => {
            Ok((ask.provider, authorizer))
        }
        Some(_) => Err(Refusal::Denied(ask.unanswered)),
        // Declared a moment ago: what could be asked then cannot be now.
        None => Err(Refusal::External(Unapproved::Unanswered(StatusCode::FORBIDDEN))),
    }
}

/// `None`: let in without an answer.
async fn decision(
    mesh: &Arc<Mesh>,
    visit: &Visit,
    client: SocketAddr,
    authorizer: &Authorizer,
) -> Result<Option<()>, Refusal> {
    let undecided = |error| check::undecided(&visit.pod, authorizer, &error).map(|()| None);
    let permit = timeout(authorizer.timeout, visit.pod.checks.acquire()).await;
    // The semaphore is never closed; if it were, no permit would be no limit.
    let Ok(_permit) = permit else {
        return undecided(AskError::TimedOut);
    };
    let limit = Instant::now() + authorizer.timeout;
    let answer = timeout_at(limit, asked(mesh, visit, client, authorizer)).await;
    match answer.unwrap_or(Err(AskError::TimedOut)) {
        Ok(true) => Ok(Some(())),
        Ok(false) => Err(Refusal::External(Unapproved::Denied(Box::new(Reply::none())))),
        Err(error) => undecided(error),
    }
}

async fn asked(
    mesh: &Arc<Mesh>,
    visit: &Visit,
    client: SocketAddr,
    authorizer: &Authorizer,
) -> Result<bool, AskError> {
    let check = {
        let service = visit.arrival().port(&mesh.snapshots.load()).service;
        let peer = visit.peer.as_ref();
        let contact = Contact {
            source: End {
                addr: (visit.client, client.port()).into(),
                principal: peer.map(|peer| Cow::Owned(peer.to_string())),
                service: None,
            },
            destination: End {
                addr: visit.addr,
                principal: Some(Cow::Owned(visit.pod.pod.workload.identity.to_string())),
                service: service.map(|service| service.host()),
            },
        };
        external::check_connection(authorizer, &contact)?
    };
    let (answer, trailers) = check::send(mesh, &visit.pod, authorizer.into(), check).await?;
    Ok(external::lets_in(&answer, trailers.as_ref())?)
}
