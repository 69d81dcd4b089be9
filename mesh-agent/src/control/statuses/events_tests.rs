//! What is told once, what is told again, and how much at once.

use futures_util::FutureExt as _;
use parking_lot::Mutex;

use super::super::kinds::KINDS;
use super::*;

#[derive(Debug, Default)]
struct Fake {
    told: Mutex<Vec<(String, String, i32)>>,
    is_away: Mutex<bool>,
    /// The object about which no event is taken.
    refused: Mutex<Option<&'static str>>,
    asked: Mutex<u32>,
}

impl EventApi for Arc<Fake> {
    fn tell<'a>(
        &'a self,
        object: &'a Held,
        note: &'a Note,
        count: i32,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        *self.asked.lock() += 1;
        let told = if *self.is_away.lock() {
            Err(ApiError::Silent(Duration::from_secs(5)))
        } else if self
            .refused
            .lock()
            .is_some_and(|refused| object.metadata("name") == refused)
        {
            Err(ApiError::Refused(
                "admission webhook denied the request".to_owned(),
            ))
        } else {
            let mut told = self.told.lock();
            told.push((object.name.to_string(), note.text.clone(), count));
            Ok(())
        };
        std::future::ready(told).boxed()
    }
}

fn finding(name: &str, wrong: &str) -> Finding {
    let kind = KINDS.iter().find(|kind| kind.name == "HTTPRoute").unwrap();
    let value = json!({ "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}") } });
    Finding {
        object: Arc::new(Held::new(&Arc::new(kind.resource("v1")), value)),
        status: None,
        wrong: wrong.to_owned(),
    }
}

fn teller() -> (Arc<Fake>, Teller<Arc<Fake>>) {
    let fake = Arc::<Fake>::default();
    (Arc::clone(&fake), Teller::new(fake))
}

#[tokio::test(start_paused = true)]
async fn each_thing_is_told_once_while_it_lasts_and_again_as_a_series() {
    let (fake, mut teller) = teller();
    let wrong = [finding("a", "one"), finding("b", "")];
    for _ in 0..3 {
        teller.tell(&wrong).await;
    }
    assert_eq!(fake.told.lock().len(), 1);
    teller.tell(&[finding("a", "")]).await;
    teller.tell(&wrong).await;
    teller.tell(&[finding("a", "other")]).await;
    let told: Vec<_> = fake
        .told
        .lock()
        .iter()
        .map(|(_, text, count)| (text.clone(), *count))
        .collect();
    // Counts matter only for events that are there already.
    assert_eq!(
        told,
        [
            ("one".to_owned(), 2),
            ("one".to_owned(), 2),
            ("other".to_owned(), 2)
        ]
    );
    teller.tell(&wrong).await;
    assert_eq!(fake.told.lock().last().unwrap().2, 3);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_burst_is_told_at_once_and_the_rest_later() {
    let (fake, mut teller) = teller();
    let wrong: Vec<_> = (0..40).map(|n| finding(&n.to_string(), "wrong")).collect();
    assert!(teller.tell(&wrong).await.again.is_some());
    let burst = usize::try_from(BURST).unwrap();
    assert_eq!(fake.told.lock().len(), burst);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(teller.tell(&wrong).await.again.is_some());
    assert_eq!(fake.told.lock().len(), burst + 5);
    tokio::time::advance(Duration::from_mins(1)).await;
    assert!(teller.tell(&wrong).await.again.is_none());
    assert_eq!(fake.told.lock().len(), wrong.len());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_is_told_later() {
    let (fake, mut teller) = teller();
    *fake.is_away.lock() = true;
    let told = teller.tell(&[finding("a", "one")]).await;
    assert_eq!((told.done, told.failed), (0, 1));
    *fake.is_away.lock() = false;
    tokio::time::sleep_until(told.again.unwrap()).await;
    let told = teller.tell(&[finding("a", "one")]).await;
    assert_eq!((told.done, told.again), (1, None));
    assert_eq!(fake.told.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_holds_no_other_up_and_is_tried_ever_more_seldom() {
    let (fake, mut teller) = teller();
    *fake.refused.lock() = Some("a");
    let wrong = [
        finding("a", "wrong"),
        finding("b", "wrong"),
        finding("c", "wrong"),
    ];
    let told = teller.tell(&wrong).await;
    assert_eq!((told.done, told.failed), (2, 1));
    // Whatever else changes meanwhile.
    let first = Instant::now();
    for _ in 0..600 {
        teller.tell(&wrong).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(first.elapsed(), Duration::from_mins(10));
    let tries = *fake.asked.lock() - 2;
    assert!((10..=16).contains(&tries), "tried {tries} times in ten minutes");
    *fake.refused.lock() = None;
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(teller.tell(&wrong).await.done, 1);
}

#[test]
fn notes_and_names_stay_within_what_the_api_takes() {
    let long = finding(&"n".repeat(253), &"ü".repeat(3000));
    let note = notes(std::slice::from_ref(&long)).next().unwrap();
    assert!(
        note.text.len() <= 1024 && note.text.len() > 900,
        "{}",
        note.text.len()
    );
    assert!(note.name.len() <= 253, "{}", note.name.len());
    let same = notes(std::slice::from_ref(&long)).next().unwrap();
    assert_eq!(note, same, "another leader would not find it");
}
