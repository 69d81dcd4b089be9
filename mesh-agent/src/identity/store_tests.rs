//! Claims about renewal, on a clock that follows tokio's paused one.

use std::sync::atomic::AtomicBool;

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;

use super::super::authority::leaf_params;
use super::super::secret::SecretDer;
use super::super::testing::{HOUR, TestCa, id};
use super::super::{IssueError, Roots, Svid};
use super::*;

/// Issues certificates of one hour by the tokio clock, or fails, or answers for another identity.
struct Moody {
    ca: TestCa,
    clock: Clock,
    is_failing: AtomicBool,
    answers_for: Option<SpiffeId>,
    roots: watch::Sender<Roots>,
}

impl fmt::Debug for Moody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Moody")
    }
}

impl Issuer for Moody {
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(async move {
            if self.is_failing.load(Ordering::Relaxed) {
                return Err(IssueError::Failed("on purpose".into()));
            }
            let identity = self.answers_for.as_ref().unwrap_or(identity);
            let now = (self.clock)();
            Ok(self.ca.svid(&leaf_params(identity, now, now + HOUR).unwrap()))
        })
    }

    fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.subscribe()
    }
}

struct Fixture {
    issuer: Arc<Moody>,
    tasks: Tasks,
    store: Certificates,
    rules: watch::Sender<TrustRules>,
}

fn fixture(answers_for: Option<SpiffeId>) -> Fixture {
    let (wall, start) = (SystemTime::now(), Instant::now());
    let clock: Clock = Arc::new(move || wall + start.elapsed());
    let is_failing = AtomicBool::new(false);
    let ca = TestCa::new();
    let issuer = Arc::new(Moody {
        roots: watch::Sender::new(ca.roots()),
        ca,
        clock: Arc::clone(&clock),
        is_failing,
        answers_for,
    });
    let tasks = Tasks::new();
    let rules = watch::Sender::default();
    let store = Certificates::with_clock(Arc::<Moody>::clone(&issuer), &tasks, rules.subscribe(), clock);
    Fixture {
        issuer,
        tasks,
        store,
        rules,
    }
}

