//! A mesh whose trust domain has several names: what a policy says of one of them it says of all.
//!
//! Place in the walk: used when a snapshot is built. Must not know: peers, certificates, which name is the newest.
//!
//! Istio widens principals in the same way when it generates configuration (`pkg/trustdomain`): the trust domain of a
//! pattern is replaced by each name of the mesh, a wildcard that is the whole of it stays as it is, and the trust domain
//! of another mesh is never touched.

use std::borrow::Cow;
use std::sync::Arc;

use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyRule, TextAttribute, TextMatch, Values,
};

/// `policies` with each pattern that names one of `names`, the trust domain of this mesh and its aliases, repeated for
/// all of them. Rules keep their order and number.
pub fn widened<'p>(
    policies: &'p [AuthorizationPolicy],
    names: &[Arc<str>],
) -> Cow<'p, [AuthorizationPolicy]> {
    if names.len() < 2 {
        return policies.into();
    }
    let mut policies = policies.to_owned();
    for rule in policies.iter_mut().flat_map(|policy| &mut policy.rules) {
        widen(rule, names);
    }
    policies.into()
}

fn widen(rule: &mut PolicyRule, names: &[Arc<str>]) {
    for condition in rule.from.iter_mut().flatten().chain(&mut rule.when) {
        if let Condition::Text { of, values } = condition
            && let Some(of_pattern) = widener(of)
        {
            widen_values(values, |pattern| of_pattern(pattern, names));
        }
    }
}

type Widener = fn(&TextMatch, &[Arc<str>]) -> Vec<TextMatch>;

fn widener(of: &TextAttribute) -> Option<Widener> {
    match of {
        TextAttribute::Principal => Some(principals),
        TextAttribute::TrustDomain => Some(trust_domains),
        TextAttribute::Namespace
        | TextAttribute::ServiceAccount
        | TextAttribute::Host
        | TextAttribute::Method
        | TextAttribute::Path
        | TextAttribute::Header(_)
        | TextAttribute::RequestPrincipal
        | TextAttribute::Audience
        | TextAttribute::Presenter
        | TextAttribute::Claim(_) => None,
    }
}

fn widen_values(values: &mut Values<TextMatch>, more: impl Fn(&TextMatch) -> Vec<TextMatch>) {
    for list in [&mut values.any, &mut values.none] {
        let added: Vec<_> = list.iter().flat_map(&more).collect();
        for pattern in added {
            if !list.contains(&pattern) {
                list.push(pattern);
            }
        }
    }
}

/// The same principals under the other names.
fn principals(pattern: &TextMatch, names: &[Arc<str>]) -> Vec<TextMatch> {
    match pattern {
        TextMatch::Exact(text) => under_all(text, names, TextMatch::Exact),
        TextMatch::Prefix(text) => under_all(text, names, TextMatch::Prefix),
        TextMatch::Suffix(text) => match text.split_once('/') {
            // `*-td/ns/…`: of a shorter suffix nobody can tell where the trust domain ends.
            Some((end, rest)) if rest.starts_with("ns/") && is_end_of_one(end, names) => {
                let others = names.iter().filter(|name| !name.ends_with(end));
                others
                    .map(|name| TextMatch::Exact(format!("{name}/{rest}").into()))
                    .collect()
            }
            Some(_) | None => Vec::new(),
        },
        TextMatch::Present | TextMatch::Template(_) => Vec::new(),
    }
}

fn under_all(text: &str, names: &[Arc<str>], pattern: fn(Arc<str>) -> TextMatch) -> Vec<TextMatch> {
    match text.split_once('/') {
        Some((domain, rest)) if names.iter().any(|name| **name == *domain) => names
            .iter()
            .map(|name| pattern(format!("{name}/{rest}").into()))
            .collect(),
        Some(_) | None => Vec::new(),
    }
}

