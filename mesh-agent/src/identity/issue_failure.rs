//! Why there was no certificate, as one word of a closed set: for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why an attempt to get a certificate failed, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IssueFailure {
    /// The issuer does not sign for this trust domain.
    TrustDomain,
    /// The agent could not make a key, or the embedded CA could not sign.
    Sign,
    /// What was issued cannot be read, or is no X509-SVID of a workload.
    Malformed,
    /// What was issued is for somebody else.
    OtherIdentity,
    /// The certificate does not fit its key, or ends in no root that is trusted.
    Tls,
    /// There was no answer in time.
    Timeout,
    /// SPIRE cannot be reached, or the connection broke.
    Unreachable,
    /// SPIRE does not accept the agent as a delegate.
    Denied,
    /// SPIRE has no registration entry that matches.
    NoEntry,
    /// SPIRE has no usable bundle for the trust domain.
    NoBundle,
    /// Another issuer could not be reached or refused; the log and `status` say why.
    Failed,
}

impl IssueFailure {
    const ALL: [Self; 11] = [
        Self::TrustDomain,
        Self::Sign,
        Self::Malformed,
        Self::OtherIdentity,
        Self::Tls,
        Self::Timeout,
        Self::Unreachable,
        Self::Denied,
        Self::NoEntry,
        Self::NoBundle,
        Self::Failed,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrustDomain => "trust_domain",
            Self::Sign => "sign",
            Self::Malformed => "malformed",
            Self::OtherIdentity => "other_identity",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::NoEntry => "no_entry",
            Self::NoBundle => "no_bundle",
            Self::Failed => "failed",
        }
    }
}

/// Failed attempts, counted by reason.
#[derive(Debug, Default)]
pub(super) struct IssueFailures([AtomicU64; IssueFailure::ALL.len()]);

impl IssueFailures {
    pub(super) fn count(&self, failure: IssueFailure) {
        for (known, count) in IssueFailure::ALL.iter().zip(&self.0) {
            if *known == failure {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.by_reason().iter().map(|(_, count)| count).sum()
    }

    /// All reasons, those that never came too.
    pub(super) fn by_reason(&self) -> Vec<(IssueFailure, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        IssueFailure::ALL.into_iter().zip(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself_and_has_its_own_word() {
        let failures = IssueFailures::default();
        for failure in IssueFailure::ALL {
            failures.count(failure);
        }
        assert!(failures.by_reason().iter().all(|(_, count)| *count == 1));
        assert_eq!(failures.total(), 11);
        let words: HashSet<_> = IssueFailure::ALL.map(IssueFailure::as_str).into();
        assert_eq!(words.len(), IssueFailure::ALL.len());
    }
}
