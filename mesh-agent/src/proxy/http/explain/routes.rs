//! The routes of the dialled Service, held against a request, and the ways on which they lead it.
//!
//! Place in the walk: what `decide` decides, with all backends of the rule instead of the one that chance gives. Must not
//! know: endpoints, policies of the destination.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{Request, Response};

use super::report::{ChosenRule, MatchLine, Outcome, Routes, Verdict, Way};
use super::{Told, Trip, bounded};
use crate::mesh::policy::external::Authorizer;
use crate::mesh::route::{Abort, Fault, Filters, PathRewrite, Share};
use crate::proxy::http::decide::{Target, authority_or};
use crate::proxy::http::headers::{normalise_path, remove_named_by_connection};
use crate::proxy::http::routed::{self, Applied};
use crate::proxy::http::{fault, strict};
use crate::proxy::refusal::Refusal;
use crate::proxy::session::{self, Keeping};
use crate::route::{Decided, Trial};
use crate::snapshot::{Destination, Upstream};

impl Trip<'_> {
    /// What becomes of an HTTP request.
    pub(super) fn request(
        &self,
        destination: Destination,
        mut request: Request<()>,
        told: &mut Told,
    ) -> Result<Verdict, Refusal> {
        strict::check(&request)?;
        normalise_path(&mut request, self.snapshot.path_form())?;
        remove_named_by_connection(request.headers_mut());
        let authority = authority_or(&request, self.ends.original)?;
        let target = match destination {
            Destination::Service(dialled) => return self.routed(dialled, request, authority, told),
            Destination::Workload {
                workload,
                protocol,
                service,
            } => Target::Workload {
                workload,
                protocol,
                service,
            },
            Destination::NoSuchPort(_) => return Err(Refusal::NoSuchPort),
            Destination::Unknown => return Err(Refusal::NoEndpoint),
        };
        told.ways.push(self.way(&target, request, authority, None));
        Ok(together(&told.ways))
    }

    fn routed(
        &self,
        dialled: Arc<Upstream>,
        request: Request<()>,
        authority: Authority,
        told: &mut Told,
    ) -> Result<Verdict, Refusal> {
        let client = &self.source.pod.workload;
        let Some(table) = self.snapshot.routes(&client.namespace, &dialled) else {
            let keeping = Keeping::of_dialled(
                &dialled,
                (self.snapshot, &self.source.pod.workload),
                request.headers(),
            );
            let target = Target::Upstream(dialled, keeping);
            told.ways.push(self.way(&target, request, authority, None));
            return Ok(together(&told.ways));
        };
        let facts = routed::facts_of(&request, &authority, dialled.port, client);
        let (matches, left_out) = bounded(table.trials(&facts), |trial| line(&trial));
        let position = matches.iter().position(|line| line.holds);
        let routes = told.routes.insert(Routes {
            matches,
            left_out,
            chosen: None,
        });
        let decided = table.decide(&facts).ok_or(Refusal::NoRoute)?;
        let faults = fault::of(&decided.rule, &request);
        routes.chosen = Some(chosen(&decided, position, faults));
        if let Some((abort, share)) = faults.and_then(|faults| faults.abort)
            && share.is_all()
        {
            return Err(Refusal::Aborted(abort));
        }
        if let Some(answer) = routed::preflight_answer(&decided, &request) {
            return Ok(answered(&answer));
        }
        let gate = routed::gate_of(&decided.rule.filters);
        if let Some(answer) = routed::own_answer(&decided, &request, &authority, dialled.port)? {
            return Ok(gated(answered(&answer), gate));
        }
        self.backends(&decided, &request, &authority, told);
        if told.ways.is_empty() {
            return Err(Refusal::InvalidBackend);
        }
        Ok(together(&told.ways))
    }

    fn backends(&self, decided: &Decided, request: &Request<()>, authority: &Authority, told: &mut Told) {
        if let Some(kept) = session::kept_by(
            decided,
            (self.snapshot, &self.source.pod.workload),
            request.headers(),
        ) {
            let changes = changes(&kept.backend.filters);
            let keeping = Keeping::of_rule(decided, &kept.backend, &kept.upstream);
            let keeping = keeping.map(|keeping| keeping.at(kept.endpoint));
            let applied = Applied::new(decided.clone(), kept.backend, request.headers());
            let target = Target::Upstream(kept.upstream, keeping);
            let way = self.way(&target, copy(request), authority.clone(), Some(&applied));
            let verdict = applied
                .gates()
                .fold(way.verdict, |so_far, gate| gated(so_far, Some(gate)));
            told.ways.push(Way {
                changes: [changes, way.changes].concat(),
                verdict,
                ..way
            });
            return;
        }
        let shares: Vec<_> = decided.rule.backends().each().collect();
        let total: u64 = shares.iter().map(|(weight, _)| weight).sum();
        for (weight, backend) in shares {
            let upstream = backend.and_then(|one| self.snapshot.backend(&self.source.pod.workload, one));
            let mut way = match backend.zip(upstream) {
                Some((backend, upstream)) => {
                    let applied = Applied::new(decided.clone(), Arc::clone(backend), request.headers());
                    let keeping = Keeping::of_rule(decided, backend, upstream);
                    let target = Target::Upstream(Arc::clone(upstream), keeping);
                    let way = self.way(&target, copy(request), authority.clone(), Some(&applied));
                    let verdict = applied
                        .gates()
                        .fold(way.verdict, |so_far, gate| gated(so_far, Some(gate)));
                    Way {
                        changes: [changes(&backend.filters), way.changes].concat(),
                        verdict,
                        ..way
                    }
                }
                None => Way {
                    verdict: self.refused(&Refusal::InvalidBackend),
                    ..Way::default()
                },
            };
            way.share_percent = percent(weight, total);
            told.ways.push(way);
        }
    }
}

