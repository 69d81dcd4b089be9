//! On whose account a request goes, and whether that has room for one more.
//!
//! Place in the walk: before anything is decided about a request. Must not know: what it asks for.

use std::sync::Arc;

use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::{Connection, Side};
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::telemetry::Direction;

impl Side {
    /// The pod of this node on whose account it goes, and which way.
    pub(super) fn owner(&self) -> (&Arc<ServedPod>, Direction) {
        match self {
            Self::Outbound { source, .. } => (source, Direction::Outbound),
            Self::Inbound { pod, .. } => (pod, Direction::Inbound),
        }
    }
}

impl Connection {
    /// A pod has so many requests under way, wherever they come from, and so many bytes that nobody reads.
    pub(super) fn take_place(&self, ledger: &Ledger) -> Result<(), Refusal> {
        let (pod, direction) = self.side.owner();
        let Ok(place) = Arc::clone(&pod.requests).try_acquire_owned() else {
            pod.crowded_by(&self.mesh, direction, "requests");
            return Err(Refusal::Crowded);
        };
        if pod.held.is_full() {
            pod.crowded_by(&self.mesh, direction, "bytes");
            return Err(Refusal::Laden);
        }
        ledger.hold(place);
        Ok(())
    }
}
