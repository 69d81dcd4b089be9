//! What becomes of a connection whose bytes are no HTTP.
//!
//! Place in the walk: what `outbound` decides for such a connection, without taking anything. Must not know: requests.

use std::sync::Arc;
use std::time::Instant;

use super::report::{Verdict, Way};
use super::routes::{percent, together};
use super::way::{self, End, OF_BYTES};
use super::{Told, Trip};
use crate::mesh::route::Opening;
use crate::proxy::hop::Hop;
use crate::proxy::refusal::Refusal;
use crate::proxy::{affinity, stream};
use crate::snapshot::{Destination, Passage, PickFacts, Upstream};

impl Trip<'_> {
    /// What becomes of opaque bytes.
    pub(super) fn bytes(&self, destination: &Destination, told: &mut Told) -> Verdict {
        let ways = self.ways_of_bytes(destination);
        told.ways = ways.unwrap_or_else(|refusal| vec![self.way_of_bytes(WHOLE, None, |_| Err(refusal))]);
        together(&told.ways)
    }

    /// Where connections go, with all backends of the rule instead of the one that chance gives.
    fn ways_of_bytes(&self, destination: &Destination) -> Result<Vec<Way>, Refusal> {
        let stays = |workload| {
            self.way_of_bytes(WHOLE, None, |_| {
                Ok(End {
                    addr: self.ends.original,
                    workload,
                    tls: None,
                })
            })
        };
        match destination {
            Destination::Service(dialled) => self.routed_bytes(dialled),
            Destination::Workload { workload, .. } => Ok(vec![stays(Some(Arc::clone(workload)))]),
            Destination::NoSuchPort(_) => Err(Refusal::NoSuchPort),
            Destination::Unknown => Ok(vec![stays(None)]),
        }
    }

    /// Where routes of connections send those that begin with nothing that they know.
    fn routed_bytes(&self, dialled: &Arc<Upstream>) -> Result<Vec<Way>, Refusal> {
        let client = self.source.as_known(self.snapshot);
        let opening = Opening::default();
        let rule = stream::ruled(self.snapshot, client, dialled, self.ends.original, &opening)?;
        let Some(rule) = rule else {
            let end = |way: &mut Way| self.foreseen(dialled, way);
            return Ok(vec![self.way_of_bytes(WHOLE, None, end)]);
        };
        let shares: Vec<_> = rule.backends().each().collect();
        let total: u64 = shares.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            return Err(Refusal::InvalidBackend);
        }
        let ways = shares.into_iter().map(|(weight, backend)| {
            self.way_of_bytes(percent(weight, total), Some(&rule.route), |way| {
                let upstream = backend.and_then(|backend| self.snapshot.backend(client, backend));
                self.foreseen(upstream.ok_or(Refusal::InvalidBackend)?, way)
            })
        });
        Ok(ways.collect())
    }

    /// The endpoint that a connection would get.
    fn foreseen(&self, upstream: &Upstream, way: &mut Way) -> Result<End, Refusal> {
        let key = upstream.hash_key();
        let facts = PickFacts {
            dialled: self.ends.original.ip(),
            hash: key.and_then(|key| affinity::of_connection(key, self.ends.client.ip())),
            of: OF_BYTES,
            tried: &[],
            leaves_localities: false,
            kept: None,
            now: Instant::now(),
        };
        way::endpoint(upstream, &facts, way)
    }

    /// One way, and what becomes of a connection that takes it.
    fn way_of_bytes(
        &self,
        share_percent: f64,
        route: Option<&str>,
        end: impl FnOnce(&mut Way) -> Result<End, Refusal>,
    ) -> Way {
        let mut way = Way {
            share_percent,
            ..Way::default()
        };
        let judged = end(&mut way).and_then(|end| self.connection(&end, route, &mut way));
        way.verdict = judged.unwrap_or_else(|refusal| self.refused_bytes(&refusal));
        way
    }

    fn connection(&self, end: &End, route: Option<&str>, way: &mut Way) -> Result<Verdict, Refusal> {
        let hop = Hop::decide(self.mesh, self.snapshot, end.workload.as_ref(), end.addr.port())?;
        let tls = end.tls.as_deref().filter(|_| matches!(hop, Hop::Plain { .. }));
        let mut transport = way::transport(&hop, end, "bytes", tls);
        if let Some(route) = route {
            let note = format!("{route} sends connections there that begin with nothing known");
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
        self.let_in_bytes(&hop, end, way)
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

/// In percent.
const WHOLE: f64 = 100.0;
