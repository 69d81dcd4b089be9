//! The clients: each does one thing for a while and says how often it could.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::row::{Row, Sizes};
use serde_json::{Value, json};

use crate::patient::Patient;
use crate::{TIMEOUT, Wish, use_cubic};

/// Messages of `size` bytes there and back, one at a time.
pub(crate) fn round_trips(to: SocketAddr, size: u32, time: Duration) -> Result<Value> {
    let mut socket = dial(to, Wish::Echo(size))?;
    let message = vec![7; usize::try_from(size)?];
    let mut answer = message.clone();
    let mut round = || -> Result<()> {
        socket.write_all(&message).context("send")?;
        socket.read_exact(&mut answer).context("receive")?;
        Ok(())
    };
    for _ in 0..WARM_UP {
        round()?;
    }
    let (began, mut rounds) = (Instant::now(), 0_u64);
    while began.elapsed() < time {
        for _ in 0..32 {
            round()?;
        }
        rounds += 32;
    }
    let took = began.elapsed();
    ensure!(answer == message, "other bytes came back");
    Ok(json!({ "done": rounds, "seconds": took.as_secs_f64() }))
}

/// Writes of `size` bytes in one direction; until the server has read all of them.
pub(crate) fn bulk(to: SocketAddr, size: u32, time: Duration) -> Result<Value> {
    let mut socket = dial(to, Wish::Count)?;
    let message = vec![7; usize::try_from(size)?];
    let (began, mut sent) = (Instant::now(), 0_u64);
    while began.elapsed() < time {
        socket.write_all(&message).context("send")?;
        sent += u64::from(size);
    }
    socket.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    socket.read_exact(&mut count).context("how many came")?;
    let took = began.elapsed();
    ensure!(u64::from_le_bytes(count) == sent, "not every byte came");
    Ok(json!({ "done": sent, "seconds": took.as_secs_f64() }))
}

/// Connections, each with one byte there and back, one at a time.
pub(crate) fn connects(to: SocketAddr, time: Duration) -> Result<Value> {
    let (began, mut done) = (Instant::now(), 0_u64);
    while began.elapsed() < time {
        let mut socket = dial(to, Wish::Echo(1))?;
        socket.write_all(b"!")?;
        let mut answer = [0];
        socket.read_exact(&mut answer).context("receive")?;
        ensure!(answer == *b"!", "another byte came back");
        // A reset, so that no thousands of ends wait for their time to pass.
        nix::sys::socket::setsockopt(
            &*socket,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            },
        )?;
        done += 1;
    }
    Ok(json!({ "done": done, "seconds": began.elapsed().as_secs_f64() }))
}

/// Bytes of random sizes, with pauses, there and back at once; how many came back wrong or not at all.
pub(crate) fn compare(to: SocketAddr, megabytes: u32) -> Result<Value> {
    let socket = dial(to, Wish::Mirror)?;
    let total = usize::try_from(megabytes)? * 1_000_000;
    let row = Row::new();
    let mut corrupted = 0_u64;
    thread::scope(|scope| -> Result<()> {
        let (mut writer, row) = (&socket, &row);
        let writing = scope.spawn(move || -> Result<()> {
            let (mut sent, mut sizes) = (0, Sizes::new());
            while sent < total {
                let most = if sizes.up_to(8) == 1 { 60_000 } else { 2_000 };
                let message = row.part(sent, sizes.up_to(most).min(total - sent));
                writer.write_all(message).context("send")?;
                sent += message.len();
                if sizes.up_to(8) == 1 {
                    thread::sleep(Duration::from_micros(50));
                }
            }
            writer.shutdown(Shutdown::Write).context("say that it was all")
        });
        let (mut reader, mut got, mut buffer) = (&socket, 0, vec![0; 32 * 1024]);
        loop {
            let read = reader.read(&mut buffer).context("receive")?;
            if read == 0 {
                break;
            }
            corrupted += row.differences(got, buffer.get(..read).unwrap_or_default());
            got += read;
        }
        corrupted += u64::try_from(total.abs_diff(got))?;
        writing.join().map_err(|_| anyhow!("the writer panicked"))?
    })?;
    Ok(json!({ "bytes": total, "corrupted": corrupted }))
}

fn dial(to: SocketAddr, wish: Wish) -> Result<Patient> {
    let socket = TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("dial {to}"))?;
    use_cubic(&socket)?;
    socket.set_nodelay(true)?;
    let mut socket = Patient::new(socket)?;
    socket.write_all(&wish.to_bytes()).context("say what is wanted")?;
    Ok(socket)
}

/// Rounds before the clock runs: a mesh may look at a connection first.
const WARM_UP: u32 = 256;
