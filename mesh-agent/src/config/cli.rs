//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::cni::CniArgs;
use super::file::read_file;
use super::settings::Settings;
use super::{
    CaArgs, Config, ConfigError, DEFAULT_BPF_DIR, DEFAULT_ROOT_NAMESPACE, DEFAULT_STATE_DIR,
    DEFAULT_TRUST_DOMAIN, default_admin_addr,
};
use crate::cni::PLUGIN;

/// The node agent of a sidecar-free service mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the pods of this node until SIGTERM or SIGINT.
    Run(Box<RunArgs>),
    /// Serve certificates to the agents of all nodes until SIGTERM or SIGINT.
    Ca(Box<CaArgs>),
    /// Print what the agent of this node has enrolled, its certificates, its configuration and what it rejected.
    Status(StatusArgs),
    /// Ask the agent of this node what would become of a request of one of its pods, and why; nothing is sent.
    Explain(ExplainArgs),
    /// Read a directory of manifests as the agent would and print every rejection; exit code 1 if there is one.
    Check(CheckArgs),
    /// Remove every link, map and pin of the mesh on this node and prove it; exit code 1 if something is left.
    Uninstall(UninstallArgs),
    /// Ask one agent among several of a node whether it lives or is ready; exit code 1 if not. For probes by exec.
    Probe(ProbeArgs),
    /// The chained CNI plugin, as a container runtime runs it: configuration on standard input, CNI_* in the environment.
    Cni(CniArgs),
}

impl Cli {
    /// What this process was called for. Under the plugin's name and without arguments, as runtimes call it, that is
    /// `cni`.
    pub fn of_process() -> Self {
        let mut words: Vec<_> = std::env::args_os().collect();
        let own = words.first().and_then(|own| Path::new(own).file_name());
        if own.is_some_and(|own| own == PLUGIN) && words.len() == 1 {
            words.push("cni".into());
        }
        Self::parse_from(words)
    }
}

/// Where a running agent answers.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Address of the admin server of the agent, or of the CA (by default 127.0.0.1:15014) for `status`.
    #[arg(long, env = "MESH_ADMIN_ADDR", default_value_t = default_admin_addr())]
    pub admin_addr: SocketAddr,
    /// File with its admin token, where it has one.
    #[arg(long, env = "MESH_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What is asked.
    #[arg(value_enum)]
    pub what: ProbeKind,
    /// Where the agent answers.
    #[arg(long, env = "MESH_PROBE_SOCKET")]
    pub probe_socket: PathBuf,
}

/// What `probe` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProbeKind {
    /// Whether it answers.
    Live,
    /// Whether it serves, or could at once.
    Ready,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The pod that would send the request, a pod of this node.
    #[arg(long, value_name = "NAMESPACE/POD")]
    pub from: String,
    /// What it would ask for: `http://HOST[:PORT]/PATH` as the pod would write it, or https or tcp for opaque bytes.
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// The request's method; GET where it is not said.
    #[arg(short = 'X', long)]
    pub method: Option<String>,
    /// A header of the request; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Where the agent answers.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// A tree for people, or the JSON as the agent gives it.
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Tree)]
    pub output: ExplainOutput,
}

/// How `explain` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExplainOutput {
    /// For people.
    Tree,
    /// For programs.
    Json,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the agent answers.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// A table for people, or the JSON as the agent gives it.
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Table)]
    pub output: StatusOutput,
}

/// How `status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The directory of manifests.
    pub dir: PathBuf,
    /// Trust domain of the identities.
    #[arg(long, default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Namespace whose policies without selector are mesh-wide.
    #[arg(long, default_value = DEFAULT_ROOT_NAMESPACE)]
    pub root_namespace: String,
}

/// Arguments of `uninstall`: those that the agent was run with.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Name of the node.
    #[arg(long, env = "MESH_NODE_NAME")]
    pub node_name: String,
    /// BPF file system on which maps and links are pinned.
    #[arg(long, env = "MESH_BPF_DIR", default_value = DEFAULT_BPF_DIR)]
    pub bpf_dir: PathBuf,
    /// Directory of the agent, which tells whether it runs.
    #[arg(long, env = "MESH_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Directory of CNI configurations, where the plugin is installed.
    #[arg(long, env = "MESH_CNI_CONF_DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins.
    #[arg(long, env = "MESH_CNI_BIN_DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Unhook the pods of a running agent too; it hooks them up again, so this alone does not end it.
    #[arg(long)]
    pub force: bool,
    /// When nothing is left, stay until SIGTERM and answer /readyz: what a DaemonSet runs in the agent's place while
    /// the mesh leaves a cluster.
    #[arg(long)]
    pub stay: bool,
    /// Where /livez and /readyz are answered with --stay.
    #[arg(long, env = "MESH_ADMIN_ADDR", default_value_t = default_admin_addr())]
    pub admin_addr: SocketAddr,
}

/// Arguments of `run`; what is absent comes from the file, then from the defaults of [`Config`].
#[derive(Debug, Args)]
pub struct RunArgs {
    /// YAML file with any of the settings below, by their long names with underscores.
    #[arg(long, env = "MESH_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl RunArgs {
    /// Joins file, environment and flags to complete settings. `cores` sets the default of `data_threads`.
    pub fn resolve(self, cores: usize) -> Result<Config, ConfigError> {
        let file = self
            .config
            .as_deref()
            .map(read_file)
            .transpose()?
            .unwrap_or_default();
        self.settings.over(file).complete(cores)
    }
}
