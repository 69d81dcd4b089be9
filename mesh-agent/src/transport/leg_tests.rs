use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::mesh::workload::fixture;
use crate::pod::netns::Netns;

/// An application that has not read so many bytes.
#[derive(Debug, Default)]
struct Application {
    unread: AtomicU64,
    looks: AtomicU32,
    tallies: AtomicU32,
}

impl Backlog for Arc<Application> {
    fn unread(&self) -> io::Result<Option<u64>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Ok(Some(self.unread.load(Ordering::Relaxed)))
    }

    fn tally(&self) -> io::Result<()> {
        self.tallies.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

async fn pair() -> (LaneStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled.into(), listener.accept().await.unwrap().0)
}

#[tokio::test(start_paused = true)]
async fn writes_no_more_than_there_is_room_for_until_the_application_reads() {
    let (agent, mut application) = pair().await;
    let reads = Arc::new(Application::default());
    reads.unread.store(WINDOW - 99, Ordering::Relaxed);
    let mut leg = Leg::spliced(agent, Box::new(Arc::clone(&reads)));
    leg.write_all(&[1; 99]).await.unwrap();
    reads.unread.store(WINDOW, Ordering::Relaxed);
    let began = Instant::now();
    let reading = async {
        sleep(Duration::from_secs(1)).await;
        reads.unread.store(0, Ordering::Relaxed);
    };
    let writing = async {
        leg.write_all(&[2; 1]).await.unwrap();
        began.elapsed()
    };
    let (waited, ()) = tokio::join!(writing, reading);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    let mut bytes = [0; 100];
    application.read_exact(&mut bytes).await.unwrap();
    assert_eq!((bytes[98], bytes[99]), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_application_that_stopped_is_looked_at_ever_less_often() {
    let (agent, _application) = pair().await;
    let stopped = Arc::new(Application::default());
    stopped.unread.store(WINDOW, Ordering::Relaxed);
    let mut leg = Leg::spliced(agent, Box::new(Arc::clone(&stopped)));
    let limit = LONGEST_PAUSE * 20;
    assert!(tokio::time::timeout(limit, leg.write_all(&[1; 1])).await.is_err());
    let looks = stopped.looks.load(Ordering::Relaxed);
    assert!((20..=30).contains(&looks), "{looks} looks");
}

#[tokio::test]
async fn looks_again_only_when_the_room_that_was_seen_is_used_up() {
    let (agent, mut application) = pair().await;
    let reads = Arc::new(Application::default());
    let mut leg = Leg::spliced(agent, Box::new(Arc::clone(&reads)));
    let total = usize::try_from(WINDOW).unwrap() + 1;
    let mut all = vec![0; total];
    let bytes = vec![7; total];
    let (written, read) = tokio::join!(leg.write_all(&bytes), application.read_exact(&mut all));
    written.unwrap();
    read.unwrap();
    assert_eq!(reads.looks.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn counts_before_the_kernel_forgets() {
    let (agent, application) = pair().await;
    let reads = Arc::new(Application::default());
    let mut leg = Leg::spliced(agent, Box::new(Arc::clone(&reads)));
    leg.shutdown().await.unwrap();
    assert_eq!(reads.tallies.load(Ordering::Relaxed), 1);
    drop(application);
    assert_eq!(leg.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(reads.tallies.load(Ordering::Relaxed), 2);
    drop(leg);
    assert_eq!(reads.tallies.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn counts_while_it_lives() {
    let (agent, mut application) = pair().await;
    let reads = Arc::new(Application::default());
    let mut leg = Leg::spliced(agent, Box::new(Arc::clone(&reads)));
    for _ in 0..CALLS_BETWEEN_TALLIES / 2 {
        assert_eq!(reads.tallies.load(Ordering::Relaxed), 0);
        leg.write_all(b"a").await.unwrap();
        application.write_all(b"b").await.unwrap();
        leg.read_exact(&mut [0]).await.unwrap();
    }
    assert_eq!(reads.tallies.load(Ordering::Relaxed), 1);
}

/// A kernel that joined every leg, and remembers which it was asked for.
#[derive(Debug, Default)]
struct Joined(std::sync::Mutex<Vec<LegEnds>>);

impl FlowTable for Joined {
    fn original_destination(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }

    fn file_true_peer(&self, _: NetnsCookie, _: SocketAddr, _: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn resolver_behind(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }

    fn forget_true_peer(&self, _: NetnsCookie, _: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn splice(&self, _: NetnsCookie, leg: LegEnds) -> io::Result<Option<Box<dyn Backlog>>> {
        self.0.lock().unwrap().push(leg);
        Ok(Some(Box::new(Arc::new(Application::default()))))
    }
}

#[tokio::test]
async fn the_kernel_is_asked_once_and_only_of_what_lives_long_enough() {
    let (agent, mut application) = pair().await;
    let joined = Arc::new(Joined::default());
    let pod = LocalPod {
        workload: Arc::new(fixture::pod("test", "pod")),
        netns: Arc::new(Netns::current().unwrap()),
        flows: Arc::<Joined>::clone(&joined),
    };
    let expected = LegEnds {
        agent: agent.local_addr().unwrap(),
        application: agent.peer_addr().unwrap(),
        dialled: "10.1.2.3:5432".parse().unwrap(),
    };
    let mut leg = Leg::over_tcp(agent).relayed(&pod, expected.dialled);
    let mut byte = [0];
    for round in 1..=CALLS_BEFORE {
        leg.write_all(b"a").await.unwrap();
        application.read_exact(&mut byte).await.unwrap();
        application.write_all(b"b").await.unwrap();
        leg.read_exact(&mut byte).await.unwrap();
        let asked = joined.0.lock().unwrap().clone();
        let is_time = round * 2 >= CALLS_BEFORE;
        assert_eq!(asked, if is_time { vec![expected] } else { vec![] }, "{round}");
    }
}
