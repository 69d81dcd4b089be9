//! What the policies of the pod at the end of a way say.
//!
//! Place in the walk: what `arrival` decides there. On another node its agent decides, by the same facts and the same
//! code; what this node knows of them is shown. Must not know: how the pod is reached.

use std::borrow::Cow;
use std::sync::Arc;

use http::Request;
use http::uri::Authority;

use super::report::{Outcome, Policies, PolicyLine, RateLimitLine, RuleLine, Verdict, Way};
use super::way::End;
use super::{Trip, bounded, pod_name};
use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::MtlsMode;
use crate::mesh::policy::rate_limit::{RateLimit, RateLimitPolicy};
use crate::mesh::workload::Workload;
use crate::policy::authentication::Claims;
use crate::policy::authorization::{Judgement, PolicyTrial};
use crate::proxy::approval;
use crate::proxy::arrival::Arrival;
use crate::proxy::hop::Hop;
use crate::proxy::http::admission::{authenticate, limit};
use crate::proxy::http::path;
use crate::proxy::refusal::Refusal;

impl Trip<'_> {
    /// Whether a request is let in where a way ends.
    pub(super) fn let_in_request(
        &self,
        hop: &Hop,
        end: &End,
        mut request: Request<()>,
        authority: &Authority,
        way: &mut Way,
    ) -> Result<Verdict, Refusal> {
        let Some((workload, peer)) = self.judged_by(hop, end) else {
            return Ok(sent());
        };
        let mut arrival = self.arrival(workload, peer, end);
        let policies = way.policies.insert(self.policies(&arrival));
        arrival.judge_plaintext(self.snapshot)?;
        let token = authenticate::foresee(self.snapshot, &arrival, &mut request, authority);
        policies.token = token_line(policies, &token);
        let token = token?;
        self.hold_against(&arrival, Some((&request, authority, token.as_ref())), policies);
        let judged = arrival.judge(self.snapshot, &request, authority, token.as_ref())?;
        policies.rate_limits = self.limits(&arrival, &request, token.as_ref());
        match judged {
            Judgement::Allowed => Ok(sent()),
            Judgement::Ask(ask) => {
                arrival.approved = Some(&ask.provider);
                arrival.judge_request(self.snapshot, &request, authority, token.as_ref())?;
                Ok(asked(&ask.provider))
            }
        }
    }

    /// Whether bytes that are no HTTP are let in where a way ends.
    pub(super) fn let_in_bytes(&self, hop: &Hop, end: &End, way: &mut Way) -> Result<Verdict, Refusal> {
        let Some((workload, peer)) = self.judged_by(hop, end) else {
            return Ok(sent());
        };
        let mut arrival = self.arrival(workload, peer, end);
        let policies = way.policies.insert(self.policies(&arrival));
        "only requests have tokens".clone_into(&mut policies.token);
        self.hold_against(&arrival, None, policies);
        match arrival.judge_opaque(self.snapshot)? {
            Judgement::Allowed => Ok(sent()),
            Judgement::Ask(ask) => {
                let (provider, _) = approval::whom(self.snapshot, &arrival, ask)?;
                arrival.approved = Some(&provider);
                arrival.judge_bytes(self.snapshot)?;
                Ok(asked(&provider))
            }
        }
    }

    /// The pod whose policies are asked, and who they see; none for what an application takes itself.
    fn judged_by<'t>(&'t self, hop: &Hop, end: &'t End) -> Option<(&'t Arc<Workload>, Option<&'t SpiffeId>)> {
        let workload = end.workload.as_ref()?;
        let own = &self.source.pod.workload.identity;
        match hop {
            Hop::SameNode(_) | Hop::OtherNode { .. } => Some((workload, Some(own))),
            Hop::Plain { uid: Some(_) } => Some((workload, None)),
            Hop::Plain { uid: None } => None,
        }
    }

    fn arrival<'t>(&self, pod: &'t Workload, peer: Option<&'t SpiffeId>, end: &End) -> Arrival<'t> {
        Arrival {
            pod,
            peer,
            client: self.source.client_like(self.ends.client, end.addr).ip(),
            addr: end.addr,
            approved: None,
        }
    }

    fn policies(&self, arrival: &Arrival<'_>) -> Policies {
        let (pod, port) = (arrival.pod, arrival.addr.port());
        let of_tokens = self.snapshot.request_authentications(pod, port);
        let peer = self.snapshot.proven(arrival.peer, pod, port);
        Policies {
            pod: pod_name(pod),
            decided_on: pod.node.to_string(),
            is_decided_here: pod.node == self.mesh.settings.node,
            peer: peer.map(ToString::to_string),
            mtls_mode: mode_word(self.snapshot.mtls_mode(pod, port)).to_owned(),
            request_authentications: of_tokens
                .into_iter()
                .map(|policy| format!("{}/{}", policy.namespace, policy.name))
                .collect(),
            token: "not looked at".to_owned(),
            authorization: Vec::new(),
            left_out: 0,
            rate_limits: Vec::new(),
            read_as: None,
        }
    }

    /// The limits that would count the request.
    fn limits(
        &self,
        arrival: &Arrival<'_>,
        request: &Request<()>,
        token: Option<&Claims>,
    ) -> Vec<RateLimitLine> {
        let Some(limits) = arrival.limits(self.snapshot) else {
            return Vec::new();
        };
        let asked = limit::asked(arrival, self.snapshot, request, token);
        let line = |(policy, limit): (&RateLimitPolicy, &RateLimit)| RateLimitLine {
            policy: format!("{}/{}", policy.namespace, policy.name),
            is_dry_run: policy.is_dry_run,
            local: limit.local.map(|local| {
                let (requests, span) = (local.requests, local.unit.duration());
                format!("{requests} in {span:?}, {} at once", local.burst)
            }),
            service: (limit.global.as_ref())
                .map(|global| format!("{}:{}", global.target.host(), global.port)),
        };
        let (lines, _) = bounded(limits.concerning(&asked), line);
        lines
    }

    /// Holds each policy against what arrives: a request in the form for which it is refused, if it is.
    fn hold_against(
        &self,
        arrival: &Arrival<'_>,
        content: Option<(&Request<()>, &Authority, Option<&Claims>)>,
        policies: &mut Policies,
    ) {
        let Ok(Some(protection)) = arrival.protection(self.snapshot) else {
            return;
        };
        let connection = arrival.connection(self.snapshot);
        let mut asked = content.map(|(request, authority, token)| arrival.asked(request, authority, token));
        if let (Some(asked), Some((request, ..))) = (&mut asked, content) {
            let sent = request.uri().path();
            let refused = path::readings(sent).find(|reading| {
                asked.path.clone_from(reading);
                protection.of_request(&connection, asked, None).is_err()
            });
            let refused = refused.filter(|reading| reading != sent);
            policies.read_as = refused.as_deref().map(str::to_owned);
            asked.path = refused.unwrap_or(Cow::Borrowed(sent));
        }
        let trials = protection.trials(&connection, asked.as_ref());
        (policies.authorization, policies.left_out) = bounded(trials, |trial| policy_line(&trial));
    }
}

