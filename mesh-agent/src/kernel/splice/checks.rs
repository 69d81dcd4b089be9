//! What must hold of bytes on their way through the splice, each a claim; ends of connections are in [`ends_of_life`].
//!
//! [`ends_of_life`]: super::ends_of_life

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;

use mesh_common::splice::{LARGE_MESSAGE, WINDOW};
use mesh_common::unread::unread;
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, recv};
use socket2::Protocol;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::kernel::splice::bytes::{Row, Sizes};
use crate::kernel::splice::ends_of_life::{
    ends_after_the_last_byte, half_closes, reads_before_the_reset, refuses_after_shutdown,
    shows_an_end_to_a_late_reader,
};
use crate::kernel::splice::relays::{reads_what_lies_in_both, waits_for_who_reads_short};
use crate::kernel::splice::trial::{Failure, Pair, TIMEOUT, Trial, failure};

/// A check, and what it claims.
pub(super) type Check = (&'static str, fn(&mut Trial) -> Result<(), Failure>);

/// Every check.
pub(super) const CHECKS: [Check; 18] = [
    ("100 MB of mixed sizes arrive whole and in order", moves_100_mb),
    (
        "a reader that stops makes the writer wait",
        stops_for_a_slow_reader,
    ),
    ("a reader with splice(2) gets every byte", serves_splice),
    ("splice(2) and sendfile(2) into a socket arrive", serves_sendfile),
    (
        "a reader that blocks and asks for all bytes gets all",
        serves_waitall,
    ),
    (
        "a reader that takes a short read for the end gets all",
        wakes_who_reads_short,
    ),
    ("MSG_PEEK leaves what it shows", serves_peek),
    ("FIONREAD counts what waits", counts_what_waits),
    ("an MPTCP client is served", serves_mptcp_client),
    ("an MPTCP server is served", serves_mptcp_server),
    ("two MPTCP ends are served", serves_mptcp_ends),
    ("the end comes after the last byte", ends_after_the_last_byte),
    ("a half-closed connection still answers", half_closes),
    (
        "an answer outlives the connection until it is read",
        shows_an_end_to_a_late_reader,
    ),
    (
        "a reset comes after what was sent before it",
        reads_before_the_reset,
    ),
    ("a write after shutdown fails", refuses_after_shutdown),
    (
        "an agent that waits leaves nothing behind a short read",
        waits_for_who_reads_short,
    ),
    (
        "an agent that reads until nothing is left gets all",
        reads_what_lies_in_both,
    ),
];

/// Some messages are spliced, some are too large, some find the window full: all ways between splice and TCP are taken.
fn moves_100_mb(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    let before = trial.spliced(&pair.client)?;
    let (mut client, row_of_writer) = (&pair.client, &row);
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> Result<(), Failure> {
            let (mut sizes, mut sent) = (Sizes::new(), 0);
            while sent < TOTAL {
                // Most are small; a pause lets the reader catch up, so that TCP runs empty.
                let most = if sizes.up_to(4) == 1 { 40_000 } else { 3_000 };
                let message = row_of_writer.part(sent, sizes.up_to(most).min(TOTAL - sent));
                client.write_all(message).map_err(failure("write"))?;
                sent += message.len();
                if sizes.up_to(16) == 1 {
                    thread::yield_now();
                }
            }
            Ok(())
        });
        let (mut got, mut sizes, mut buffer) = (0, Sizes::new(), vec![0; 65_536]);
        while got < TOTAL {
            let room = sizes.up_to(buffer.len());
            let room = buffer.get_mut(..room).unwrap_or_default();
            let read = pair.server.read(room).map_err(failure("read"))?;
            let bytes = room.get(..read).unwrap_or_default();
            if read == 0 || !row.has(got, bytes) {
                return Err(Failure(format!("wrong or missing bytes after {got}")));
            }
            got += read;
        }
        writer
            .join()
            .unwrap_or_else(|_| Err(Failure("the writer panicked".into())))
    })?;
    let spliced = trial.spliced(&pair.client)? - before;
    if spliced == 0 || spliced == u64::try_from(TOTAL).unwrap_or_default() {
        return Err(Failure(format!(
            "{spliced} bytes of {TOTAL} were spliced: the change between both was not tried"
        )));
    }
    Ok(())
}

