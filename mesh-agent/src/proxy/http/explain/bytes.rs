//! What becomes of a connection whose bytes are no HTTP.
//!
//! Place in the walk: what `outbound` decides for such a connection, without taking anything. Must not know: requests.

use std::sync::Arc;
use std::time::Instant;

use super::report::{Verdict, Way};
use super::way::{self, End, OF_BYTES};
use super::{Told, Trip};
use crate::mesh::route::Opening;
use crate::proxy::hop::Hop;
use crate::proxy::refusal::Refusal;
use crate::proxy::{affinity, stream};
use crate::snapshot::{Destination, Passage, PickFacts, Upstream};

impl Trip<'_> {
    /// Where routes of connections send one that begins with nothing that they know, and which route.
    fn routed_bytes(&self, dialled: &Arc<Upstream>) -> Result<(Arc<Upstream>, Option<String>), Refusal> {
        let client = self.source.as_known(self.snapshot);
        let (dialled, opening) = (Arc::clone(dialled), Opening::default());
        stream::routed(self.snapshot, client, dialled, self.ends.original, &opening)
    }

    /// What becomes of opaque bytes.
    pub(super) fn bytes(&self, destination: &Destination, told: &mut Told) -> Verdict {
        let mut way = Way {
            share_percent: 100.0,
            ..Way::default()
        };
        let judged = self.connection(destination, &mut way);
        way.verdict = judged.unwrap_or_else(|refusal| self.refused_bytes(&refusal));
        let verdict = way.verdict.clone();
        told.ways.push(way);
        verdict
    }

    fn connection(&self, destination: &Destination, way: &mut Way) -> Result<Verdict, Refusal> {
        let mut route = None;
        let end = match destination {
            Destination::Service(dialled) => {
                let (upstream, by) = self.routed_bytes(dialled)?;
                route = by;
                let key = upstream.hash_key();
                let facts = PickFacts {
                    dialled: self.ends.original.ip(),
                    hash: key.and_then(|key| affinity::of_connection(key, self.ends.client.ip())),
                    of: OF_BYTES,
                    tried: &[],
                    kept: None,
                    now: Instant::now(),
                };
                way::endpoint(&upstream, &facts, way)?
            }
            Destination::Workload { workload, .. } => End {
                addr: self.ends.original,
                workload: Some(Arc::clone(workload)),
                tls: None,
            },
            Destination::NoSuchPort(_) => return Err(Refusal::NoSuchPort),
            Destination::Unknown => End {
                addr: self.ends.original,
                workload: None,
                tls: None,
            },
        };
        let hop = Hop::decide(self.mesh, self.snapshot, end.workload.as_ref(), end.addr.port())?;
        let tls = end.tls.as_deref().filter(|_| matches!(hop, Hop::Plain { .. }));
        let mut transport = way::transport(&hop, &end, "bytes", tls);
        if let Some(route) = route {
            let note = format!(
                "{route} sends a connection that begins with nothing known there; another may be drawn elsewhere"
            );
            transport.notes.push(note);
        }
        if let (Hop::SameNode(_), Some(workload)) = (&hop, &end.workload) {
            let own = &self.source.pod.workload;
            let is_opaque = self.snapshot.is_opaque_to(own, self.ends.original) == Passage::Direct;
            let passage = self.snapshot.may_go_direct(own, workload, end.addr.port());
            if is_opaque && passage == Passage::Direct {
                transport
                    .notes
                    .push("may go past the agent, where DIRECT in `mesh-agent status` is on".to_owned());
            }
        }
        way.transport = Some(transport);
        self.has_certificate(&hop)?;
        self.let_in_bytes(&hop, &end, way)
    }

    /// There is no answer in bytes: the connection is reset.
    fn refused_bytes(&self, refusal: &Refusal) -> Verdict {
        Verdict {
            status: None,
            grpc_status: None,
            reason: format!("{refusal}: the connection is reset"),
            ..self.refused(refusal)
        }
    }
}
