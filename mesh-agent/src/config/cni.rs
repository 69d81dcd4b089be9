//! The CNI plugin: how the agent installs it, and how a runtime calls it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ConfigError;
use super::values::ranged;
use crate::cni::netconf::FailMode;
use crate::cni::plugin::Call;

/// Where the plugin is installed, and how long pods wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniConfig {
    /// Directory of configurations, `/etc/cni/net.d` in most clusters.
    pub conf_dir: PathBuf,
    /// Directory of plugins, `/opt/cni/bin` in most clusters.
    pub bin_dir: PathBuf,
    /// What becomes of a pod that cannot be enrolled. Default it does not start.
    pub fail_mode: FailMode,
    /// How long a pod waits for its enrolment. Default 10 s.
    pub timeout: Duration,
}

/// As settings give it.
pub(super) struct Given {
    pub(super) conf_dir: Option<PathBuf>,
    pub(super) bin_dir: Option<PathBuf>,
    pub(super) fail_mode: Option<FailMode>,
    pub(super) timeout_s: Option<u64>,
}

impl CniConfig {
    /// `None` where no directory is given. Errors: only one of the two is, or a number is out of its range.
    pub(super) fn told_by(given: Given) -> Result<Option<Self>, ConfigError> {
        let timeout = ranged("cni_timeout_s", given.timeout_s.unwrap_or(10), 1, 100)?;
        match (given.conf_dir, given.bin_dir) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(ConfigError::Missing("cni_bin_dir")),
            (None, Some(_)) => Err(ConfigError::Missing("cni_conf_dir")),
            (Some(conf_dir), Some(bin_dir)) => Ok(Some(Self {
                conf_dir,
                bin_dir,
                fail_mode: given.fail_mode.unwrap_or_default(),
                timeout: Duration::from_secs(timeout),
            })),
        }
    }
}

/// Arguments of `cni`, which runtimes give in the environment.
#[derive(Debug, Args)]
pub struct CniArgs {
    /// What to do: ADD, DEL, CHECK, GC, STATUS or VERSION.
    #[arg(long, env = "CNI_COMMAND", default_value = "")]
    command: String,
    /// The sandbox.
    #[arg(long, env = "CNI_CONTAINERID", default_value = "")]
    container: String,
    /// Path of its network namespace.
    #[arg(long, env = "CNI_NETNS", default_value = "")]
    netns: String,
    /// KEY=VALUE pairs with semicolons between: which pod it is.
    #[arg(long, env = "CNI_ARGS", default_value = "")]
    args: String,
}

impl From<CniArgs> for Call {
    fn from(args: CniArgs) -> Self {
        let CniArgs {
            command,
            container,
            netns,
            args,
        } = args;
        Self {
            command,
            container,
            netns,
            args,
        }
    }
}
