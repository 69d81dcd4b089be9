//! Which endpoints are left out for their failures, for whoever looks at the agent.
//!
//! Place in the walk: none; the status page asks. Must not know: why they were ejected.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Snapshot;

/// An endpoint that gets no traffic of one upstream for a while.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ejected {
    /// `NAMESPACE/NAME` of the Service.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// The subset of its endpoints, if it is left out of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Where it would be dialled.
    pub endpoint: SocketAddr,
    /// `NAMESPACE/NAME` of the Pod behind it, if it is one.
    pub pod: Option<String>,
}

impl fmt::Display for Ejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        if let Some(subset) = &self.subset {
            write!(f, " subset {subset}")?;
        }
        write!(f, " {}", self.endpoint)?;
        match &self.pod {
            Some(pod) => write!(f, " ({pod})"),
            None => Ok(()),
        }
    }
}

impl Snapshot {
    /// The ejected endpoints of all upstreams, sorted.
    pub fn ejected(&self) -> Vec<Ejected> {
        let watched = self
            .upstreams()
            .filter(|upstream| upstream.breakers().vitals().ejected() > 0);
        let mut ejected: Vec<_> = watched
            .flat_map(|upstream| {
                let out = upstream.endpoints().iter().filter(|one| one.is_ejected());
                out.map(|endpoint| Ejected {
                    service: upstream.service.to_string(),
                    port: upstream.port,
                    subset: upstream.subset.as_deref().map(str::to_owned),
                    endpoint: endpoint.addr,
                    pod: endpoint
                        .workload
                        .as_ref()
                        .map(|pod| format!("{}/{}", pod.namespace, pod.pod_name)),
                })
            })
            .collect();
        ejected.sort();
        ejected
    }
}
