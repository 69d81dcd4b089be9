//! Whether this very agent lives and is ready, over a Unix socket of its own: one word in, one line out.
//!
//! Two agents of one node share its loopback, so that its pages do not tell which of them answered. Must not know: what
//! readiness waits for.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use crate::lifecycle::{Readiness, Tasks};

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whether it answers.
    Live,
    /// Whether nothing is waited for: it serves, or could at once.
    Ready,
}

impl Probe {
    fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
        }
    }
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers there.
    #[error("no agent answers at {}", path.display())]
    Unanswered {
        /// Where it was asked.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It says no.
    #[error("{0}")]
    No(String),
}

/// Whether the agent serves the node, or waits for its turn; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicBool>);

impl Turn {
    /// It serves from now on.
    pub fn has_come(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn name(&self) -> &'static str {
        if self.0.load(Ordering::Relaxed) {
            "serves"
        } else {
            "standby"
        }
    }
}

/// Bound, and not answering yet.
#[derive(Debug)]
pub struct ProbeServer {
    listener: UnixListener,
    readiness: Readiness,
    turn: Turn,
}

impl ProbeServer {
    /// Takes the place of a socket that was left there.
    pub fn bind(path: &Path, readiness: Readiness, turn: Turn) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            readiness,
            turn,
        })
    }

    /// Answers until the stop of `tasks`.
    pub fn run(self, tasks: &Tasks) {
        let stop = tasks.stop();
        tasks.spawn("probes", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = self.listener.accept() => accepted,
                    () = stop.requested() => return,
                };
                // One at a time: kubelet asks some times a minute.
                let answered = match accepted {
                    Ok((stream, _)) => timeout(STEP, self.answer(stream)).await,
                    Err(error) => {
                        sleep(STEP).await;
                        Ok(Err(error))
                    }
                };
                if let Ok(Err(error)) = answered {
                    tracing::debug!(%error, "a probe came to nothing");
                }
            }
        });
    }

    async fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut word = [0; LONGEST];
        let length = stream.read(&mut word).await?;
        let word = word.get(..length).unwrap_or_default();
        let waiting = self.readiness.waiting();
        let answer = if word == Probe::Live.word().as_bytes() {
            format!("{YES}: {}", self.turn.name())
        } else if word != Probe::Ready.word().as_bytes() {
            "no such probe".to_owned()
        } else if waiting.is_empty() {
            format!("{YES}: {}", self.turn.name())
        } else {
            format!("waiting for: {}", waiting.join(", "))
        };
        stream.write_all(answer.as_bytes()).await
    }
}

/// Asks the agent behind `path`; what it says besides yes. Blocks for some seconds at most.
pub fn ask(path: &Path, probe: Probe) -> Result<String, ProbeError> {
    let answer = exchange(path, probe).map_err(|source| ProbeError::Unanswered {
        path: path.to_owned(),
        source,
    })?;
    if answer.starts_with(YES) {
        Ok(answer)
    } else {
        Err(ProbeError::No(answer))
    }
}

fn exchange(path: &Path, probe: Probe) -> io::Result<String> {
    let mut stream = StdStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(probe.word().as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

const YES: &str = "ok";
/// Of a word that is asked.
const LONGEST: usize = 16;
const LONGEST_ANSWER: u64 = 4096;
/// What whoever asks may take.
const STEP: Duration = Duration::from_secs(1);
/// Less than kubelet's own, of five seconds in the chart.
const PATIENCE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(path: &Path, probe: Probe) -> Result<String, String> {
        let path = path.to_owned();
        let asked = tokio::task::spawn_blocking(move || ask(&path, probe).map_err(|error| error.to_string()));
        asked.await.unwrap()
    }

    #[tokio::test]
    async fn says_what_is_waited_for_and_whose_turn_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (readiness, turn, tasks) = (Readiness::new(), Turn::default(), Tasks::new());
        let first = readiness.guard("first configuration");
        let server = ProbeServer::bind(&path, readiness, turn.clone()).unwrap();
        server.run(&tasks);
        assert_eq!(asked(&path, Probe::Live).await.unwrap(), "ok: standby");
        let no = asked(&path, Probe::Ready).await.unwrap_err();
        assert_eq!(no, "waiting for: first configuration");
        drop(first);
        assert_eq!(asked(&path, Probe::Ready).await.unwrap(), "ok: standby");
        turn.has_come();
        assert_eq!(asked(&path, Probe::Ready).await.unwrap(), "ok: serves");
    }

    #[tokio::test]
    async fn the_socket_of_an_agent_that_is_gone_is_no_answer_and_the_next_one_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bind = || ProbeServer::bind(&path, Readiness::new(), Turn::default()).unwrap();
        drop(bind());
        let no = asked(&path, Probe::Live).await.unwrap_err();
        assert!(no.contains("no agent answers"), "{no}");
        let tasks = Tasks::new();
        bind().run(&tasks);
        asked(&path, Probe::Live).await.unwrap();
    }

    #[tokio::test]
    async fn another_word_is_refused_and_silence_keeps_nobody_waiting_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let tasks = Tasks::new();
        let server = ProbeServer::bind(&path, Readiness::new(), Turn::default()).unwrap();
        server.run(&tasks);
        let _silent = UnixStream::connect(&path).await.unwrap();
        let mut odd = UnixStream::connect(&path).await.unwrap();
        odd.write_all(b"steady").await.unwrap();
        let mut answer = String::new();
        odd.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "no such probe");
    }
}
