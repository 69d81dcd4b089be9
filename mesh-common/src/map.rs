//! Every map by name: what its size follows from, and the slot in which entries are counted for which it had no room.
//!
//! To add a map, add a line to the table. Must not know: keys, values, programs.

/// What the number of a map's entries follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The object file says it: nothing that grows lies in the map.
    Fixed,
    /// So many entries for each pod that may be enrolled.
    PerPod(u32),
    /// One entry for so many flows, but at least [`Size::LEAST`].
    PerFlows(u32),
}

impl Size {
    /// The fewest entries of a map that is sized by flows. Least-recently-used maps hand entries to each CPU by the
    /// dozen, so that a smaller one would evict what is still needed.
    pub const LEAST: u32 = 1024;

    /// The entries of a map of this size where `pods` may be enrolled with `flows` captured connections; `None` leaves
    /// it to the object file.
    pub const fn entries(self, pods: u32, flows: u32) -> Option<u32> {
        match self {
            Self::Fixed => None,
            Self::PerPod(each) => Some(pods.saturating_mul(each)),
            Self::PerFlows(share) => {
                let entries = flows / share;
                Some(if entries < Self::LEAST {
                    Self::LEAST
                } else {
                    entries
                })
            }
        }
    }
}

macro_rules! maps {
    ($($(#[$doc:meta])* $map:ident = $name:literal, $size:expr;)*) => {
        /// A map that the hooks and the agent share. A variant's place is its slot in `OVERFLOWS`: append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum MapName {
            $($(#[$doc])* $map,)*
        }

        impl MapName {
            /// How many maps there are.
            pub const COUNT: u32 = 0 $(+ { let _ = Self::$map; 1 })*;

            /// Every map, in the order of the slots.
            pub const ALL: &[Self] = &[$(Self::$map),*];

            /// Its name in the object file, in pins and in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$map => $name,)*
                }
            }

            /// What its size follows from.
            pub const fn size(self) -> Size {
                match self {
                    $(Self::$map => $size,)*
                }
            }
        }
    };
}

maps! {
    /// Enrolled pods.
    Pods = "PODS", Size::PerPod(1);
    /// Destinations between `connect` and the SYN.
    OriginalByCookie = "ORIGINAL_BY_COOKIE", Size::PerFlows(16);
    /// Destinations of living captured sockets.
    OriginalDst = "ORIGINAL_DST", Size::PerFlows(1);
    /// Destinations of closed captured sockets.
    OriginalOfClosed = "ORIGINAL_OF_CLOSED", Size::PerFlows(16);
    /// Clients behind connections that the agent delivers.
    TruePeer = "TRUE_PEER", Size::PerFlows(1);
    /// Inbound listeners: one for each address, at most two a pod.
    Inbound = "INBOUND", Size::PerPod(2);
    /// Addresses of enrolled pods.
    PodAddrs = "POD_ADDRS", Size::PerPod(2);
    /// Excluded ports of pods.
    ExcludedPorts = "EXCLUDED_PORTS", Size::PerPod(16);
    /// Excluded address blocks of pods.
    ExcludedBlocks = "EXCLUDED_BLOCKS", Size::PerPod(16);
    /// Excluded inbound ports of pods.
    ExcludedInbound = "EXCLUDED_INBOUND", Size::PerPod(16);
    /// Addresses from which the node's kubelet probes.
    NodeAddrs = "NODE_ADDRS", Size::Fixed;
    /// Ports of pods that probes name.
    ProbePorts = "PROBE_PORTS", Size::PerPod(16);
    /// What the hooks count.
    Counters = "COUNTERS", Size::Fixed;
    /// When the agent last said that it lives.
    Heartbeat = "HEARTBEAT", Size::Fixed;
    /// Bypassed connections of each pod.
    Bypassed = "BYPASSED", Size::PerPod(1);
    /// Entries that found no room, by map.
    Overflows = "OVERFLOWS", Size::Fixed;
    /// Connects that may go direct.
    Direct = "DIRECT", Size::Fixed;
    /// What was chosen for a direct connect, until its SYN.
    DirectByCookie = "DIRECT_BY_COOKIE", Size::PerFlows(16);
    /// Living direct flows.
    Flows = "FLOWS", Size::PerFlows(4);
    /// Direct flows that ended.
    ClosedFlows = "CLOSED_FLOWS", Size::Fixed;
    /// What of direct flows is in metrics.
    Counted = "COUNTED", Size::PerFlows(2);
    /// Sockets that may be spliced to.
    Splice = "SPLICE", Size::PerFlows(4);
    /// Sockets that may splice.
    Writers = "WRITERS", Size::PerFlows(4);
    /// What sockets read.
    Readers = "READERS", Size::PerFlows(4);
    /// How the sockets of an application are read.
    Habits = "HABITS", Size::PerFlows(16);
    /// Whether messages may be spliced.
    SpliceSwitch = "SPLICE_SWITCH", Size::Fixed;
    /// Pods whose DNS is captured.
    DnsPods = "DNS_PODS", Size::PerPod(1);
    /// Resolvers by in-pod DNS listener: eight for each address.
    Resolvers = "RESOLVERS", Size::PerPod(16);
}

impl MapName {
    /// Its slot in `OVERFLOWS`.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the number of a variant without fields")]
    pub const fn slot(self) -> u32 {
        self as u32
    }

    /// The map of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|map| map.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dense_and_names_are_found() {
        for (slot, map) in (0_u32..).zip(MapName::ALL) {
            assert_eq!((map.slot(), MapName::named(map.name())), (slot, Some(*map)));
        }
        assert_eq!(usize::try_from(MapName::COUNT), Ok(MapName::ALL.len()));
        assert_eq!(MapName::named("NOBODY"), None);
    }

    #[test]
    fn sizes_follow_from_pods_and_flows() {
        for (size, entries) in [
            (Size::Fixed, None),
            (Size::PerPod(2), Some(200)),
            (Size::PerFlows(1), Some(64_000)),
            (Size::PerFlows(16), Some(4_000)),
            (Size::PerFlows(64_000), Some(Size::LEAST)),
        ] {
            assert_eq!(size.entries(100, 64_000), entries, "{size:?}");
        }
        assert_eq!(Size::PerPod(2).entries(u32::MAX, 0), Some(u32::MAX));
    }
}
