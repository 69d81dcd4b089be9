//! `mesh-agent ca`: joins keys, tokens, the pods of the manifests and the server, and keeps them fresh.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::AdminServer;
use crate::ca::{CaServer, CaService, CaServiceSettings, KeyringPlace, Keys, NodeName, NodePods, NodeTokens};
use crate::config::{CaConfig, CaFacts, SeccompMode};
use crate::control::file::FileSource;
use crate::control::{Reading, Source as _};
use crate::identity::{ServerIdentity, error_chain};
use crate::lifecycle::{Readiness, ReadyGuard, Stop, Tasks};
use crate::mesh::facts::Facts;
use crate::mesh::identity::SpiffeId;
use crate::privileges;
use crate::telemetry::CaMetrics;

/// Signs for agents until SIGTERM or SIGINT.
///
/// Errors: something that the service cannot do without is missing; the message says what.
pub fn run(config: &CaConfig) -> anyhow::Result<()> {
    // It reads and writes its own files, and connections: nothing that root has is needed for that.
    privileges::give_up(privileges::AUTHORITY)?;
    if config.seccomp == SeccompMode::Auto {
        privileges::refuse_calls()?;
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ca")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

async fn serve(config: &CaConfig) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let keys = Arc::new(Keys::open(place(config)?)?);
    let Some(facts) = &config.facts else {
        tracing::info!(dir = %config.ca_dir.display(), "the root is there; nothing is served");
        return Ok(());
    };
    let (tasks, readiness, metrics) = (Tasks::new(), Readiness::new(), CaMetrics::new());
    let tokens = Arc::new(NodeTokens::open(facts.node_tokens.clone())?);
    let pods = Arc::new(PodIndex::default());
    let service = CaService::new(
        CaServiceSettings {
            trust_domain: config.trust_domain.as_str().into(),
            max_ttl: config.max_ttl,
        },
        Arc::clone(&keys),
        Arc::<NodeTokens>::clone(&tokens),
        Arc::<PodIndex>::clone(&pods),
        metrics.clone(),
    );
    let admin = AdminServer::bind(config.admin_addr, readiness.clone())
        .await?
        .behind(super::admin_token(config.admin_token_file.as_deref())?);
    let server = CaServer::bind(config.listen, service)
        .await
        .with_context(|| format!("cannot listen on {} for agents", config.listen))?;
    let first = readiness.guard("first configuration");
    tasks.spawn(
        "ca-pods",
        follow_pods(source(config, facts), pods, metrics.clone(), first, tasks.stop()),
    );
    tasks.spawn(
        "ca-files",
        follow_files(keys, tokens, metrics.clone(), tasks.stop()),
    );
    server.run(&tasks);
    admin.metrics(Arc::new(move || metrics.encode())).run(&tasks);
    tracing::info!(listen = %config.listen, trust_domain = config.trust_domain, "signing certificates");

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
    }
    tasks.request_stop();
    if !tasks.joined(DRAIN).await {
        tracing::warn!(
            left = tasks.active(),
            "callers did not end in time and are closed"
        );
    }
    Ok(())
}

fn place(config: &CaConfig) -> anyhow::Result<KeyringPlace> {
    let names = config
        .names
        .iter()
        .map(|name| name.parse().map_err(anyhow::Error::msg).context("--names"));
    Ok(KeyringPlace {
        dir: config.ca_dir.clone(),
        bundle_file: config.bundle_file.clone(),
        trust_domain: config.trust_domain.clone(),
        names: names.collect::<anyhow::Result<Vec<ServerIdentity>>>()?,
    })
}

fn source(config: &CaConfig, facts: &CaFacts) -> FileSource {
    FileSource::new(facts.manifests.clone(), &config.trust_domain)
}

/// Which identities each node may ask for: those of the mesh's pods that run there.
#[derive(Default)]
struct PodIndex(ArcSwap<HashSet<(NodeName, SpiffeId)>>);

impl PodIndex {
    fn learn(&self, facts: &Facts) -> usize {
        let runs = facts
            .workloads
            .iter()
            .filter(|pod| pod.is_enrolled() && !pod.node.is_empty())
            .map(|pod| (NodeName::new(&pod.node), pod.identity.clone()));
        let runs: HashSet<_> = runs.collect();
        let count = runs.len();
        self.0.store(runs.into());
        count
    }
}

impl NodePods for PodIndex {
    fn runs(&self, node: &NodeName, identity: &SpiffeId) -> bool {
        self.0.load().contains(&(node.clone(), identity.clone()))
    }
}

impl fmt::Debug for PodIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodIndex({})", self.0.load().len())
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

/// Keys and tokens are few small files, so that looking at them each second costs nothing and misses no kind of
/// replacement.
async fn follow_files(keys: Arc<Keys>, tokens: Arc<NodeTokens>, metrics: CaMetrics, stop: Stop) {
    let show = |metrics: &CaMetrics| {
        let keyring = keys.load();
        metrics.keys(keyring.root_count(), keyring.authority().not_after());
    };
    show(&metrics);
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = None;
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {}
        }
        match keys.reload(SystemTime::now()) {
            Ok(false) => {}
            Ok(true) => {
                metrics.reloaded(true);
                show(&metrics);
                tracing::info!(roots = keys.load().root_count(), "new keys");
            }
            Err(error) => {
                metrics.reloaded(false);
                tracing::error!(error = error_chain(&error), "the last keys stay in force");
            }
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

const LOOK: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(3);
