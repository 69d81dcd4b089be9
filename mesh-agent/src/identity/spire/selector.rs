//! By which selectors SPIRE is asked for a workload: templates, filled in with the workload's identity.

use std::fmt;
use std::str::FromStr;

use super::messages::Selector;
use crate::mesh::identity::SpiffeId;

/// Selectors with `{namespace}`, `{service_account}` and `{trust_domain}` in place of an identity's parts.
///
/// Written as `TYPE:VALUE` with commas between, for instance `k8s:ns:{namespace},k8s:sa:{service_account}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorTemplates(Vec<Template>);

/// Why a text is no [`SelectorTemplates`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelectors {
    /// There is none in it.
    #[error("there is no selector")]
    Empty,
    /// Without type or value.
    #[error("{0:?} is not TYPE:VALUE")]
    Form(String),
    /// A brace that belongs to no placeholder.
    #[error("{0:?} has a brace that is not {{namespace}}, {{service_account}} or {{trust_domain}}")]
    Placeholder(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    kind: String,
    value: String,
}

impl SelectorTemplates {
    /// The selectors of one workload.
    pub(super) fn of(&self, identity: &SpiffeId) -> Vec<Selector> {
        let filled = |template: &Template| Selector {
            kind: template.kind.clone(),
            value: template
                .value
                .replace(NAMESPACE, identity.namespace())
                .replace(SERVICE_ACCOUNT, identity.service_account())
                .replace(TRUST_DOMAIN, identity.trust_domain()),
        };
        self.0.iter().map(filled).collect()
    }
}

impl FromStr for SelectorTemplates {
    type Err = InvalidSelectors;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let templates = words.map(template).collect::<Result<Vec<_>, _>>()?;
        if templates.is_empty() {
            return Err(InvalidSelectors::Empty);
        }
        Ok(Self(templates))
    }
}

impl fmt::Display for SelectorTemplates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self
            .0
            .iter()
            .map(|template| format!("{}:{}", template.kind, template.value));
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

/// A value may hold colons, a type may not.
fn template(word: &str) -> Result<Template, InvalidSelectors> {
    let (kind, value) = word
        .split_once(':')
        .filter(|(kind, value)| !kind.is_empty() && !value.is_empty())
        .ok_or_else(|| InvalidSelectors::Form(word.to_owned()))?;
    let known = [NAMESPACE, SERVICE_ACCOUNT, TRUST_DOMAIN];
    let rest = known.iter().fold(value.to_owned(), |rest, placeholder| {
        rest.replace(placeholder, "")
    });
    if rest.contains(['{', '}']) || kind.contains(['{', '}']) {
        return Err(InvalidSelectors::Placeholder(word.to_owned()));
    }
    Ok(Template {
        kind: kind.to_owned(),
        value: value.to_owned(),
    })
}

const NAMESPACE: &str = "{namespace}";
const SERVICE_ACCOUNT: &str = "{service_account}";
const TRUST_DOMAIN: &str = "{trust_domain}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_with_the_parts_of_an_identity() {
        let templates: SelectorTemplates =
            "k8s:ns:{namespace}, k8s:sa:{service_account},x:{trust_domain}/{namespace}"
                .parse()
                .unwrap();
        let identity = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let filled: Vec<_> = templates.of(&identity).iter().map(ToString::to_string).collect();
        assert_eq!(filled, ["k8s:ns:shop", "k8s:sa:web", "x:td/shop"]);
    }

    #[test]
    fn what_is_no_selector_is_refused_by_name() {
        for (text, part) in [
            ("", "no selector"),
            (" , ", "no selector"),
            ("k8s", "\"k8s\""),
            (":ns", "TYPE:VALUE"),
            ("k8s:", "TYPE:VALUE"),
            ("k8s:ns:{pod}", "{namespace}"),
            ("k8s:ns:{namespace", "brace"),
            ("{namespace}:x", "brace"),
        ] {
            let error = text.parse::<SelectorTemplates>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