/// All names, where one of them fits.
fn trust_domains(pattern: &TextMatch, names: &[Arc<str>]) -> Vec<TextMatch> {
    let fits = |name: &Arc<str>| match pattern {
        TextMatch::Exact(text) => name == text,
        TextMatch::Prefix(text) => !text.is_empty() && name.starts_with(text.as_ref()),
        TextMatch::Suffix(text) => is_end(text, name),
        TextMatch::Present | TextMatch::Template(_) => false,
    };
    if !names.iter().any(fits) {
        return Vec::new();
    }
    let others = names.iter().filter(|name| !fits(name));
    others.cloned().map(TextMatch::Exact).collect()
}

fn is_end_of_one(end: &str, names: &[Arc<str>]) -> bool {
    names.iter().any(|name| is_end(end, name))
}

fn is_end(end: &str, name: &str) -> bool {
    !end.is_empty() && name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pattern: &TextMatch) -> String {
        match pattern {
            TextMatch::Exact(text) => text.to_string(),
            TextMatch::Prefix(text) => format!("{text}*"),
            TextMatch::Suffix(text) => format!("*{text}"),
            TextMatch::Present => "*".to_owned(),
            TextMatch::Template(_) => "template".to_owned(),
        }
    }

    fn read(text: &str) -> TextMatch {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => TextMatch::Present,
            (Some(suffix), _) => TextMatch::Suffix(suffix.into()),
            (None, Some(prefix)) => TextMatch::Prefix(prefix.into()),
            (None, None) => TextMatch::Exact(text.into()),
        }
    }

    /// What becomes of one pattern, in both lists.
    fn widened_to(of: TextAttribute, text: &str) -> Vec<String> {
        let names = ["new-td", "old-td", "other"].map(Arc::from);
        let values = Values {
            any: vec![read(text)],
            none: vec![read(text)],
        };
        let mut rule = PolicyRule {
            from: vec![vec![Condition::Text { of, values }]],
            ..PolicyRule::default()
        };
        rule.when = rule.from.concat();
        widen(&mut rule, &names);
        assert_eq!(rule.from[0], rule.when);
        let Condition::Text { values, .. } = &rule.when[0] else {
            panic!("a condition changed its kind");
        };
        assert_eq!(values.any, values.none);
        values.any.iter().map(written).collect()
    }

    #[test]
    fn a_principal_of_one_name_is_one_of_all_and_no_other_changes() {
        for (text, more) in [
            ("old-td/ns/a/sa/b", &["new-td/ns/a/sa/b", "other/ns/a/sa/b"][..]),
            ("new-td/ns/a/*", &["old-td/ns/a/*", "other/ns/a/*"]),
            ("other/*", &["new-td/*", "old-td/*"]),
            ("*-td/ns/a/sa/b", &["other/ns/a/sa/b"]),
            ("*/ns/a/sa/b", &[]),
            ("*a/sa/b", &[]),
            ("foreign/ns/a/sa/b", &[]),
            ("*eign/ns/a/sa/b", &[]),
            ("ol*", &[]),
            ("*", &[]),
        ] {
            let mut found = widened_to(TextAttribute::Principal, text);
            assert_eq!(found.remove(0), text);
            assert_eq!(found, more, "{text}");
        }
    }

    #[test]
    fn a_trust_domain_of_one_name_is_all_of_them() {
        for (text, more) in [
            ("old-td", &["new-td", "other"][..]),
            ("*-td", &["other"]),
            ("ol*", &["new-td", "other"]),
            ("foreign", &[]),
            ("*", &[]),
        ] {
            let mut found = widened_to(TextAttribute::TrustDomain, text);
            assert_eq!(found.remove(0), text);
            assert_eq!(found, more, "{text}");
        }
    }

    #[test]
    fn names_without_a_trust_domain_stay_as_they_are() {
        for of in [TextAttribute::Namespace, TextAttribute::ServiceAccount] {
            assert_eq!(widened_to(of, "old-td"), ["old-td"]);
        }
    }
}
