//! What must hold where the agent is an end itself: between applications that read as they like and a relay that reads and
//! writes as [`Leg`] does.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use mesh_common::splice::WINDOW;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::kernel::splice::bytes::Row;
use crate::kernel::splice::legs::Waiting;
use crate::kernel::splice::trial::{Failure, TIMEOUT, Trial, failure};
use crate::pod::legs::Backlog as _;
use crate::transport::leg::Leg;

/// The agent has a little more than the splice takes for an application that does something else, and then reads as tokio does.
///
/// Nothing is sent after that, not even an end: each would wake the application once more.
pub(super) fn waits_for_who_reads_short(trial: &mut Trial) -> Result<(), Failure> {
    let pair = trial.warm_pair()?;
    let (row, runtime, total) = (Row::new(), runtime()?, window() + MORE);
    let (backlog, seen) = (trial.backlog(&pair.client)?, trial.backlog(&pair.client)?);
    runtime.block_on(async {
        let mut leg = Leg::spliced(on_runtime(&pair.client)?.into(), Box::new(backlog));
        let mut writes = std::pin::pin!(async {
            let mut sent = 0;
            while sent < total {
                let message = row.part(sent, MESSAGE.min(total - sent));
                leg.write_all(message).await.map_err(failure("write"))?;
                sent += message.len();
            }
            Ok(())
        });
        let fills = async {
            while window() > MESSAGE + unread(&seen)? {
                sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            ended = &mut writes => {
                ended?;
                return Err(Failure("all was taken while nobody read".into()));
            }
            full = timeout(PATIENCE, fills) => full.map_err(failure("wait until it is full"))??,
        }
        let mut application = on_runtime(&pair.server)?;
        let both = async { tokio::try_join!(writes, read(&mut application, total)) };
        let ((), bytes) = timeout(PATIENCE, both)
            .await
            .map_err(failure("wait for what is there"))??;
        all(&row, &bytes, total)
    })
}

/// An application sends a little more than the splice takes, and nothing afterwards.
pub(super) fn reads_what_lies_in_both(trial: &mut Trial) -> Result<(), Failure> {
    let pair = trial.warm_pair()?;
    let (row, runtime, total) = (Row::new(), runtime()?, window() + MORE);
    let before = trial.spliced(&pair.server)?;
    let (mut application, mut sent): (&TcpStream, usize) = (&pair.server, 0);
    while sent < total {
        let message = row.part(sent, MESSAGE.min(total - sent));
        sent += application.write(message).map_err(failure("write"))?;
    }
    let spliced = usize::try_from(trial.spliced(&pair.server)? - before).unwrap_or(usize::MAX);
    if spliced == 0 || spliced >= total {
        return Err(Failure(format!("{spliced} of {total} bytes were spliced")));
    }
    let backlog = trial.backlog(&pair.client)?;
    runtime.block_on(async {
        let mut leg = Leg::spliced(on_runtime(&pair.client)?.into(), Box::new(backlog));
        let bytes = timeout(PATIENCE, read(&mut leg, total))
            .await
            .map_err(failure("wait for what is there"))??;
        all(&row, &bytes, total)
    })
}

async fn read(from: &mut (impl AsyncRead + Unpin), total: usize) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut buffer) = (Vec::with_capacity(total), vec![0; 65_536]);
    while bytes.len() < total {
        let read = from.read(&mut buffer).await.map_err(failure("read"))?;
        if read == 0 {
            return Err(Failure(format!("it ended after {} bytes", bytes.len())));
        }
        bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(bytes)
}

fn unread(seen: &Waiting) -> Result<usize, Failure> {
    let unread = seen.unread().map_err(failure("look"))?;
    Ok(usize::try_from(unread.unwrap_or_default()).unwrap_or(usize::MAX))
}

fn all(row: &Row, bytes: &[u8], wanted: usize) -> Result<(), Failure> {
    if bytes.len() == wanted && row.has(0, bytes) {
        return Ok(());
    }
    let len = bytes.len();
    Err(Failure(format!("{len} bytes came of {wanted}, or other ones")))
}

fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(failure("make a runtime"))
}

fn on_runtime(socket: &TcpStream) -> Result<tokio::net::TcpStream, Failure> {
    let socket = socket.try_clone().map_err(failure("prepare"))?;
    tokio::net::TcpStream::from_std(socket).map_err(failure("prepare"))
}

fn window() -> usize {
    usize::try_from(WINDOW).unwrap_or(usize::MAX)
}

const MESSAGE: usize = 3000;
/// Little enough to lie in TCP.
const MORE: usize = 50_000;
/// How long all of it may take on a machine that does much else.
const PATIENCE: Duration = TIMEOUT.saturating_mul(4);
