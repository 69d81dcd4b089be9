use std::sync::Arc;

use super::super::bearer::tests::token;
use super::super::review::tests::{agent_of_old_server, agent_on, demand, pod};
use super::*;

type Answer = Result<TokenReviewStatus, fn() -> ApiError>;

/// Answers every review alike, and counts them.
#[derive(Debug)]
struct Fake {
    answer: Mutex<Answer>,
    node: Option<String>,
    reviews: Mutex<usize>,
}

impl ReviewApi for Arc<Fake> {
    fn review<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, ApiError>> {
        Box::pin(async {
            *self.reviews.lock().unwrap() += 1;
            // Others get their turn, as with a real server.
            tokio::task::yield_now().await;
            self.answer.lock().unwrap().clone().map_err(|error| error())
        })
    }

    fn node_of<'a>(&'a self, _: &'a BoundPod) -> BoxFuture<'a, Result<Option<String>, ApiError>> {
        Box::pin(async { Ok(self.node.clone()) })
    }
}

/// The agents' pods by their names.
#[derive(Debug)]
struct Pods(&'static [&'static str]);

impl AgentPods for Pods {
    fn is_there(&self, pod: &BoundPod) -> bool {
        self.0.contains(&pod.name.as_str())
    }
}

const AWAY: Answer = Err(|| ApiError::Silent(Duration::from_secs(5)));

fn reviewer(answer: Answer, node: Option<&str>) -> (Arc<Fake>, TokenReviewer) {
    let fake = Arc::new(Fake {
        answer: Mutex::new(answer),
        node: node.map(str::to_owned),
        reviews: Mutex::default(),
    });
    let pods = Arc::new(Pods(&["mesh-agent-x"]));
    let reviewer = TokenReviewer::over(Box::new(Arc::clone(&fake)), demand(), pods);
    (fake, reviewer)
}

/// A token that ends after `lasts` and was good some time `ago`.
fn known(reviewer: &TokenReviewer, name: &str, of: &str, ago: Duration, lasts: Duration) -> String {
    let ends = SystemTime::now() + lasts;
    let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let token = token(name, ends.as_secs());
    let asked = Instant::now().checked_sub(ago).unwrap();
    let wall = SystemTime::now() - ago;
    reviewer.remember(&token, &NodeName::new("node-a"), pod(of), asked, wall);
    token
}

fn reviews(fake: &Fake) -> usize {
    *fake.reviews.lock().unwrap()
}

/// Ends in many years.
fn lasting(name: &str) -> String {
    token(name, 9_000_000_000)
}

