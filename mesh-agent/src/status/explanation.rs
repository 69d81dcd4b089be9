//! An explanation as a person wants to read it: a tree.
//!
//! Place in the walk: in the command `mesh-agent explain`, another process than the agent. Must not know: how the
//! explanation came about.

use std::fmt::{Result, Write as _};

use crate::proxy::explain::report::{
    ChosenRule, EndpointLine, Explanation, MatchLine, Outcome, PlaceKind, Policies, PolicyLine, Routes,
    Transport, TransportKind, Verdict, Way,
};

/// The page as a person wants to read it. Errors: `page` is no explanation.
pub fn explained(page: &str) -> anyhow::Result<String> {
    let explanation: Explanation = serde_json::from_str(page)?;
    let mut text = String::new();
    write(&mut text, &explanation)?;
    Ok(text)
}

fn write(text: &mut String, explanation: &Explanation) -> Result {
    let Explanation {
        node,
        snapshot_version,
        source,
        request,
        destination,
        routes,
        ways,
        verdict,
    } = explanation;
    writeln!(text, "{} ({}) asks {request}", source.pod, source.identity)?;
    writeln!(text, "node {node}, snapshot {snapshot_version}")?;
    let what = match destination.kind {
        PlaceKind::Service => "Service ",
        PlaceKind::Pod => "Pod ",
        PlaceKind::NoSuchPort => "no port of Service ",
        PlaceKind::Outside => "outside the mesh",
    };
    let name = destination.name.as_deref().unwrap_or_default();
    let addr = destination.addr.map(|addr| format!(", {addr}"));
    let addr = addr.unwrap_or_default();
    writeln!(
        text,
        "\nDESTINATION: {what}{name}{addr}, {}",
        destination.protocol
    )?;
    for note in &destination.notes {
        writeln!(text, "  ! {note}")?;
    }
    if let Some(routes) = routes {
        write_routes(text, routes)?;
    }
    for way in ways {
        write_way(text, way, node)?;
    }
    writeln!(text, "\nVERDICT: {}", of_verdict(verdict))
}

fn write_routes(text: &mut String, routes: &Routes) -> Result {
    writeln!(text, "\nROUTES")?;
    let position = routes.chosen.as_ref().and_then(|chosen| chosen.position);
    for (at, line) in routes.matches.iter().enumerate() {
        write_match(text, line, Some(at) == position)?;
    }
    if routes.left_out > 0 {
        writeln!(text, "  {} more matches are not shown", routes.left_out)?;
    }
    match &routes.chosen {
        Some(chosen) => write_chosen(text, chosen),
        None => writeln!(text, "  ! no match holds"),
    }
}

fn write_match(text: &mut String, line: &MatchLine, is_chosen: bool) -> Result {
    let mark = if is_chosen { "=>" } else { "  " };
    let name = line.rule_name.as_deref();
    let name = name.map_or_else(String::new, |name| format!(" {name:?}"));
    write!(
        text,
        "  {mark} {} {} rule {}{name}: {}",
        line.kind, line.route, line.rule, line.asks
    )?;
    match &line.why_not {
        Some(why) => writeln!(text, "; no: {why}"),
        None if is_chosen => writeln!(text),
        None => writeln!(text, "; holds too, but comes later"),
    }
}

fn write_chosen(text: &mut String, chosen: &ChosenRule) -> Result {
    writeln!(text, "  taken: {} rule {}", chosen.route, chosen.rule)?;
    for line in chosen.changes.iter().chain(&chosen.faults) {
        writeln!(text, "    {line}")?;
    }
    if let Some(limit) = chosen.request_timeout_ms {
        writeln!(text, "    it may take {limit} ms")?;
    }
    if let Some(limit) = chosen.attempt_timeout_ms {
        writeln!(text, "    each attempt may take {limit} ms")?;
    }
    if let Some(retries) = chosen.retries {
        writeln!(text, "    {retries} further attempts")?;
    }
    Ok(())
}

fn write_way(text: &mut String, way: &Way, node: &str) -> Result {
    let backend = way.backend.as_deref().unwrap_or("as dialled");
    writeln!(text, "\nBACKEND: {backend}, {:.1} %", way.share_percent)?;
    for change in &way.changes {
        writeln!(text, "  {change}")?;
    }
    if let Some(sent) = &way.sent_as {
        writeln!(text, "  sent as {sent}")?;
    }
    if let Some(balancer) = &way.balancer {
        let under_way = way.under_way.unwrap_or_default();
        writeln!(text, "  endpoints, by {balancer}, {under_way} under way")?;
    }
    if let Some(hedge) = &way.hedge {
        writeln!(text, "  hedging: {hedge}")?;
    }
    if let Some(fallback) = &way.fallback {
        writeln!(text, "  fallback: {fallback}")?;
    }
    for endpoint in &way.endpoints {
        write_endpoint(text, endpoint)?;
    }
    if way.endpoints_left_out > 0 {
        writeln!(
            text,
            "    {} more endpoints are not shown",
            way.endpoints_left_out
        )?;
    }
    if let Some(transport) = &way.transport {
        write_transport(text, transport)?;
    }
    if let Some(policies) = &way.policies {
        write_policies(text, policies, node)?;
    }
    writeln!(text, "  verdict: {}", of_verdict(&way.verdict))
}

