//! A way to a server that counts what the server sends on it.
//!
//! It must not know what is sent: it is TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};

/// It ends with the process.
#[derive(Debug)]
pub(super) struct Counted {
    addr: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    /// Listens on loopback, for clients of `server`.
    pub(super) fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for the agent")?;
        let addr = listener.local_addr().context("listen for the agent")?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        thread::spawn(move || {
            for client in listener.incoming().map_while(io::Result::ok) {
                let counter = Arc::clone(&counter);
                // A client whose server cannot be reached sees its connection closed.
                thread::spawn(move || join(&client, server, &counter));
            }
        });
        Ok(Self { addr, bytes })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the server has sent so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn join(client: &TcpStream, server: SocketAddr, counter: &AtomicU64) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (to_server, from_client) = (server.try_clone()?, client.try_clone()?);
    let asking = thread::spawn(move || pass(&from_client, &to_server, &AtomicU64::new(0)));
    let answered = pass(&server, client, counter);
    client.shutdown(Shutdown::Both)?;
    server.shutdown(Shutdown::Both)?;
    asking
        .join()
        .map_err(|_panic| io::Error::other("a relay panicked"))??;
    answered
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, counter: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            return to.shutdown(Shutdown::Write);
        };
        to.write_all(read)?;
        counter.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::Relaxed);
    }
}
