//! Node tokens and manifests of this machine: whom the CA signs for where there is no API server.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::each_second;
use crate::ca::{Authenticator, NodeName, NodePods, NodeTokens, PodsUnknown, TokensError};
use crate::control::file::FileSource;
use crate::control::{Reading, Source as _};
use crate::identity::error_chain;
use crate::lifecycle::{ReadyGuard, Stop, Tasks};
use crate::mesh::facts::Facts;
use crate::mesh::identity::SpiffeId;
use crate::telemetry::CaMetrics;

/// Tokens that were read, and manifests that will be.
pub(super) struct Files {
    tokens: Arc<NodeTokens>,
    pods: Arc<PodIndex>,
    source: FileSource,
}

impl Files {
    pub(super) fn open(tokens: &Path, manifests: &Path, trust_domain: &str) -> Result<Self, TokensError> {
        Ok(Self {
            tokens: Arc::new(NodeTokens::open(tokens.to_owned())?),
            pods: Arc::default(),
            source: FileSource::new(manifests.to_owned(), trust_domain),
        })
    }

    pub(super) fn authenticator(&self) -> Arc<dyn Authenticator> {
        Arc::<NodeTokens>::clone(&self.tokens)
    }

    pub(super) fn pods(&self) -> Arc<dyn NodePods> {
        Arc::<PodIndex>::clone(&self.pods)
    }

    pub(super) fn run(self, tasks: &Tasks, metrics: &CaMetrics, first: ReadyGuard) {
        let pods = follow_pods(self.source, self.pods, metrics.clone(), first, tasks.stop());
        tasks.spawn("ca-pods", pods);
        let tokens = follow_tokens(self.tokens, metrics.clone(), tasks.stop());
        tasks.spawn("ca-tokens", tokens);
    }
}

/// Which identities each node may ask for: those of the mesh's pods that run there. None before the first reading.
#[derive(Default)]
struct PodIndex(ArcSwapOption<HashSet<(NodeName, SpiffeId)>>);

impl PodIndex {
    fn learn(&self, facts: &Facts) -> usize {
        let runs = facts
            .workloads
            .iter()
            .filter(|pod| pod.is_enrolled() && !pod.node.is_empty())
            .map(|pod| (NodeName::new(&pod.node), pod.identity.clone()));
        let runs: HashSet<_> = runs.collect();
        let count = runs.len();
        self.0.store(Some(runs.into()));
        count
    }
}

impl NodePods for PodIndex {
    fn runs(&self, node: &NodeName, identity: &SpiffeId) -> Result<bool, PodsUnknown> {
        let known = self.0.load();
        let known = known.as_ref().ok_or(PodsUnknown)?;
        Ok(known.contains(&(node.clone(), identity.clone())))
    }
}

impl fmt::Debug for PodIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.load().as_ref().map(|known| known.len());
        write!(f, "PodIndex({count:?})")
    }
}

async fn follow_pods(
    mut source: FileSource,
    pods: Arc<PodIndex>,
    metrics: CaMetrics,
    first: ReadyGuard,
    stop: Stop,
) {
    let mut first = Some(first);
    loop {
        let reading = tokio::select! {
            () = stop.requested() => return,
            reading = source.next_reading() => reading,
        };
        match reading {
            Ok(Reading { facts, .. }) => {
                let identities = pods.learn(&facts);
                metrics.identities(identities);
                tracing::info!(identities, "new configuration");
                first = None;
            }
            Err(error) => tracing::error!(
                error = error_chain(&error),
                is_first = first.is_some(),
                "manifests cannot be read; the last ones stay in force"
            ),
        }
    }
}

async fn follow_tokens(tokens: Arc<NodeTokens>, metrics: CaMetrics, stop: Stop) {
    let mut tick = each_second();
    let mut complaint = None;
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {}
        }
        let said = tokens.reload().err().map(|error| error_chain(&error));
        if said != complaint {
            metrics.reloaded(said.is_none());
            if let Some(error) = &said {
                tracing::error!(error, "the last node tokens stay in force");
            } else {
                tracing::info!("node tokens can be read again");
            }
            complaint = said;
        }
    }
}