fn policy_line(trial: &PolicyTrial<'_>) -> PolicyLine {
    let policy = trial.policy;
    let rules = trial.rules.iter().map(|rule| RuleLine {
        matches: rule.matches,
        why_not: rule.unmet.iter().map(ToString::to_string).collect(),
    });
    PolicyLine {
        action: policy.action.as_str().to_owned(),
        policy: format!("{}/{}", policy.namespace, policy.name),
        is_dry_run: policy.is_dry_run,
        acts_on_port: trial.acts_on_port,
        matches: trial.matches(),
        rules: rules.collect(),
    }
}

fn token_line(policies: &Policies, token: &Result<Option<Claims>, Refusal>) -> String {
    match token {
        Err(refusal) => refusal.to_string(),
        Ok(Some(claims)) => match claims.principal() {
            Some(principal) => format!("believed: {principal}"),
            None => "believed, and names no issuer and subject".to_owned(),
        },
        Ok(None) if policies.request_authentications.is_empty() => "no policy asks for one".to_owned(),
        Ok(None) => "none came".to_owned(),
    }
}

fn mode_word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Disable => "DISABLE",
    }
}

fn sent() -> Verdict {
    Verdict {
        reason: "sent on".to_owned(),
        ..Verdict::default()
    }
}

fn asked(provider: &str) -> Verdict {
    Verdict {
        outcome: Outcome::Asked,
        reason: format!("the extension provider {provider} decides; the other policies let it in"),
        ..Verdict::default()
    }
}
