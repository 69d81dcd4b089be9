//! The agent's side of the CNI plugin: hears it, answers it, and keeps it installed.
//!
//! Must not know: hooks, how a pod is found.

mod announcements;
mod installed;
mod server;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub(super) use self::announcements::Announcements;
use self::installed::Installed;
use self::server::Server;
use crate::cni::install::Installer;
use crate::cni::netconf::Entry;
use crate::cni::{NAMESPACES, PLUGIN, SOCKET, install};
use crate::config::Config;
use crate::kernel::enrolment::Enrolment;
use crate::lifecycle::Tasks;
use crate::status::StatusBoard;
use crate::telemetry::Telemetry;

/// Listens for the plugin and installs it, where the settings say so; what it says comes out of the result.
///
/// Errors: the socket cannot be made. A plugin that cannot be installed shows in the status, and is tried again.
pub(super) fn start(
    config: &Config,
    tasks: &Tasks,
    telemetry: &Telemetry,
    board: &StatusBoard,
    enrolment: &Mutex<Enrolment>,
) -> anyhow::Result<Announcements> {
    let Some(cni) = &config.cni else {
        return Ok(Announcements::none());
    };
    let (hears, heard) = mpsc::channel(QUEUE);
    let socket = config.state_dir.join(SOCKET);
    let server = Server::bind(&socket, hears, cni.timeout)
        .with_context(|| format!("cannot listen for the CNI plugin at {}", socket.display()))?;
    server.run(tasks, telemetry);
    let namespaces = config.state_dir.join(NAMESPACES);
    let entry = Entry {
        kind: PLUGIN.to_owned(),
        socket,
        namespaces: namespaces.clone(),
        fail_mode: cni.fail_mode,
        timeout_seconds: cni.timeout.as_secs(),
        exempt_namespaces: vec!["kube-system".to_owned(), config.root_namespace.clone()],
    };
    let installed = Installed {
        installer: Arc::new(Installer::new(cni.conf_dir.clone(), cni.bin_dir.clone(), entry)),
        telemetry: telemetry.clone(),
        board: board.clone(),
    };
    tasks.spawn("cni-installed", installed.keep(tasks.stop()));
    let mut announcements = Announcements::heard(heard, cni.timeout, &config.state_dir);
    announcements.recall(&mut enrolment.lock());
    Ok(announcements)
}

/// Takes the plugin out of the node, and forgets whom it would ask for; what was changed, in words.
pub(super) fn remove(conf_dir: &Path, bin_dir: &Path, state_dir: &Path) -> anyhow::Result<Vec<String>> {
    let done = install::remove(conf_dir, bin_dir).context("cannot take the CNI plugin out")?;
    for name in [SOCKET, NAMESPACES] {
        let path = state_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(done)
}

/// Pods that may begin at the same moment; a node has hundreds in all.
const QUEUE: usize = 256;
