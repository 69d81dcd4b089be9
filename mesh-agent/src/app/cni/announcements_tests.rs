//! Pods that begin, over the fake kernel.

use std::sync::Mutex;

use super::*;
use crate::capture::dns::DnsListeners;
use crate::capture::listeners::{PodListeners, PodPorts};
use crate::capture::{Leaving, PodHost};
use crate::kernel::fake::FakeKernel;
use crate::kernel::placement::Locator;
use crate::mesh::facts::Facts;
use crate::mesh::workload::{Membership, fixture};
use crate::pod::LocalPod;
use crate::snapshot::SnapshotSettings;

/// Keeps doors open.
#[derive(Default)]
struct Host(Mutex<Vec<PodListeners>>);

impl PodHost for Host {
    fn joined(&self, _: LocalPod, listeners: PodListeners) -> io::Result<()> {
        self.0.lock().unwrap().push(listeners);
        Ok(())
    }

    fn resolve(&self, _: &WorkloadUid, _: Option<DnsListeners>) {}

    fn left(&self, _: &WorkloadUid, _: Leaving) {}
}

struct Bench {
    dir: tempfile::TempDir,
    hears: mpsc::Sender<Heard>,
    announcements: Announcements,
    enrolment: Enrolment,
    kernel: FakeKernel,
    now: Instant,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (hears, heard) = mpsc::channel(8);
    let kernel = FakeKernel::default();
    let mut announcements = Announcements::heard(heard, Duration::from_secs(10), dir.path());
    announcements.know(&["test".into()].into());
    Bench {
        announcements,
        enrolment: enrolment(&kernel, dir.path()),
        dir,
        hears,
        kernel,
        now: Instant::now(),
    }
}

fn enrolment(kernel: &FakeKernel, root: &Path) -> Enrolment {
    let locator = Locator::below(Some(root)).unwrap();
    Enrolment::new(Box::new(kernel.clone()), Arc::new(Host::default()), PodPorts::ANY).locating(locator)
}

/// A pod of this node without an address.
fn pod(uid: &str) -> Workload {
    let mut pod = fixture::pod("test", uid);
    pod.uid = WorkloadUid::new(uid);
    pod
}

fn snapshot(pods: &[Workload]) -> Snapshot {
    let facts = Facts {
        workloads: pods.iter().cloned().map(Into::into).collect(),
        ..Facts::default()
    };
    let settings = SnapshotSettings {
        node: "node-a".into(),
        root_namespace: "mesh-system".into(),
        trust_domains: Arc::new([]),
    };
    Snapshot::build(&facts, &settings, None).0
}

impl Bench {
    /// A sandbox of pod `uid` in namespace `test`; kubelet makes its cgroup, the runtime its namespace.
    fn sandbox(&self, uid: &str, id: &str) -> Sandbox {
        fs::create_dir_all(self.dir.path().join(format!("kubepods/pod{uid}"))).unwrap();
        let netns = self.dir.path().join(id);
        fs::write(&netns, "").unwrap();
        Sandbox {
            id: id.to_owned(),
            namespace: "test".to_owned(),
            name: uid.to_owned(),
            uid: Some(uid.to_owned()),
            netns,
            addrs: vec!["127.0.0.5".parse().unwrap()],
        }
    }

    async fn says(&mut self, told: Told) -> oneshot::Receiver<Reply> {
        let (reply, replied) = oneshot::channel();
        self.hears.send(Heard { told, reply }).await.unwrap();
        let heard = self.announcements.next().await;
        self.announcements.take_in(heard, &mut self.enrolment, self.now);
        replied
    }

    fn looks(&mut self, snapshot: &Snapshot) {
        self.enrolment.reconcile(snapshot.local());
        let pods = self.enrolment.status().pods;
        self.announcements
            .settle(snapshot, &pods, &mut self.enrolment, self.now);
    }
}

#[tokio::test]
async fn a_pod_without_an_address_is_enrolled_with_the_one_that_was_announced() {
    let mut bench = bench();
    let known = snapshot(&[pod("a")]);
    bench.looks(&known);
    assert_eq!(
        bench.enrolment.status().pods[0].why_not.as_deref(),
        Some(NO_ADDRESS)
    );
    let sandbox = bench.sandbox("a", "s1");
    let mut reply = bench.says(Told::Begins(sandbox.clone())).await;
    assert!(reply.try_recv().is_err(), "nothing is hooked yet");
    bench.looks(&known);
    assert_eq!(reply.await, Ok(Reply::Enrolled));
    let netns = bench.kernel.cookie_of(sandbox.netns.to_str().unwrap()).unwrap();
    assert_eq!(bench.kernel.hooked(netns), Some(sandbox.addrs.clone()));
    // Its status has the address: it stays what it is.
    let mut told = pod("a");
    told.addrs.clone_from(&sandbox.addrs);
    assert_eq!(bench.enrolment.reconcile(snapshot(&[told]).local()), []);
}

