//! What plugin and agent say to one another: one line of JSON each way, over a socket of root's.
//!
//! Must not know: what either makes of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the plugin says. Fields that are not known are passed over: during an upgrade the two may differ in version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A pod's sandbox has its network, and nothing runs in it yet.
    Begins(Sandbox),
    /// A sandbox is about to go.
    Ends(Sandbox),
}

/// The sandbox of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The runtime's name for it: a pod may have several, one after the other.
    pub id: String,
    /// `metadata.namespace` of its pod.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Its uid, as kubelet has it; older runtimes do not say.
    pub uid: Option<String>,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Its addresses, the primary first; none when it ends.
    pub addrs: Vec<IpAddr>,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Its traffic is captured from its first packet on.
    Enrolled,
    /// It takes no part in the mesh, or there is nothing to be done.
    NotEnrolled,
    /// It takes part, and could not be enrolled in time.
    Refused {
        /// Why, for people.
        why: String,
    },
}

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error("connect to {}", socket.display())]
    Away {
        /// The agent's socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It ended, or took too long.
    #[error("hear from the agent")]
    Silent(#[source] io::Error),
    /// What it said is none of [`Reply`].
    #[error("read the agent's answer")]
    Garbled(#[source] serde_json::Error),
}

/// Asks the agent. Blocks, each step for `patience` at most.
pub fn ask(socket: &Path, told: &Told, patience: Duration) -> Result<Reply, NoAnswer> {
    let mut stream = UnixStream::connect(socket).map_err(|source| NoAnswer::Away {
        socket: socket.to_owned(),
        source,
    })?;
    let line = said_to(&mut stream, told, patience).map_err(NoAnswer::Silent)?;
    serde_json::from_str(&line).map_err(NoAnswer::Garbled)
}

fn said_to(stream: &mut UnixStream, told: &Told, patience: Duration) -> io::Result<String> {
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(line_of(told)?.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

/// A message as it is sent.
pub fn line_of(message: &impl Serialize) -> io::Result<String> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    Ok(line)
}

/// Bytes of a line at most; a real one has some hundreds.
pub const MAX_LINE: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_later_fields_are_passed_over() {
        let told = Told::Begins(Sandbox {
            id: "1".to_owned(),
            addrs: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            ..Sandbox::default()
        });
        let line = line_of(&told).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Told>(&line).unwrap(), told);
        let later = line.replace("\"id\"", "\"later\":[1],\"id\"");
        assert_eq!(serde_json::from_str::<Told>(&later).unwrap(), told);
    }

    #[test]
    fn an_agent_that_is_away_is_told_from_one_that_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let told = Told::Ends(Sandbox::default());
        let patience = Duration::from_secs(5);
        assert!(matches!(
            ask(&socket, &told, patience),
            Err(NoAnswer::Away { .. })
        ));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (said, expected) in [
            (&b""[..], "hear from the agent"),
            (b"{\"what\":1}\n", "read the agent's answer"),
            (b"\xff\xfe\n", "hear from the agent"),
        ] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut heard = String::new();
                    stream.read_to_string(&mut heard).unwrap();
                    stream.write_all(said).unwrap();
                });
                let error = ask(&socket, &told, patience).unwrap_err();
                assert_eq!(error.to_string(), expected);
            });
        }
    }
}