fn stops_for_a_slow_reader(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let (row, before) = (Row::new(), trial.spliced(&pair.client)?);
    let mut sent = 0;
    loop {
        let mut client: &TcpStream = &pair.client;
        match client.write(row.part(sent, 1000)) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(failure("write")(error)),
        }
        if sent > MOST_UNREAD {
            return Err(Failure(format!("{sent} bytes were taken that nobody read")));
        }
    }
    let spliced = trial.spliced(&pair.client)? - before;
    if spliced > WINDOW + 1000 {
        return Err(Failure(format!("{spliced} bytes wait in the splice")));
    }
    let (mut got, mut buffer) = (0, vec![0; 65_536]);
    while got < sent {
        let read = pair.server.read(&mut buffer).map_err(failure("read"))?;
        if read == 0 || !row.has(got, buffer.get(..read).unwrap_or_default()) {
            return Err(Failure(format!("wrong or missing bytes after {got} of {sent}")));
        }
        got += read;
    }
    pair.round_trip(b"and on it goes")
}

/// The kernel's `splice_read` of TCP knows nothing of spliced messages: such a reader must get them over TCP.
fn serves_splice(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.pair()?;
    pair.server.set_nonblocking(false).map_err(failure("prepare"))?;
    let (row, (out, into)) = (Row::new(), nix::unistd::pipe().map_err(failure("make a pipe"))?);
    let mut pipe = std::fs::File::from(out);
    let (mut sent, mut buffer) = (0, vec![0; 4096]);
    for _ in 0..64 {
        let message = row.part(sent, 100);
        pair.client.write_all(message).map_err(failure("write"))?;
        let moved = splice(
            pair.server.as_fd(),
            None,
            into.as_fd(),
            None,
            4096,
            SpliceFFlags::empty(),
        );
        let moved = moved.map_err(failure("splice"))?;
        let read = pipe.read(&mut buffer).map_err(failure("read the pipe"))?;
        if moved != message.len() || buffer.get(..read) != Some(message) {
            return Err(Failure(format!("{moved} bytes of {} came", message.len())));
        }
        sent += message.len();
    }
    if trial.spliced(&pair.client)? > 0 {
        return Err(Failure("bytes were spliced to such a reader".into()));
    }
    Ok(())
}

fn serves_sendfile(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    let file = memfd_create(c"mesh-splice", MFdFlags::MFD_CLOEXEC).map_err(failure("make a file"))?;
    let mut file = std::fs::File::from(file);
    file.write_all(row.part(0, 60_000))
        .map_err(failure("fill a file"))?;
    let mut offset = 0;
    let sent = sendfile(&*pair.client, &file, Some(&mut offset), 60_000).map_err(failure("sendfile"))?;
    let (out, into) = nix::unistd::pipe().map_err(failure("make a pipe"))?;
    std::fs::File::from(into)
        .write_all(row.part(60_000, 5000))
        .map_err(failure("fill a pipe"))?;
    let moved = splice(
        out.as_fd(),
        None,
        pair.client.as_fd(),
        None,
        5000,
        SpliceFFlags::empty(),
    );
    let moved = moved.map_err(failure("splice"))?;
    if (sent, moved) != (60_000, 5000) {
        return Err(Failure(format!("{sent} and {moved} bytes were taken")));
    }
    expect(&mut pair, &row, sent + moved)
}

fn serves_waitall(trial: &mut Trial) -> Result<(), Failure> {
    let pair = trial.pair()?;
    pair.server.set_nonblocking(false).map_err(failure("prepare"))?;
    for round in 0..64 {
        let mut client = &pair.client;
        let wanted = [round; 10];
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut buffer = [0; 10];
                let got = recv(pair.server.as_raw_fd(), &mut buffer, MsgFlags::MSG_WAITALL);
                (got, buffer)
            });
            for part in [&wanted[..3], &wanted[3..7], &wanted[7..]] {
                client.write_all(part).map_err(failure("write"))?;
                thread::yield_now();
            }
            match reader.join() {
                Ok((Ok(10), bytes)) if bytes == wanted => Ok(()),
                Ok((got, _)) => Err(Failure(format!("read {round} gave {got:?} of 10 bytes"))),
                Err(_) => Err(Failure("the reader panicked".into())),
            }
        })?;
    }
    if trial.spliced(&pair.client)? > 0 {
        return Err(Failure("bytes were spliced to a reader that blocks".into()));
    }
    Ok(())
}

