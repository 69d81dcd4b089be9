//! Faults that a route puts in on purpose.
//!
//! Place in the walk: after the request head is read, before its way is decided, so that a delayed request is decided by
//! what holds when its delay is over, and its time limits do not count the delay. Must not know: endpoints, connections.

use http::Request;

use crate::mesh::route::{Drawn, Fault};
use crate::proxy::Mesh;
use crate::proxy::http::Side;
use crate::proxy::http::decide::authority_or;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::routed;
use crate::proxy::refusal::Refusal;
use crate::route::CompiledRule;
use crate::snapshot::Destination;
use crate::telemetry::ResponseFlag;

/// That a request was delayed; to be noted when nothing worse has happened to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delayed(bool);

impl Delayed {
    /// Notes the delay, unless the request ended with a flag of its own.
    pub(super) fn note(self, ledger: &Ledger) {
        if self.0 {
            ledger.flag(ResponseFlag::Di, "delay_injected");
        }
    }
}

/// Delays the request, then aborts it, as far as the rule that holds for it says so and chance will have it.
pub(super) async fn inject(
    mesh: &Mesh,
    side: &Side,
    request: &Request<impl Sized>,
    ledger: &Ledger,
) -> Result<Delayed, Refusal> {
    let Drawn { delay, abort } = draw(mesh, side, request, ledger)?;
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    match abort {
        Some(abort) => Err(Refusal::Aborted(abort)),
        None => Ok(Delayed(delay.is_some())),
    }
}

/// Where requests come in no route acts: it did where they left.
fn draw(mesh: &Mesh, side: &Side, request: &Request<impl Sized>, ledger: &Ledger) -> Result<Drawn, Refusal> {
    let Side::Outbound { source, ends } = side else {
        return Ok(Drawn::default());
    };
    let snapshot = mesh.snapshots.load();
    let client = &source.pod.workload;
    let Destination::Service(dialled) = snapshot.destination(client, ends.original) else {
        return Ok(Drawn::default());
    };
    let routes = snapshot.routes(&client.namespace, &dialled);
    let Some(routes) = routes.filter(|routes| routes.has_faults()) else {
        return Ok(Drawn::default());
    };
    let authority = authority_or(request, ends.original)?;
    let facts = routed::facts_of(request, &authority, dialled.port, client);
    let Some(decided) = routes.decide(&facts) else {
        return Ok(Drawn::default());
    };
    let rule = &decided.rule;
    let drawn = of(rule, request)
        .map(|fault| fault.draw(&mut rand::rng()))
        .unwrap_or_default();
    if drawn != Drawn::default() {
        ledger.service(&dialled.service);
        ledger.route(&rule.route);
    }
    Ok(drawn)
}

/// The faults of a rule that may befall a request: a preflight that the agent answers is none to the application, and never
/// fails.
pub(super) fn of<'r>(rule: &'r CompiledRule, request: &Request<impl Sized>) -> Option<&'r Fault> {
    let is_preflight = |cors| routed::preflight(cors, request).is_some();
    let is_spared = rule.cors.as_ref().is_some_and(is_preflight);
    rule.fault.as_ref().filter(|_| !is_spared)
}
