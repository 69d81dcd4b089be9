//! Settings as they are given, in any of three places, and how they become complete ones.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::cni::netconf::FailMode;

use super::values::{access_log, capacity, domain, guarded, handshake_rate, on_or_off, ranged, threads};
use super::{
    CniConfig, Config, ConfigError, DEFAULT_BPF_DIR, DEFAULT_ROOT_NAMESPACE, DEFAULT_STATE_DIR,
    DEFAULT_TRUST_DOMAIN, DirectMode, FactSource, HandoverMode, Issuance, SeccompMode, SpliceMode, cni,
    issuance,
};

/// Any of the settings; the same struct is read from flags, the environment and the file.
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(default)]
pub(super) struct Settings {
    /// Name of the node, as in `spec.nodeName` of its pods.
    #[arg(long, env = "MESH_NODE_NAME")]
    node_name: Option<String>,
    /// Directory of Kubernetes manifests (YAML or JSON), watched for changes.
    #[arg(long, env = "MESH_MANIFESTS")]
    manifests: Option<PathBuf>,
    /// API server to watch instead: `in-cluster`, by the service account of the agent's pod, or the path of a kubeconfig.
    #[arg(long, env = "MESH_KUBERNETES", value_name = "in-cluster|KUBECONFIG")]
    kubernetes: Option<String>,
    /// Directory for what belongs to the node's agent alone; one agent at a time.
    #[arg(long, env = "MESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// What becomes of an agent whose state directory another one uses: it is refused (`refuse`), or gets ready and takes over
    /// once that one ends (`wait`).
    #[arg(long, env = "MESH_HANDOVER")]
    handover: Option<HandoverMode>,
    /// Unix socket on which this very agent answers `mesh-agent probe`; none unless given.
    #[arg(long, env = "MESH_PROBE_SOCKET")]
    probe_socket: Option<PathBuf>,
    /// BPF file system on which maps and links are pinned, below `mesh/NODE`; mounted there when there is none.
    #[arg(long, env = "MESH_BPF_DIR")]
    bpf_dir: Option<PathBuf>,
    /// Root of the cgroup v2 tree in which kubelet keeps its pods; by default where cgroup v2 is mounted last.
    #[arg(long, env = "MESH_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    /// Whether pods of an API server may say by annotations where they live on this machine: `on` or `off`; manifests of
    /// a directory always may.
    #[arg(long, env = "MESH_PLACEMENT_ANNOTATIONS")]
    placement_annotations: Option<String>,
    /// Directory of CNI configurations: the agent chains its plugin into the first list there, and keeps it.
    #[arg(long, env = "MESH_CNI_CONF_DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins: the agent puts its own there.
    #[arg(long, env = "MESH_CNI_BIN_DIR")]
    cni_bin_dir: Option<PathBuf>,
    /// What becomes of a pod that cannot be enrolled before it begins: `closed`, it does not start, or `open`.
    #[arg(long, env = "MESH_CNI_FAIL_MODE")]
    cni_fail_mode: Option<FailMode>,
    /// Seconds that a pod waits for its enrolment (1 to 100).
    #[arg(long, env = "MESH_CNI_TIMEOUT_S")]
    cni_timeout_s: Option<u64>,
    /// Directory of the embedded CA's root, shared by the agents of one machine.
    #[arg(long, env = "MESH_CA_DIR")]
    ca_dir: Option<PathBuf>,
    /// Address of the admin server: /livez, /readyz, /metrics, /status.
    #[arg(long, env = "MESH_ADMIN_ADDR")]
    admin_addr: Option<SocketAddr>,
    /// Trust domain of the identities.
    #[arg(long, env = "MESH_TRUST_DOMAIN")]
    trust_domain: Option<String>,
    /// Namespace whose policies without selector are mesh-wide.
    #[arg(long, env = "MESH_ROOT_NAMESPACE")]
    root_namespace: Option<String>,
    /// Log filter, for instance `info` or `mesh_agent=debug`.
    #[arg(long, env = "MESH_LOG_LEVEL")]
    log_level: Option<String>,
    /// Where access-log lines go: `stdout`, `off`, or a file.
    #[arg(long, env = "MESH_ACCESS_LOG")]
    access_log: Option<String>,
    /// Milliseconds that the first bytes are waited for on a port whose protocol nobody declared (1 to 10000).
    #[arg(long, env = "MESH_DETECT_TIMEOUT_MS")]
    detect_timeout_ms: Option<u64>,
    /// Milliseconds for a TCP connect, and again for a TLS handshake (10 to 600000).
    #[arg(long, env = "MESH_CONNECT_TIMEOUT_MS")]
    connect_timeout_ms: Option<u64>,
    /// Seconds after which a silent TCP connection is closed (1 to 2592000).
    #[arg(long, env = "MESH_IDLE_TIMEOUT_S")]
    idle_timeout_s: Option<u64>,
    /// Seconds that connections may take to end after SIGTERM (0 to 3600).
    #[arg(long, env = "MESH_DRAIN_TIMEOUT_S")]
    drain_timeout_s: Option<u64>,
    /// Seconds that what is under way to an endpoint that goes away may go on (0 to 3600).
    #[arg(long, env = "MESH_ENDPOINT_DRAIN_S")]
    endpoint_drain_s: Option<u64>,
    /// Seconds that a workload certificate of the embedded CA is valid (30 to 7776000).
    #[arg(long, env = "MESH_CERTIFICATE_TTL_S")]
    certificate_ttl_s: Option<u64>,
    /// CA service to ask for certificates, HOST:PORT; the embedded CA signs where neither this nor a directory is given.
    #[arg(long, env = "MESH_CA_ADDR")]
    ca_addr: Option<String>,
    /// PEM file of the roots that the CA service's own certificate may end in.
    #[arg(long, env = "MESH_CA_ROOT_FILE")]
    ca_root_file: Option<PathBuf>,
    /// File with the token that proves to the CA service which node this is.
    #[arg(long, env = "MESH_CA_TOKEN_FILE")]
    ca_token_file: Option<PathBuf>,
    /// Directory in which somebody else keeps certificates: `NAMESPACE/SERVICE_ACCOUNT/tls.crt`, `tls.key`, `ca.crt`.
    #[arg(long, env = "MESH_CERTIFICATE_DIR")]
    certificate_dir: Option<PathBuf>,
    /// Admin socket of the SPIRE agent on this node, which then gives the certificates.
    #[arg(long, env = "MESH_SPIRE_SOCKET")]
    spire_socket: Option<PathBuf>,
    /// Selectors by which SPIRE finds an identity, with commas between: `{namespace}`, `{service_account}` and
    /// `{trust_domain}` are filled in.
    #[arg(long, env = "MESH_SPIRE_SELECTORS")]
    spire_selectors: Option<String>,
    /// PEM file of certificate revocation lists, watched.
    #[arg(long, env = "MESH_CRL_FILE")]
    crl_file: Option<PathBuf>,
    /// PEM file of the roots that `https` servers of public keys may end in (RequestAuthentication, `jwksUri`).
    #[arg(long, env = "MESH_JWKS_ROOT_FILE")]
    jwks_root_file: Option<PathBuf>,
    /// Directory of files that policies may name for TLS with applications: `NAMESPACE/PATH`.
    #[arg(long, env = "MESH_TLS_FILES_DIR")]
    tls_files_dir: Option<PathBuf>,
    /// Other names of the trust domain, whose workloads count as ours; with commas between.
    #[arg(long, env = "MESH_TRUST_DOMAIN_ALIASES")]
    trust_domain_aliases: Option<String>,
    /// Directory of other meshes' trust bundles, watched: `TRUST_DOMAIN.pem`, or `TRUST_DOMAIN.json` as SPIFFE has it.
    #[arg(long, env = "MESH_TRUST_BUNDLE_DIR")]
    trust_bundle_dir: Option<PathBuf>,
    /// Whether connections between pods of this node that need no HTTP go past the agent: `auto` or `off`.
    #[arg(long, env = "MESH_DIRECT")]
    direct: Option<DirectMode>,
    /// Whether connections that go past the agent, and opaque ones with it, may also go past TCP: `auto`, where a trial at
    /// start finds no harm on this kernel, or `off`.
    #[arg(long, env = "MESH_SPLICE")]
    splice: Option<SpliceMode>,
    /// Whether the kernel refuses the agent system calls that it never makes: `auto` or `off`.
    #[arg(long, env = "MESH_SECCOMP")]
    seccomp: Option<SeccompMode>,
    /// File with the token that reads the admin pages, which an admin address beyond this machine needs.
    #[arg(long, env = "MESH_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// Threads that carry traffic (1 to 1024); by default a quarter of the cores, at least two.
    #[arg(long, env = "MESH_DATA_THREADS")]
    data_threads: Option<usize>,
    /// TLS handshakes that a pod may begin a second, in each direction (1 to 1000000); more are refused.
    #[arg(long, env = "MESH_HANDSHAKE_RATE")]
    handshake_rate: Option<NonZeroU32>,
    /// Whether the DNS of enrolled pods is captured: `on` or `off`; an annotation of a Pod or Namespace wins.
    #[arg(long, env = "MESH_DNS_CAPTURE")]
    dns_capture: Option<String>,
    /// Domain below which the cluster's Services have their names.
    #[arg(long, env = "MESH_CLUSTER_DOMAIN")]
    cluster_domain: Option<String>,
    /// Seconds that the agent's DNS answers may be kept (0 to 86400); those about headless Services 5 at most.
    #[arg(long, env = "MESH_DNS_TTL_S")]
    dns_ttl_s: Option<u64>,
    /// Pods of this node that may be enrolled at a time (16 to 65536): sizes the maps of pods and of what they exclude.
    #[arg(long, env = "MESH_MAX_PODS")]
    max_pods: Option<u32>,
    /// Connections of them that may be captured at a time, in each direction (1024 to 4194304): sizes the maps of flows.
    #[arg(long, env = "MESH_MAX_FLOWS")]
    max_flows: Option<u32>,
}