fn serial(store: &Certificates, id: &SpiffeId) -> Option<String> {
    store.tls(id).map(|tls| tls.serial().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_wanted_identity_gets_a_certificate_and_another_none() {
    let Fixture { store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    assert_eq!(store.tls(&id("web")).unwrap().identity(), &id("web"));
    assert!(store.tls(&id("cart")).is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_wanted_is_ready_at_once() {
    fixture(None).store.ready().await;
}

#[tokio::test(start_paused = true)]
async fn is_renewed_near_half_of_its_life_and_never_missing() {
    let Fixture { store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    let first = serial(&store, &id("web"));

    tokio::time::advance(HOUR.mul_f64(0.4)).await;
    assert_eq!(serial(&store, &id("web")), first);

    for _ in 0..60 {
        tokio::time::sleep(HOUR / 60).await;
        assert!(store.tls(&id("web")).is_some());
    }
    assert_ne!(serial(&store, &id("web")), first);
    assert!((2..=4).contains(&store.counts().issued), "{:?}", store.counts());
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_old_certificate_until_it_expires() {
    let Fixture { issuer, store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    let first = serial(&store, &id("web"));
    issuer.is_failing.store(true, Ordering::Relaxed);

    tokio::time::sleep(HOUR.mul_f64(0.9)).await;
    assert_eq!(serial(&store, &id("web")), first);
    let [status] = &store.status()[..] else {
        panic!("one status")
    };
    assert_eq!(
        status.last_error.as_deref(),
        Some("the issuer failed: on purpose")
    );
    assert!(store.counts().failed > 3);

    tokio::time::sleep(HOUR.mul_f64(0.2)).await;
    assert!(store.tls(&id("web")).is_none());

    issuer.is_failing.store(false, Ordering::Relaxed);
    store.ready().await;
    assert_eq!(store.status()[0].last_error, None);
    assert_ne!(serial(&store, &id("web")), first);
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_no_longer_wanted_is_forgotten_and_its_task_ends() {
    let Fixture { tasks, store, .. } = fixture(None);
    store.want([id("web"), id("cart")]);
    store.ready().await;
    let kept = serial(&store, &id("cart"));
    assert_eq!(tasks.active(), 2);

    store.want([id("cart")]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((tasks.active(), store.status().len()), (1, 1));
    assert!(store.tls(&id("web")).is_none());
    assert_eq!(
        serial(&store, &id("cart")),
        kept,
        "what stays wanted is not issued again"
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_the_agent_ends_all_renewal() {
    let Fixture { tasks, store, .. } = fixture(None);
    store.want([id("web"), id("cart")]);
    tasks.request_stop();
    assert!(tasks.joined(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_used() {
    let Fixture { store, .. } = fixture(Some(id("mallory")));
    store.want([id("web")]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(store.tls(&id("web")).is_none());
    assert!(
        store.status()[0]
            .last_error
            .as_deref()
            .unwrap()
            .contains("mallory")
    );
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_added_reaches_the_certificate_in_use_without_a_renewal() {
    let Fixture { issuer, store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    let before = store.tls(&id("web")).unwrap();
    let added = TestCa::new();
    let both: Roots = issuer
        .ca
        .roots()
        .iter()
        .chain(added.roots().iter())
        .cloned()
        .collect();
    issuer.roots.send_replace(both);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = store.tls(&id("web")).unwrap();
    assert_eq!((after.serial(), store.counts().issued), (before.serial(), 1));
    assert!(
        !Arc::ptr_eq(&before.server(), &after.server()),
        "a configuration of its own"
    );
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_the_new_roots_do_not_hold_is_replaced_at_once() {
    let Fixture { issuer, store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    issuer.roots.send_replace(TestCa::new().roots());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.tls(&id("web")).is_none());
    issuer.roots.send_replace(issuer.ca.roots());
    store.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_rules_reaches_the_certificate_in_use() {
    let Fixture { rules, store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    let before = store.tls(&id("web")).unwrap();
    rules.send_modify(|rules| rules.aliases.push("old.local".into()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!Arc::ptr_eq(&before, &store.tls(&id("web")).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_cannot_be_renewed_is_overdue_before_it_expires() {
    let Fixture { issuer, store, .. } = fixture(None);
    store.want([id("web")]);
    store.ready().await;
    issuer.is_failing.store(true, Ordering::Relaxed);
    tokio::time::sleep(HOUR.mul_f64(0.7)).await;
    assert!(!store.status()[0].is_overdue);
    tokio::time::sleep(HOUR.mul_f64(0.1)).await;
    assert!(store.status()[0].is_overdue && store.tls(&id("web")).is_some());
}

/// Hands out what it is given until it is given something else, as an issuer over files does.
#[derive(Debug)]
struct Repeating {
    current: Mutex<Moment>,
    roots: watch::Sender<Roots>,
}

/// A certificate and its key, which can be handed out twice.
struct Moment(CertificateDer<'static>, SecretDer);

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Moment")
    }
}

impl Issuer for Repeating {
    fn issue<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(async move {
            let Moment(certificate, key) = &*self.current.lock().unwrap();
            Ok(Svid::new(
                vec![certificate.clone()],
                SecretDer::new(key.to_tls()),
            )?)
        })
    }

    fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.subscribe()
    }

    fn asked_again_within(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_handed_out_again_changes_nothing_and_another_is_used_within_seconds() {
    let ca = TestCa::new();
    let next = || {
        let now = SystemTime::now();
        let params = leaf_params(&id("web"), now, now + HOUR).unwrap();
        let (certificate, key) = ca.ca.sign_unchecked(&params).unwrap();
        Moment(certificate, key)
    };
    let issuer = Arc::new(Repeating {
        current: Mutex::new(next()),
        roots: watch::Sender::new(ca.roots()),
    });
    let tasks = Tasks::new();
    let store = Certificates::new(Arc::<Repeating>::clone(&issuer), &tasks);
    store.want([id("web")]);
    store.ready().await;
    let first = store.tls(&id("web")).unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(Arc::ptr_eq(&first, &store.tls(&id("web")).unwrap()));
    assert_eq!(store.counts().issued, 1);

    *issuer.current.lock().unwrap() = next();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_ne!(store.tls(&id("web")).unwrap().serial(), first.serial());
}
