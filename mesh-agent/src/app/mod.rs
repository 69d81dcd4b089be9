//! Builds all parts and joins them; the only room that knows everybody.
//!
//! One thread watches, reconciles, renews and answers the operator; others carry traffic, so that no amount of
//! configuration stalls a connection.

pub mod ca;
mod cni;
mod direct;
mod ending;
mod issuance;
mod knowledge;
mod lock;
mod loops;
mod node;
mod splice;
mod standby;
mod threads;
mod upstreams;
pub mod vacancy;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Builder;

use crate::admin::probe::{self, ProbeServer};
use crate::app::ending::{Ending, Held, drain};
use crate::app::knowledge::Knowledge;
use crate::app::lock::{Place, StateLock};
use crate::app::node::{Ground, Node};
use crate::app::standby::Turn;
use crate::app::threads::Threads;
use crate::config::{AccessLogTarget, Config, FactSource, UninstallArgs};
use crate::control::Source;
use crate::control::file::FileSource;
use crate::control::jwks::KeyLoop;
use crate::control::kubernetes::KubernetesSource;
use crate::identity::Certificates;
use crate::kernel::ebpf::EbpfKernel;
use crate::kernel::uninstall::{self, Removed};
use crate::lifecycle::{Readiness, Tasks};
use crate::mesh::facts::Facts;
use crate::privileges;
use crate::snapshot::{Snapshot, SnapshotCell, SnapshotSettings};
use crate::status::StatusBoard;
use crate::telemetry::{AccessLog, CertificateFacts, Telemetry};
use crate::transport::fetch::Fetcher;

/// Serves the pods of this node until SIGTERM or SIGINT, then drains. Hooks stay: an agent that waits for its turn takes them
/// over before this one closes a listener, and where none waits new connections are refused until the next one adopts them.
///
/// Errors: something that the agent cannot do without is missing; the message says what and what to do. Pods stay as
/// they were then.
pub fn run(config: &Config) -> anyhow::Result<()> {
    // Before there is a second thread: each has sets of its own.
    privileges::give_up(privileges::AGENT)?;
    let place = Place::claim(&config.state_dir, config.handover)?;
    raise_descriptor_limit();
    forgo_huge_pages();
    let threads = Threads::start(config)?;
    let control = Builder::new_current_thread()
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let served = control.block_on(serve(config, place, &threads));
    threads.end();
    drop(control);
    // Last: whoever waits for this agent to be gone attaches what it has attached itself.
    served.map(drop)
}

/// Removes every link, map and pin of a node and says so; whether nothing is left.
///
/// Errors: the agent of that node runs and `args` do not force it, or the kernel cannot be asked.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<Removed> {
    let lock = if args.state_dir.exists() {
        StateLock::take(&args.state_dir).map(Some)
    } else {
        Ok(None)
    };
    let _lock = match lock {
        Err(error) if !args.force => {
            return Err(
                error.context("the agent runs: stop it first, or unhook its pods all the same with --force")
            );
        }
        Ok(lock) => lock,
        Err(_) => None,
    };
    // First: a plugin without an agent lets no pod of the mesh begin.
    if let (Some(conf_dir), Some(bin_dir)) = (&args.cni_conf_dir, &args.cni_bin_dir) {
        for done in cni::remove(conf_dir, bin_dir, &args.state_dir)? {
            tracing::info!(done, "CNI plugin");
        }
    }
    uninstall::uninstall(&args.bpf_dir, &args.node_name).context("cannot remove what is pinned")
}

/// Every connection takes two descriptors: the soft limit, mostly 1024, is raised to the hard one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open descriptors"),
    }
}

/// The kernel clears the two megabytes of a huge page when one byte of it is first touched: milliseconds in the middle of a
/// poll for which all pods wait (prctl(2), `PR_SET_THP_DISABLE`).
fn forgo_huge_pages() {
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::warn!(%error, "cannot do without transparent huge pages");
    }
}

/// What comes out is held until nothing of the agent is left.
async fn serve(config: &Config, place: Place, threads: &Threads) -> anyhow::Result<Option<Held>> {
    // First, so that a signal during start-up is not lost.
    let mut ending = Ending::listen()?;
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let first = readiness.guard("first configuration");
    let probed = answer_probes(config, &readiness, &tasks)?;
    let telemetry = Telemetry::with_access_log(access_log(&config.access_log)?);
    telemetry.observe_tasks(tasks.clone());
    // Who cannot serve learns it at once, whether it is its turn or not.
    let ground = match &place {
        Place::Owner(_) => Some(Ground::take(config, &readiness).await?),
        Place::Standby(_) => {
            let rehearsed = tokio::task::spawn_blocking(EbpfKernel::rehearse).await;
            rehearsed.context("the rehearsal panicked")??;
            None
        }
    };
    let mut knowledge = knowledge(config, &place, &tasks, &telemetry).await?;
    let turn = match place {
        Place::Owner(lock) => Turn::at_once(lock, first),
        Place::Standby(standby) => {
            let Some(turn) = standby::wait(standby, &mut knowledge, first, &mut ending).await? else {
                drain(&tasks, config.drain_timeout).await;
                return Ok(None);
            };
            turn
        }
    };
    let ground = match ground {
        Some(ground) => ground,
        None => Ground::take_over(config, &readiness).await?,
    };
    knowledge.source.keep();
    let Turn { lock, start, learned } = turn;
    let node = Node {
        config,
        owning: tasks.child(),
        tasks,
        telemetry,
        probed,
        is_succeeded: Arc::default(),
    };
    let enrolment = node.begin(ground, knowledge, (start, learned), threads)?;
    ending.told().await;
    let held = ending::hand_over(config, lock, &node.owning).await;
    node.is_succeeded.store(held.is_succeeded(), Ordering::Relaxed);
    drain(&node.tasks, config.drain_timeout).await;
    enrolment.lock().stop();
    node.telemetry.access_log().flush(Duration::from_secs(1));
    Ok(Some(held))
}

