//! The address plan: which subnets nodes, pods and Services have, and what is still free in them.
//!
//! Pure. It must not know what is done with an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::input::{Content, Input};
use crate::kubelet::pod_ips;
use crate::manifest::text_at;

/// The number of a node, from 1: it is the third part of its subnets.
pub fn node_index(input: &Input, node: &str) -> Option<u8> {
    let position = input.lab.nodes.iter().position(|one| one == node)?;
    u8::try_from(position + 1).ok()
}

/// An address in a node's IPv4 pod subnet `10.244.N.0/24`; host 1 is the gateway.
pub fn node_ipv4(node_index: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node_index, host)
}

/// An address in a node's IPv6 pod subnet `fd00:244:N::/64`; host 1 is the gateway.
pub fn node_ipv6(node_index: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, node_index.into(), 0, 0, 0, 0, host.into())
}

/// A node's own IPv4 address on the wire between nodes, `172.31.0.N/24`.
pub fn fabric_ipv4(node_index: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 0, node_index)
}

/// A node's own IPv6 address on the wire between nodes, `fd00:172::N/64`.
pub fn fabric_ipv6(node_index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x172, 0, 0, 0, 0, 0, node_index.into())
}

/// Addresses that are still free.
#[derive(Debug, Default)]
pub struct Addresses {
    taken: BTreeSet<IpAddr>,
    last_host: BTreeMap<u8, u8>,
    last_service: u8,
}

impl Addresses {
    /// Addresses that no manifest gives itself.
    pub fn taken_in(input: &Input) -> Self {
        let mut taken = BTreeSet::new();
        for file in &input.manifests {
            let Content::Documents(documents) = &file.content else {
                continue;
            };
            for document in documents {
                taken.extend(pod_ips(document));
                let listed = document
                    .pointer("/spec/clusterIPs")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten();
                let all = listed
                    .filter_map(Value::as_str)
                    .chain(text_at(document, "/spec/clusterIP"));
                taken.extend(all.filter_map(|ip| ip.parse::<IpAddr>().ok()));
            }
        }
        Self {
            taken,
            last_host: BTreeMap::new(),
            last_service: 9,
        }
    }

    /// The next free host number on a node.
    pub fn next_host(&mut self, node_index: u8) -> Result<u8> {
        let last = self.last_host.entry(node_index).or_insert(9);
        loop {
            *last = last
                .checked_add(1)
                .filter(|host| *host < 255)
                .context("a node has no pod address left")?;
            let (v4, v6) = (node_ipv4(node_index, *last), node_ipv6(node_index, *last));
            if !self.taken.contains(&v4.into()) && !self.taken.contains(&v6.into()) {
                return Ok(*last);
            }
        }
    }

    /// The next free Service addresses, one a family.
    pub fn next_service(&mut self, families: &[&str]) -> Result<Vec<IpAddr>> {
        loop {
            self.last_service = self
                .last_service
                .checked_add(1)
                .context("no Service address is left")?;
            let v4 = IpAddr::V4(Ipv4Addr::new(10, 96, 0, self.last_service));
            let v6 = IpAddr::V6(Ipv6Addr::new(
                0xfd00,
                0x96,
                0,
                0,
                0,
                0,
                0,
                self.last_service.into(),
            ));
            if !self.taken.contains(&v4) && !self.taken.contains(&v6) {
                return Ok(families
                    .iter()
                    .map(|family| if *family == "IPv6" { v6 } else { v4 })
                    .collect());
            }
        }
    }
}
