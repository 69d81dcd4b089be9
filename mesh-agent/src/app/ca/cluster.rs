//! The API server of a cluster: whom the CA signs for, where its root may lie, and which CA writes status.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use uuid::Uuid;

use crate::ca::election::{Candidate, Terms};
use crate::ca::kubernetes::{
    self, Account, ClusterLease, ClusterPods, PublishedRoots, RootSecret, SecretName, TokenReviewer,
};
use crate::ca::{Authenticator, KeyFiles, Keys, NodePods};
use crate::config::{CaConfig, ClusterFacts, ElectionConfig};
use crate::control::statuses::{StatusWriter, WriterStanding};
use crate::lifecycle::{ReadyGuard, Tasks};
use crate::snapshot::SnapshotSettings;
use crate::telemetry::CaMetrics;

/// A client that was told how to reach the API server, and all that asks through it.
pub(super) struct Cluster {
    client: Client,
    reviewer: Arc<TokenReviewer>,
    pods: Arc<ClusterPods>,
    root: Option<RootSecret>,
    shown_in: Option<SecretName>,
    election: Option<Election>,
}

/// How the one that writes status is elected, and what it has to know.
struct Election {
    lease: SecretName,
    terms: Terms,
    settings: SnapshotSettings,
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
        let election = facts.election.as_ref();
        let election = election.map(|settings| Election::of(settings, &config.trust_domain));
        let audience = facts.token_audience.clone();
        let pods = Arc::new(ClusterPods::new(&config.trust_domain, agents.clone()));
        let reviewer = TokenReviewer::new(client.clone(), audience, agents, Arc::clone(&pods));
        Ok(Self {
            reviewer: Arc::new(reviewer),
            pods,
            client,
            root,
            shown_in: shown_in.context("--roots-configmap")?,
            election: election.transpose()?,
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

    /// `keys` are those that the service signs by. How the writing of status stands, if it may write.
    pub(super) fn run(
        self,
        tasks: &Tasks,
        metrics: &CaMetrics,
        first: ReadyGuard,
        keys: Arc<Keys>,
    ) -> Option<WriterStanding> {
        if let Some(name) = self.shown_in {
            let shown = PublishedRoots::new(self.client.clone(), name, keys);
            tasks.spawn("ca-shown-roots", shown.follow(tasks.stop()));
        }
        let client = &self.client;
        let standing = self
            .election
            .map(|election| election.run(client.clone(), tasks, metrics));
        let pods = self
            .pods
            .follow(self.client, metrics.clone(), first, tasks.stop());
        tasks.spawn("ca-pods", pods);
        if let Some(root) = self.root {
            tasks.spawn("ca-root", root.follow(tasks.stop()));
        }
        standing
    }
}

impl Election {
    fn of(config: &ElectionConfig, trust_domain: &str) -> anyhow::Result<Self> {
        let lease = config.lease.parse().context("--lease")?;
        let terms = Terms::new(config.lease_duration, config.renew_deadline, config.retry_period);
        Ok(Self {
            lease,
            terms: terms.context("--lease-duration-s, --renew-deadline-s, --retry-period-s")?,
            settings: SnapshotSettings {
                // Of no node: what is judged is what all agents have in common.
                node: "".into(),
                root_namespace: config.root_namespace.as_str().into(),
                trust_domains: Arc::new([trust_domain.into()]),
            },
        })
    }

    fn run(self, client: Client, tasks: &Tasks, metrics: &CaMetrics) -> WriterStanding {
        let identity = identity();
        let lease = ClusterLease::new(client.clone(), self.lease);
        let (candidate, leadership) = Candidate::new(lease, identity.clone(), self.terms);
        let writer = StatusWriter::new(client, leadership, self.settings, metrics.clone(), identity);
        let standing = writer.standing();
        tasks.spawn("ca-election", candidate.run(tasks.stop()));
        tasks.spawn("ca-status", writer.run(tasks.stop()));
        standing
    }
}

/// The pod's name, as people know it, and what no other process has.
fn identity() -> String {
    let host = std::fs::read_to_string(HOSTNAME).unwrap_or_else(|error| {
        tracing::warn!(path = HOSTNAME, %error, "the lease will not say which pod leads");
        "unnamed".to_owned()
    });
    format!("{}_{}", host.trim(), Uuid::new_v4())
}

/// In a pod, its name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