/// Answers whoever asks this very agent; it is told when its turn has come.
fn answer_probes(config: &Config, readiness: &Readiness, tasks: &Tasks) -> anyhow::Result<probe::Turn> {
    let turn = probe::Turn::default();
    if let Some(path) = &config.probe_socket {
        ProbeServer::bind(path, readiness.clone(), turn.clone())
            .with_context(|| format!("cannot answer probes at {}", path.display()))?
            .run(tasks);
    }
    Ok(turn)
}

/// What an agent knows whether the node is its own or not.
async fn knowledge(
    config: &Config,
    place: &Place,
    tasks: &Tasks,
    telemetry: &Telemetry,
) -> anyhow::Result<Knowledge> {
    let certificates = Arc::new(issuance::certificates(config, tasks)?);
    watch_certificates(telemetry, &certificates);
    let snapshots = Arc::new(SnapshotCell::new(first_snapshot(config)));
    let board = StatusBoard::new(config, &snapshots, &certificates);
    let aging = board.clone();
    telemetry.observe_config_age(move || aging.source_age());
    let keys = key_loop(config, &snapshots, telemetry, &board);
    tasks.spawn("jwks", keys.run(tasks.stop()));
    Ok(Knowledge {
        source: source(config, place, &board).await?,
        settings: snapshot_settings(config),
        snapshots,
        certificates,
        telemetry: telemetry.clone(),
        board,
    })
}

/// Where facts come from; an API server is not asked for anything yet.
async fn source(config: &Config, place: &Place, board: &StatusBoard) -> anyhow::Result<Box<dyn Source>> {
    let kubeconfig = match &config.source {
        FactSource::Manifests(dir) => {
            return Ok(Box::new(FileSource::new(dir.clone(), &config.trust_domain)));
        }
        FactSource::InCluster => None,
        FactSource::Kubeconfig(path) => Some(path.as_path()),
    };
    let copy = config.state_dir.join("objects");
    let source = KubernetesSource::connect(kubeconfig, &config.trust_domain, copy).await?;
    board.watching(source.standing());
    Ok(Box::new(match place {
        Place::Owner(_) => source,
        Place::Standby(_) => source.standing_by(),
    }))
}

/// Fetches the public keys of token issuers.
fn key_loop(
    config: &Config,
    snapshots: &Arc<SnapshotCell>,
    telemetry: &Telemetry,
    board: &StatusBoard,
) -> KeyLoop {
    let (fetcher, board) = (Fetcher::new(&config.jwks_root_file), board.clone());
    let report = Box::new(move |keys| board.keys(keys));
    KeyLoop::new(Arc::clone(snapshots), fetcher, telemetry.clone(), report)
}

fn access_log(target: &AccessLogTarget) -> anyhow::Result<AccessLog> {
    match target {
        AccessLogTarget::Stdout => {
            AccessLog::stdout().context("cannot write access-log lines to standard output")
        }
        AccessLogTarget::Off => Ok(AccessLog::off()),
        AccessLogTarget::File(path) => AccessLog::file(path)
            .with_context(|| format!("cannot write access-log lines to {}", path.display())),
    }
}

fn watch_certificates(telemetry: &Telemetry, certificates: &Arc<Certificates>) {
    let certificates = Arc::clone(certificates);
    telemetry.observe_certificates(move || {
        let counts = certificates.counts();
        let expiries = certificates.status().into_iter();
        CertificateFacts {
            overdue: certificates.status().iter().filter(|one| one.is_overdue).count(),
            expiries: expiries
                .filter_map(|one| one.not_after.map(|at| (one.identity, at)))
                .collect(),
            renewals: counts.issued,
            failed_renewals: counts.failed,
            failures: certificates
                .failures()
                .into_iter()
                .map(|(reason, count)| (reason.as_str(), count))
                .collect(),
        }
    });
}

/// Nothing is known yet: no pod is served, so nothing can go wrong by it.
fn first_snapshot(config: &Config) -> Snapshot {
    Snapshot::build(&Facts::default(), &snapshot_settings(config), None).0
}

fn snapshot_settings(config: &Config) -> SnapshotSettings {
    SnapshotSettings {
        node: config.node_name.as_str().into(),
        root_namespace: config.root_namespace.as_str().into(),
        trust_domains: issuance::own_trust_domains(config).map(Arc::from).collect(),
    }
}
