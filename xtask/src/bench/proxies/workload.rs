//! What is compared: a load, by way of one proxy or two, and the figure by which the two sides are judged.
//!
//! It must not know whose proxies they are.

use crate::bench::proxies::load::Load;

/// One thing to compare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    /// Its key in the report, and its name on the command line.
    pub(crate) key: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// The way that requests take.
    pub(crate) hops: Hops,
    /// What is done.
    pub(crate) work: Work,
    /// How many blocks `--quick` takes.
    pub(crate) quick_blocks: usize,
}

/// How many proxies are between a client and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hops {
    /// One, on the node of both.
    One,
    /// Two, one beside each, and mutual TLS from node to node between them.
    Two,
}

/// What is done on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Requests, as many as go.
    Requests(Load),
    /// Connections that do nothing after a first request.
    Idle,
}

/// What the ratio of a workload is one of. Less is better for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Processor time a request of client, proxies, server and the kernel's own threads.
    WholePath,
    /// Processor time a request of the proxies alone.
    Proxies,
    /// User memory of the proxies for each connection.
    Memory,
}

impl Workload {
    /// With one proxy a splice or a shortcut moves cost into client and server, so all is counted; with two proxies it is
    /// theirs that people pay for.
    pub(crate) fn figure(&self) -> Figure {
        match (self.work, self.hops) {
            (Work::Idle, _) => Figure::Memory,
            (Work::Requests(_), Hops::One) => Figure::WholePath,
            (Work::Requests(_), Hops::Two) => Figure::Proxies,
        }
    }
}

impl Figure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::WholePath => "whole-path CPU a request",
            Self::Proxies => "proxy CPU a request",
            Self::Memory => "user memory a connection",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::WholePath | Self::Proxies => "µs",
            Self::Memory => "KiB",
        }
    }
}

/// All of them. W5 and W6, bulk and round trips, are of `bench fastpath`.
pub(crate) const WORKLOADS: [Workload; 8] = [
    Workload {
        key: "W1",
        title: "HTTP/1.1, 64 connections kept alive, same node",
        hops: Hops::One,
        work: Work::Requests(Load::KeepAlive),
        quick_blocks: 2,
    },
    Workload {
        key: "W2",
        title: "HTTP/2, 8 connections of 16 streams, same node",
        hops: Hops::One,
        work: Work::Requests(Load::Streams),
        quick_blocks: 1,
    },
    Workload {
        key: "W2-cross",
        title: "HTTP/2, 8 connections of 16 streams, mutual TLS between nodes",
        hops: Hops::Two,
        work: Work::Requests(Load::Streams),
        quick_blocks: 1,
    },
    Workload {
        key: "W3",
        title: "HTTP/1.1, 64 connections kept alive, mutual TLS between nodes",
        hops: Hops::Two,
        work: Work::Requests(Load::KeepAlive),
        quick_blocks: 2,
    },
    Workload {
        key: "W4",
        title: "HTTP/1.1, a connection for each request, same node",
        hops: Hops::One,
        work: Work::Requests(Load::Connections),
        quick_blocks: 1,
    },
    Workload {
        key: "W4-cross",
        title: "HTTP/1.1, a connection for each request, mutual TLS between nodes",
        hops: Hops::Two,
        work: Work::Requests(Load::Connections),
        quick_blocks: 1,
    },
    Workload {
        key: "W7",
        title: "1,500 to 3,500 idle connections after one request each, same node",
        hops: Hops::One,
        work: Work::Idle,
        quick_blocks: 1,
    },
    Workload {
        key: "W7-cross",
        title: "1,500 to 3,500 idle connections after one request each, between nodes",
        hops: Hops::Two,
        work: Work::Idle,
        quick_blocks: 1,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_workload_has_a_key_of_its_own() {
        let keys: BTreeSet<_> = WORKLOADS.iter().map(|workload| workload.key).collect();
        assert_eq!(keys.len(), WORKLOADS.len());
    }
}
