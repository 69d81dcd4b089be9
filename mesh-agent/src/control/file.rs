//! The file source: a directory of Kubernetes manifests, watched.
//!
//! Place in the walk: one of the sources behind [`Source`]. Must not know: what any kind means.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::directory::{Fingerprint, Listing};
use super::{Reading, Source, SourceError, read_dir};

/// Reads `*.yaml`, `*.yml` and `*.json` of a directory, and again whenever one of them changes.
///
/// Changes are told by the kernel and gathered for [`SETTLING`]. What the kernel does not tell (links that lead out
/// of the directory, file systems without events) a slow comparison of all files finds.
pub struct FileSource {
    dir: PathBuf,
    trust_domain: Arc<str>,
    told: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    is_due: bool,
    seen: Option<Fingerprint>,
    /// When files were last read or compared; not when somebody last began to wait for that.
    compared: Instant,
    /// Both outlive who waits for them: what takes longer than they ever wait would begin anew each time.
    comparing: Option<JoinHandle<Option<Fingerprint>>>,
    under_way: Option<JoinHandle<Read>>,
    last: Last,
}

/// What was there when a reading began, and what was read.
type Read = (Option<Fingerprint>, Result<Reading, SourceError>);

/// What the last call returned.
#[derive(Debug, PartialEq)]
enum Last {
    Nothing,
    Reading(Box<Reading>),
    Error(String),
}

impl FileSource {
    /// A source for one directory; nothing is read before the first call of [`Source::next_reading`].
    pub fn new(dir: PathBuf, trust_domain: &str) -> Self {
        let mut source = Self {
            dir,
            trust_domain: trust_domain.into(),
            told: Arc::new(Notify::new()),
            watcher: None,
            is_due: true,
            seen: None,
            compared: Instant::now(),
            comparing: None,
            under_way: None,
            last: Last::Nothing,
        };
        source.watch();
        source
    }

    /// Begins to watch anew: a directory that was replaced is another one for the kernel.
    fn watch(&mut self) {
        let told = Arc::clone(&self.told);
        let on_event = move |event: notify::Result<notify::Event>| {
            // An error means that events may have been lost.
            if event.is_ok_and(|event| is_only_reading(event.kind)) {
                return;
            }
            told.notify_one();
        };
        let watching = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(&self.dir, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        self.watcher = match watching {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot watch manifests; comparing them often instead");
                None
            }
        };
    }

    /// Waits until the directory should be read.
    async fn due(&mut self) {
        while !self.is_due {
            let pause = if self.watcher.is_some() {
                COMPARISON
            } else {
                COMPARISON_UNWATCHED
            };
            tokio::select! {
                () = self.told.notified() => {
                    self.is_due = true;
                    sleep(SETTLING).await;
                }
                () = sleep_until(self.compared + pause) => {
                    let has_changed = self.has_changed_untold().await;
                    self.compared = Instant::now();
                    if has_changed {
                        self.is_due = true;
                        self.watch();
                    }
                }
            }
        }
    }

    async fn has_changed_untold(&mut self) -> bool {
        let dir = &self.dir;
        let comparing = self.comparing.get_or_insert_with(|| {
            let dir = dir.clone();
            spawn_blocking(move || Listing::of(&dir).ok().map(|listing| listing.fingerprint()))
        });
        let now = comparing.await;
        self.comparing = None;
        now.is_ok_and(|now| now != self.seen)
    }

    async fn read(&mut self) -> Result<Reading, SourceError> {
        let (dir, trust_domain) = (&self.dir, &self.trust_domain);
        let under_way = self.under_way.get_or_insert_with(|| {
            let (dir, trust_domain) = (dir.clone(), Arc::clone(trust_domain));
            // The fingerprint is taken first: what changes while the files are read is seen as a change afterwards.
            spawn_blocking(move || {
                let seen = Listing::of(&dir).ok().map(|listing| listing.fingerprint());
                (seen, read_dir(&dir, &trust_domain))
            })
        });
        let ended = under_way.await;
        self.under_way = None;
        self.compared = Instant::now();
        let (seen, reading) = ended.map_err(SourceError::CutShort)?;
        self.seen = seen;
        reading
    }

    async fn next(&mut self) -> Result<Reading, SourceError> {
        loop {
            self.due().await;
            let result = self.read().await;
            self.is_due = false;
            let last = match &result {
                Ok(reading) => Last::Reading(Box::new(reading.clone())),
                Err(error) => Last::Error(format!("{error:?}")),
            };
            if last != self.last {
                self.last = last;
                return result;
            }
        }
    }
}