/// What becomes of a request or connection that takes one of several ways.
pub(super) fn together(ways: &[Way]) -> Verdict {
    let mut verdicts = ways.iter().map(|way| &way.verdict);
    let Some(first) = verdicts.next() else {
        return Verdict::default();
    };
    if verdicts.all(|verdict| verdict == first) {
        return first.clone();
    }
    Verdict {
        outcome: Outcome::Varies,
        reason: "it depends on the backend, see each".to_owned(),
        ..Verdict::default()
    }
}

/// What becomes of a request that `gate` must let in before it gets so far.
fn gated(verdict: Verdict, gate: Option<&Arc<Authorizer>>) -> Verdict {
    let Some(gate) = gate.filter(|_| verdict.outcome != Outcome::Refused) else {
        return verdict;
    };
    Verdict {
        outcome: Outcome::Asked,
        status: None,
        reason: format!("{} decides (ExternalAuth); then: {}", place(gate), verdict.reason),
        ..verdict
    }
}

fn place(gate: &Authorizer) -> String {
    format!("{}:{}", gate.target.host(), gate.port)
}

fn copy(request: &Request<()>) -> Request<()> {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

fn line(trial: &Trial<'_>) -> MatchLine {
    MatchLine {
        kind: trial.rule.kind.as_str().to_owned(),
        route: trial.rule.route.clone(),
        rule: trial.rule.index,
        rule_name: trial.rule.name.as_deref().map(str::to_owned),
        asks: trial.asks(),
        holds: trial.mismatch.is_none(),
        mismatch: trial.mismatch.map(|mismatch| mismatch.part().to_owned()),
        why_not: trial.mismatch.map(|mismatch| mismatch.to_string()),
    }
}

fn chosen(decided: &Decided, position: Option<usize>, faults: Option<&Fault>) -> ChosenRule {
    let rule = &decided.rule;
    let millis = |limit: Option<Duration>| limit.and_then(|limit| u64::try_from(limit.as_millis()).ok());
    let mut changes = changes(&rule.filters);
    if rule.session.is_some() {
        changes.push("keeps a client at the endpoint of its first request (session persistence)".to_owned());
    }
    if rule.cors.is_some() {
        changes.push("answers preflights and tells scripts of allowed origins so (CORS)".to_owned());
    }
    ChosenRule {
        position,
        route: rule.route.clone(),
        rule: rule.index,
        changes,
        faults: faults.map(fault_lines).unwrap_or_default(),
        request_timeout_ms: millis(rule.request_timeout),
        attempt_timeout_ms: millis(rule.attempt_timeout),
        retries: rule.retry.as_ref().map(|retry| retry.attempts),
    }
}

fn fault_lines(fault: &Fault) -> Vec<String> {
    let of = |share: Share| percent(share.numerator.into(), share.denominator.into());
    let delay = fault
        .delay
        .map(|(delay, share)| format!("delays {} % of requests by {delay:?}", of(share)));
    let abort = fault.abort.map(|(abort, share)| match abort {
        Abort::Http(status) => format!("answers {} % of requests with {}", of(share), status.as_u16()),
        Abort::Grpc(code) => format!("answers {} % of requests with gRPC status {code}", of(share)),
    });
    delay.into_iter().chain(abort).collect()
}

fn changes(filters: &Filters) -> Vec<String> {
    let gate = routed::gate_of(filters);
    let mut lines: Vec<_> = gate
        .map(|gate| format!("goes on only if {} lets it in (ExternalAuth)", place(gate)))
        .into_iter()
        .collect();
    for (of, edits) in [("request", &filters.request), ("response", &filters.response)] {
        let shown = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        for (name, value) in &edits.set {
            lines.push(format!("{of} header {name} is set to {}", shown(value)));
        }
        for (name, value) in &edits.add {
            lines.push(format!("{of} header {name} is added: {}", shown(value)));
        }
        for name in &edits.remove {
            lines.push(format!("{of} header {name} is removed"));
        }
    }
    if let Some(authority) = &filters.rewrite.authority {
        lines.push(format!("the host is rewritten to {authority}"));
    }
    if let Some(path) = &filters.rewrite.path {
        lines.push(match path {
            PathRewrite::Full(path) => format!("the path is rewritten to {path}"),
            PathRewrite::Prefix(to) | PathRewrite::Beginning(to) => {
                format!("what the match asked for of the path is rewritten to {to}")
            }
            PathRewrite::Regex(pattern, to) => format!("{pattern:?} in the path is rewritten to {to}"),
        });
    }
    lines.extend(
        (!filters.mirrors.is_empty()).then(|| format!("copies go to {} mirrors", filters.mirrors.len())),
    );
    lines
}

fn answered(answer: &Response<bytes::Bytes>) -> Verdict {
    let location = answer.headers().get(http::header::LOCATION);
    let location = location.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
    Verdict {
        outcome: Outcome::Answered,
        status: Some(answer.status().as_u16()),
        reason: match location {
            Some(to) => format!("the rule sends the client to {to}"),
            None => "the rule answers itself".to_owned(),
        },
        ..Verdict::default()
    }
}

/// A part of a whole.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    // In thousandths of a percent: exact enough for a reader, and small enough for every number in between.
    let thousandths = u128::from(part) * 100_000 / u128::from(whole.max(1));
    f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
}