const NO_ADDRESS: &str = "the pod has no address yet; it is enrolled when status.podIPs has one";

#[tokio::test]
async fn who_takes_no_part_does_not_wait() {
    let mut bench = bench();
    let elsewhere = Sandbox {
        namespace: "other".to_owned(),
        ..bench.sandbox("a", "s1")
    };
    assert_eq!(
        bench.says(Told::Begins(elsewhere)).await.await,
        Ok(Reply::NotEnrolled)
    );
    let mut outside = pod("b");
    outside.membership = Membership::Outside;
    let sandbox = bench.sandbox("b", "s2");
    let reply = bench.says(Told::Begins(sandbox)).await;
    bench.looks(&snapshot(&[outside]));
    assert_eq!(reply.await, Ok(Reply::NotEnrolled));
    assert_eq!(bench.enrolment.announced(), &Announced::default());
}

#[tokio::test]
async fn who_cannot_be_enrolled_in_time_is_refused_with_the_reason() {
    let mut bench = bench();
    let (unknown, broken) = (bench.sandbox("a", "s1"), bench.sandbox("b", "s2"));
    let unknown = bench.says(Told::Begins(unknown)).await;
    let broken = bench.says(Told::Begins(broken)).await;
    bench.kernel.refuse(Some("no room"));
    let known = snapshot(&[pod("b")]);
    bench.looks(&known);
    bench.now += Duration::from_secs(11);
    bench.looks(&known);
    for (reply, part) in [(unknown, "not known to the agent yet"), (broken, "no room")] {
        let Ok(Reply::Refused { why }) = reply.await else {
            panic!("not refused");
        };
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test]
async fn a_runtime_that_does_not_name_the_pod_is_told_so() {
    let mut bench = bench();
    let sandbox = Sandbox {
        uid: None,
        ..bench.sandbox("a", "s1")
    };
    let reply = bench.says(Told::Begins(sandbox)).await.await;
    assert!(matches!(reply, Ok(Reply::Refused { why }) if why.contains("K8S_POD_UID")));
}

#[tokio::test]
async fn the_end_of_an_earlier_sandbox_is_not_that_of_the_pod() {
    let mut bench = bench();
    let (first, second) = (bench.sandbox("a", "s1"), bench.sandbox("a", "s2"));
    for sandbox in [&first, &second] {
        drop(bench.says(Told::Begins(sandbox.clone())).await);
    }
    let netns = |bench: &Bench| bench.enrolment.announced().of("a").map(|it| it.netns.clone());
    drop(bench.says(Told::Ends(first)).await);
    assert_eq!(netns(&bench), Some(second.netns.clone()));
    drop(bench.says(Told::Ends(second)).await);
    assert_eq!(netns(&bench), None);
}

#[tokio::test]
async fn the_next_agent_recalls_pods_that_still_are_there() {
    let mut bench = bench();
    let (stays, goes) = (bench.sandbox("a", "s1"), bench.sandbox("b", "s2"));
    for sandbox in [&stays, &goes] {
        drop(bench.says(Told::Begins(sandbox.clone())).await);
    }
    bench.looks(&snapshot(&[]));
    fs::remove_file(&goes.netns).unwrap();
    let mut next = enrolment(&bench.kernel, bench.dir.path());
    let (_hears, heard) = mpsc::channel(1);
    let mut announcements = Announcements::heard(heard, Duration::ZERO, bench.dir.path());
    announcements.recall(&mut next);
    assert!(next.announced().of("a").is_some() && next.announced().of("b").is_none());
    let namespaces = fs::read_to_string(bench.dir.path().join(NAMESPACES)).unwrap();
    assert_eq!(namespaces, "[\"test\"]");
}

#[tokio::test]
async fn a_damaged_memory_is_none() {
    let bench = bench();
    fs::write(bench.dir.path().join(ANNOUNCED), "{").unwrap();
    let mut next = enrolment(&bench.kernel, bench.dir.path());
    let (_hears, heard) = mpsc::channel(1);
    Announcements::heard(heard, Duration::ZERO, bench.dir.path()).recall(&mut next);
    assert_eq!(next.announced(), &Announced::default());
}
