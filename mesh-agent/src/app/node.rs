//! What an agent does once the node is its own: hooks, pages, loops.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::admin::probe;
use crate::admin::{AdminError, AdminServer, AdminToken, Answers};
use crate::app::cni;
use crate::app::direct::DirectFlows;
use crate::app::knowledge::{Knowledge, Learned};
use crate::app::lock::Leaving;
use crate::app::loops::{ConfigLoop, Heart, Start, sweep_pools, watch_direct};
use crate::app::splice::Splicing;
use crate::app::threads::Threads;
use crate::app::upstreams::watch_upstreams;
use crate::capture::PodHost;
use crate::capture::listeners::PodPorts;
use crate::config::{Config, DirectMode, SeccompMode};
use crate::dns::Zone;
use crate::identity::NodeFiles;
use crate::kernel::capacity::Capacity;
use crate::kernel::direct::sock_diag;
use crate::kernel::ebpf::EbpfKernel;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::placement::Locator;
use crate::kernel::splice::{SpliceBoard, SpliceSwitch};
use crate::lifecycle::{Readiness, Tasks};
use crate::privileges::{self, Privileges};
use crate::proxy::explain::{self, Question, Unexplained};
use crate::proxy::{Mesh, Proxy, ProxySettings, check_health, watch_departures};
use crate::status::Holding;
use crate::telemetry::Telemetry;

/// What only one agent of a node may have.
pub(super) struct Ground {
    admin: AdminServer,
    kernel: EbpfKernel,
    privileges: Privileges,
}

impl Ground {
    /// Errors: something that the agent cannot do without is missing, or somebody else has it.
    pub(super) async fn take(config: &Config, readiness: &Readiness) -> anyhow::Result<Self> {
        let admin = AdminServer::bind(config.admin_addr, readiness.clone()).await?;
        Self::with(config, admin)
    }

    /// The same for who just became the node's agent: a process that was killed lets go of its lock first, and of its port
    /// a moment later.
    pub(super) async fn take_over(config: &Config, readiness: &Readiness) -> anyhow::Result<Self> {
        let mut looks = 0_u32;
        let admin = loop {
            match AdminServer::bind(config.admin_addr, readiness.clone()).await {
                Err(AdminError::Bind { source, .. })
                    if source.kind() == ErrorKind::AddrInUse && looks < MOST_LOOKS => {}
                bound => break bound?,
            }
            looks += 1;
            sleep(LOOK).await;
        };
        Self::with(config, admin)
    }

    fn with(config: &Config, admin: AdminServer) -> anyhow::Result<Self> {
        let admin = admin.behind(admin_token(config.admin_token_file.as_deref())?);
        let kernel = EbpfKernel::load(&config.bpf_dir, &config.node_name, capacity(config))?;
        let kernel = if Leaving::is_anybody(&config.state_dir)? {
            kernel.after_one_that_lives()
        } else {
            kernel
        };
        Ok(Self {
            admin,
            kernel,
            privileges: refuse_calls(config.seccomp)?,
        })
    }
}

/// An agent that has its node.
pub(super) struct Node<'c> {
    pub(super) config: &'c Config,
    /// Everything that runs.
    pub(super) tasks: Tasks,
    /// What only one agent of a node may run.
    pub(super) owning: Tasks,
    pub(super) telemetry: Telemetry,
    /// Told when it serves.
    pub(super) probed: probe::Turn,
    /// Another agent serves the node by now.
    pub(super) is_succeeded: Arc<AtomicBool>,
}