/// One wake-up tells of a small message and the large one behind it. tokio, of which this agent is made, waits for the next
/// one after a read that did not fill its buffer; so does nginx.
fn wakes_who_reads_short(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    let (small, large) = (100, 2 * usize::try_from(LARGE_MESSAGE).unwrap_or(usize::MAX));
    pair.client
        .write_all(row.part(0, small))
        .and_then(|()| pair.client.write_all(row.part(small, large)))
        .map_err(failure("write"))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failure("make a runtime"))?;
    let reader = pair.server.try_clone().map_err(failure("prepare"))?;
    let mut bytes = vec![0; small + large];
    let read = runtime.block_on(async {
        let mut reader = tokio::net::TcpStream::from_std(reader)?;
        timeout(TIMEOUT, reader.read_exact(&mut bytes)).await?
    });
    read.map_err(failure("wait for what is there"))?;
    if row.has(0, &bytes) {
        return Ok(());
    }
    Err(Failure("other bytes came than were sent".into()))
}

fn serves_peek(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    let mut buffer = [0; 100];
    for (at, peeked) in [(0, 50), (50, 100)] {
        pair.client
            .write_all(row.part(at, 50))
            .map_err(failure("write"))?;
        let seen = pair.server.peek(&mut buffer).map_err(failure("peek"))?;
        if seen != peeked || !row.has(0, buffer.get(..seen).unwrap_or_default()) {
            return Err(Failure(format!("{seen} bytes of {peeked} were shown")));
        }
    }
    expect(&mut pair, &row, 100)
}

/// Java's `InputStream.available()` and many event loops ask that way.
fn counts_what_waits(trial: &mut Trial) -> Result<(), Failure> {
    let mut pair = trial.warm_pair()?;
    let row = Row::new();
    pair.client
        .write_all(row.part(0, 1234))
        .map_err(failure("write"))?;
    match unread(pair.server.as_raw_fd()) {
        Ok(1234) => expect(&mut pair, &row, 1234),
        other => Err(Failure(format!("it says {other:?} where 1234 wait"))),
    }
}

fn serves_mptcp_client(trial: &mut Trial) -> Result<(), Failure> {
    serves(trial, Protocol::MPTCP, Protocol::TCP)
}

fn serves_mptcp_server(trial: &mut Trial) -> Result<(), Failure> {
    serves(trial, Protocol::TCP, Protocol::MPTCP)
}

fn serves_mptcp_ends(trial: &mut Trial) -> Result<(), Failure> {
    serves(trial, Protocol::MPTCP, Protocol::MPTCP)
}

/// Whether such ends can be joined is the kernel's affair; they must work.
fn serves(trial: &mut Trial, client: Protocol, server: Protocol) -> Result<(), Failure> {
    let pair = match Pair::connect(client, server) {
        Ok(pair) => pair,
        // A kernel without MPTCP serves nobody who speaks it.
        Err(Failure(why)) if why.contains("(os error 93)") || why.contains("(os error 92)") => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let is_joined = trial.join(&pair).is_ok();
    for _ in 0..64 {
        pair.round_trip(b"over whichever protocol")?;
    }
    if !is_joined && trial.spliced(&pair.client).is_ok_and(|bytes| bytes > 0) {
        return Err(Failure("bytes went into a socket that was not joined".into()));
    }
    Ok(())
}

/// The server reads exactly the first `len` bytes of the row.
pub(super) fn expect(pair: &mut Pair, row: &Row, len: usize) -> Result<(), Failure> {
    let mut bytes = vec![0; len];
    pair.server.read_exact(&mut bytes).map_err(failure("read"))?;
    if row.has(0, &bytes) {
        return Ok(());
    }
    Err(Failure("other bytes came than were sent".into()))
}

const TOTAL: usize = 100_000_000;
/// More than any TCP keeps for a reader that stopped, send and receive buffer together.
const MOST_UNREAD: usize = 64 << 20;