fn write_endpoint(text: &mut String, endpoint: &EndpointLine) -> Result {
    let mark = if endpoint.is_picked { "=>" } else { "  " };
    let pod = endpoint.pod.as_deref().unwrap_or("no pod");
    let place = [&endpoint.node, &endpoint.zone, &endpoint.region];
    let place: Vec<&str> = place.into_iter().flatten().map(String::as_str).collect();
    let ejected = match (endpoint.is_ejected, endpoint.is_unhealthy) {
        (true, false) => ", EJECTED",
        (false, true) => ", UNHEALTHY",
        (true, true) => ", EJECTED, UNHEALTHY",
        (false, false) => "",
    };
    writeln!(
        text,
        "  {mark} {} {pod} ({}), {} under way, group {} with {:.1} %{ejected}",
        endpoint.addr,
        place.join(" "),
        endpoint.under_way,
        endpoint.group,
        endpoint.group_share_percent
    )
}

fn write_transport(text: &mut String, transport: &Transport) -> Result {
    let how = match transport.kind {
        TransportKind::SameNode => "within this node",
        TransportKind::MutualTls => "by mutual TLS",
        TransportKind::Tls => "by the application's own TLS",
        TransportKind::Plaintext => "in PLAINTEXT",
    };
    let peer = transport.peer_identity.as_deref();
    let peer = peer.map_or_else(String::new, |peer| format!(", where {peer} must answer"));
    let (speaks, addr) = (&transport.speaks, transport.addr);
    writeln!(text, "  transport: {speaks} {how} to {addr}{peer}")?;
    for note in &transport.notes {
        writeln!(text, "    ! {note}")?;
    }
    Ok(())
}

fn write_policies(text: &mut String, policies: &Policies, own_node: &str) -> Result {
    writeln!(text, "  policies of {}", policies.pod)?;
    if !policies.is_decided_here {
        let node = &policies.decided_on;
        writeln!(
            text,
            "    ! decided on {node}; this is what {own_node}'s configuration makes of it"
        )?;
    }
    let peer = policies.peer.as_deref().unwrap_or("nobody");
    writeln!(
        text,
        "    PeerAuthentication {}; they see {peer}",
        policies.mtls_mode
    )?;
    let of_tokens = policies.request_authentications.join(" ");
    writeln!(
        text,
        "    RequestAuthentication {of_tokens}: token: {}",
        policies.token
    )?;
    if let Some(path) = &policies.read_as {
        writeln!(text, "    ! the application may read the path as {path}")?;
    }
    for line in &policies.authorization {
        write_policy(text, line)?;
    }
    for line in &policies.rate_limits {
        let trial = if line.is_dry_run { ", only on trial," } else { "" };
        let counts = [&line.local, &line.service].into_iter().flatten();
        let counts: Vec<&str> = counts.map(String::as_str).collect();
        writeln!(
            text,
            "    RateLimitPolicy {}{trial} counts it: {}",
            line.policy,
            counts.join("; ")
        )?;
    }
    if policies.left_out > 0 {
        writeln!(text, "    {} more policies are not shown", policies.left_out)?;
    }
    Ok(())
}

fn write_policy(text: &mut String, line: &PolicyLine) -> Result {
    let trial = if line.is_dry_run { ", only on trial" } else { "" };
    let says = match (line.acts_on_port, line.matches) {
        (false, _) => "does not act on this port",
        (true, true) => "matches",
        (true, false) => "does not match",
    };
    writeln!(
        text,
        "    AuthorizationPolicy {} {}{trial} {says}",
        line.action, line.policy
    )?;
    for (index, rule) in line.rules.iter().enumerate() {
        let says = if rule.matches { "yes" } else { "no" };
        writeln!(text, "      rule {index}: {says}")?;
        for why in &rule.why_not {
            writeln!(text, "        {why}")?;
        }
    }
    Ok(())
}

fn of_verdict(verdict: &Verdict) -> String {
    let word = match verdict.outcome {
        Outcome::Sent => "SENT",
        Outcome::Answered => "ANSWERED",
        Outcome::Refused => "REFUSED",
        Outcome::Asked => "ASKED",
        Outcome::Varies => "VARIES",
        Outcome::NotCaptured => "NOT CAPTURED",
    };
    let status = verdict.status.map(|status| format!(" with {status}"));
    let grpc = verdict.grpc_status.map(|code| format!(", gRPC status {code}"));
    let flag = verdict.flag.as_ref().map(|flag| format!(", flag {flag}"));
    let details = verdict.details.as_ref().map(|details| format!(" ({details})"));
    let parts = [status, grpc, flag, details].map(Option::unwrap_or_default);
    format!("{word}{}: {}", parts.concat(), verdict.reason)
}

#[cfg(test)]
#[path = "explanation_tests.rs"]
mod tests;
