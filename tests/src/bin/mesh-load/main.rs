//! The load of `cargo xtask bench`: a server, a relay and clients that do one thing over and over, and say how long it took.
//!
//! An application like any other: it must not know of any mesh. A connection begins with what its client wants: one letter
//! and a size.
#![forbid(unsafe_code)]

mod client;
mod patient;
mod relay;
mod server;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpCongestion;
use nix::unistd::Pid;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(answer) => match writeln!(io::stdout(), "{answer}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            mesh_tests::say(&format!("mesh-load: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<serde_json::Value> {
    match words {
        ["serve", ports @ ..] => server::serve(ports),
        ["relay", ways @ ..] => relay::relay(ways),
        ["round-trips", core, to, size, ms] => {
            pin(core)?;
            client::round_trips(address(to)?, number(size)?, milliseconds(ms)?)
        }
        ["bulk", core, to, size, ms] => {
            pin(core)?;
            client::bulk(address(to)?, number(size)?, milliseconds(ms)?)
        }
        ["connects", core, to, ms] => {
            pin(core)?;
            client::connects(address(to)?, milliseconds(ms)?)
        }
        ["compare", to, megabytes] => client::compare(address(to)?, number(megabytes)?),
        _ => bail!(
            "usage: serve CORE:PORT..., relay CORE:PORT:HOST:PORT..., round-trips CORE ADDR BYTES MS, bulk CORE ADDR BYTES MS, connects CORE ADDR MS, \
             compare ADDR MEGABYTES"
        ),
    }
}

/// Keeps this thread on one core.
fn pin(core: &str) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core.parse()?).context("which core")?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("stay on one core")
}

/// The same congestion control at both ends of everything that is compared: pacing would distort it.
fn use_cubic(socket: &impl AsFd) -> Result<()> {
    setsockopt(socket, TcpCongestion, &OsString::from("cubic")).context("use cubic")
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("no address: {text}"))
}

fn number(text: &str) -> Result<u32> {
    text.parse().with_context(|| format!("no number: {text}"))
}

fn milliseconds(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(u64::from(number(text)?)))
}

/// What a client wants of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Every message of this size back, when all of it is there.
    Echo(u32),
    /// At the end, how many bytes came.
    Count,
    /// Every byte back, as it comes.
    Mirror,
}

impl Wish {
    const LEN: usize = 5;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let (letter, size) = match self {
            Self::Echo(size) => (b'e', size),
            Self::Count => (b'c', 0),
            Self::Mirror => (b'm', 0),
        };
        let [a, b, c, d] = size.to_le_bytes();
        [letter, a, b, c, d]
    }

    fn from_bytes([letter, a, b, c, d]: [u8; Self::LEN]) -> Option<Self> {
        match letter {
            b'e' => Some(Self::Echo(u32::from_le_bytes([a, b, c, d]))),
            b'c' => Some(Self::Count),
            b'm' => Some(Self::Mirror),
            _ => None,
        }
    }
}

/// No operation takes as long.
const TIMEOUT: Duration = Duration::from_secs(10);
