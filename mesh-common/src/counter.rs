//! What the hooks count, each a slot of the per-CPU array `COUNTERS`.

/// An event that a hook counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A connect was sent to the agent.
    Captured,
    /// A connect was left alone: loopback, link-local, multicast or the pod itself.
    LeftAlone,
    /// A connect was refused: no address of the family, the agent's own port, or a namespace that is not the pod's.
    Refused,
    /// A destination could not be filed: the connect was refused, or the agent will refuse it.
    Lost,
    /// An inbound connection was steered to the agent.
    Steered,
    /// An inbound connection was dropped: the agent does not listen, or the address has no policy.
    Dropped,
    /// A connection of a pod that fails open went past a dead agent.
    Bypassed,
    /// A connect was left alone because the pod's annotations exclude its port or address.
    ExcludedOutbound,
    /// An inbound connection was left to the application because the pod's annotations exclude its port.
    ExcludedInbound,
    /// A connection of the pod's own node to a port that a probe names was left to the application.
    Probe,
    /// A connect went direct: to another pod of this node, past the agent.
    Direct,
    /// An inbound connection was left to the application because it is a registered direct flow.
    PassedDirect,
    /// A connection that a verdict lets go direct could not be remembered: the agent has it, or refuses it.
    DirectLost,
    /// A direct flow ended and could not be reported: its last bytes are in no metric.
    Unreported,
    /// A DNS socket or datagram was sent to the agent.
    DnsCaptured,
    /// DNS went past the agent: the pod asks more resolvers than there are listeners.
    DnsPassed,
}

impl Counter {
    /// Every counter, in the order of the slots.
    pub const ALL: [Self; 16] = [
        Self::Captured,
        Self::LeftAlone,
        Self::Refused,
        Self::Lost,
        Self::Steered,
        Self::Dropped,
        Self::ExcludedOutbound,
        Self::ExcludedInbound,
        Self::Bypassed,
        Self::Probe,
        Self::Direct,
        Self::PassedDirect,
        Self::DirectLost,
        Self::Unreported,
        Self::DnsCaptured,
        Self::DnsPassed,
    ];

    /// Its slot in the array.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        match self {
            Self::Captured => 0,
            Self::LeftAlone => 1,
            Self::Refused => 2,
            Self::Lost => 3,
            Self::Steered => 4,
            Self::Dropped => 5,
            Self::ExcludedOutbound => 6,
            Self::ExcludedInbound => 7,
            Self::Bypassed => 8,
            Self::Probe => 9,
            Self::Direct => 10,
            Self::PassedDirect => 11,
            Self::DirectLost => 12,
            Self::Unreported => 13,
            Self::DnsCaptured => 14,
            Self::DnsPassed => 15,
        }
    }

    /// How `status` and metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::LeftAlone => "left_alone",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Steered => "steered",
            Self::Dropped => "dropped",
            Self::Bypassed => "bypassed",
            Self::ExcludedOutbound => "excluded_outbound",
            Self::ExcludedInbound => "excluded_inbound",
            Self::Probe => "probe",
            Self::Direct => "direct",
            Self::PassedDirect => "passed_direct",
            Self::DirectLost => "direct_lost",
            Self::Unreported => "unreported",
            Self::DnsCaptured => "dns_captured",
            Self::DnsPassed => "dns_passed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn slots_are_dense_and_in_order() {
        for (slot, counter) in (0_u32..).zip(Counter::ALL) {
            assert_eq!(counter.slot(), slot);
        }
    }
}
