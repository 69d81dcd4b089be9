//! The settings of `mesh-agent ca`: flags and environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ConfigError, DEFAULT_ROOT_NAMESPACE, DEFAULT_TRUST_DOMAIN, SeccompMode};

/// Arguments of `ca`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct CaArgs {
    /// Address that agents connect to.
    #[arg(long, env = "MESH_CA_LISTEN", default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Names and addresses that agents dial, with commas between: they stand in the service's own certificate.
    #[arg(long, env = "MESH_CA_NAMES", value_delimiter = ',', default_value = "mesh-ca")]
    names: Vec<String>,
    /// Directory of the signing key: Istio's cacerts files, or root.pem, which is made if there is neither.
    #[arg(long, env = "MESH_CA_DIR", default_value = "/var/lib/mesh-agent/ca")]
    ca_dir: PathBuf,
    /// Where all trusted roots are written for agents to be given; by default bundle.pem in the directory.
    #[arg(long, env = "MESH_CA_BUNDLE_FILE")]
    bundle_file: Option<PathBuf>,
    /// Directory of node tokens: one file a node, named like the node, readable by its owner only.
    #[arg(long, env = "MESH_CA_NODE_TOKENS", required_unless_present_any = ["make_root", "kubernetes"])]
    node_tokens: Option<PathBuf>,
    /// Directory of Kubernetes manifests, the same that agents read: which pods run on which node.
    #[arg(long, env = "MESH_MANIFESTS", required_unless_present_any = ["make_root", "kubernetes"])]
    manifests: Option<PathBuf>,
    /// Ask the API server of a cluster instead: whose a token is, and which pods run on which node.
    #[arg(long, env = "MESH_CA_KUBERNETES", conflicts_with_all = ["node_tokens", "manifests", "make_root"])]
    kubernetes: bool,
    /// How to reach the API server; by default as the pod that this runs in.
    #[arg(long, env = "MESH_CA_KUBECONFIG", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// The audience that agents' tokens must be made for.
    #[arg(long, env = "MESH_CA_TOKEN_AUDIENCE", default_value = "istio-ca")]
    token_audience: String,
    /// Service accounts that agents run under, as NAMESPACE/NAME with commas between: nobody else may ask.
    #[arg(
        long,
        env = "MESH_CA_AGENT_ACCOUNTS",
        value_delimiter = ',',
        default_value = "mesh-system/mesh-agent"
    )]
    agent_accounts: Vec<String>,
    /// Secret with the signing key, as NAMESPACE/NAME: the files of --ca-dir, or tls.crt, tls.key and ca.crt.
    #[arg(long, env = "MESH_CA_ROOT_SECRET", requires = "kubernetes")]
    root_secret: Option<String>,
    /// Make the Secret with a self-signed root if it is not there or is empty.
    #[arg(long, env = "MESH_CA_MAKE_ROOT_SECRET", requires = "root_secret")]
    make_root_secret: bool,
    /// `ConfigMap`, as NAMESPACE/NAME, into which all trusted roots are written as `roots.pem`; it must be there before.
    #[arg(long, env = "MESH_CA_ROOTS_CONFIGMAP", requires = "kubernetes")]
    roots_configmap: Option<String>,
    /// Lease of the one CA that writes status, as NAMESPACE/NAME.
    #[arg(
        long,
        env = "MESH_CA_LEASE",
        requires = "kubernetes",
        default_value = "mesh-system/mesh-ca"
    )]
    lease: String,
    /// Seconds after which others take the lease of a CA that is gone.
    #[arg(long, env = "MESH_CA_LEASE_DURATION_S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease_duration_s: u64,
    /// Seconds after which a CA that cannot renew its lease gives up writing; shorter than the lease.
    #[arg(long, env = "MESH_CA_RENEW_DEADLINE_S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    renew_deadline_s: u64,
    /// Seconds between two tries to take or renew the lease.
    #[arg(long, env = "MESH_CA_RETRY_PERIOD_S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    retry_period_s: u64,
    /// Write no status and no events, and take part in no election.
    #[arg(long, env = "MESH_CA_NO_STATUS", requires = "kubernetes")]
    no_status: bool,
    /// The namespace whose policies hold for the whole mesh, as agents have it.
    #[arg(long, env = "MESH_ROOT_NAMESPACE", default_value = DEFAULT_ROOT_NAMESPACE)]
    root_namespace: String,
    /// Trust domain of the identities.
    #[arg(long, env = "MESH_TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    trust_domain: String,
    /// Seconds that a certificate lives at most.
    #[arg(long, env = "MESH_CA_MAX_TTL_S", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(30..=7_776_000))]
    max_ttl_s: u64,
    /// Address of the admin server: /livez, /readyz, /metrics, /status.
    #[arg(long, env = "MESH_CA_ADMIN_ADDR", default_value = "127.0.0.1:15014")]
    admin_addr: SocketAddr,
    /// File with the token that reads the admin pages, which an admin address beyond this machine needs.
    #[arg(long, env = "MESH_CA_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// Whether the kernel refuses the service system calls that it never makes.
    #[arg(long, env = "MESH_SECCOMP", value_enum, default_value_t)]
    seccomp: SeccompMode,
    /// Log filter, for instance `info` or `mesh_agent=debug`.
    #[arg(long, env = "MESH_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// Make root.pem in the directory if there is none, and end: for a root to rotate to.
    #[arg(long)]
    make_root: bool,
}

