use std::sync::Arc;

use super::super::bearer::tests::token;
use super::super::review::tests::{agent_of_old_server, agent_on, demand};
use super::*;

type Answer = Result<TokenReviewStatus, ()>;

/// Answers every review alike, and counts them.
#[derive(Debug)]
struct Fake {
    answer: Answer,
    node: Option<String>,
    reviews: Mutex<usize>,
}

impl ReviewApi for Arc<Fake> {
    fn review<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, ApiError>> {
        Box::pin(async {
            *self.reviews.lock().unwrap() += 1;
            // Others get their turn, as with a real server.
            tokio::task::yield_now().await;
            let silent = |()| ApiError::Silent(Duration::from_secs(5));
            self.answer.clone().map_err(silent)
        })
    }

    fn node_of<'a>(&'a self, _: &'a BoundPod) -> BoxFuture<'a, Result<Option<String>, ApiError>> {
        Box::pin(async { Ok(self.node.clone()) })
    }
}

fn reviewer(answer: Answer, node: Option<&str>) -> (Arc<Fake>, TokenReviewer) {
    let fake = Arc::new(Fake {
        answer,
        node: node.map(str::to_owned),
        reviews: Mutex::default(),
    });
    let reviewer = TokenReviewer::over(Box::new(Arc::clone(&fake)), demand());
    (fake, reviewer)
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
    let (_, reviewer) = reviewer(Err(()), None);
    let error = reviewer.authenticate(&lasting("a")).await.unwrap_err();
    assert!(matches!(error, NotAuthenticated::Unavailable(_)), "{error:?}");
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
    let (_, reviewer) = reviewer(Err(()), None);
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
        reviewer.remember(&token, &node, asked, wall);
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
    let (_, reviewer) = reviewer(Err(()), None);
    let now = Instant::now();
    reviewer.remember("opaque", &NodeName::new("node-a"), now, SystemTime::now());
    assert_eq!(reviewer.remembered("opaque", now), None);
}

#[test]
fn memory_is_bounded_and_what_is_out_of_date_makes_room() {
    let (_, reviewer) = reviewer(Err(()), None);
    let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
    let node = NodeName::new("node-a");
    for one in 0..MAX_KNOWN + 5 {
        reviewer.remember(&lasting(&one.to_string()), &node, start, wall);
    }
    assert_eq!(reviewer.known().len(), MAX_KNOWN);
    reviewer.remember(&lasting("late"), &node, start + REMEMBERED, wall);
    assert_eq!(reviewer.known().len(), 1);
}

#[tokio::test]
async fn debug_output_shows_no_token() {
    let (_, reviewer) = reviewer(Ok(agent_on("node-a")), None);
    let token = lasting("a");
    reviewer.authenticate(&token).await.unwrap();
    assert!(!format!("{reviewer:?}").contains(&token));
}
