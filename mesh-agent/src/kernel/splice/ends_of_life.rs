//! What must hold when a connection with spliced bytes ends, in each of the ways in which connections end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;

use crate::kernel::splice::bytes::Row;
use crate::kernel::splice::patient::Patient;
use crate::kernel::splice::trial::{Failure, Pair, Trial, failure};

pub(super) fn ends_after_the_last_byte(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    pair.client
        .write_all(row.part(0, 5000))
        .map_err(failure("write"))?;
    drop(pair.client);
    expect_to_end(&mut pair.server, &row, 5000)
}

/// The client says that it is done; the answer comes after that.
pub(super) fn half_closes(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    pair.client
        .write_all(row.part(0, 700))
        .map_err(failure("write"))?;
    pair.client
        .shutdown(Shutdown::Write)
        .map_err(failure("shut down"))?;
    expect_to_end(&mut pair.server, &row, 700)?;
    pair.server
        .write_all(row.part(0, 8000))
        .map_err(failure("answer"))?;
    drop(pair.server);
    expect_to_end(&mut pair.client, &row, 8000)
}

/// Both ends are closed in TCP, and the answer is read only then.
pub(super) fn shows_an_end_to_a_late_reader(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    pair.server
        .write_all(row.part(0, 8000))
        .map_err(failure("answer"))?;
    pair.client
        .shutdown(Shutdown::Write)
        .map_err(failure("shut down"))?;
    expect_to_end(&mut pair.server, &row, 0)?;
    drop(pair.server);
    expect_to_end(&mut pair.client, &row, 8000)
}

pub(super) fn reads_before_the_reset(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    pair.client
        .write_all(row.part(0, 5000))
        .map_err(failure("write"))?;
    SockRef::from(&*pair.client)
        .set_linger(Some(Duration::ZERO))
        .map_err(failure("prepare a reset"))?;
    drop(pair.client);
    let mut bytes = vec![0; 5000];
    pair.server.read_exact(&mut bytes).map_err(failure("read"))?;
    if !row.has(0, &bytes) {
        return Err(Failure("other bytes came than were sent".into()));
    }
    match pair.server.read(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(Failure(format!("then {other:?} instead of a reset"))),
    }
}

pub(super) fn refuses_after_shutdown(trial: &mut Trial) -> Result<(), Failure> {
    let Pair { mut client, server } = trial.warm_pair()?;
    client.shutdown(Shutdown::Write).map_err(failure("shut down"))?;
    match client.write(b"too late") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            drop(server);
            Ok(())
        }
        other => Err(Failure(format!("it gave {other:?}"))),
    }
}

/// The socket gives the first `len` bytes of the row and then its end.
fn expect_to_end(socket: &mut Patient, row: &Row, len: usize) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    socket
        .read_to_end(&mut bytes)
        .map_err(failure("read to the end"))?;
    if bytes.len() == len && row.has(0, &bytes) {
        return Ok(());
    }
    Err(Failure(format!(
        "{} bytes came of {len}, or other ones",
        bytes.len()
    )))
}
