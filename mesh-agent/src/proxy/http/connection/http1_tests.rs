//! What a client of HTTP/1.1 sees, and whether hyper is kept for it meanwhile.

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;
use crate::lifecycle::Tasks;

/// A served client, and what tells whether hyper is there: it has a copy of it.
struct Served {
    client: DuplexStream,
    kept: Arc<()>,
    tasks: Tasks,
    ended: JoinSet<hyper::Result<()>>,
}

/// More than the head takes that comes byte by byte, with the longest pauses that are tried.
const IDLE: Duration = Duration::from_mins(10);

impl Served {
    /// Each request is answered with its path and its body, and `size` bytes besides; the client's side holds so many bytes on the way.
    fn with(on_the_way: usize, size: usize) -> Self {
        let (client, server) = duplex(on_the_way);
        let (kept, tasks) = (Arc::new(()), Tasks::new());
        let copy = Arc::clone(&kept);
        let service = service_fn(move |request: Request<Incoming>| {
            let copy = Arc::clone(&copy);
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let body = [path.as_bytes(), &body, &vec![b'.'; size]].concat();
                drop(copy);
                let body = Full::from(body).map_err(|never| match never {}).boxed_unsync();
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        let progress = Arc::<Progress>::default();
        let http1 = Http1 {
            stream: Box::new(Framed::new(server, Arc::clone(&progress))),
            terms: Terms {
                progress,
                is_watched: false,
                idle: IDLE,
            },
        };
        let mut ended = JoinSet::new();
        ended.spawn(http1.serve(service, tasks.stop()));
        Self {
            client,
            kept,
            tasks,
            ended,
        }
    }

    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads to the end of an answer that ends so.
    async fn answer(&mut self, end: &str) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            let byte = self.client.read_u8().await;
            answer.push(byte.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&answer))));
        }
        String::from_utf8(answer).unwrap()
    }

    /// One copy is ours, one of the loop that begins anew.
    fn has_hyper(&self) -> bool {
        Arc::strong_count(&self.kept) > 2
    }
}

#[tokio::test(start_paused = true)]
async fn hyper_is_let_go_of_between_requests_only() {
    let mut served = Served::with(4096, 0);
    for path in ["/first", "/second", "/third"] {
        served
            .send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert!(served.answer(path).await.starts_with("HTTP/1.1 200 OK\r\n"));
        sleep(REST.saturating_sub(Duration::from_millis(100))).await;
        assert!(served.has_hyper(), "{path}: the next request may come soon");
        sleep(Duration::from_millis(200)).await;
        assert!(!served.has_hyper(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_of_which_a_part_is_there_keeps_it() {
    for (part, rest) in [
        ("G", "ET /x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET /x HTTP/1.1\r\nHost: a\r\n", "\r\n"),
        ("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1", "2"),
        (
            "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n",
            "0\r\n\r\n",
        ),
    ] {
        let mut served = Served::with(4096, 0);
        served.send(part).await;
        sleep(2 * REST).await;
        assert!(served.has_hyper(), "{part:?}");
        served.send(rest).await;
        served
            .answer(if part.starts_with('P') { "/x12" } else { "/x" })
            .await;
        sleep(2 * REST).await;
        assert!(!served.has_hyper(), "{part:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_slowly_is_given_whole() {
    let mut served = Served::with(16, 4000);
    served.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    sleep(2 * REST).await;
    assert!(served.has_hyper(), "most of it is still to be written");
    let answer = served.answer(&".".repeat(4000)).await;
    assert!(answer.contains("content-length: 4001"), "{answer}");
    sleep(2 * REST).await;
    assert!(!served.has_hyper());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_more_is_ended_after_its_time() {
    for part in ["", "GET / HT"] {
        let mut served = Served::with(4096, 0);
        served.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        served.answer("/x").await;
        let begun = Instant::now();
        served.send(part).await;
        assert_eq!(served.client.read(&mut [0; 8]).await.unwrap(), 0, "{part:?}");
        let took = begun.elapsed();
        assert!(
            took >= IDLE && took < IDLE + Duration::from_secs(1),
            "{part:?}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_connection_on_which_nothing_is_under_way() {
    for pause in [Duration::ZERO, 2 * REST] {
        let mut served = Served::with(4096, 0);
        served.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        served.answer("/x").await;
        sleep(pause).await;
        served.tasks.request_stop();
        assert_eq!(served.client.read(&mut [0; 8]).await.unwrap(), 0);
        served.ended.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_meanwhile_is_let_go() {
    let mut served = Served::with(4096, 0);
    served.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    served.answer("/x").await;
    sleep(2 * REST).await;
    drop(served.client);
    served.ended.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(Arc::strong_count(&served.kept), 1, "nothing is left of it");
}

/// Requests as bytes, and how their answers end.
const REQUESTS: [(&str, &str); 4] = [
    ("GET /one HTTP/1.1\r\nHost: a\r\n\r\n", "/one"),
    (
        "POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "/twobody",
    ),
    (
        "POST /three HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n",
        "/threexyz",
    ),
    ("\r\nGET /four HTTP/1.1\nHost: a\n\n", "/four"),
];

proptest! {
    #[test]
    fn requests_are_answered_wherever_their_bytes_are_cut_and_however_long_the_pauses(
        which in proptest::collection::vec(0..REQUESTS.len(), 1..6),
        cuts in proptest::collection::vec((1_usize..90, 0_u64..5), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let requests: String = which.iter().map(|&at| REQUESTS[at].0).collect();
        let answers = runtime.block_on(async {
            let mut served = Served::with(1 << 20, 0);
            let mut rest = requests.as_str();
            for (size, pause) in cuts.into_iter().cycle() {
                let (piece, left) = rest.split_at(size.min(rest.len()));
                served.send(piece).await;
                sleep(Duration::from_secs(pause)).await;
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            let mut answers = Vec::new();
            for &at in &which {
                answers.push(served.answer(REQUESTS[at].1).await);
            }
            answers
        });
        for answer in answers {
            prop_assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    }
}