impl Settings {
    /// What is absent here is taken from `lower`.
    pub(super) fn over(self, lower: Self) -> Self {
        Self {
            node_name: self.node_name.or(lower.node_name),
            manifests: self.manifests.or(lower.manifests),
            kubernetes: self.kubernetes.or(lower.kubernetes),
            state_dir: self.state_dir.or(lower.state_dir),
            handover: self.handover.or(lower.handover),
            probe_socket: self.probe_socket.or(lower.probe_socket),
            bpf_dir: self.bpf_dir.or(lower.bpf_dir),
            cgroup_root: self.cgroup_root.or(lower.cgroup_root),
            placement_annotations: self.placement_annotations.or(lower.placement_annotations),
            cni_conf_dir: self.cni_conf_dir.or(lower.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(lower.cni_bin_dir),
            cni_fail_mode: self.cni_fail_mode.or(lower.cni_fail_mode),
            cni_timeout_s: self.cni_timeout_s.or(lower.cni_timeout_s),
            ca_dir: self.ca_dir.or(lower.ca_dir),
            admin_addr: self.admin_addr.or(lower.admin_addr),
            trust_domain: self.trust_domain.or(lower.trust_domain),
            root_namespace: self.root_namespace.or(lower.root_namespace),
            log_level: self.log_level.or(lower.log_level),
            access_log: self.access_log.or(lower.access_log),
            detect_timeout_ms: self.detect_timeout_ms.or(lower.detect_timeout_ms),
            connect_timeout_ms: self.connect_timeout_ms.or(lower.connect_timeout_ms),
            idle_timeout_s: self.idle_timeout_s.or(lower.idle_timeout_s),
            drain_timeout_s: self.drain_timeout_s.or(lower.drain_timeout_s),
            endpoint_drain_s: self.endpoint_drain_s.or(lower.endpoint_drain_s),
            certificate_ttl_s: self.certificate_ttl_s.or(lower.certificate_ttl_s),
            ca_addr: self.ca_addr.or(lower.ca_addr),
            ca_root_file: self.ca_root_file.or(lower.ca_root_file),
            ca_token_file: self.ca_token_file.or(lower.ca_token_file),
            certificate_dir: self.certificate_dir.or(lower.certificate_dir),
            spire_socket: self.spire_socket.or(lower.spire_socket),
            spire_selectors: self.spire_selectors.or(lower.spire_selectors),
            crl_file: self.crl_file.or(lower.crl_file),
            jwks_root_file: self.jwks_root_file.or(lower.jwks_root_file),
            tls_files_dir: self.tls_files_dir.or(lower.tls_files_dir),
            trust_domain_aliases: self.trust_domain_aliases.or(lower.trust_domain_aliases),
            trust_bundle_dir: self.trust_bundle_dir.or(lower.trust_bundle_dir),
            direct: self.direct.or(lower.direct),
            splice: self.splice.or(lower.splice),
            seccomp: self.seccomp.or(lower.seccomp),
            admin_token_file: self.admin_token_file.or(lower.admin_token_file),
            data_threads: self.data_threads.or(lower.data_threads),
            handshake_rate: self.handshake_rate.or(lower.handshake_rate),
            dns_capture: self.dns_capture.or(lower.dns_capture),
            cluster_domain: self.cluster_domain.or(lower.cluster_domain),
            dns_ttl_s: self.dns_ttl_s.or(lower.dns_ttl_s),
            max_pods: self.max_pods.or(lower.max_pods),
            max_flows: self.max_flows.or(lower.max_flows),
        }
    }

    /// What connections have to end: when the agent stops, and when their endpoint goes away.
    fn drains(&self) -> Result<(Duration, Duration), ConfigError> {
        let of_agent = ranged("drain_timeout_s", self.drain_timeout_s.unwrap_or(5), 0, 3_600)?;
        let of_endpoint = ranged("endpoint_drain_s", self.endpoint_drain_s.unwrap_or(45), 0, 3_600)?;
        Ok((Duration::from_secs(of_agent), Duration::from_secs(of_endpoint)))
    }

    fn cni(&self) -> Result<Option<CniConfig>, ConfigError> {
        CniConfig::told_by(cni::Given {
            conf_dir: self.cni_conf_dir.clone(),
            bin_dir: self.cni_bin_dir.clone(),
            fail_mode: self.cni_fail_mode,
            timeout_s: self.cni_timeout_s,
        })
    }

    /// To detect a protocol, to connect, and of a connection without a byte.
    fn timeouts(&self) -> Result<[Duration; 3], ConfigError> {
        let detect = ranged(
            "detect_timeout_ms",
            self.detect_timeout_ms.unwrap_or(100),
            1,
            10_000,
        )?;
        let connect = ranged(
            "connect_timeout_ms",
            self.connect_timeout_ms.unwrap_or(5_000),
            10,
            600_000,
        )?;
        let idle = ranged(
            "idle_timeout_s",
            self.idle_timeout_s.unwrap_or(3_600),
            1,
            2_592_000,
        )?;
        let idle = Duration::from_secs(idle);
        Ok([
            Duration::from_millis(detect),
            Duration::from_millis(connect),
            idle,
        ])
    }

    pub(super) fn complete(self, cores: usize) -> Result<Config, ConfigError> {
        let [detect_timeout, connect_timeout, idle_timeout] = self.timeouts()?;
        let (drain_timeout, endpoint_drain) = self.drains()?;
        let cni = self.cni()?;
        let ttl = ranged(
            "certificate_ttl_s",
            self.certificate_ttl_s.unwrap_or(86_400),
            30,
            7_776_000,
        )?;
        let dns_ttl = ranged("dns_ttl_s", self.dns_ttl_s.unwrap_or(30), 0, 86_400)?;
        let issuance = Issuance::told_by(issuance::Given {
            ca_addr: self.ca_addr,
            ca_root_file: self.ca_root_file,
            ca_token_file: self.ca_token_file,
            certificate_dir: self.certificate_dir,
            spire_socket: self.spire_socket,
            spire_selectors: self.spire_selectors,
        })?;
        let admin_addr = guarded(self.admin_addr, self.admin_token_file.is_some())?;
        let (max_pods, max_flows) = capacity(self.max_pods, self.max_flows)?;
        Ok(Config {
            issuance,
            crl_file: self.crl_file,
            jwks_root_file: self.jwks_root_file.unwrap_or_else(|| DEFAULT_JWKS_ROOTS.into()),
            tls_files_dir: self.tls_files_dir,
            trust_domain_aliases: issuance::commas(self.trust_domain_aliases.as_deref()),
            trust_bundle_dir: self.trust_bundle_dir,
            node_name: self.node_name.ok_or(ConfigError::Missing("node_name"))?,
            source: FactSource::told_by(self.manifests, self.kubernetes)?,
            state_dir: self.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR)),
            handover: self.handover.unwrap_or_default(),
            probe_socket: self.probe_socket,
            bpf_dir: self.bpf_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_BPF_DIR)),
            cgroup_root: self.cgroup_root,
            cni,
            placement_annotations: on_or_off("placement_annotations", self.placement_annotations.as_deref())?,
            ca_dir: self.ca_dir.unwrap_or_else(|| DEFAULT_CA_DIR.into()),
            admin_addr,
            trust_domain: self
                .trust_domain
                .unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned()),
            root_namespace: self
                .root_namespace
                .unwrap_or_else(|| DEFAULT_ROOT_NAMESPACE.to_owned()),
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            access_log: access_log(self.access_log.as_deref()),
            detect_timeout,
            connect_timeout,
            idle_timeout,
            drain_timeout,
            endpoint_drain,
            certificate_ttl: Duration::from_secs(ttl),
            direct: self.direct.unwrap_or_default(),
            splice: self.splice.unwrap_or_default(),
            seccomp: self.seccomp.unwrap_or_default(),
            admin_token_file: self.admin_token_file,
            data_threads: threads(self.data_threads, cores)?,
            handshake_rate: handshake_rate(self.handshake_rate)?,
            dns_capture: on_or_off("dns_capture", self.dns_capture.as_deref())?,
            cluster_domain: domain(self.cluster_domain)?,
            dns_ttl: Duration::from_secs(dns_ttl),
            max_pods,
            max_flows,
        })
    }
}

const DEFAULT_CA_DIR: &str = "/var/lib/mesh-agent/ca";
/// Debian's bundle of the roots that browsers trust.
const DEFAULT_JWKS_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
