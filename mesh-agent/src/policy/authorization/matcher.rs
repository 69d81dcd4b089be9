//! Whether one condition, and one rule, holds for what is asked.
//!
//! Place in the walk: the innermost step of an authorization decision. Must not know: policies, actions, workloads.

use std::net::IpAddr;

use super::asked::{Connection, Content};
use crate::mesh::exclusions::Cidr;
use crate::mesh::policy::authorization::{
    AddressAttribute, Condition, PolicyRule, Segment, TextAttribute, TextMatch, Values,
};
use crate::policy::authentication::Claims;

/// What is known of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// It does not hold.
    No,
    /// It holds.
    Yes,
    /// The connection fits it; the rest is in a request, and there is none to ask.
    NeedsRequest,
}

/// Towards which side an [`Condition::Unknowable`] errs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// An ALLOW rule: it does not hold.
    Fails,
    /// Any other rule: it holds.
    Holds,
}

/// Whether `rule` holds, as far as `content` tells.
pub(super) fn rule(
    rule: &PolicyRule,
    connection: &Connection<'_>,
    content: Content<'_>,
    doubt: Doubt,
) -> Match {
    let all = |conditions: &[Condition]| all(conditions, connection, content, doubt);
    let parts = [one_of(&rule.from, all), one_of(&rule.to, all), all(&rule.when)];
    parts.into_iter().fold(Match::Yes, and)
}

/// Whether a connection to `port` might match `rule`, whoever it is of and whatever it carries.
pub(super) fn may_concern(rule: &PolicyRule, port: u16) -> bool {
    let is_open = |conditions: &[Condition]| {
        conditions.iter().all(|condition| match condition {
            Condition::Port(values) => admits(values, |wanted| *wanted == port),
            Condition::Text { .. } | Condition::Address { .. } | Condition::Unknowable => true,
        })
    };
    let to = rule.to.is_empty() || rule.to.iter().any(|operation| is_open(operation));
    to && is_open(&rule.when)
}

/// A condition that keeps a rule from holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmet<'p> {
    /// `from`, `to` or `when`.
    pub part: &'static str,
    /// Which of the alternatives of `from` or `to`; of `when` all are one.
    pub alternative: usize,
    /// The first that does not hold there.
    pub condition: &'p Condition,
    /// Whether only a request could tell, and there is none.
    pub needs_request: bool,
}

/// Why [`rule`] does not hold: of each alternative the condition that fails, if it is a part none of whose alternatives
/// holds. Empty where the rule holds.
pub(super) fn unmet<'p>(
    rule: &'p PolicyRule,
    connection: &Connection<'_>,
    content: Content<'_>,
    doubt: Doubt,
) -> Vec<Unmet<'p>> {
    let failing = |part, alternative, conditions: &'p [Condition]| {
        let that_is = |wanted: Match| {
            let mut conditions = conditions.iter();
            conditions.find(|condition| holds(condition, connection, content, doubt) == wanted)
        };
        let not = that_is(Match::No);
        not.or_else(|| that_is(Match::NeedsRequest))
            .map(|condition| Unmet {
                part,
                alternative,
                condition,
                needs_request: not.is_none(),
            })
    };
    let of_part = |part, alternatives: &'p [Vec<Condition>]| {
        let alternatives = alternatives.iter().enumerate();
        let each = alternatives.map(|(alternative, conditions)| failing(part, alternative, conditions));
        // One alternative that holds is enough.
        each.collect::<Option<Vec<_>>>().unwrap_or_default()
    };
    let mut unmet = of_part("from", &rule.from);
    unmet.extend(of_part("to", &rule.to));
    unmet.extend(failing("when", 0, &rule.when));
    unmet
}

/// A path template matches segment by segment.
fn template(segments: &[Segment], path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let Some(rest) = segments
        .iter()
        .position(|segment| matches!(segment, Segment::Rest))
    else {
        return parts.len() == segments.len()
            && segments
                .iter()
                .zip(parts)
                .all(|(segment, part)| fits(segment, part));
    };
    // Envoy's `**` may be empty, but the slashes round it stay: `/a/{**}/b` is not `/a/b`.
    if parts.len() < segments.len() {
        return false;
    }
    let tail_segments = segments.iter().skip(rest + 1);
    let tail = parts.split_off(parts.len() - tail_segments.len());
    let head = segments.iter().take(rest).zip(parts);
    head.chain(tail_segments.zip(tail))
        .all(|(segment, part)| fits(segment, part))
}

fn fits(segment: &Segment, part: &str) -> bool {
    match segment {
        Segment::Literal(text) => text.as_ref() == part,
        Segment::One => !part.is_empty(),
        Segment::Rest => true,
    }
}

fn one_of(alternatives: &[Vec<Condition>], all: impl Fn(&[Condition]) -> Match) -> Match {
    if alternatives.is_empty() {
        return Match::Yes;
    }
    let each = alternatives.iter().map(|conditions| all(conditions));
    each.fold(Match::No, or)
}

fn all(conditions: &[Condition], connection: &Connection<'_>, content: Content<'_>, doubt: Doubt) -> Match {
    let mut known = Match::Yes;
    for condition in conditions {
        known = and(known, holds(condition, connection, content, doubt));
        if known == Match::No {
            return Match::No;
        }
    }
    known
}

