//! The socket on which the CNI plugin asks: root's alone, one question a connection, every wait bounded.
//!
//! Must not know: what the answer rests on.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::cni::wire::{MAX_LINE, Reply, Told, line_of};
use crate::lifecycle::{Stop, Tasks};
use crate::telemetry::{CniResult, Telemetry};

/// What a plugin said, and where its answer goes.
#[derive(Debug)]
pub(in crate::app) struct Heard {
    pub(super) told: Told,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// Bound, and not answering yet: whoever asks waits.
#[derive(Debug)]
pub(super) struct Server {
    listener: UnixListener,
    asking: Asking,
}

/// What each connection needs.
#[derive(Debug, Clone)]
struct Asking {
    hears: mpsc::Sender<Heard>,
    /// A little more than who answers takes at most.
    patience: Duration,
}

impl Server {
    /// Takes the place of an earlier agent's socket: the state directory is this agent's alone.
    pub(super) fn bind(path: &Path, hears: mpsc::Sender<Heard>, patience: Duration) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let patience = patience + STEP;
        Ok(Self {
            listener,
            asking: Asking { hears, patience },
        })
    }

    /// Answers until the stop of `tasks`.
    pub(super) fn run(self, tasks: &Tasks, telemetry: &Telemetry) {
        let accepting = accept(self.listener, self.asking, telemetry.clone(), tasks.child());
        tasks.spawn("cni-accept", accepting);
    }
}

async fn accept(listener: UnixListener, asking: Asking, telemetry: Telemetry, connections: Tasks) {
    let stop = connections.stop();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            // Fails only where the semaphore is closed, which nobody does.
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((permit, stream))
        };
        let accepted = tokio::select! {
            () = stop.requested() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((permit, stream)) => {
                let serving = serve(stream, asking.clone(), telemetry.clone(), stop.clone());
                connections.spawn("cni-connection", async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the CNI plugin");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, asking: Asking, telemetry: Telemetry, stop: Stop) {
    let conversation = async {
        is_roots(&stream)?;
        let told = timeout(STEP, hear(&mut stream)).await??;
        let is_begin = matches!(told, Told::Begins(_));
        let reply = answer(told, &asking).await;
        if is_begin {
            telemetry.enrolment().cni_answered(result_of(&reply));
        }
        timeout(STEP, stream.write_all(line_of(&reply)?.as_bytes())).await?
    };
    let ended: io::Result<()> = tokio::select! {
        // Its connection ends without an answer, and the plugin asks the next agent.
        () = stop.requested() => return,
        ended = conversation => ended,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "a question of the CNI plugin came to nothing");
    }
}

/// The file's mode says the same; a mistake there must not be enough.
fn is_roots(stream: &UnixStream) -> io::Result<()> {
    match stream.peer_cred()?.uid() {
        0 => Ok(()),
        uid => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!("asked by uid {uid}, not by root"),
        )),
    }
}

async fn hear(stream: &mut UnixStream) -> io::Result<Told> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

async fn answer(told: Told, asking: &Asking) -> Reply {
    let (reply, replied) = oneshot::channel();
    let heard = Heard { told, reply };
    let refused = |why: &str| Reply::Refused { why: why.to_owned() };
    if asking.hears.try_send(heard).is_err() {
        return refused("too many pods begin at once");
    }
    match timeout(asking.patience, replied).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => refused("the agent is stopping"),
        Err(_) => refused("the agent is busy"),
    }
}

fn result_of(reply: &Reply) -> CniResult {
    match reply {
        Reply::Enrolled => CniResult::Enrolled,
        Reply::NotEnrolled => CniResult::NotEnrolled,
        Reply::Refused { .. } => CniResult::Refused,
    }
}

/// What a plugin may take to ask, and to read.
const STEP: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The rest waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;

#[cfg(test)]
mod tests {
    use crate::cni::wire::Sandbox;

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        heard: mpsc::Receiver<Heard>,
        tasks: Tasks,
    }

    fn bench(patience: Duration) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let (hears, heard) = mpsc::channel(1);
        let tasks = Tasks::new();
        let server = Server::bind(&dir.path().join("s"), hears, patience).unwrap();
        server.run(&tasks, &Telemetry::new());
        Bench { dir, heard, tasks }
    }

    async fn says(to: &tempfile::TempDir, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(to.path().join("s")).await.unwrap();
        // An agent that has heard enough closes before all is written.
        let _all_written = stream.write_all(bytes).await.and(stream.shutdown().await);
        let mut answer = String::new();
        let _whole = stream.read_to_string(&mut answer).await;
        answer
    }

    fn begins() -> Vec<u8> {
        line_of(&Told::Begins(Sandbox::default())).unwrap().into_bytes()
    }

    #[tokio::test]
    async fn what_is_asked_comes_out_and_its_answer_goes_back() {
        let mut bench = bench(Duration::from_secs(30));
        let question = begins();
        let asked = says(&bench.dir, &question);
        tokio::pin!(asked);
        let heard = tokio::select! {
            heard = bench.heard.recv() => heard.unwrap(),
            answer = &mut asked => panic!("answered by nobody: {answer}"),
        };
        assert_eq!(heard.told, Told::Begins(Sandbox::default()));
        heard.reply.send(Reply::Enrolled).unwrap();
        assert_eq!(asked.await, "\"enrolled\"\n");
    }

    #[tokio::test]
    async fn what_is_no_question_is_not_answered_and_the_next_one_is() {
        let mut bench = bench(Duration::from_secs(30));
        let long = vec![b' '; usize::try_from(MAX_LINE).unwrap() + 10];
        for odd in [
            &b""[..],
            b"\n",
            b"{}\n",
            b"\xff\xfe\n",
            b"{\"begins\":{}}\n",
            &long,
        ] {
            assert_eq!(says(&bench.dir, odd).await, "");
        }
        let question = begins();
        let (answer, ()) = tokio::join!(says(&bench.dir, &question), async {
            let heard = bench.heard.recv().await.unwrap();
            heard.reply.send(Reply::NotEnrolled).unwrap();
        });
        assert_eq!(answer, "\"not_enrolled\"\n");
    }

    #[tokio::test]
    async fn a_stop_ends_a_question_without_an_answer() {
        let mut bench = bench(Duration::from_secs(30));
        let question = begins();
        let (answer, heard) = tokio::join!(says(&bench.dir, &question), async {
            let heard = bench.heard.recv().await.unwrap();
            bench.tasks.request_stop();
            heard
        });
        assert_eq!(answer, "");
        drop(heard);
        assert!(bench.tasks.joined(Duration::from_secs(30)).await);
    }

    #[tokio::test]
    async fn only_root_may_open_the_socket() {
        let bench = bench(Duration::from_secs(30));
        let rights = std::fs::metadata(bench.dir.path().join("s"))
            .unwrap()
            .permissions();
        assert_eq!(rights.mode() & 0o777, 0o600);
    }
}
