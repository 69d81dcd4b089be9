//! Builds all parts and joins them; the only room that knows everybody.
//!
//! Three runtimes: one thread watches, reconciles, renews and answers the operator; the data threads carry traffic,
//! so that no amount of configuration stalls a connection.

pub mod ca;
mod cni;
mod direct;
mod issuance;
mod lock;
mod loops;
mod splice;
mod upstreams;
pub mod vacancy;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{AdminServer, AdminToken, Answers};
use crate::app::direct::DirectFlows;
use crate::app::lock::StateLock;
use crate::app::loops::{ConfigLoop, Heart, sweep_pools, watch_direct};
use crate::app::upstreams::watch_upstreams;
use crate::capture::PodHost;
use crate::capture::listeners::PodPorts;
use crate::config::{AccessLogTarget, Config, DirectMode, FactSource, SeccompMode, UninstallArgs};
use crate::control::Source;
use crate::control::file::FileSource;
use crate::control::jwks::KeyLoop;
use crate::control::kubernetes::KubernetesSource;
use crate::dns::Zone;
use crate::identity::Certificates;
use crate::kernel::capacity::Capacity;
use crate::kernel::direct::sock_diag;
use crate::kernel::ebpf::EbpfKernel;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::placement::Locator;
use crate::kernel::uninstall::{self, Removed};
use crate::lifecycle::{Readiness, Tasks};
use crate::mesh::facts::Facts;
use crate::privileges::{self, Privileges};
use crate::proxy::explain::{self, Question, Unexplained};
use crate::proxy::{Mesh, Proxy, ProxySettings, check_health, watch_departures};
use crate::snapshot::{Snapshot, SnapshotCell, SnapshotSettings};
use crate::status::StatusBoard;
use crate::telemetry::{AccessLog, CertificateFacts, Telemetry};
use crate::transport::fetch::Fetcher;

/// Serves the pods of this node until SIGTERM or SIGINT, then drains. Hooks stay, so that an upgrade opens no gap: the
/// next agent adopts them, and until then new connections are refused.
///
/// Errors: something that the agent cannot do without is missing; the message says what and what to do. Pods stay as
/// they were then.
pub fn run(config: &Config) -> anyhow::Result<()> {
    // Before there is a second thread: each has sets of its own.
    privileges::give_up(privileges::AGENT)?;
    let _lock = StateLock::take(&config.state_dir)?;
    raise_descriptor_limit();
    forgo_huge_pages();
    let data = runtime("data", config.data_threads)?;
    // As handshakes are computed beside the data threads, a storm of them takes half as much of the machine at most.
    let workshop = runtime("handshakes", (config.data_threads / 2).max(1))?;
    let control = Builder::new_current_thread()
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let served = control.block_on(serve(config, data.handle(), workshop.handle()));
    data.shutdown_timeout(Duration::from_millis(200));
    workshop.shutdown_timeout(Duration::from_millis(200));
    served
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

fn runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the {name} threads"))
}

async fn serve(config: &Config, data: &Handle, workshop: &Handle) -> anyhow::Result<()> {
    // First, so that a signal during start-up is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let telemetry = Telemetry::with_access_log(access_log(&config.access_log)?);
    telemetry.observe_tasks(tasks.clone());
    let admin = AdminServer::bind(config.admin_addr, readiness.clone())
        .await?
        .behind(admin_token(config.admin_token_file.as_deref())?);
    let mut kernel = EbpfKernel::load(&config.bpf_dir, &config.node_name, capacity(config))?;
    let privileges = refuse_calls(config.seccomp)?;
    let splice = splice::start(&mut kernel, config.splice, &tasks, &telemetry)?;
    let certificates = Arc::new(issuance::certificates(config, &tasks)?);
    watch_certificates(&telemetry, &certificates);

    let snapshots = Arc::new(SnapshotCell::new(first_snapshot(config)));
    let mesh = Arc::new(Mesh::new(
        Arc::clone(&snapshots),
        Arc::clone(&certificates),
        telemetry.clone(),
        proxy_settings(config)?,
        workshop.clone(),
        tasks.clone(),
    ));
    let host: Arc<dyn PodHost> = Arc::new(Proxy::new(Arc::clone(&mesh), data.clone()));
    let enrolment = Enrolment::new(Box::new(kernel), host, PodPorts::default()).locating(locator(config)?);
    let enrolment = Arc::new(Mutex::new(enrolment.capturing_dns(config.dns_capture)));
    let heart = Heart {
        pulse: enrolment.lock().pulse(),
        tasks: tasks.clone(),
        data: data.clone(),
    };
    let direct = Arc::new(Mutex::new(DirectFlows::new(
        enrolment.lock().direct(),
        telemetry.clone(),
        Box::new(sock_diag::destroy),
        why_not_direct(config.direct),
    )));
    let board = StatusBoard::new(config, privileges, &snapshots, &certificates, &enrolment, splice);

    let configuration = ConfigLoop {
        source: source(config, &board).await?,
        settings: snapshot_settings(config),
        snapshots: Arc::clone(&snapshots),
        certificates,
        enrolment: Arc::clone(&enrolment),
        direct: Arc::clone(&direct),
        telemetry: telemetry.clone(),
        board: board.clone(),
        announcements: cni::start(config, &tasks, &telemetry, &board, &enrolment)?,
        heart: Some(heart),
        first: Some(readiness.guard("first configuration")),
    };
    let aging = board.clone();
    telemetry.observe_config_age(move || aging.source_age());
    tasks.spawn("config", configuration.run(tasks.stop()));
    tasks.spawn(
        "jwks",
        key_loop(config, &snapshots, &telemetry, &board).run(tasks.stop()),
    );
    let watching = watch_direct(direct, snapshots, board.clone(), tasks.stop());
    tasks.spawn("direct", watching);
    tasks.spawn("upstreams", watch_upstreams(Arc::clone(&mesh), tasks.stop()));
    look_after_endpoints(&mesh, &tasks, data);
    tasks.spawn("sweep-pools", sweep_pools(Arc::clone(&mesh), tasks.stop()));
    let metrics = telemetry.clone();
    admin
        .metrics(Arc::new(move || metrics.encode()))
        .page("/status", board.page())
        .answers(explain::PAGE, explanations(mesh))
        .run(&tasks);

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    drain(&tasks, config.drain_timeout).await;
    enrolment.lock().stop();
    telemetry.access_log().flush(Duration::from_secs(1));
    Ok(())
}