impl Source for FileSource {
    fn next_reading(&mut self) -> BoxFuture<'_, Result<Reading, SourceError>> {
        Box::pin(self.next())
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// The source's own reading opens and closes files: answering to that would never end.
fn is_only_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// How long events are gathered before the files are read.
pub const SETTLING: Duration = Duration::from_millis(100);
/// How often files are compared although the kernel tells of changes.
const COMPARISON: Duration = Duration::from_secs(3);
/// How often files are compared where the kernel does not: within the second that a reload may take.
const COMPARISON_UNWATCHED: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::lifecycle::PATIENCE;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: shop}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";

    fn write_service(dir: &Path, name: &str) {
        fs::write(dir.join(format!("{name}.yaml")), SERVICE.replace("NAME", name)).unwrap();
    }

    /// The service names of the next reading, which must come before the slow comparison would find it.
    async fn next_names(source: &mut FileSource) -> Vec<String> {
        let reading = timeout(Duration::from_secs(1), source.next_reading())
            .await
            .unwrap()
            .unwrap();
        let mut names: Vec<_> = reading
            .facts
            .services
            .iter()
            .map(|s| s.name.name.to_string())
            .collect();
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn a_change_is_handed_on_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        write_service(dir.path(), "a");
        let mut source = FileSource::new(dir.path().to_owned(), "cluster.local");
        assert_eq!(next_names(&mut source).await, ["a"]);
        write_service(dir.path(), "b");
        assert_eq!(next_names(&mut source).await, ["a", "b"]);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(next_names(&mut source).await, ["b"]);
    }

    /// As a loop asks that has other things to do at every moment; how many readings were begun meanwhile.
    async fn asked_again_and_again(source: &mut FileSource) -> (Reading, usize) {
        let mut begun = HashSet::new();
        let asking = async {
            loop {
                if let Some(reading) = source.next_reading().now_or_never() {
                    return reading.unwrap();
                }
                begun.extend(source.under_way.as_ref().map(JoinHandle::id));
                tokio::task::yield_now().await;
            }
        };
        let reading = timeout(PATIENCE, asking).await.unwrap();
        (reading, begun.len())
    }

    #[tokio::test]
    async fn a_reading_comes_to_its_end_however_often_who_waits_turns_away() {
        let dir = tempfile::tempdir().unwrap();
        write_service(dir.path(), "a");
        let mut source = FileSource::new(dir.path().to_owned(), "cluster.local");
        let (reading, begun) = asked_again_and_again(&mut source).await;
        assert_eq!(reading.facts.services.len(), 1);
        assert!(begun <= 1, "{begun} readings were begun");
    }

    #[tokio::test]
    async fn a_config_map_that_is_swapped_by_its_link_is_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["1", "2"] {
            let data = dir.path().join(format!("..{version}"));
            fs::create_dir(&data).unwrap();
            fs::write(
                data.join("s.yaml"),
                SERVICE.replace("NAME", &format!("v{version}")),
            )
            .unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/s.yaml", dir.path().join("s.yaml")).unwrap();
        let mut source = FileSource::new(dir.path().to_owned(), "cluster.local");
        assert_eq!(next_names(&mut source).await, ["v1"]);
        symlink("..2", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(next_names(&mut source).await, ["v2"]);
    }

    #[tokio::test]
    async fn reading_alone_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        write_service(dir.path(), "a");
        let mut source = FileSource::new(dir.path().to_owned(), "cluster.local");
        assert_eq!(next_names(&mut source).await, ["a"]);
        fs::read_to_string(dir.path().join("a.yaml")).unwrap();
        let quiet = timeout(SETTLING * 4, source.next_reading()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        assert!(
            !source.is_due,
            "the source's own reading must not make another one due"
        );
    }

    #[tokio::test]
    async fn a_lost_directory_is_an_error_once_and_may_come_back() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        let mut source = FileSource::new(dir.clone(), "cluster.local");
        let lost = timeout(Duration::from_secs(1), source.next_reading())
            .await
            .unwrap();
        assert!(matches!(lost, Err(SourceError::Unlistable { .. })), "{lost:?}");
        let again = timeout(COMPARISON_UNWATCHED * 2, source.next_reading()).await;
        assert!(again.is_err(), "{again:?}");
        fs::create_dir(&dir).unwrap();
        write_service(&dir, "a");
        assert_eq!(next_names(&mut source).await, ["a"]);
    }
}