#[tokio::test]
async fn a_token_is_reviewed_once_and_then_known_and_another_is_reviewed_again() {
    let (fake, reviewer) = reviewer(Ok(agent_on("node-a")), None);
    for _ in 0..3 {
        let node = reviewer.authenticate(&lasting("a")).await.unwrap();
        assert_eq!(node, NodeName::new("node-a"));
    }
    assert_eq!(reviews(&fake), 1);
    reviewer.authenticate(&lasting("b")).await.unwrap();
    assert_eq!(reviews(&fake), 2);
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_makes_tokens_uncheckable_not_wrong() {
    let (_, reviewer) = reviewer(AWAY, None);
    let error = reviewer.authenticate(&lasting("a")).await.unwrap_err();
    assert!(matches!(error, NotAuthenticated::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn while_the_api_server_is_away_a_token_that_was_good_is_good_to_its_end_if_its_pod_was_there() {
    let (hour, minute) = (Duration::from_hours(1), Duration::from_mins(1));
    let table = [
        ("mesh-agent-x", hour, hour, true),
        ("mesh-agent-gone", hour, hour, false),
        ("mesh-agent-x", hour, Duration::ZERO, false),
    ];
    for (of, ago, lasts, is_good) in table {
        let (fake, reviewer) = reviewer(AWAY, None);
        let token = known(&reviewer, "a", of, ago, lasts);
        let node = reviewer.authenticate(&token).await.ok();
        assert_eq!(
            node,
            is_good.then(|| NodeName::new("node-a")),
            "{of} {ago:?} {lasts:?}"
        );
        assert_eq!(reviews(&fake), 1, "the API server is asked first");
        let error = reviewer.authenticate(&lasting("another")).await.unwrap_err();
        assert!(matches!(error, NotAuthenticated::Unavailable(_)), "{error:?}");
    }
    let (fake, reviewer) = reviewer(AWAY, None);
    let token = known(&reviewer, "a", "mesh-agent-x", minute, hour);
    for _ in 0..3 {
        reviewer.authenticate(&token).await.unwrap();
    }
    assert_eq!(reviews(&fake), 1, "who asks again does not wait for it again");
}

#[tokio::test]
async fn a_server_of_another_opinion_is_not_away() {
    fn said(code: u16) -> ApiError {
        let status = kube::core::Status::failure("", "").with_code(code);
        ApiError::Failed(kube::Error::Api(status.boxed()).into())
    }
    let table: [(fn() -> ApiError, bool); 5] = [
        (|| ApiError::Forbidden(String::new()), false),
        (|| ApiError::Conflict, false),
        (|| said(401), false),
        (|| said(503), true),
        (|| ApiError::Failed(kube::Error::TlsRequired.into()), false),
    ];
    for (error, is_away) in table {
        let (_, reviewer) = reviewer(Err(error), None);
        let hour = Duration::from_hours(1);
        let token = known(&reviewer, "a", "mesh-agent-x", hour, hour);
        let taken = reviewer.authenticate(&token).await;
        assert_eq!(taken.is_ok(), is_away, "{:?}", error());
    }
}

#[tokio::test]
async fn a_token_that_was_withdrawn_is_not_taken_when_the_api_server_goes_away() {
    let (fake, reviewer) = reviewer(Ok(TokenReviewStatus::default()), None);
    let hour = Duration::from_hours(1);
    let token = known(&reviewer, "a", "mesh-agent-x", hour, hour);
    reviewer.authenticate(&token).await.unwrap_err();
    *fake.answer.lock().unwrap() = AWAY;
    reviewer.authenticate(&token).await.unwrap_err();
}

#[tokio::test]
async fn a_token_that_is_refused_is_asked_about_each_time() {
    let (fake, reviewer) = reviewer(Ok(TokenReviewStatus::default()), None);
    for _ in 0..2 {
        let error = reviewer.authenticate(&lasting("a")).await.unwrap_err();
        assert!(matches!(error, NotAuthenticated::Rejected(_)), "{error:?}");
    }
    assert_eq!(reviews(&fake), 2);
}

#[tokio::test]
async fn an_old_server_is_asked_for_the_pod_and_a_pod_that_is_gone_is_on_no_node() {
    let (_, there) = reviewer(Ok(agent_of_old_server()), Some("node-b"));
    let node = there.authenticate(&lasting("a")).await.unwrap();
    assert_eq!(node, NodeName::new("node-b"));
    let (_, gone) = reviewer(Ok(agent_of_old_server()), None);
    let error = gone.authenticate(&lasting("a")).await.unwrap_err();
    assert!(
        crate::identity::error_chain(&error).contains("on no node"),
        "{error:?}"
    );
}

#[test]
fn what_is_known_is_forgotten_in_time_and_never_outlives_the_token() {
    let (_, reviewer) = reviewer(AWAY, None);
    let (asked, wall) = (
        Instant::now(),
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
    );
    let node = NodeName::new("node-a");
    let table = [
        (9_000, REMEMBERED),
        (1_010, Duration::from_secs(10)),
        (1_000, Duration::ZERO),
        (900, Duration::ZERO),
    ];
    for (exp, known_for) in table {
        let token = token("a", exp);
        reviewer.remember(&token, &node, pod("x"), asked, wall);
        let at = |after: Duration| reviewer.remembered(&token, asked + after).is_some();
        assert!(!at(known_for), "{exp}");
        assert_eq!(
            at(known_for.saturating_sub(Duration::from_millis(1))),
            !known_for.is_zero(),
            "{exp}"
        );
    }
    assert!(REMEMBERED <= Duration::from_mins(1));
}

#[test]
fn a_token_without_a_readable_end_is_not_remembered() {
    let (_, reviewer) = reviewer(AWAY, None);
    let now = Instant::now();
    reviewer.remember(
        "opaque",
        &NodeName::new("node-a"),
        pod("x"),
        now,
        SystemTime::now(),
    );
    assert_eq!(reviewer.remembered("opaque", now), None);
}

#[test]
fn memory_is_bounded_and_what_is_out_of_date_makes_room() {
    let (_, reviewer) = reviewer(AWAY, None);
    let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
    let node = NodeName::new("node-a");
    for one in 0..MAX_KNOWN + 5 {
        reviewer.remember(&lasting(&one.to_string()), &node, pod("x"), start, wall);
    }
    assert_eq!(reviewer.known().len(), MAX_KNOWN);
    reviewer.remember(&lasting("late"), &node, pod("x"), start + REMEMBERED, wall);
    assert_eq!(reviewer.known().len(), 1);
}

#[tokio::test]
async fn debug_output_shows_no_token() {
    let (_, reviewer) = reviewer(Ok(agent_on("node-a")), None);
    let token = lasting("a");
    reviewer.authenticate(&token).await.unwrap();
    assert!(!format!("{reviewer:?}").contains(&token));
}
