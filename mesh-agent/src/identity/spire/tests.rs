//! Claims about certificates from SPIRE, with a fake of its agent behind a real socket.

use std::time::Duration;

use super::super::testing::{TestCa, id};
use super::super::{Certificates, IssueFailure, error_chain};
use super::fake::{Entries, FakeSpire};
use super::*;

const WEB: [&str; 2] = ["k8s:ns:shop", "k8s:sa:web"];

fn issuer(spire: &FakeSpire, tasks: &Tasks) -> SpireIssuer {
    let settings = SpireSettings {
        socket: spire.socket(),
        selectors: "k8s:ns:{namespace},k8s:sa:{service_account}".parse().unwrap(),
        trust_domain: "cluster.local".into(),
    };
    SpireIssuer::start(settings, tasks)
}

fn subscription(spire: &FakeSpire, tasks: &Tasks) -> Box<dyn Subscription> {
    issuer(spire, tasks).subscribe(&id("web")).unwrap()
}

async fn failure(subscription: &mut Box<dyn Subscription>) -> (IssueFailure, String) {
    let error = subscription.issue().await.unwrap_err();
    (error.failure(), error_chain(&error))
}

fn serial(store: &Certificates) -> Option<String> {
    store.tls(&id("web")).map(|tls| tls.serial().to_owned())
}

/// Long enough for a retry, and far less than a renewal at half of an hour.
const SOON: Duration = Duration::from_mins(2);

