//! Load from inside of the cluster: h2load as an image, run in rounds, and what it says at their end.
//!
//! It must not judge; claims do.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::cluster::image::Image;

/// Hands all nodes the image `localhost/h2load:lab`, whose containers wait until something is run in them.
pub(super) fn bring(cluster: &Cluster) -> Result<()> {
    let image = Image::new("localhost/h2load:lab", &["/usr/bin/sleep", "2147483647"])?
        .with_program(Path::new("/usr/bin/h2load"), "/usr/bin/h2load")?
        .with_program(Path::new("/usr/bin/sleep"), "/usr/bin/sleep")?;
    cluster.load("h2load", &image)
}

/// 500 requests a second over ten connections, which must last for a round: told to close one, h2load counts what it would
/// have sent there as failed.
pub(super) const STEADY: &[&str] = &["--clients=10", "--rps=50", "--duration=15"];

/// As fast as one client gets answers, each over a connection of its own.
pub(super) const ALWAYS_NEW: &[&str] = &["--clients=1", "--requests=500", "--header=connection: close"];

/// As fast as one client gets answers, over a connection that it keeps until it is told to close it.
pub(super) const KEPT: &[&str] = &["--clients=1", "--requests=1000"];

/// Sends requests from a pod in one of these ways, round after round, until `is_over` at the end of one; how many were
/// done, and how many of them failed. However long what is watched takes, it is under load to its end.
pub(super) fn rounds(
    cluster: &Cluster,
    (namespace, pod): (&str, &str),
    how: &[&str],
    url: &str,
    is_over: &AtomicBool,
) -> Result<(u64, u64)> {
    let round = [&["h2load", "--h1"], how, &[url]].concat();
    let (mut done, mut failed) = (0, 0);
    while !is_over.load(Ordering::Acquire) {
        let said = cluster.exec(namespace, pod, &round)?;
        let (of_round, failed_of_round) = counted(&said)?;
        if failed_of_round > 0 {
            crate::say(&said);
        }
        done += of_round;
        failed += failed_of_round;
    }
    Ok((done, failed))
}

/// Requests that were done, and those of them that failed; answers other than 2xx among these.
pub(super) fn counted(said: &str) -> Result<(u64, u64)> {
    let counts = || {
        let line = said.lines().find_map(|line| line.strip_prefix("requests: "))?;
        let count = |what: &str| {
            let mut parts = line.split(", ");
            parts
                .find_map(|part| part.strip_suffix(what))
                .and_then(|count| count.trim().parse().ok())
        };
        Some((count(" done")?, count(" failed")?))
    };
    counts().with_context(|| format!("no counts in {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_counts_is_read() {
        let said = "finished in 1s\nrequests: 90 total, 90 started, 90 done, 87 succeeded, 3 failed, 1 errored, 0 timeout\n";
        assert_eq!(counted(said).unwrap(), (90, 3));
        assert!(counted("nothing").is_err());
    }
}
