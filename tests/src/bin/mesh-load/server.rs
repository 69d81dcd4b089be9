//! The server: for each port a thread on a core of its own; each connection a thread on the same core.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::patient::Patient;
use crate::{Wish, pin, use_cubic};

/// Serves `CORE:PORT` each, until the process is ended.
pub(crate) fn serve(ports: &[&str]) -> Result<Value> {
    let mut threads = Vec::new();
    for word in ports {
        let (core, port) = word.split_once(':').context("CORE:PORT")?;
        let core = core.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))
            .with_context(|| format!("listen on port {port}"))?;
        use_cubic(&listener)?;
        threads.push(thread::spawn(move || accept(&core, &listener)));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a listener panicked"))??;
    }
    bail!("nothing to serve")
}

fn accept(core: &str, listener: &TcpListener) -> Result<()> {
    pin(core)?;
    loop {
        let (socket, peer) = listener.accept().context("accept")?;
        thread::spawn(move || {
            // A client that goes away in the middle of a message is no fault of the server.
            if let Err(error) = answer(socket) {
                mesh_tests::say(&format!("mesh-load: {peer}: {error:#}"));
            }
        });
    }
}

fn answer(socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut socket = Patient::new(socket)?;
    let mut wish = [0; Wish::LEN];
    if let Err(error) = socket.read_exact(&mut wish) {
        // Somebody who only looked whether the port is open.
        return if error.kind() == ErrorKind::UnexpectedEof {
            Ok(())
        } else {
            Err(error.into())
        };
    }
    match Wish::from_bytes(wish).context("an unknown wish")? {
        Wish::Echo(size) => {
            let mut message = vec![0; usize::try_from(size)?];
            while read_whole(&mut socket, &mut message)? {
                socket.write_all(&message).context("answer")?;
            }
        }
        Wish::Count => {
            let (mut count, mut buffer) = (0_u64, vec![0; 256 * 1024]);
            loop {
                match socket.read(&mut buffer).context("read")? {
                    0 => break,
                    read => count += u64::try_from(read)?,
                }
            }
            socket.write_all(&count.to_le_bytes()).context("say how many")?;
        }
        Wish::Mirror => {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let read = socket.read(&mut buffer).context("read")?;
                if read == 0 {
                    break;
                }
                socket
                    .write_all(buffer.get(..read).unwrap_or_default())
                    .context("mirror")?;
            }
        }
    }
    Ok(())
}

/// Whether there was one more message; the client ends a connection between two, or by a reset.
fn read_whole(socket: &mut Patient, message: &mut [u8]) -> Result<bool> {
    match socket.read_exact(message) {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context("read"),
    }
}
