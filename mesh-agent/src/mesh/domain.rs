//! The domain below which a cluster's Services have their names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A domain in lower case and without a dot at its end, for instance `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDomain(Arc<str>);

/// What is wrong with a cluster domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a domain is made of letters, digits and '-' between dots, for instance cluster.local")]
pub struct InvalidDomain;

impl ClusterDomain {
    /// What is between its dots.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl Default for ClusterDomain {
    /// That of nearly every cluster.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for ClusterDomain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > LONGEST || !text.split('.').all(is_label) {
            return Err(InvalidDomain);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for ClusterDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Leaves room for an endpoint, a Service and a namespace within the 255 bytes of a name.
const LONGEST: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_read_in_lower_case_and_without_its_last_dot() {
        for text in ["cluster.local", "Cluster.Local", "cluster.local."] {
            assert_eq!(text.parse(), Ok(ClusterDomain::default()), "{text}");
        }
        let long = ["abcdefghi"; 7].join(".");
        for text in ["", ".", "a..b", "-a.b", "a-.b", "a_b.c", "a b", "\u{e4}.b", &long] {
            assert_eq!(text.parse::<ClusterDomain>(), Err(InvalidDomain), "{text}");
        }
    }
}
