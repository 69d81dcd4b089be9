//! A network namespace, entered for the length of one synchronous call.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use mesh_common::netns_cookie::netns_cookie;
use nix::sched::{CloneFlags, setns};

/// Names a network namespace on this boot: the kernel's cookie, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsCookie(pub u64);

/// An open network namespace of a pod.
///
/// Holding it keeps the namespace alive, so it is dropped as soon as the pod is un-enrolled.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    target: Option<Entrance>,
    cookie: NetnsCookie,
}

#[derive(Debug)]
struct Entrance {
    pod: File,
    home: File,
}

impl Netns {
    /// Opens the namespace at `path`, for instance `/run/netns/pod-a` or `/proc/PID/ns/net`.
    ///
    /// Errors: `path` cannot be opened or is no network namespace, or the process lacks `CAP_SYS_ADMIN`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let target = Entrance {
            pod: File::open(path)?,
            home: File::open("/proc/thread-self/ns/net")?,
        };
        let mut netns = Self {
            path: path.to_owned(),
            target: Some(target),
            cookie: NetnsCookie(0),
        };
        netns.cookie = netns.run(read_cookie)?;
        Ok(netns)
    }

    /// The namespace that the process already lives in: entering it is free. For tests and for the node itself.
    pub fn current() -> io::Result<Self> {
        Ok(Self {
            path: PathBuf::from("/proc/self/ns/net"),
            target: None,
            cookie: read_cookie()?,
        })
    }

    /// The namespace that the process already lives in under a name of its own: several pods in one process, for
    /// tests without kernel programs.
    pub fn stand_in(name: NetnsCookie) -> Self {
        Self {
            path: PathBuf::from("/proc/self/ns/net"),
            target: None,
            cookie: name,
        }
    }

    /// The open namespace; `None` for the one that the process lives in.
    pub fn file(&self) -> Option<&File> {
        self.target.as_ref().map(|entrance| &entrance.pod)
    }

    /// The kernel's name for it.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `call` with the calling thread inside the namespace and brings the thread back, also when `call`
    /// panics. Sockets that `call` opens stay in the namespace. `call` must not block: it runs on a data thread.
    pub fn run<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(entrance) = &self.target else {
            return call();
        };
        setns(&entrance.pod, CloneFlags::CLONE_NEWNET)?;
        let _way_back = WayBack(&entrance.home);
        call()
    }
}

/// Returns the thread to the agent's own namespace when dropped.
struct WayBack<'a>(&'a File);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        // A thread that is lost in a pod's namespace would open the next socket of another pod there: identities
        // would mix. Nothing may go on from here.
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}

fn read_cookie() -> io::Result<NetnsCookie> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind("[::1]:0"))?;
    netns_cookie(socket.as_raw_fd())
        .map(NetnsCookie)
        .map_err(io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_has_one_cookie() {
        let (a, b) = (Netns::current().unwrap(), Netns::current().unwrap());
        assert_eq!(a.cookie(), b.cookie());
    }

    #[test]
    fn a_path_that_is_no_namespace_is_an_error() {
        assert!(Netns::open(Path::new("/dev/null")).is_err());
        assert!(Netns::open(Path::new("/nonexistent")).is_err());
    }
}
