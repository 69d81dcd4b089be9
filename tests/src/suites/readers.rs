//! Readers that stand still: what they make the agents hold.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::ask::{equal, get, until};
use super::program::Program;
use super::{Claim, claims};
use crate::agent;
use crate::process;
use crate::running::Running;
use crate::say;

pub(super) const CLAIMS: &[Claim] = claims![
    two_hundred_readers_of_http1_make_no_agent_hold_more_than_their_shares,
    two_hundred_readers_of_http2_make_no_agent_hold_more_than_their_shares,
    two_hundred_uploads_that_nobody_reads_make_no_agent_hold_more_than_their_shares,
];

const CLIENT: &str = "shop/client";
const NODES: [&str; 2] = ["node-a", "node-b"];
const COUNT: u64 = 200;
/// What a body that stands still may hold at an agent (docs/operating.md).
const SHARE_KIB: u64 = 384;
/// What else 200 connections need: their own state, TLS, and what an allocator keeps.
const BESIDES_KIB: u64 = 32 * 1024;

fn two_hundred_readers_of_http1_make_no_agent_hold_more_than_their_shares(lab: &Running) -> Result<()> {
    for server in ["fast-near", "fast"] {
        has_a_gibibyte(lab, server)?;
        stand_still(lab, &["h1", server, "80", "/big", "200"], None)?;
        // A client of HTTP/1.1 in front of an application of HTTP/2.
        stand_still(lab, &["h1", server, "81", "/big", "200"], None)?;
    }
    Ok(())
}

fn two_hundred_readers_of_http2_make_no_agent_hold_more_than_their_shares(lab: &Running) -> Result<()> {
    for server in ["fast-near", "fast"] {
        has_a_gibibyte(lab, server)?;
        stand_still(lab, &["h2", server, "81", "/big", "200"], None)?;
    }
    Ok(())
}

fn two_hundred_uploads_that_nobody_reads_make_no_agent_hold_more_than_their_shares(
    lab: &Running,
) -> Result<()> {
    let pod = "shop/client-b".parse()?;
    let words = ["python3", "../programs/slow_readers.py", "deaf", "7400"].map(str::to_owned);
    let deaf = Program::start(&mut lab.command(&pod, &words, &lab.state.input)?)?;
    let address = lab.pod(&pod)?.ipv4.to_string();
    // A client that goes away cannot say so while nobody reads what it sent before: its FIN waits for room, too.
    stand_still(lab, &["upload", &address, "7400", "200"], Some(deaf))
}

/// A file that takes no room, at both ports of an nginx.
fn has_a_gibibyte(lab: &Running, server: &str) -> Result<()> {
    let make = ["sh", "-c", "truncate -s 1G \"$SCRATCH/big\""];
    lab.exec(&format!("shop/{server}"), &make)?.success().map(drop)
}

/// Lets readers stand still for five seconds, in which an agent that goes on reading for them takes gigabytes.
///
/// Once they and `server`, if it has to, are gone, so are their connections.
fn stand_still(lab: &Running, what: &[&str], server: Option<Program>) -> Result<()> {
    let (before, open) = (memory(lab)?, files(lab)?);
    let words = [&["python3", "../programs/slow_readers.py"][..], what].concat();
    let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
    let mut readers = Program::start(&mut lab.command(&CLIENT.parse()?, &words, &lab.state.input)?)?;
    readers.says("standing").with_context(|| what.join(" "))?;
    let mut most = before;
    process::wait_until(Duration::from_secs(5), || {
        for (most, now) in most.iter_mut().zip(memory(lab)?) {
            *most = now.max(*most);
        }
        Ok(None::<()>)
    })?;
    let grown: Vec<u64> = most
        .iter()
        .zip(before)
        .map(|(most, before)| most - before)
        .collect();
    say(&format!(
        "    {}: {grown:?} KiB more at {NODES:?}",
        what.join(" ")
    ));
    let bound = COUNT * SHARE_KIB + BESIDES_KIB;
    ensure!(
        grown.iter().all(|grown| *grown < bound),
        "{what:?}: the agents grew by {grown:?} KiB, the bound is {bound}"
    );
    equal("others meanwhile", get(lab, CLIENT, "http://far/")?.status, 200)?;
    drop((readers, server));
    until(Duration::from_secs(30), "their connections are closed", || {
        let files = files(lab)?;
        Ok(files
            .iter()
            .zip(open)
            .all(|(now, before)| *now < before + COUNT / 2))
    })
    .map(drop)
}

fn files(lab: &Running) -> Result<[u64; 2]> {
    let of = |node| Ok::<_, anyhow::Error>(agent::usage(lab.agent(node)?)?.open_files);
    Ok([of(NODES[0])?, of(NODES[1])?])
}

fn memory(lab: &Running) -> Result<[u64; 2]> {
    let of = |node| Ok::<_, anyhow::Error>(agent::usage(lab.agent(node)?)?.rss_kib);
    Ok([of(NODES[0])?, of(NODES[1])?])
}