fn holds(condition: &Condition, connection: &Connection<'_>, content: Content<'_>, doubt: Doubt) -> Match {
    if needs_request(condition, content) {
        return Match::NeedsRequest;
    }
    let holds = match condition {
        Condition::Unknowable => doubt == Doubt::Holds,
        Condition::Port(values) => admits(values, |port| *port == connection.port),
        Condition::Address { of, values } => address(*of, values, connection, content),
        Condition::Text { of, values } => text(of, values, connection, content),
    };
    if holds { Match::Yes } else { Match::No }
}

/// Whether only a request could tell, and there is none. Bytes that are no HTTP come from their peer itself.
fn needs_request(condition: &Condition, content: Content<'_>) -> bool {
    let is_address = matches!(condition, Condition::Address { .. });
    match content {
        Content::Pending => condition.is_of_requests(),
        Content::Opaque => condition.is_of_requests() && !is_address,
        Content::Http(_) => false,
    }
}

fn address(
    of: AddressAttribute,
    values: &Values<Cidr>,
    connection: &Connection<'_>,
    content: Content<'_>,
) -> bool {
    let addr: IpAddr = match of {
        AddressAttribute::Source => connection.source_ip,
        AddressAttribute::Remote => content
            .request()
            .map_or(connection.source_ip, |request| request.remote_ip),
        AddressAttribute::Destination => connection.destination_ip,
    };
    admits(values, |block| block.contains(addr))
}

fn text(
    of: &TextAttribute,
    values: &Values<TextMatch>,
    connection: &Connection<'_>,
    content: Content<'_>,
) -> bool {
    let (peer, request) = (connection.peer.as_ref(), content.request());
    let token = request.and_then(|request| request.token);
    match of {
        TextAttribute::Principal => one(values, peer.map(|peer| peer.principal.as_str())),
        TextAttribute::Namespace => one(values, peer.map(|peer| peer.namespace)),
        TextAttribute::ServiceAccount => one(values, peer.map(|peer| peer.service_account.as_str())),
        TextAttribute::TrustDomain => one(values, peer.map(|peer| peer.trust_domain)),
        TextAttribute::Method => one(values, request.map(|request| request.method)),
        TextAttribute::Path => one(values, request.map(|request| request.path.as_ref())),
        TextAttribute::Header(name) => one(
            values,
            request.and_then(|request| request.header(name)).as_deref(),
        ),
        TextAttribute::RequestPrincipal => one(values, token.and_then(Claims::principal)),
        TextAttribute::Presenter => one(values, token.and_then(Claims::presenter)),
        TextAttribute::Audience => admits(values, |wanted| {
            let audiences = token.map_or(&[][..], Claims::audiences);
            audiences.iter().any(|audience| matches(wanted, audience))
        }),
        TextAttribute::Claim(path) => admits(values, |wanted| {
            token.is_some_and(|token| token.any_text(path, |text| matches(wanted, text)))
        }),
        TextAttribute::Host => {
            let names = request.map(|request| &request.host);
            admits(values, |wanted| {
                names.is_some_and(|host| matches(wanted, host.name()) || matches(wanted, host.with_port()))
            })
        }
    }
}

fn one(values: &Values<TextMatch>, text: Option<&str>) -> bool {
    admits(values, |wanted| text.is_some_and(|text| matches(wanted, text)))
}

fn admits<T>(values: &Values<T>, mut is: impl FnMut(&T) -> bool) -> bool {
    (values.any.is_empty() || values.any.iter().any(&mut is)) && !values.none.iter().any(is)
}

fn matches(wanted: &TextMatch, text: &str) -> bool {
    match wanted {
        TextMatch::Exact(whole) => whole.as_ref() == text,
        TextMatch::Prefix(prefix) => text.starts_with(prefix.as_ref()),
        TextMatch::Suffix(suffix) => text.ends_with(suffix.as_ref()),
        TextMatch::Present => !text.is_empty(),
        TextMatch::Template(segments) => template(segments, text),
    }
}

/// Both must hold; a request cannot save what the connection has lost.
fn and(a: Match, b: Match) -> Match {
    match (a, b) {
        (Match::No, _) | (_, Match::No) => Match::No,
        (Match::NeedsRequest, _) | (_, Match::NeedsRequest) => Match::NeedsRequest,
        (Match::Yes, Match::Yes) => Match::Yes,
    }
}

fn or(a: Match, b: Match) -> Match {
    match (a, b) {
        (Match::Yes, _) | (_, Match::Yes) => Match::Yes,
        (Match::NeedsRequest, _) | (_, Match::NeedsRequest) => Match::NeedsRequest,
        (Match::No, Match::No) => Match::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_as_envoys_do() {
        let segments = |text: &str| -> Vec<Segment> {
            text.split('/')
                .map(|part| match part {
                    "{*}" => Segment::One,
                    "{**}" => Segment::Rest,
                    literal => Segment::Literal(literal.into()),
                })
                .collect()
        };
        for (pattern, path, expected) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}/bar", "/foo/x/bar", true),
            ("/foo/{*}/bar", "/foo/x/y/bar", false),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo/a/b", true),
            ("/foo/{**}", "/foo", false),
            ("/{**}/baz", "/a/b/baz", true),
            ("/{**}/baz", "/baz", false),
            ("/{**}/baz", "/a/bazz", false),
            ("/{*}/x/{**}", "/a/x/b/c", true),
            ("/{*}/x/{**}", "/x/b/c", false),
        ] {
            assert_eq!(template(&segments(pattern), path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_rule_without_conditions_matches_all() {
        let connection = Connection::new(None, [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 80);
        let empty = PolicyRule::default();
        assert_eq!(
            rule(&empty, &connection, Content::Pending, Doubt::Fails),
            Match::Yes
        );
    }
}
