//! Where access-log lines go: a bounded queue in front of one writing thread.

use std::borrow::Cow;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::flag::ResponseFlag;
use super::http::HttpStart;
use super::labels::{FlowLabels, PathTaken};
use super::log_line;
use super::plain::harmless;

/// Takes lines without ever blocking: when the writer falls behind, lines are dropped and counted.
///
/// Clones share one queue. The thread ends, having written all, when the last clone is dropped.
#[derive(Clone)]
pub struct AccessLog {
    queue: Option<SyncSender<Job>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// All that a line shows. It is turned into text by the writer, off the data path.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) flow: FlowLabels,
    pub(super) wall: SystemTime,
    pub(super) duration: Duration,
    pub(super) source: Option<SocketAddr>,
    pub(super) destination: Option<SocketAddr>,
    /// None for a connection.
    pub(super) http: Option<Arc<HttpStart>>,
    pub(super) status: Option<u16>,
    pub(super) responded_after: Option<Duration>,
    pub(super) grpc_status: Option<u32>,
    pub(super) flag: Option<ResponseFlag>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) route: Option<String>,
    pub(super) details: Option<Cow<'static, str>>,
    pub(super) path: Option<PathTaken>,
    pub(super) received: u64,
    pub(super) sent: u64,
}

enum Job {
    Line(Box<Entry>),
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Writes nothing.
    pub fn off() -> Self {
        Self {
            queue: None,
            counts: Arc::default(),
        }
    }

    /// Writes to the standard output.
    pub fn stdout() -> io::Result<Self> {
        Self::to(io::stdout(), QUEUE)
    }

    /// Appends to a file, which is made if it does not exist.
    pub fn file(path: &Path) -> io::Result<Self> {
        Self::to(OpenOptions::new().create(true).append(true).open(path)?, QUEUE)
    }

    /// Fails only if the thread cannot be started.
    pub(super) fn to(out: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(capacity);
        let counts = Arc::<Counts>::default();
        let writer = Writer {
            out,
            batch: Vec::new(),
            lines: 0,
            counts: Arc::clone(&counts),
            is_failing: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&jobs))?;
        Ok(Self {
            queue: Some(queue),
            counts,
        })
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    pub(super) fn write(&self, entry: Entry) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Job::Line(Box::new(entry))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until every line that was queued before is written; false if that takes longer than `deadline`.
    ///
    /// Blocks the thread: call it once the data path is down.
    pub fn flush(&self, deadline: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (done, is_done) = sync_channel(1);
        let until = Instant::now() + deadline;
        let mut job = Job::Flush(done);
        loop {
            match queue.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => {
                    job = back;
                    std::thread::sleep(BATCH);
                }
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
            }
        }
        is_done
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .is_ok()
    }

    /// Lines that reached the file.
    pub(super) fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Lines that found the queue full or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("is_on", &self.queue.is_some())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

struct Writer<W: Write> {
    out: W,
    /// The lines of one batch, so that each batch is one write and either reaches the file or is counted as lost.
    batch: Vec<u8>,
    lines: u64,
    counts: Arc<Counts>,
    is_failing: bool,
}

impl<W: Write> Writer<W> {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let mut waiting = Vec::new();
            self.take(job, &mut waiting);
            while self.batch.len() < BATCH_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                self.take(job, &mut waiting);
            }
            self.write_batch();
            for done in waiting {
                // Whoever asked may have given up waiting, which is not an error.
                done.try_send(()).ok();
            }
            // A sleeping writer costs the data path a wake-up for each line; a batching one, one for many.
            std::thread::sleep(BATCH);
        }
    }

    fn take(&mut self, job: Job, waiting: &mut Vec<SyncSender<()>>) {
        match job {
            Job::Flush(done) => waiting.push(done),
            Job::Line(entry) => {
                let written = log_line::write(&mut self.batch, &entry);
                debug_assert!(
                    written.is_ok(),
                    "a line has string keys, and memory takes every byte"
                );
                self.lines += 1;
            }
        }
    }

    fn write_batch(&mut self) {
        let outcome = self
            .out
            .write_all(&harmless(&self.batch))
            .and_then(|()| self.out.flush());
        let counter = if outcome.is_ok() {
            &self.counts.written
        } else {
            &self.counts.dropped
        };
        counter.fetch_add(self.lines, Ordering::Relaxed);
        self.batch.clear();
        self.lines = 0;
        self.note(outcome.err());
    }

    /// Says once that writing fails, and once that it works again.
    fn note(&mut self, error: Option<io::Error>) {
        match error {
            Some(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::error!(%error, "cannot write the access log");
            }
            None if self.is_failing => {
                self.is_failing = false;
                tracing::info!("the access log is written again");
            }
            Some(_) | None => {}
        }
    }
}

/// Lines that may wait for the writer: at 20 ms a batch that is 400,000 lines a second.
const QUEUE: usize = 8_192;

/// A batch is written when it holds this much.
const BATCH_BYTES: usize = 1 << 20;

/// How long the writer lets lines gather.
const BATCH: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    use super::*;
    use crate::telemetry::{PeerLabels, Reporter, Security};

    /// Blocks in its first write until told to go on, as a full pipe does.
    struct Stuck {
        entered: Sender<()>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.entered.send(()).ok();
            self.go_on.lock().unwrap().recv().ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn entry() -> Entry {
        let peer = PeerLabels::unknown();
        Entry {
            flow: FlowLabels {
                reporter: Reporter::Source,
                source: Arc::clone(&peer),
                destination: peer,
                service: None,
                security: Security::Unknown,
            },
            wall: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            source: None,
            destination: None,
            http: None,
            status: None,
            responded_after: None,
            grpc_status: None,
            flag: None,
            upstream: None,
            route: None,
            details: None,
            path: None,
            received: 0,
            sent: 0,
        }
    }

    #[test]
    fn a_stuck_writer_never_blocks_who_writes_and_what_is_lost_is_counted() {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel();
        let log = AccessLog::to(
            Stuck {
                entered,
                go_on: Mutex::new(wait),
            },
            4,
        )
        .unwrap();
        log.write(entry());
        has_entered.recv().unwrap();
        for _ in 0..10 {
            log.write(entry());
        }
        assert_eq!(log.dropped(), 6);

        drop(go_on);
        assert!(log.flush(Duration::from_mins(1)));
        assert_eq!((log.written(), log.dropped()), (5, 6));
    }

    #[test]
    fn lines_that_the_disk_refuses_are_lost_and_not_written() {
        let log = AccessLog::to(Broken, 4).unwrap();
        log.write(entry());
        assert!(log.flush(Duration::from_mins(1)));
        assert_eq!((log.written(), log.dropped()), (0, 1));
    }

    #[test]
    fn a_log_that_is_off_flushes_at_once() {
        let log = AccessLog::off();
        log.write(entry());
        assert!(log.flush(Duration::ZERO));
    }
}
