//! A SPIRE agent for tests: the Delegated Identity API on a real socket, with entries that tests change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use h2::SendStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, Response};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::super::authority::leaf_params;
use super::super::testing::{HOUR, TestCa};
use super::messages::{
    BundlesRequest, BundlesResponse, IdMessage, SUBSCRIBE_TO_BUNDLES, SUBSCRIBE_TO_SVIDS, Selector,
    SvidMessage, SvidWithKey, SvidsRequest, SvidsResponse,
};
use crate::grpc::{self, Code};
use crate::lifecycle::Tasks;
use crate::mesh::identity::SpiffeId;

/// What SPIRE has; a change is pushed to all who listen.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    /// With the selectors that must all be given.
    pub(super) svids: Vec<(Vec<String>, SvidWithKey)>,
    pub(super) bundles: HashMap<String, Vec<u8>>,
    /// Why everybody is refused.
    pub(super) denied: Option<&'static str>,
}

/// One SPIRE agent.
pub(super) struct FakeSpire {
    pub(super) ca: TestCa,
    dir: TempDir,
    pub(super) entries: watch::Sender<Entries>,
    /// Calls that are open.
    calls: Arc<AtomicUsize>,
    running: Tasks,
}

impl FakeSpire {
    /// Runs, and has the bundle of the usual trust domain but no entry.
    pub(super) fn start() -> Self {
        let ca = TestCa::new();
        let bundles = HashMap::from([("spiffe://cluster.local".to_owned(), ca.roots()[0].to_vec())]);
        let entries = Entries {
            bundles,
            ..Entries::default()
        };
        let mut spire = Self {
            ca,
            dir: tempfile::tempdir().unwrap(),
            entries: watch::Sender::new(entries),
            calls: Arc::default(),
            running: Tasks::new(),
        };
        spire.run();
        spire
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// Listens again after [`FakeSpire::end`].
    pub(super) fn run(&mut self) {
        self.running = Tasks::new();
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (tasks, calls) = (self.running.clone(), Arc::clone(&self.calls));
        let entries = self.entries.subscribe();
        self.running.spawn("spire", async move {
            loop {
                tokio::select! {
                    () = async { tasks.stop().requested().await } => return,
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        let served = serve(stream, tasks.clone(), entries.clone(), Arc::clone(&calls));
                        tasks.spawn("connection", served);
                    }
                }
            }
        });
    }

    /// Ends all connections, and leaves no socket behind.
    pub(super) async fn end(&self) {
        self.running.request_stop();
        assert!(self.running.joined(HOUR).await);
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub(super) fn open_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// An SVID of one hour; its serial.
    pub(super) fn make(&self, identity: &SpiffeId) -> (String, SvidWithKey) {
        let now = SystemTime::now();
        let params = leaf_params(identity, now - HOUR, now + HOUR).unwrap();
        let svid = self.ca.svid(&params);
        let uri = identity.to_string();
        let (trust_domain, path) = uri.strip_prefix("spiffe://").unwrap().split_once('/').unwrap();
        let message = SvidMessage {
            chain: svid.chain().iter().map(|one| one.to_vec()).collect(),
            id: Some(IdMessage {
                trust_domain: trust_domain.to_owned(),
                path: format!("/{path}"),
            }),
        };
        let with_key = SvidWithKey {
            svid: Some(message),
            key: svid.key().to_tls().secret_der().to_vec(),
        };
        (svid.serial().to_owned(), with_key)
    }

    /// Makes an SVID and gives it to who has these selectors, in place of what they had.
    pub(super) fn enter(&self, selectors: &[&str], identity: &SpiffeId) -> String {
        let (serial, svid) = self.make(identity);
        let selectors: Vec<_> = selectors.iter().map(|one| (*one).to_owned()).collect();
        self.entries.send_modify(|entries| {
            entries.svids.retain(|(known, _)| *known != selectors);
            entries.svids.push((selectors, svid));
        });
        serial
    }
}

/// Counts an open call until it is dropped.
struct OpenCall(Arc<AtomicUsize>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(stream: UnixStream, tasks: Tasks, entries: watch::Receiver<Entries>, calls: Arc<AtomicUsize>) {
    let stop = tasks.stop();
    let mut connection = server::handshake(stream).await.unwrap();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                calls.fetch_add(1, Ordering::Relaxed);
                let open = OpenCall(Arc::clone(&calls));
                let (entries, stop) = (entries.clone(), tasks.stop());
                tasks.spawn("call", async move {
                    let _open = open;
                    let answering = answer(request, respond, entries);
                    tokio::select! {
                        () = stop.requested() => {}
                        () = answering => {}
                    }
                });
            }
        }
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut entries: watch::Receiver<Entries>,
) {
    let (head, mut body) = request.into_parts();
    let body = grpc::collect(&mut body, 4096).await.unwrap().unwrap();
    // As SPIRE's server does: nothing is sent before there is something to say.
    let mut out: Option<SendStream<Bytes>> = None;
    // Nor does it ever take a bundle back within a call.
    let mut bundles = HashMap::new();
    loop {
        let now = entries.borrow_and_update().clone();
        if let Some(why) = now.denied {
            return refuse(out, &mut respond, why);
        }
        let message = match head.uri.path() {
            SUBSCRIBE_TO_SVIDS => {
                let request: SvidsRequest = grpc::unframe(&body).unwrap();
                grpc::frame(&matching(&now, &request.selectors))
            }
            SUBSCRIBE_TO_BUNDLES => {
                let _: BundlesRequest = grpc::unframe(&body).unwrap();
                bundles.extend(now.bundles);
                let bundles = bundles.clone();
                grpc::frame(&BundlesResponse { bundles })
            }
            other => panic!("{other}"),
        };
        let out = out.get_or_insert_with(|| respond.send_response(Response::new(()), false).unwrap());
        if out.send_data(message, false).is_err() {
            return;
        }
        tokio::select! {
            changed = entries.changed() => if changed.is_err() { return },
            _ = std::future::poll_fn(|context| out.poll_reset(context)) => return,
        }
    }
}

fn refuse(out: Option<SendStream<Bytes>>, respond: &mut SendResponse<Bytes>, why: &str) {
    let mut status = HeaderMap::new();
    status.insert("grpc-status", Code::PermissionDenied.as_str().parse().unwrap());
    status.insert("grpc-message", why.parse().unwrap());
    if let Some(mut out) = out {
        out.send_trailers(status).unwrap();
    } else {
        // Trailers alone, as grpc has them: one block of headers that ends the stream.
        let mut head = Response::new(());
        *head.headers_mut() = status;
        respond.send_response(head, true).unwrap();
    }
}

/// An entry matches who has all its selectors.
fn matching(entries: &Entries, given: &[Selector]) -> SvidsResponse {
    let given: Vec<_> = given.iter().map(Selector::to_string).collect();
    let svids = entries.svids.iter();
    let matching = svids.filter(|(needed, _)| needed.iter().all(|one| given.contains(one)));
    SvidsResponse {
        svids: matching.map(|(_, svid)| svid.clone()).collect(),
    }
}
