//! The agent's own settings: a file, then the environment, then flags; each wins over the one before.
//!
//! Place in the walk: before everything. The only room that reads the environment.

mod ca;
mod cli;
mod cni;
mod file;
mod issuance;
mod settings;
mod source;
mod values;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::mesh::domain::ClusterDomain;
use clap::ValueEnum;
use serde::Deserialize;

pub use self::ca::{CaArgs, CaConfig, CaFacts, ClusterFacts, ElectionConfig, RootSecretConfig};
pub use self::cli::{
    AdminArgs, CheckArgs, Cli, Command, ExplainArgs, ExplainOutput, ProbeArgs, ProbeKind, RunArgs,
    StatusArgs, StatusOutput, UninstallArgs,
};
pub use self::cni::{CniArgs, CniConfig};
pub use self::issuance::Issuance;
pub use self::source::FactSource;

/// The agent's settings, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `spec.nodeName` of the pods of this node.
    pub node_name: String,
    /// Where facts come from.
    pub source: FactSource,
    /// Directory of the node's agent alone. Default `/run/mesh-agent`.
    pub state_dir: PathBuf,
    /// Default `refuse`.
    pub handover: HandoverMode,
    /// Where this very agent answers probes. Default nowhere.
    pub probe_socket: Option<PathBuf>,
    /// Where maps and links are pinned, below `mesh/NODE`; a BPF file system is mounted there when there is none.
    /// Default `/sys/fs/bpf`.
    pub bpf_dir: PathBuf,
    /// Root of kubelet's cgroups. Default where cgroup v2 is mounted last.
    pub cgroup_root: Option<PathBuf>,
    /// Whether annotations of an API server's pods say where they live. Default no: whoever may make a pod could place it
    /// where another one lives.
    pub placement_annotations: bool,
    /// The CNI plugin. Default none.
    pub cni: Option<CniConfig>,
    /// Directory of the embedded CA. Default `/var/lib/mesh-agent/ca`.
    pub ca_dir: PathBuf,
    /// Admin server. Default `127.0.0.1:15020`.
    pub admin_addr: SocketAddr,
    /// Default `cluster.local`.
    pub trust_domain: String,
    /// Default `mesh-system`.
    pub root_namespace: String,
    /// Default `info`.
    pub log_level: String,
    /// Default stdout.
    pub access_log: AccessLogTarget,
    /// Default 100 ms.
    pub detect_timeout: Duration,
    /// Default 5 s (Envoy's).
    pub connect_timeout: Duration,
    /// Default 1 h (Envoy's and Istio's).
    pub idle_timeout: Duration,
    /// Default 5 s.
    pub drain_timeout: Duration,
    /// How long what is under way to an endpoint that goes away may go on.
    pub endpoint_drain: Duration,
    /// Default 24 h.
    pub certificate_ttl: Duration,
    /// Who signs certificates. Default the embedded CA.
    pub issuance: Issuance,
    /// Certificate revocation lists. Default none.
    pub crl_file: Option<PathBuf>,
    /// Roots of servers of public keys. Default Debian's bundle.
    pub jwks_root_file: PathBuf,
    /// Files that policies may name for TLS with applications. Default none.
    pub tls_files_dir: Option<PathBuf>,
    /// Other names of the trust domain. Default none.
    pub trust_domain_aliases: Vec<String>,
    /// Trust bundles of other meshes. Default none.
    pub trust_bundle_dir: Option<PathBuf>,
    /// Default `auto`.
    pub direct: DirectMode,
    /// Default `auto`.
    pub splice: SpliceMode,
    /// Default `auto`.
    pub seccomp: SeccompMode,
    /// Who may read the admin pages from elsewhere than this machine. Default nobody.
    pub admin_token_file: Option<PathBuf>,
    /// Default a quarter of the cores, at least two.
    pub data_threads: usize,
    /// TLS handshakes that a pod may begin a second, in each direction. Default 2000.
    pub handshake_rate: NonZeroU32,
    /// Whether DNS of pods that say nothing about it is captured. Default no.
    pub dns_capture: bool,
    /// Below which Services have their names. Default `cluster.local`.
    pub cluster_domain: ClusterDomain,
    /// Default 30 s.
    pub dns_ttl: Duration,
    /// Pods that may be enrolled at a time; sizes maps. Default 4096.
    pub max_pods: u32,
    /// Connections that may be captured at a time, in each direction; sizes maps. Default 262144.
    pub max_flows: u32,
}

/// What becomes of an agent whose state directory another one uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandoverMode {
    /// It ends: two agents on one directory are a mistake.
    #[default]
    Refuse,
    /// It gets ready and takes over once the other one ends.
    Wait,
}

/// Whether connections between pods of this node that need no HTTP go past the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectMode {
    /// Where the kernel can end such a connection when it is not allowed any more.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Where access-log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to a file.
    File(PathBuf),
}

/// Whether connections that go past the agent may also go past TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SpliceMode {
    /// Where a trial at start finds no harm on this kernel.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Whether the kernel refuses system calls that the agent never makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SeccompMode {
    /// It does.
    #[default]
    Auto,
    /// It does not: for a debugger, or for a kernel without such filters.
    Off,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what is expected; the message names the field and, for an unknown one, the nearest known.
    #[error("{}: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong and the way out.
        message: String,
    },
    /// A setting that has no default is absent.
    #[error("{name} is not set: give --{flag}, {env} or {name} in the config file", name = .0, flag = .0.replace('_', "-"), env = env_name(.0))]
    Missing(&'static str),
    /// Nothing says where facts come from.
    #[error("no source of facts: give --manifests DIR, or --kubernetes in-cluster or KUBECONFIG")]
    NoSource,
    /// Two sources of facts.
    #[error("manifests and kubernetes are both set: facts come from one place")]
    TwoSources,
    /// Two settings exclude each other.
    #[error("{0} and {1} are both set: certificates come from one place")]
    Both(&'static str, &'static str),
    /// A word is not one of those that are known.
    #[error("{name} is {value:?}: {expected}")]
    Word {
        /// Which setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        expected: String,
    },
    /// The admin pages would be open to whoever reaches the address.
    #[error("admin_addr is {0}, which others can reach: set admin_token_file too, or use 127.0.0.1")]
    OpenAdmin(SocketAddr),
    /// A number is outside its range.
    #[error("{name} is {value}, but must lie between {min} and {max}")]
    Range {
        /// Which setting.
        name: &'static str,
        /// What was given.
        value: u64,
        /// Smallest that is allowed.
        min: u64,
        /// Largest that is allowed.
        max: u64,
    },
}

fn env_name(field: &str) -> String {
    format!("MESH_{}", field.to_uppercase())
}

/// Where maps and links are pinned unless told otherwise.
const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf";
/// Directory of the agent alone unless told otherwise.
const DEFAULT_STATE_DIR: &str = "/run/mesh-agent";

/// Where the admin server listens unless told otherwise.
fn default_admin_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15020))
}

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_ROOT_NAMESPACE: &str = "mesh-system";
