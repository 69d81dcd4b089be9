//! A flow table in memory, which a test can make misbehave.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::pod::flows::FlowTable;
use crate::pod::netns::NetnsCookie;

type Ends = Mutex<HashMap<(NetnsCookie, SocketAddr), SocketAddr>>;

/// What the hooks would remember.
#[derive(Debug, Default)]
pub(super) struct TestFlows {
    original: Ends,
    true_peer: Ends,
    resolvers: Ends,
    panics_next: AtomicBool,
    forgotten_late: AtomicUsize,
    are_open: AtomicBool,
}

impl TestFlows {
    /// Plays the connect hook.
    pub(super) fn file_original(&self, netns: NetnsCookie, local: SocketAddr, original: SocketAddr) {
        self.original.lock().insert((netns, local), original);
    }

    /// Plays the DNS hooks: queries for `resolver` go to the listener at `listener`.
    pub(super) fn file_resolver(&self, netns: NetnsCookie, listener: SocketAddr, resolver: SocketAddr) {
        self.resolvers.lock().insert((netns, listener), resolver);
    }

    /// Plays getpeername: who stands behind `bound`.
    pub(super) fn true_peer(&self, netns: NetnsCookie, bound: SocketAddr) -> Option<SocketAddr> {
        self.true_peer.lock().get(&(netns, bound)).copied()
    }

    /// How many deliveries are remembered.
    pub(super) fn true_peers(&self) -> usize {
        self.true_peer.lock().len()
    }

    /// The next delivery panics.
    pub(super) fn panic_once(&self) {
        self.panics_next.store(true, Ordering::Relaxed);
    }

    /// From now on the sockets of clients stay open when they have sent a FIN; before, a FIN is their end.
    pub(super) fn clients_stay_open(&self) {
        self.are_open.store(true, Ordering::Relaxed);
    }

    /// Entries that were forgotten after somebody else could have taken their port.
    pub(super) fn forgotten_late(&self) -> usize {
        self.forgotten_late.load(Ordering::Relaxed)
    }
}

impl FlowTable for TestFlows {
    fn original_destination(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<Option<SocketAddr>> {
        Ok(self.original.lock().get(&(netns, local)).copied())
    }

    fn is_open(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<bool> {
        Ok(self.are_open.load(Ordering::Relaxed))
    }

    fn file_true_peer(&self, netns: NetnsCookie, bound: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        assert!(
            !self.panics_next.swap(false, Ordering::Relaxed),
            "the test wants this delivery to panic"
        );
        self.true_peer.lock().insert((netns, bound), peer);
        Ok(())
    }

    fn resolver_behind(&self, netns: NetnsCookie, listener: SocketAddr) -> io::Result<Option<SocketAddr>> {
        Ok(self.resolvers.lock().get(&(netns, listener)).copied())
    }

    fn forget_true_peer(&self, netns: NetnsCookie, bound: SocketAddr) -> io::Result<()> {
        if std::net::TcpListener::bind(bound).is_ok() {
            self.forgotten_late.fetch_add(1, Ordering::Relaxed);
        }
        self.true_peer.lock().remove(&(netns, bound));
        Ok(())
    }
}
