//! Keeps the plugin in place: looks whenever the directory of configurations changes, and now and then.
//!
//! Must not know: what is in a configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::cni::install::{InstallError, Installer, Standing};
use crate::identity::error_chain;
use crate::lifecycle::Stop;
use crate::status::{CniStatus, StatusBoard};
use crate::telemetry::Telemetry;

/// The plugin of this node.
pub(super) struct Installed {
    pub(super) installer: Arc<Installer>,
    pub(super) telemetry: Telemetry,
    pub(super) board: StatusBoard,
}

impl Installed {
    /// Until the stop; the plugin stays, so that no pod begins unmeshed while agents change.
    pub(super) async fn keep(self, stop: Stop) {
        let told = Arc::new(Notify::new());
        let mut watcher = None;
        let (mut status, mut is_first, mut was_in_place) = (CniStatus::default(), true, false);
        loop {
            if watcher.is_none() {
                watcher = watch(self.installer.conf_dir(), &told);
            }
            let installer = Arc::clone(&self.installer);
            let looked = spawn_blocking(move || look(&installer, is_first)).await;
            is_first = false;
            let before = status.clone();
            match looked {
                Ok(looked) => {
                    self.note(looked, was_in_place, &mut status);
                    was_in_place |= status.list.is_some();
                }
                Err(error) => status.error = Some(error.to_string()),
            }
            if status != before {
                self.board.cni(status.clone());
            }
            tokio::select! {
                () = stop.requested() => return,
                () = due(&told) => {}
            }
        }
    }

    fn note(&self, looked: Result<Standing, InstallError>, was_in_place: bool, status: &mut CniStatus) {
        match looked {
            Ok(Standing::Empty) => {
                let why = if was_in_place { LOST } else { UNCONFIGURED };
                if was_in_place && status.list.take().is_some() {
                    tracing::warn!(why, "the CNI plugin is not in place");
                }
                status.error = Some(why.to_owned());
            }
            Ok(Standing::InPlace(list)) => {
                status.list = Some(list.display().to_string());
                status.error = None;
            }
            Ok(Standing::Put(list)) => {
                let list = list.display().to_string();
                tracing::info!(list, "the CNI plugin is in place");
                if was_in_place {
                    status.repairs += 1;
                    self.telemetry.enrolment().cni_repaired();
                }
                status.list = Some(list);
                status.error = None;
            }
            Err(error) => {
                let why = error_chain(&error);
                if status.error.as_ref() != Some(&why) {
                    tracing::error!(
                        why,
                        "the CNI plugin is not in place: pods begin before they are enrolled; tried again"
                    );
                }
                status.error = Some(why);
            }
        }
    }
}

/// Blocks: the program is compared byte by byte, the first time and where its length differs.
fn look(installer: &Installer, is_first: bool) -> Result<Standing, InstallError> {
    let own = Path::new(OWN_PROGRAM);
    // The program first: a list that names what is not there keeps every pod from starting.
    if is_first || !installer.has_program(own) {
        installer.put_program(own)?;
    }
    installer.repair()
}

/// Changes come in groups: what follows at once is seen by the same look.
async fn due(told: &Notify) {
    // Late is no failure: some file systems tell nothing.
    if timeout(COMPARISON, told.notified()).await.is_ok() {
        sleep(SETTLING).await;
    }
}

fn watch(dir: &Path, told: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let told = Arc::clone(told);
    let on_event = move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            told.notify_one();
        }
    };
    let watching = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(
            |error| tracing::debug!(%error, "cannot watch CNI configurations yet; comparing them often"),
        )
        .ok()
}

const UNCONFIGURED: &str = "no network is configured yet";
const LOST: &str = "no network is configured any more; no pod starts before one is";
const OWN_PROGRAM: &str = "/proc/self/exe";
const SETTLING: Duration = Duration::from_millis(50);
/// How often is looked although nothing was told.
const COMPARISON: Duration = Duration::from_secs(5);
