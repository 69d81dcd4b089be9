//! Annotations that take a pod's traffic out of the mesh.
//!
//! Place in the walk: read with the pod. Must not know: how traffic is captured.
//!
//! An annotation that is wrong is reported and ignored whole: the pod stays captured, since a typing error must not
//! open a hole.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::layout::AGENTS_PORTS;

use super::object::Object;
use crate::mesh::exclusions::{Cidr, Exclusions};
use crate::mesh::facts::Rejection;

/// What the annotations of a pod exclude.
pub(super) fn exclusions(
    object: &Object,
    annotations: Option<&BTreeMap<String, String>>,
    rejections: &mut Vec<Rejection>,
) -> Exclusions {
    let mut reading = Annotations {
        object,
        all: annotations,
        rejections,
    };
    Exclusions {
        outbound_ports: reading.list(OUTBOUND_PORTS, port),
        outbound_cidrs: reading.list(OUTBOUND_CIDRS, cidr),
        inbound_ports: reading.list(INBOUND_PORTS, application_port),
    }
}

struct Annotations<'a> {
    object: &'a Object,
    all: Option<&'a BTreeMap<String, String>>,
    rejections: &'a mut Vec<Rejection>,
}

impl Annotations<'_> {
    fn list<T: Ord>(&mut self, name: &str, read: fn(&str) -> Result<T, String>) -> BTreeSet<T> {
        let Some(written) = self.all.and_then(|all| all.get(name)) else {
            return BTreeSet::new();
        };
        items(written, read).unwrap_or_else(|reason| {
            let field = format!("metadata.annotations[{name}]");
            let reason = format!("{reason}; the annotation is ignored");
            self.rejections.push(self.object.reject(&field, reason));
            BTreeSet::new()
        })
    }
}

/// Items between commas, with blanks round them; an empty annotation excludes nothing.
fn items<T: Ord>(written: &str, read: fn(&str) -> Result<T, String>) -> Result<BTreeSet<T>, String> {
    if written.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    let count = written.split(',').count();
    if count > LIMIT {
        return Err(format!("{count} items; at most {LIMIT} are allowed"));
    }
    written
        .split(',')
        .map(str::trim)
        .map(|item| read(item).map_err(|reason| format!("{item:?}: {reason}")))
        .collect()
}

fn port(item: &str) -> Result<u16, String> {
    let is_number = !item.is_empty() && item.bytes().all(|b| b.is_ascii_digit());
    let number = item.parse().ok().filter(|port| *port != 0 && is_number);
    number.ok_or_else(|| "not a port between 1 and 65535".to_owned())
}

/// Nobody outside of the pod may ever reach the agent's listeners without being steered there.
fn application_port(item: &str) -> Result<u16, String> {
    let port = port(item)?;
    if AGENTS_PORTS.contains(&port) {
        return Err("this port of every pod is the agent's".to_owned());
    }
    Ok(port)
}

fn cidr(item: &str) -> Result<Cidr, String> {
    item.parse().map_err(|invalid| format!("{invalid}"))
}

const OUTBOUND_PORTS: &str = "mesh-agent.dev/exclude-outbound-ports";
const OUTBOUND_CIDRS: &str = "mesh-agent.dev/exclude-outbound-cidrs";
const INBOUND_PORTS: &str = "mesh-agent.dev/exclude-inbound-ports";
/// Of each annotation.
const LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_are_listed_with_commas() {
        for (written, expected) in [
            ("25", vec![25]),
            ("25,5432", vec![25, 5432]),
            (" 25 , 5432 ", vec![25, 5432]),
            ("25,25", vec![25]),
            ("1,65535", vec![1, 65535]),
            ("", vec![]),
            ("  ", vec![]),
        ] {
            assert_eq!(
                items(written, port),
                Ok(expected.into_iter().collect()),
                "{written:?}"
            );
        }
    }

    #[test]
    fn a_wrong_item_is_named() {
        for (written, named) in [
            ("0", "\"0\": not a port"),
            ("25,65536", "\"65536\": not a port"),
            ("25,", "\"\": not a port"),
            ("+25", "\"+25\": not a port"),
            ("smtp", "\"smtp\": not a port"),
            ("25;26", "\"25;26\": not a port"),
        ] {
            let reason = items(written, port).unwrap_err();
            assert!(reason.starts_with(named), "{written:?}: {reason}");
        }
        let reason = items("10.0.0.1/8", cidr).unwrap_err();
        assert!(reason.ends_with("write 10.0.0.0/8"), "{reason}");
    }

    #[test]
    fn more_items_than_allowed_are_refused() {
        let ports = |count: usize| {
            (1..=count)
                .map(|port| port.to_string())
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(items(&ports(64), port).unwrap().len(), 64);
        assert_eq!(
            items(&ports(65), port),
            Err("65 items; at most 64 are allowed".to_owned())
        );
    }

    #[test]
    fn the_agents_own_ports_are_not_an_applications() {
        for (item, is_allowed) in [
            ("15001", false),
            ("15002", false),
            ("15006", false),
            ("15007", false),
            ("15008", true),
        ] {
            assert_eq!(application_port(item).is_ok(), is_allowed, "{item}");
        }
    }

    proptest! {
        #[test]
        fn any_list_of_ports_reads_back(ports in proptest::collection::btree_set(1_u16.., 1..=LIMIT)) {
            let written = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(items(&written, port), Ok(ports));
        }

        #[test]
        fn no_text_makes_it_panic(written: String) {
            drop((items(&written, application_port), items(&written, cidr)));
        }
    }
}