/// Where facts come from; an API server is not asked for anything yet.
async fn source(config: &Config, board: &StatusBoard) -> anyhow::Result<Box<dyn Source>> {
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
    Ok(Box::new(source))
}

/// Where pods live whose manifests do not say it.
fn locator(config: &Config) -> anyhow::Result<Locator> {
    let locator = Locator::below(config.cgroup_root.as_deref())?;
    Ok(locator.trusting_annotations(config.placement_annotations))
}

/// Asks endpoints how they are, and lets go of those that go away, on the threads that carry the traffic.
fn look_after_endpoints(mesh: &Arc<Mesh>, tasks: &Tasks, data: &Handle) {
    let _on_data_threads = data.enter();
    tasks.spawn("health-checks", check_health(Arc::clone(mesh), tasks.stop()));
    tasks.spawn("departures", watch_departures(Arc::clone(mesh), tasks.stop()));
}

/// What would become of requests.
fn explanations(mesh: Arc<Mesh>) -> Answers {
    Arc::new(move |query| {
        let asked = Question::of_query(query).map_err(Unexplained::from);
        let explained = asked.and_then(|question| mesh.explain(&question));
        let explanation = explained.map_err(|why| (why.status(), why.to_string()))?;
        serde_json::to_string_pretty(&explanation)
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    })
}

/// Lets what is under way end, within `limit`.
async fn drain(tasks: &Tasks, limit: Duration) {
    tasks.request_stop();
    if !tasks.joined(limit).await {
        tracing::warn!(
            left = tasks.active(),
            "connections did not end within the drain time and are closed"
        );
    }
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

fn admin_token(file: Option<&Path>) -> anyhow::Result<Option<AdminToken>> {
    Ok(file.map(AdminToken::read).transpose()?)
}

/// Once what is mounted is mounted, and before the first byte of a peer is read.
fn refuse_calls(mode: SeccompMode) -> anyhow::Result<Privileges> {
    let is_wanted = mode == SeccompMode::Auto;
    if is_wanted {
        privileges::refuse_calls()?;
    }
    Ok(privileges::left(is_wanted)?)
}

/// Why no connection goes past the agent; `None` where some may.
fn why_not_direct(mode: DirectMode) -> Option<String> {
    if mode == DirectMode::Off {
        return Some("switched off by the settings".to_owned());
    }
    // What is allowed once must be possible to take back.
    let error = sock_diag::probe().err()?;
    tracing::warn!(%error, "this kernel cannot end a pod's connection, so none goes past the agent");
    Some(format!(
        "the kernel cannot end a pod's connection (CONFIG_INET_DIAG_DESTROY): {error}"
    ))
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

fn capacity(config: &Config) -> Capacity {
    Capacity {
        pods: config.max_pods,
        flows: config.max_flows,
    }
}

fn snapshot_settings(config: &Config) -> SnapshotSettings {
    SnapshotSettings {
        node: config.node_name.as_str().into(),
        root_namespace: config.root_namespace.as_str().into(),
        trust_domains: issuance::own_trust_domains(config).map(Arc::from).collect(),
    }
}

fn proxy_settings(config: &Config) -> anyhow::Result<ProxySettings> {
    let zone = Zone::new(&config.cluster_domain, config.dns_ttl);
    Ok(ProxySettings {
        node: config.node_name.as_str().into(),
        detect_timeout: config.detect_timeout,
        connect_timeout: config.connect_timeout,
        idle_timeout: config.idle_timeout,
        endpoint_drain: config.endpoint_drain,
        handshake_rate: config.handshake_rate,
        zone: zone.context("cluster_domain is too long for a name")?,
        root_bundle: config.jwks_root_file.clone(),
    })
}