#[tokio::test(start_paused = true)]
async fn an_identity_gets_the_certificate_that_spire_has_for_it_under_spires_roots() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    let expected = spire.enter(&WEB, &id("web"));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    store.ready().await;
    assert_eq!(serial(&store), Some(expected));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_spire_pushes_is_in_use_long_before_half_of_the_life_of_the_last() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    spire.enter(&WEB, &id("web"));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    store.ready().await;
    for _ in 0..3 {
        let pushed = spire.enter(&WEB, &id("web"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(serial(&store), Some(pushed));
    }
    assert_eq!(store.counts().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn roots_that_spire_pushes_reach_the_mesh_and_those_of_other_trust_domains_do_not() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    let mut roots = issuer(&spire, &tasks).roots();
    roots.changed().await.unwrap();
    assert_eq!(*roots.borrow_and_update(), spire.ca.roots());
    let next = TestCa::new().roots();
    spire.entries.send_modify(|entries| {
        let own = entries.bundles.get_mut("spiffe://cluster.local").unwrap();
        own.extend_from_slice(&next[0]);
        let other = TestCa::new().roots()[0].to_vec();
        entries.bundles.insert("spiffe://elsewhere".into(), other);
    });
    roots.changed().await.unwrap();
    let both = [spire.ca.roots()[0].clone(), next[0].clone()];
    assert_eq!(**roots.borrow(), both);
}

#[tokio::test(start_paused = true)]
async fn who_spire_federates_with_is_trusted_and_not_any_more_once_that_is_withdrawn() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    spire.enter(&WEB, &id("web"));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    store.ready().await;
    let far = TestCa::of("far.example");
    let caller = SpiffeId::new("far.example", "shop", "web").unwrap();
    let is_let_in = || {
        let (ours, theirs) = (store.tls(&id("web")).unwrap(), far.tls(&caller));
        theirs.is_accepted_by(&ours)
    };
    assert!(!is_let_in());
    spire.entries.send_modify(|entries| {
        let roots = far.roots()[0].to_vec();
        entries.bundles.insert("spiffe://far.example".into(), roots);
    });
    until("the bundle is in force", is_let_in).await;

    spire.entries.send_modify(|entries| {
        entries.bundles.remove("spiffe://far.example");
    });
    until("the bundle is forgotten", || !is_let_in()).await;
    until("the call that was given up is closed", || spire.open_calls() == 2).await;
    assert_eq!(store.counts().failed, 0);
}

/// Time is paused: it passes while sockets are still to be read.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn only_the_entry_of_exactly_the_wanted_identity_counts() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    // Matches every workload of the namespace, and comes first.
    spire.enter(&["k8s:ns:shop"], &id("everybody"));
    let mut web = subscription(&spire, &tasks);
    let (why, text) = failure(&mut web).await;
    assert_eq!(why, IssueFailure::OtherIdentity);
    for part in ["ns/shop/sa/everybody", "ns/shop/sa/web", "k8s:sa:web"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let expected = spire.enter(&WEB, &id("web"));
    web.superseded().await;
    assert_eq!(web.issue().await.unwrap().serial(), expected);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_claims_an_id_which_its_certificate_has_not_is_refused_by_the_store() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    let (_, mut svid) = spire.make(&id("mallory"));
    svid.svid.as_mut().unwrap().id.as_mut().unwrap().path = "/ns/shop/sa/web".into();
    spire
        .entries
        .send_modify(|entries| entries.svids.push((Vec::new(), svid)));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    tokio::time::sleep(SOON).await;
    assert_eq!(serial(&store), None);
    let counted = store.failures();
    let others = counted
        .iter()
        .find(|(why, _)| *why == IssueFailure::OtherIdentity);
    assert!(others.unwrap().1 > 0, "{counted:?}");
}

#[tokio::test(start_paused = true)]
async fn each_way_to_fail_has_its_own_reason_and_says_what_to_mend() {
    let (mut spire, tasks) = (FakeSpire::start(), Tasks::new());
    let mut web = subscription(&spire, &tasks);
    let socket = spire.socket().display().to_string();
    let (why, text) = failure(&mut web).await;
    assert_eq!(why, IssueFailure::NoEntry);
    assert!(text.contains("k8s:ns:shop k8s:sa:web"), "{text}");

    spire
        .entries
        .send_modify(|entries| entries.denied = Some("no identity issued"));
    let (why, text) = failure(&mut web).await;
    assert_eq!(why, IssueFailure::Denied);
    assert!(text.contains("no identity issued"), "{text}");

    spire.end().await;
    let (why, text) = failure(&mut web).await;
    assert_eq!(why, IssueFailure::Unreachable);
    assert!(text.contains(&socket), "{text}");

    spire.entries.send_replace(Entries::default());
    spire.run();
    spire.enter(&WEB, &id("web"));
    let (why, text) = failure(&mut subscription(&spire, &tasks)).await;
    assert_eq!(why, IssueFailure::NoBundle);
    assert!(text.contains("cluster.local"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_key_or_with_a_broken_certificate_is_refused() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    let (_, whole) = spire.make(&id("web"));
    let (mut keyless, mut cut, mut empty) = (whole.clone(), whole.clone(), whole);
    keyless.key.clear();
    cut.svid.as_mut().unwrap().chain[0].truncate(100);
    empty.svid.as_mut().unwrap().chain.clear();
    for svid in [keyless, cut, empty] {
        spire
            .entries
            .send_modify(|entries| entries.svids = vec![(Vec::new(), svid)]);
        let (why, text) = failure(&mut subscription(&spire, &tasks)).await;
        assert_eq!(why, IssueFailure::Malformed, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_spire_the_certificate_stays_and_the_next_comes_as_soon_as_spire_is_back() {
    let (mut spire, tasks) = (FakeSpire::start(), Tasks::new());
    let first = spire.enter(&WEB, &id("web"));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    store.ready().await;
    spire.end().await;
    tokio::time::sleep(SOON).await;
    assert_eq!(serial(&store), Some(first));
    let told = store.status()[0].last_error.clone().unwrap();
    assert!(told.contains("cannot reach spire"), "{told}");
    let failed = store.counts().failed;
    assert!((2..20).contains(&failed), "{failed} attempts in two minutes");

    let next = spire.enter(&WEB, &id("web"));
    spire.run();
    tokio::time::sleep(SOON).await;
    assert_eq!(serial(&store), Some(next));
    assert_eq!(store.status()[0].last_error, None);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_taken_away_is_told_at_once_and_the_certificate_stays_until_it_expires() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    let first = spire.enter(&WEB, &id("web"));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    store.ready().await;
    spire.entries.send_modify(|entries| entries.svids.clear());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = store.status()[0].last_error.clone().unwrap();
    assert!(told.contains("no entry"), "{told}");
    assert_eq!(serial(&store), Some(first));
}

#[tokio::test(start_paused = true)]
async fn the_call_for_an_identity_that_is_no_longer_wanted_is_closed() {
    let (spire, tasks) = (FakeSpire::start(), Tasks::new());
    spire.enter(&WEB, &id("web"));
    let store = Certificates::new(Arc::new(issuer(&spire, &tasks)), &tasks);
    store.want([id("web")]);
    store.ready().await;
    // One for bundles.
    assert_eq!(spire.open_calls(), 2);
    store.want([]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(spire.open_calls(), 1);
    tasks.request_stop();
    assert!(tasks.joined(Duration::from_secs(1)).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(spire.open_calls(), 0);
}
