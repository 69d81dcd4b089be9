//! Connections under way when policies change: those that are forbidden now end.
//!
//! Place in the walk: beside the relay of bytes and the serving of requests. Must not know: which policies there are.
//!
//! There is no list of connections: each waits for the next snapshot itself, and asks it what was asked when it began.

use crate::proxy::Mesh;
use crate::proxy::refusal::Refusal;
use crate::snapshot::Snapshot;

/// Returns when a snapshot refuses what is under way: the current one, or any that is published later. Cancel-safe.
pub(super) async fn until_refused(mesh: &Mesh, judge: impl Fn(&Snapshot) -> Result<(), Refusal>) -> Refusal {
    // Subscribed before the first look, so that nothing is published unseen between the two.
    let mut published = mesh.snapshots.subscribe();
    loop {
        if let Err(refusal) = judge(&mesh.snapshots.load()) {
            return refusal;
        }
        next(&mut published).await;
    }
}

/// As [`until_refused`], but what the current snapshot says is not asked: whoever is refused from the start is told so
/// in another way.
pub(super) async fn until_newly_refused(
    mesh: &Mesh,
    judge: impl Fn(&Snapshot) -> Result<(), Refusal>,
) -> Refusal {
    let mut published = mesh.snapshots.subscribe();
    loop {
        next(&mut published).await;
        if let Err(refusal) = judge(&mesh.snapshots.load()) {
            return refusal;
        }
    }
}

/// The cell lives as long as the mesh, so a closed channel only means that nothing is published any more.
async fn next(published: &mut tokio::sync::watch::Receiver<u64>) {
    if published.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