impl Node<'_> {
    /// Starts all that serves.
    pub(super) fn begin(
        &self,
        mut ground: Ground,
        knowledge: Knowledge,
        (start, learned): (Start, Option<Learned>),
        threads: &Threads,
    ) -> anyhow::Result<Arc<Mutex<Enrolment>>> {
        let (config, owning, telemetry) = (self.config, &self.owning, &self.telemetry);
        let (snapshots, data) = (Arc::clone(&knowledge.snapshots), threads.data());
        let mesh = Arc::new(Mesh::new(
            Arc::clone(&snapshots),
            Arc::clone(&knowledge.certificates),
            telemetry.clone(),
            proxy_settings(config)?,
            threads.workshop().clone(),
            self.tasks.divided(data.clone(), threads.bulk().clone()),
        ));
        let host: Arc<dyn PodHost> = Arc::new(Proxy::new(Arc::clone(&mesh), data.clone()));
        let switch = ground.kernel.splice_switch()?;
        let enrolment = Enrolment::new(Box::new(ground.kernel), host, PodPorts::default());
        let enrolment = enrolment.locating(locator(config)?);
        let enrolment = Arc::new(Mutex::new(enrolment.capturing_dns(config.dns_capture)));
        let board = knowledge.board.clone();
        board.holds(Holding {
            privileges: ground.privileges,
            enrolment: Arc::clone(&enrolment),
            splice: self.splicing(switch, &enrolment),
            backends: mesh.backends().clone(),
        });
        let direct = Arc::new(Mutex::new(DirectFlows::new(
            enrolment.lock().direct(),
            telemetry.clone(),
            Box::new(sock_diag::destroy),
            why_not_direct(config.direct),
        )));
        let configuration = ConfigLoop {
            knowledge,
            learned,
            enrolment: Arc::clone(&enrolment),
            direct: Arc::clone(&direct),
            announcements: cni::start(config, owning, telemetry, &board, &enrolment)?,
            heart: Some(self.heart(&enrolment, data)),
            start: Some(start),
            probed: self.probed.clone(),
        };
        owning.spawn("config", configuration.run(owning.stop()));
        owning.spawn(
            "direct",
            watch_direct(direct, snapshots, board.clone(), owning.stop()),
        );
        self.look_after(&mesh, data);
        let metrics = telemetry.clone();
        ground
            .admin
            .metrics(Arc::new(move || metrics.encode()))
            .page("/status", board.page())
            .answers(explain::PAGE, explanations(mesh))
            .run(owning);
        Ok(enrolment)
    }

    fn splicing(&self, switch: SpliceSwitch, enrolment: &Arc<Mutex<Enrolment>>) -> SpliceBoard {
        let splicing = Splicing {
            switch,
            enrolment: Arc::clone(enrolment),
            state_dir: self.config.state_dir.clone(),
            telemetry: self.telemetry.clone(),
        };
        splicing.start(self.config.splice, &self.owning)
    }

    fn heart(&self, enrolment: &Arc<Mutex<Enrolment>>, data: &Handle) -> Heart {
        Heart {
            pulse: enrolment.lock().pulse(),
            tasks: self.tasks.clone(),
            data: data.clone(),
            is_succeeded: Arc::clone(&self.is_succeeded),
        }
    }

    /// Asks endpoints how they are, and lets go of those that go away, on the threads that carry the traffic.
    fn look_after(&self, mesh: &Arc<Mesh>, data: &Handle) {
        let tasks = &self.tasks;
        tasks.spawn("upstreams", watch_upstreams(Arc::clone(mesh), tasks.stop()));
        tasks.spawn("sweep-pools", sweep_pools(Arc::clone(mesh), tasks.stop()));
        let _on_data_threads = data.enter();
        tasks.spawn("health-checks", check_health(Arc::clone(mesh), tasks.stop()));
        tasks.spawn("departures", watch_departures(Arc::clone(mesh), tasks.stop()));
    }
}

/// Where pods live whose manifests do not say it.
fn locator(config: &Config) -> anyhow::Result<Locator> {
    let locator = Locator::below(config.cgroup_root.as_deref())?;
    Ok(locator.trusting_annotations(config.placement_annotations))
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

pub(super) fn admin_token(file: Option<&Path>) -> anyhow::Result<Option<AdminToken>> {
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

fn capacity(config: &Config) -> Capacity {
    Capacity {
        pods: config.max_pods,
        flows: config.max_flows,
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
        tls_files: NodeFiles::new(config.tls_files_dir.as_deref()),
    })
}

/// Between two looks at a port that somebody else has.
const LOOK: Duration = Duration::from_millis(50);
/// Five seconds: whoever has it for longer is not about to end.
const MOST_LOOKS: u32 = 100;
