//! `mesh-agent ca`: joins keys, the proof of callers, the pods and the server, and keeps them fresh.

mod cluster;
mod files;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use self::cluster::Cluster;
use self::files::Files;
use crate::admin::AdminServer;
use crate::ca::{
    Authenticator, CaServer, CaService, CaServiceSettings, KeyFiles, KeyringPlace, Keys, NodePods,
};
use crate::config::{CaConfig, CaFacts, SeccompMode};
use crate::control::statuses::WriterStanding;
use crate::identity::{ServerIdentity, error_chain};
use crate::lifecycle::{Readiness, ReadyGuard, Stop, Tasks};
use crate::privileges;
use crate::status::AuthorityBoard;
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

/// Where the service learns whom it may sign for; both sides of it are asked by the server.
enum Source {
    Files(Box<Files>),
    Cluster(Box<Cluster>),
}

impl Source {
    fn authenticator(&self) -> Arc<dyn Authenticator> {
        match self {
            Self::Files(files) => files.authenticator(),
            Self::Cluster(cluster) => cluster.authenticator(),
        }
    }

    fn pods(&self) -> Arc<dyn NodePods> {
        match self {
            Self::Files(files) => files.pods(),
            Self::Cluster(cluster) => cluster.pods(),
        }
    }

    /// Keeps both fresh; `first` is dropped when pods were learned once. How the writing of status stands, if it may write.
    fn run(
        self,
        tasks: &Tasks,
        metrics: &CaMetrics,
        first: ReadyGuard,
        keys: &Arc<Keys>,
    ) -> Option<WriterStanding> {
        match self {
            Self::Files(files) => {
                files.run(tasks, metrics, first);
                None
            }
            Self::Cluster(cluster) => cluster.run(tasks, metrics, first, Arc::clone(keys)),
        }
    }
}

async fn serve(config: &CaConfig) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let Some(facts) = &config.facts else {
        Keys::open(place(config, KeyFiles::Dir(config.ca_dir.clone()))?)?;
        tracing::info!(dir = %config.ca_dir.display(), "the root is there; nothing is served");
        return Ok(());
    };
    let source = match facts {
        CaFacts::Files {
            node_tokens,
            manifests,
        } => Source::Files(Box::new(Files::open(
            node_tokens,
            manifests,
            &config.trust_domain,
        )?)),
        CaFacts::Kubernetes(facts) => Source::Cluster(Box::new(Cluster::open(config, facts).await?)),
    };
    let key_files = match &source {
        Source::Cluster(cluster) => cluster.key_files(),
        Source::Files(_) => None,
    };
    let key_files = key_files.unwrap_or_else(|| KeyFiles::Dir(config.ca_dir.clone()));
    let keys = Arc::new(Keys::open(place(config, key_files)?)?);
    let (tasks, readiness, metrics) = (Tasks::new(), Readiness::new(), CaMetrics::new());
    let service = CaService::new(
        CaServiceSettings {
            trust_domain: config.trust_domain.as_str().into(),
            max_ttl: config.max_ttl,
        },
        Arc::clone(&keys),
        source.authenticator(),
        source.pods(),
        metrics.clone(),
    );
    let admin = AdminServer::bind(config.admin_addr, readiness.clone())
        .await?
        .behind(super::node::admin_token(config.admin_token_file.as_deref())?);
    let server = CaServer::bind(config.listen, service)
        .await
        .with_context(|| format!("cannot listen on {} for agents", config.listen))?;
    let writer = source.run(&tasks, &metrics, readiness.guard("first configuration"), &keys);
    let board = AuthorityBoard::new(&config.trust_domain, &keys, writer);
    let admin = admin.page("/status", board.page());
    tasks.spawn("ca-keys", follow_keys(keys, metrics.clone(), board, tasks.stop()));
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

fn place(config: &CaConfig, files: KeyFiles) -> anyhow::Result<KeyringPlace> {
    let names = config
        .names
        .iter()
        .map(|name| name.parse().map_err(anyhow::Error::msg).context("--names"));
    Ok(KeyringPlace {
        files,
        bundle_file: config.bundle_file.clone(),
        trust_domain: config.trust_domain.clone(),
        names: names.collect::<anyhow::Result<Vec<ServerIdentity>>>()?,
    })
}

/// Keys are few small files, so that looking at them each second costs nothing and misses no kind of replacement.
async fn follow_keys(keys: Arc<Keys>, metrics: CaMetrics, board: AuthorityBoard, stop: Stop) {
    let show = |metrics: &CaMetrics| {
        let keyring = keys.load();
        metrics.keys(keyring.root_count(), keyring.authority().not_after());
    };
    show(&metrics);
    let mut tick = each_second();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {}
        }
        match keys.reload(SystemTime::now()) {
            Ok(false) => {}
            Ok(true) => {
                metrics.reloaded(true);
                board.keys(None);
                show(&metrics);
                tracing::info!(roots = keys.load().root_count(), "new keys");
            }
            Err(error) => {
                metrics.reloaded(false);
                let error = error_chain(&error);
                tracing::error!(error, "the last keys stay in force");
                board.keys(Some(error));
            }
        }
    }
}

fn each_second() -> tokio::time::Interval {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

const DRAIN: Duration = Duration::from_secs(3);
