//! Looks after upstreams with outlier detection, health checks or limits: takes endpoints back, shares traffic anew, and
//! tells what was counted.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::balance::{Cause, Limit};
use crate::lifecycle::Stop;
use crate::proxy::Mesh;
use crate::snapshot::{Ejected, Snapshot, Upstream};
use crate::telemetry::{Telemetry, UpstreamCounts};

/// Until `stop`, some times a second.
pub(super) async fn watch_upstreams(mesh: Arc<Mesh>, stop: Stop) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ejected = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {
                let snapshot = mesh.snapshots.load();
                look(&snapshot, &mesh.telemetry, Instant::now());
                ejected = report(&snapshot, &ejected);
            }
        }
    }
}

fn look(snapshot: &Snapshot, telemetry: &Telemetry, now: Instant) {
    let watched = snapshot.upstreams().filter(|upstream| {
        let is_watched = upstream.sweep(now);
        is_watched || upstream.breakers().has_limits()
    });
    // What subsets count is shown with their Service's port.
    let mut by_port: BTreeMap<_, UpstreamCounts> = BTreeMap::new();
    for upstream in watched {
        let counts = counts_of(upstream);
        match by_port.entry((&upstream.service, upstream.port)) {
            Entry::Vacant(vacant) => {
                vacant.insert(counts);
            }
            Entry::Occupied(mut known) => known.get_mut().add(&counts),
        }
    }
    let counts: Vec<_> = by_port.into_values().collect();
    telemetry.balance().publish(&counts);
}

fn counts_of(upstream: &Upstream) -> UpstreamCounts {
    let vitals = upstream.breakers().vitals();
    UpstreamCounts {
        namespace: upstream.service.namespace.as_ref().to_owned(),
        service: upstream.service.name.as_ref().to_owned(),
        port: upstream.port,
        ejected: vitals.ejected(),
        unhealthy: upstream.unhealthy(),
        ejections: Cause::ALL
            .map(|cause| (cause.as_str(), vitals.ejections(cause)))
            .into(),
        overflows: Limit::ALL
            .map(|limit| (limit.as_str(), vitals.overflows(limit)))
            .into(),
    }
}

/// Says who was ejected and who was taken back since the last look; who is ejected now.
fn report(snapshot: &Snapshot, before: &BTreeSet<Ejected>) -> BTreeSet<Ejected> {
    let now: BTreeSet<_> = snapshot.ejected().into_iter().collect();
    for endpoint in now.difference(before) {
        tracing::warn!(%endpoint, "endpoint ejected for its failures");
    }
    for endpoint in before.difference(&now) {
        tracing::info!(%endpoint, "endpoint is no longer ejected");
    }
    now
}

/// A pick passes over an ejected endpoint at once; what waits for this is the share of its group, and its return.
const LOOK: Duration = Duration::from_millis(250);
