//! Requests that are asked of a second endpoint since the first one is slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::app::{App, full, grpc};
use super::balance::hashing;
use super::client::{H1, H2, HOST, call, get, get2, post};
use super::facts::{CART, LabPod, PAY, WEB, destination_rule, name};
use super::lab::{Lab, eventually};
use crate::mesh::hedge::Hedge;
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{HashKey, Limits, OutlierDetection};
use crate::transport::http::Body;

/// What an endpoint does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    Fails,
    /// It answers when its mood changes.
    Waits,
    /// It is always slow.
    Dawdles,
}

/// An endpoint whose mood the test changes.
struct Endpoint {
    app: App,
    mood: watch::Sender<Mood>,
    withdrawn: Arc<AtomicUsize>,
}

/// Counts a request that was not answered.
struct Unanswered(Option<Arc<AtomicUsize>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(count) = self.0.take() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Endpoint {
    async fn start(lab: &Lab, pod: LabPod) -> Self {
        let mood = watch::Sender::new(Mood::Answers);
        let withdrawn = Arc::<AtomicUsize>::default();
        let (moods, count) = (mood.subscribe(), Arc::clone(&withdrawn));
        let app = App::http(lab, pod, move |request| {
            let unanswered = Unanswered(Some(Arc::clone(&count)));
            answer(request, moods.clone(), unanswered)
        })
        .await;
        Self { app, mood, withdrawn }
    }

    fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    fn asked(&self) -> usize {
        self.app.seen().len()
    }

    fn withdrawn(&self) -> usize {
        self.withdrawn.load(Ordering::Relaxed)
    }
}

/// The request's body, or a gRPC message.
async fn answer(
    request: Request<Incoming>,
    mut moods: watch::Receiver<Mood>,
    mut unanswered: Unanswered,
) -> Response<Body> {
    let is_grpc = request.headers().contains_key("te");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mood = *moods.wait_for(|mood| *mood != Mood::Waits).await.unwrap();
    if mood == Mood::Dawdles {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    unanswered.0.take();
    let mut response = if is_grpc {
        grpc(MESSAGE, 0)
    } else {
        Response::new(full(body))
    };
    if mood == Mood::Fails {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

const MESSAGE: &[u8] = b"\0\0\0\0\x01x";
/// More than are needed to know what is slow.
const WARM: u32 = 20;

/// Whatever takes longer than the median, as long as there are two answers for each hedge.
fn eager() -> Hedge {
    Hedge {
        percentile: 50,
        min_delay: Duration::from_millis(20),
        budget_percent: 100,
        min_samples: 10,
        ..Hedge::default()
    }
}

fn hedged(lab: &Lab, service: &str, hedge: Hedge) {
    lab.change(|facts| {
        let known = facts.services.iter_mut().find(|one| one.name == name(service));
        known.unwrap().resilience.hedge = Some(hedge);
    });
}

/// Two endpoints behind one address, of which the first gets all requests of the client, as long as it is not slow; enough is
/// known of both.
async fn pair(lab: &Lab, pod: LabPod, protocol: AppProtocol, hedge: Hedge) -> ([Endpoint; 2], SocketAddr) {
    let endpoints = [Endpoint::start(lab, pod).await, Endpoint::start(lab, pod).await];
    let addrs = [endpoints[0].app.addr, endpoints[1].app.addr];
    let vip = lab.service("hedged", protocol, &addrs).await;
    hedged(lab, "hedged", hedge);
    limited(lab, Limits::default());
    let mut client = H1::dial(lab, WEB, vip).await;
    for _ in 0..WARM {
        assert_eq!(client.fetch(get("/")).await.status, StatusCode::OK);
    }
    let [one, two] = endpoints;
    let is_ordered = one.asked() >= two.asked();
    (if is_ordered { [one, two] } else { [two, one] }, vip)
}

/// All requests of one client go to one endpoint; a single failure of an endpoint would eject it.
fn limited(lab: &Lab, limits: Limits) {
    let mut policy = hashing(HashKey::SourceIp);
    policy.limits = Some(limits);
    policy.outliers = Some(OutlierDetection {
        consecutive_local: 1,
        splits_local: true,
        ..OutlierDetection::default()
    });
    lab.change(|facts| facts.destination_rules = vec![destination_rule("hedged", policy.clone())]);
}

fn hedges(lab: &Lab, outcome: &str) -> u64 {
    lab.a.sum("mesh_hedges_total", &[("outcome", outcome)])
}

fn put(body: Bytes) -> Request<Body> {
    let mut request = post("/", body);
    *request.method_mut() = Method::PUT;
    request
}

#[tokio::test]
async fn a_slow_endpoint_is_not_waited_for_and_what_it_was_asked_is_withdrawn() {
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        let ([slow, other], vip) = pair(&lab, pod, AppProtocol::Http, eager()).await;
        let (before, others) = (slow.asked(), other.asked());
        slow.is(Mood::Waits);
        let mut client = H1::dial(&lab, WEB, vip).await;
        for turn in 0_usize..10 {
            let body = Bytes::from(vec![b'x'; turn * 6_000]);
            let reply = client.fetch(put(body.clone())).await;
            assert_eq!((reply.status, reply.body), (StatusCode::OK, body), "{turn}");
        }
        // Ten times: losing is no failure, which would have ejected it at once.
        assert_eq!((slow.asked() - before, other.asked() - others), (10, 10));
        assert!(hedges(&lab, "won") >= 10, "{}", hedges(&lab, "won"));
        eventually("all are withdrawn", || slow.withdrawn() == 10).await;
        eventually("load is given back", || lab.a.load() == 0).await;
        let numbers = other.app.seen().into_iter().skip(others);
        let numbers: Vec<_> = numbers
            .map(|seen| seen.header("x-envoy-attempt-count").unwrap().to_owned())
            .collect();
        assert!(numbers.iter().all(|number| number == "2"), "{numbers:?}");
        // The client made one request each time; the endpoint that lost saw a client that went away.
        let of_client = [("reporter", "source"), ("response_code", "200")];
        let requests = u64::from(WARM) + 10;
        eventually("records", || {
            lab.a.sum("istio_requests_total", &of_client) == requests
        })
        .await;
        assert_eq!(
            lab.a.sum("istio_requests_total", &[("reporter", "source")]),
            requests
        );
        let lost = [("reporter", "destination"), ("response_flags", "DC")];
        eventually("records of those that lost", || {
            lab.agent_of(pod).sum("istio_requests_total", &lost) >= 10
        })
        .await;
        let is_won = |line: &serde_json::Value| line["response_code_details"] == "hedge_won";
        let log = lab.a.log();
        assert!(
            log.iter().filter(|line| is_won(line)).count() >= 10,
            "the log says who answered"
        );
    }
}

/// One that must not be done twice is sent before one that may, and is not there a second time when the other one is.
async fn is_never_sent_twice(pod: LabPod, request: fn() -> Request<Body>) {
    let lab = Lab::start().await;
    let ([one, two], vip) = pair(&lab, pod, AppProtocol::Http, eager()).await;
    let before = [one.asked(), two.asked()];
    one.is(Mood::Waits);
    two.is(Mood::Waits);
    let (mut first, mut second) = (H2::dial(&lab, WEB, vip).await, H2::dial(&lab, WEB, vip).await);
    let once = first.fetch(request());
    let twice = async {
        eventually("the first one is there", || one.asked() == before[0] + 1).await;
        let got = second.fetch(get2("/"));
        let release = async {
            eventually("the second one is there twice", || two.asked() > before[1]).await;
            one.is(Mood::Answers);
            two.is(Mood::Answers);
        };
        tokio::join!(got, release).0.status
    };
    let (reply, status) = tokio::join!(once, twice);
    assert_eq!((reply.status, status), (StatusCode::OK, StatusCode::OK));
    let asked = [one.asked() - before[0], two.asked() - before[1]];
    assert_eq!(asked, [2, 1]);
    assert_eq!(two.app.seen().last().unwrap().head.method, Method::GET);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    for pod in [CART, PAY] {
        let request = || {
            let request = Request::post(format!("http://{HOST}/"));
            request.body(full("order")).unwrap()
        };
        Box::pin(is_never_sent_twice(pod, request)).await;
    }
}

#[tokio::test]
async fn a_grpc_call_is_sent_twice_only_where_its_service_says_that_it_may_be() {
    Box::pin(is_never_sent_twice(CART, || call(MESSAGE))).await;
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        let allowing = Hedge {
            grpc: true,
            ..eager()
        };
        let ([slow, other], vip) = pair(&lab, pod, AppProtocol::Http, allowing).await;
        let others = other.asked();
        slow.is(Mood::Waits);
        let reply = H2::dial(&lab, WEB, vip).await.fetch(call(MESSAGE)).await;
        assert_eq!((reply.body.as_ref(), other.asked()), (MESSAGE, others + 1));
        assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
        eventually("it is withdrawn", || slow.withdrawn() == 1).await;
    }
}

#[tokio::test]
async fn a_bad_answer_does_not_win_against_one_that_is_still_to_come() {
    let lab = Lab::start().await;
    let ([slow, failing], vip) = pair(&lab, CART, AppProtocol::Http, eager()).await;
    slow.is(Mood::Waits);
    failing.is(Mood::Fails);
    let mut client = H1::dial(&lab, WEB, vip).await;
    let at_destination = [("reporter", "destination"), ("response_code", "503")];
    let release = async {
        eventually("the other one has failed", || {
            lab.a.sum("istio_requests_total", &at_destination) == 1
        })
        .await;
        slow.is(Mood::Answers);
    };
    let (reply, ()) = tokio::join!(client.fetch(get("/")), release);
    assert_eq!(reply.status, StatusCode::OK);
    // Nobody else is waited for where nobody else was asked.
    slow.is(Mood::Fails);
    let asked = failing.asked();
    assert_eq!(
        client.fetch(get("/")).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(failing.asked(), asked);
}

#[tokio::test]
async fn when_all_are_slow_no_more_than_the_budget_is_sent() {
    let lab = Lab::start().await;
    let sparing = Hedge {
        budget_percent: 10,
        min_delay: Duration::from_millis(1),
        ..eager()
    };
    let (endpoints, vip) = pair(&lab, CART, AppProtocol::Http, sparing).await;
    for endpoint in &endpoints {
        endpoint.is(Mood::Dawdles);
    }
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..30 {
        assert_eq!(client.fetch(get("/")).await.status, StatusCode::OK);
    }
    let (begun, refused) = (hedges(&lab, "begun"), hedges(&lab, "over_budget"));
    assert!((1..=5).contains(&begun) && refused > 0, "{begun} {refused}");
    let asked: usize = endpoints.iter().map(Endpoint::asked).sum();
    assert!(asked <= 50 + 5, "{asked}");
}

/// One request waits until `outcome` is counted, and is answered by the one that was asked at first.
async fn is_not_hedged(lab: &Lab, one: &Endpoint, vip: SocketAddr, request: Request<Body>, outcome: &str) {
    let asked = one.asked();
    one.is(Mood::Waits);
    let mut client = H1::dial(lab, WEB, vip).await;
    let release = async {
        eventually(outcome, || hedges(lab, outcome) == 1).await;
        one.is(Mood::Answers);
    };
    let (reply, ()) = tokio::join!(client.fetch(request), release);
    assert_eq!(
        (reply.status, one.asked() - asked),
        (StatusCode::OK, 1),
        "{outcome}"
    );
}

#[tokio::test]
async fn limits_of_the_destination_and_large_bodies_are_not_exceeded_by_hedges() {
    let lab = Lab::start().await;
    let ([one, two], vip) = pair(&lab, CART, AppProtocol::Http, eager()).await;
    let others = two.asked();
    let large = put(vec![b'x'; 1 << 20].into());
    is_not_hedged(&lab, &one, vip, large, "body_gone").await;
    let no_retries = Limits {
        retries: Some(0),
        ..Limits::default()
    };
    limited(&lab, no_retries);
    is_not_hedged(&lab, &one, vip, get("/"), "overflow").await;
    assert_eq!(two.asked(), others);
}

#[tokio::test]
async fn one_request_at_a_time_is_one_hedged_or_not() {
    let lab = Lab::start().await;
    let ([one, two], vip) = pair(&lab, CART, AppProtocol::Http, eager()).await;
    let others = two.asked();
    let single = Limits {
        requests: Some(1),
        ..Limits::default()
    };
    limited(&lab, single);
    is_not_hedged(&lab, &one, vip, get("/"), "overflow").await;
    assert_eq!(two.asked(), others);
}

#[tokio::test]
async fn the_only_endpoint_is_not_asked_twice() {
    let lab = Lab::start().await;
    let only = Endpoint::start(&lab, CART).await;
    let vip = lab.service("hedged", AppProtocol::Http, &[only.app.addr]).await;
    hedged(&lab, "hedged", eager());
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..WARM {
        client.fetch(get("/")).await;
    }
    let before = hedges(&lab, "no_other");
    only.is(Mood::Waits);
    let asked = only.asked();
    let release = async {
        eventually("it is slow", || hedges(&lab, "no_other") > before).await;
        only.is(Mood::Answers);
    };
    let (reply, ()) = tokio::join!(client.fetch(get("/")), release);
    assert_eq!((reply.status, only.asked() - asked), (StatusCode::OK, 1));
}
