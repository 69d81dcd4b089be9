//! How much the maps hold, and what they had no room for.
//!
//! Must not know: what lies in a map.

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_common::map::MapName;

use crate::kernel::error::KernelError;

/// The two numbers that all maps are sized by ([`mesh_common::map`] says how).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Pods of this node that may be enrolled at a time.
    pub pods: u32,
    /// Connections of them that may be captured at a time, in each direction.
    pub flows: u32,
}

impl Capacity {
    /// The entries of a map; `None` leaves it to the object file.
    pub fn entries(&self, map: MapName) -> Option<u32> {
        map.size().entries(self.pods, self.flows)
    }

    /// The entries of a map that grows with pods or flows; none of another.
    pub(in crate::kernel) fn most(self, map: MapName) -> usize {
        let entries = self
            .entries(map)
            .and_then(|entries| usize::try_from(entries).ok());
        entries.unwrap_or_default()
    }
}

impl Default for Capacity {
    /// As the settings are when nobody gives them.
    fn default() -> Self {
        Self {
            pods: 4096,
            flows: 262_144,
        }
    }
}

/// Counts the agent's own entries that found no room; the hooks count theirs in the map `OVERFLOWS`.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Overflows([AtomicU64; SLOTS]);

impl Overflows {
    /// Counts an outcome if it says that a map is full, and passes it on.
    pub(in crate::kernel) fn noted<T>(&self, outcome: Result<T, KernelError>) -> Result<T, KernelError> {
        if let Err(KernelError::Full { map, .. }) = &outcome {
            self.add(*map);
        }
        outcome
    }

    /// Counts one entry for which `map` had no room.
    pub(in crate::kernel) fn add(&self, map: MapName) {
        if let Some(count) = self.of(map) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted for a map.
    pub(in crate::kernel) fn count(&self, map: MapName) -> u64 {
        self.of(map).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn of(&self, map: MapName) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(map.slot()).ok()?)
    }
}

const SLOTS: usize = MapName::ALL.len();

#[cfg(test)]
mod tests {
    use mesh_common::counter::Counter;
    use mesh_common::map::Size;

    use super::*;

    #[test]
    fn the_defaults_are_what_the_documents_say() {
        let entries = |map| Capacity::default().entries(map);
        for (map, expected) in [
            (MapName::Pods, Some(4096)),
            (MapName::PodAddrs, Some(8192)),
            (MapName::ExcludedPorts, Some(65_536)),
            (MapName::OriginalDst, Some(262_144)),
            (MapName::OriginalOfClosed, Some(16_384)),
            (MapName::Counters, None),
        ] {
            assert_eq!(entries(map), expected, "{map:?}");
        }
    }

    #[test]
    fn only_a_full_map_is_counted_and_only_for_itself() {
        let overflows = Overflows::default();
        let full = KernelError::Full {
            map: MapName::Pods,
            cure: "raise max_pods",
        };
        assert!(overflows.noted::<()>(Err(full)).is_err());
        assert!(overflows.noted::<()>(Err(KernelError::Vanished)).is_err());
        assert_eq!(overflows.noted(Ok(7)).unwrap(), 7);
        let counts = MapName::ALL.iter().map(|map| overflows.count(*map));
        assert_eq!(counts.sum::<u64>(), 1);
        assert_eq!(overflows.count(MapName::Pods), 1);
    }
    /// The declarations of the kernel side: name, what its comment says in one line, and the size without settings.
    fn declared() -> Vec<(&'static str, String, &'static str)> {
        let source = concat!(
            include_str!("../../../mesh-ebpf/src/maps.rs"),
            include_str!("../../../mesh-ebpf/src/pipes.rs"),
            include_str!("../../../mesh-ebpf/src/resolvers.rs")
        );
        let parts: Vec<&str> = source.split("#[map]\nstatic ").collect();
        let pairs = parts.iter().zip(parts.iter().skip(1));
        pairs
            .map(|(before, after)| {
                let lines: Vec<&str> = before
                    .lines()
                    .rev()
                    .map_while(|line| line.strip_prefix("///"))
                    .collect();
                let comment = lines
                    .iter()
                    .rev()
                    .map(|line| line.trim())
                    .collect::<Vec<_>>()
                    .join(" ");
                let (name, rest) = after.split_once(':').unwrap();
                // A ring buffer is made with a size in bytes.
                let (_, size) = rest.split_once("::with_").unwrap();
                let (_, size) = size.split_once('(').unwrap();
                (name, comment, size.split([',', ')']).next().unwrap())
            })
            .collect()
    }

    #[test]
    fn every_map_says_writer_reader_size_eviction_and_what_happens_when_it_is_full() {
        let declared = declared();
        for (name, comment, literal) in &declared {
            let map = MapName::named(name).unwrap_or_else(|| panic!("{name} is not in mesh_common::map"));
            for part in ["Writer: ", "Reader: ", "Evicts: ", "Full: "] {
                assert!(comment.contains(part), "{name} does not say {part}");
            }
            let size = match map.size() {
                Size::Fixed => "Size: fixed, ".to_owned(),
                Size::PerPod(1) => "Size: `max_pods`. ".to_owned(),
                Size::PerPod(each) => format!("Size: `max_pods` * {each}. "),
                Size::PerFlows(1) => "Size: `max_flows`. ".to_owned(),
                Size::PerFlows(share) => format!("Size: `max_flows` / {share}. "),
            };
            assert!(comment.contains(&size), "{name} does not say {size}");
            if let Some(entries) = Capacity::default().entries(map) {
                assert_eq!(literal.replace('_', "").parse(), Ok(entries), "{name}");
            }
        }
        assert_eq!(declared.len(), MapName::ALL.len());
        let counters = declared.iter().find(|one| one.0 == "COUNTERS").unwrap();
        assert_eq!(
            counters.2.parse(),
            Ok(Counter::ALL.len()),
            "a slot for each counter"
        );
    }

    #[test]
    fn the_architecture_names_every_map() {
        let text = include_str!("../../../ARCHITECTURE.md");
        for map in MapName::ALL {
            assert!(text.contains(&format!("`{}`", map.name())), "{}", map.name());
        }
    }
}
