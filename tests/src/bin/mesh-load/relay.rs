//! The relay: what a proxy between two applications does with their bytes, and nothing else.
//!
//! For each port a thread on a core of its own; each connection a thread on the same core that waits for both of its
//! sockets at once, as the event loop of a proxy does. It must not know what is relayed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::{pin, use_cubic};

/// Relays `CORE:PORT:HOST:PORT` each, until the process is ended.
pub(crate) fn relay(words: &[&str]) -> Result<Value> {
    let mut threads = Vec::new();
    for word in words {
        let parts = word.split_once(':').and_then(|(core, rest)| {
            let (port, target) = rest.split_once(':')?;
            Some((core.to_owned(), port, target.to_owned()))
        });
        let (core, port, target) = parts.context("CORE:PORT:HOST:PORT")?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))
            .with_context(|| format!("listen on port {port}"))?;
        use_cubic(&listener)?;
        threads.push(thread::spawn(move || accept(&core, &listener, &target)));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a listener panicked"))??;
    }
    bail!("nothing to relay")
}

fn accept(core: &str, listener: &TcpListener, target: &str) -> Result<()> {
    pin(core)?;
    loop {
        let (socket, peer) = listener.accept().context("accept")?;
        let target = target.to_owned();
        thread::spawn(move || {
            // An end that goes away in the middle of something is no fault of the relay.
            if let Err(error) = join(&socket, &target) {
                mesh_tests::say(&format!("mesh-load: {peer} to {target}: {error:#}"));
            }
        });
    }
}

/// Dials the target and moves bytes in both directions until each has ended.
fn join(near: &TcpStream, target: &str) -> Result<()> {
    let mut addrs = target
        .to_socket_addrs()
        .with_context(|| format!("find {target}"))?;
    // The servers listen on IPv4 alone.
    let to = addrs.find(SocketAddr::is_ipv4).context("no IPv4 address")?;
    let far = TcpStream::connect(to).with_context(|| format!("dial {to}"))?;
    use_cubic(&far)?;
    for socket in [near, &far] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    let (mut there, mut back) = (Way::new(near, &far), Way::new(&far, near));
    while there.state != State::Over || back.state != State::Over {
        let mut waits = [
            PollFd::new(near.as_fd(), there.wants_to_read() | back.wants_to_write()),
            PollFd::new(far.as_fd(), back.wants_to_read() | there.wants_to_write()),
        ];
        poll(&mut waits, PollTimeout::NONE).context("wait")?;
        let [near_is, far_is] = waits.map(|wait| wait.revents().unwrap_or(PollFlags::empty()));
        there.go(near_is, far_is).context("there")?;
        back.go(far_is, near_is).context("back")?;
    }
    Ok(())
}

/// One direction.
struct Way<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer was read and is not written yet.
    waiting: std::ops::Range<usize>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Writing,
    Over,
}

impl<'a> Way<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream) -> Self {
        Self {
            from,
            to,
            buffer: vec![0; 16 * 1024],
            waiting: 0..0,
            state: State::Reading,
        }
    }

    fn wants_to_read(&self) -> PollFlags {
        flag_if(self.state == State::Reading, PollFlags::POLLIN)
    }

    fn wants_to_write(&self) -> PollFlags {
        flag_if(self.state == State::Writing, PollFlags::POLLOUT)
    }

    /// Moves what can be moved; `from_is` and `to_is` are what is known of the sockets.
    fn go(&mut self, from_is: PollFlags, to_is: PollFlags) -> Result<()> {
        let is_readable = from_is.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR);
        if self.state == State::Reading && is_readable {
            match self.from.read(&mut self.buffer) {
                Ok(0) => {
                    self.to.shutdown(Shutdown::Write).context("pass the end on")?;
                    self.state = State::Over;
                }
                Ok(read) => {
                    self.waiting = 0..read;
                    return self.write();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read"),
            }
        }
        if self.state == State::Writing && !to_is.is_empty() {
            return self.write();
        }
        Ok(())
    }

    /// Mostly the other side takes everything at once, so it is not asked before.
    fn write(&mut self) -> Result<()> {
        while let Some(bytes) = self
            .buffer
            .get(self.waiting.clone())
            .filter(|bytes| !bytes.is_empty())
        {
            match self.to.write(bytes) {
                Ok(written) => self.waiting.start += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.state = State::Writing;
                    return Ok(());
                }
                Err(error) => return Err(error).context("write"),
            }
        }
        self.state = State::Reading;
        Ok(())
    }
}

fn flag_if(is_wanted: bool, flag: PollFlags) -> PollFlags {
    if is_wanted { flag } else { PollFlags::empty() }
}