/// The settings of the CA service, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaConfig {
    /// Address that agents connect to.
    pub listen: SocketAddr,
    /// Names that agents dial.
    pub names: Vec<String>,
    /// Directory of the signing key.
    pub ca_dir: PathBuf,
    /// Where all trusted roots are written; always somewhere without `root_secret`.
    pub bundle_file: Option<PathBuf>,
    /// The Secret with the signing key instead of the directory.
    pub root_secret: Option<RootSecretConfig>,
    /// Where tokens and pods are read; none when only a root is to be made.
    pub facts: Option<CaFacts>,
    /// Of the identities.
    pub trust_domain: String,
    /// That a certificate lives at most.
    pub max_ttl: Duration,
    /// Admin server.
    pub admin_addr: SocketAddr,
    /// Who may read the admin pages from elsewhere. None: nobody.
    pub admin_token_file: Option<PathBuf>,
    /// Whether system calls are refused.
    pub seccomp: SeccompMode,
    /// Log filter.
    pub log_level: String,
}

/// Where the CA learns whom it may sign for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaFacts {
    /// From files of this machine.
    Files {
        /// Directory of node tokens.
        node_tokens: PathBuf,
        /// Directory of manifests.
        manifests: PathBuf,
    },
    /// From the API server of a cluster.
    Kubernetes(ClusterFacts),
}

/// How the API server is asked, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// How to reach it; as the pod that this runs in where there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The audience that tokens must be made for.
    pub token_audience: String,
    /// Service accounts of agents, as `NAMESPACE/NAME`.
    pub agent_accounts: Vec<String>,
    /// The `ConfigMap` that shows the roots to agents, as `NAMESPACE/NAME`.
    pub roots_configmap: Option<String>,
    /// How the writer of status is elected; none where nobody writes.
    pub election: Option<ElectionConfig>,
}

/// How one of several CAs is elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionConfig {
    /// The Lease, as `NAMESPACE/NAME`.
    pub lease: String,
    /// After which others take the lease of one that is gone.
    pub lease_duration: Duration,
    /// After which a leader that cannot renew steps down.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
}

/// A Secret with the signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSecretConfig {
    /// As `NAMESPACE/NAME`.
    pub name: String,
    /// Whether to make it where it is absent or empty.
    pub make: bool,
}

impl CaArgs {
    /// Fills in what follows from other settings.
    pub fn resolve(self) -> Result<CaConfig, ConfigError> {
        let admin_addr = super::values::guarded(Some(self.admin_addr), self.admin_token_file.is_some())?;
        let election = ElectionConfig {
            lease: self.lease,
            lease_duration: Duration::from_secs(self.lease_duration_s),
            renew_deadline: Duration::from_secs(self.renew_deadline_s),
            retry_period: Duration::from_secs(self.retry_period_s),
            root_namespace: self.root_namespace,
        };
        let facts = match (self.node_tokens, self.manifests) {
            _ if self.kubernetes => Some(CaFacts::Kubernetes(ClusterFacts {
                kubeconfig: self.kubeconfig,
                token_audience: self.token_audience,
                agent_accounts: self.agent_accounts,
                roots_configmap: self.roots_configmap,
                election: (!self.no_status).then_some(election),
            })),
            (Some(node_tokens), Some(manifests)) if !self.make_root => Some(CaFacts::Files {
                node_tokens,
                manifests,
            }),
            _ => None,
        };
        let make = self.make_root_secret;
        let root_secret = self.root_secret.map(|name| RootSecretConfig { name, make });
        let beside_keys = root_secret.is_none().then(|| self.ca_dir.join("bundle.pem"));
        Ok(CaConfig {
            facts,
            listen: self.listen,
            names: self.names,
            bundle_file: self.bundle_file.or(beside_keys),
            root_secret,
            ca_dir: self.ca_dir,
            trust_domain: self.trust_domain,
            max_ttl: Duration::from_secs(self.max_ttl_s),
            admin_addr,
            admin_token_file: self.admin_token_file,
            seccomp: self.seccomp,
            log_level: self.log_level,
        })
    }
}
