//! The API server of a cluster: whom the CA signs for, and where its root may lie.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;

use crate::ca::kubernetes::{
    self, Account, ClusterPods, PublishedRoots, RootSecret, SecretName, TokenReviewer,
};
use crate::ca::{Authenticator, KeyFiles, Keys, NodePods};
use crate::config::{CaConfig, ClusterFacts};
use crate::lifecycle::{ReadyGuard, Tasks};
use crate::telemetry::CaMetrics;

/// A client that was told how to reach the API server, and all that asks through it.
pub(super) struct Cluster {
    client: Client,
    reviewer: Arc<TokenReviewer>,
    pods: Arc<ClusterPods>,
    root: Option<RootSecret>,
    shown_in: Option<SecretName>,
}

impl Cluster {
    /// Asks the API server only where the root lies there.
    pub(super) async fn open(config: &CaConfig, facts: &ClusterFacts) -> anyhow::Result<Self> {
        let agents = facts.agent_accounts.iter().map(|account| account.parse());
        let agents: BTreeSet<Account> = agents.collect::<Result<_, _>>().context("--agent-accounts")?;
        let client = kubernetes::connect(facts.kubeconfig.as_deref()).await?;
        let root = match &config.root_secret {
            None => None,
            Some(secret) => {
                let name: SecretName = secret.name.parse().context("--root-secret")?;
                let make = secret.make.then_some(config.trust_domain.as_str());
                Some(RootSecret::obtain(client.clone(), name, make).await?)
            }
        };
        let shown_in = facts.roots_configmap.as_deref().map(str::parse).transpose();
        let audience = facts.token_audience.clone();
        Ok(Self {
            reviewer: Arc::new(TokenReviewer::new(client.clone(), audience, agents)),
            pods: Arc::new(ClusterPods::new(&config.trust_domain)),
            client,
            root,
            shown_in: shown_in.context("--roots-configmap")?,
        })
    }

    /// The Secret with the root; none where the root lies in files.
    pub(super) fn key_files(&self) -> Option<KeyFiles> {
        self.root.as_ref().map(|root| KeyFiles::Secret(root.files()))
    }

    pub(super) fn authenticator(&self) -> Arc<dyn Authenticator> {
        Arc::<TokenReviewer>::clone(&self.reviewer)
    }

    pub(super) fn pods(&self) -> Arc<dyn NodePods> {
        Arc::<ClusterPods>::clone(&self.pods)
    }

    /// `keys` are those that the service signs by.
    pub(super) fn run(self, tasks: &Tasks, metrics: &CaMetrics, first: ReadyGuard, keys: Arc<Keys>) {
        if let Some(name) = self.shown_in {
            let shown = PublishedRoots::new(self.client.clone(), name, keys);
            tasks.spawn("ca-shown-roots", shown.follow(tasks.stop()));
        }
        let pods = self
            .pods
            .follow(self.client, metrics.clone(), first, tasks.stop());
        tasks.spawn("ca-pods", pods);
        if let Some(root) = self.root {
            tasks.spawn("ca-root", root.follow(tasks.stop()));
        }
    }
}
