use std::time::Duration;

use futures_util::stream;
use kube::core::Status;
use serde_json::json;

use super::*;
use crate::lifecycle::{Readiness, Tasks};

fn pod(name: &str, node: &str, account: &str) -> LeanPod {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "uid": "u" },
        "spec": { "nodeName": node, "serviceAccountName": account, "containers": [{ "name": "x" }] },
        "status": { "phase": "Running", "podIP": "10.0.0.1" },
    });
    serde_json::from_value(pod).unwrap()
}

fn agents() -> BTreeSet<Account> {
    ["shop/mesh-agent".parse().unwrap()].into()
}

fn runs(pods: &ClusterPods, node: &str, account: &str) -> Option<bool> {
    let identity = SpiffeId::new("cluster.local", "shop", account).unwrap();
    pods.runs(&NodeName::new(node), &identity).ok()
}

fn listed(pods: &ClusterPods, list: impl IntoIterator<Item = LeanPod>) {
    pods.learn(Event::Init);
    for pod in list {
        pods.learn(Event::InitApply(pod));
    }
    pods.learn(Event::InitDone);
}

#[test]
fn nothing_is_known_before_the_first_list_is_complete() {
    let pods = ClusterPods::new("cluster.local", agents());
    assert_eq!(runs(&pods, "a", "web"), None);
    pods.learn(Event::Init);
    pods.learn(Event::InitApply(pod("web-1", "a", "web")));
    assert_eq!(runs(&pods, "a", "web"), None);
    pods.learn(Event::InitDone);
    assert_eq!(runs(&pods, "a", "web"), Some(true));
    assert_eq!(runs(&pods, "b", "web"), Some(false));
    assert_eq!(runs(&pods, "a", "cart"), Some(false));
}

#[test]
fn pods_come_and_go_and_names_are_used_again() {
    let pods = ClusterPods::new("cluster.local", agents());
    listed(&pods, []);
    pods.learn(Event::Apply(pod("web-1", "", "web")));
    assert_eq!(runs(&pods, "a", "web"), Some(false));
    pods.learn(Event::Apply(pod("web-1", "a", "web")));
    assert_eq!(runs(&pods, "a", "web"), Some(true));
    pods.learn(Event::Apply(pod("web-1", "b", "web")));
    assert_eq!(
        (runs(&pods, "a", "web"), runs(&pods, "b", "web")),
        (Some(false), Some(true))
    );
    pods.learn(Event::Delete(pod("web-1", "b", "web")));
    assert_eq!(runs(&pods, "b", "web"), Some(false));
}

#[test]
fn a_list_after_a_lost_watch_replaces_all_and_the_last_state_holds_until_it_is_complete() {
    let pods = ClusterPods::new("cluster.local", agents());
    listed(&pods, [pod("web-1", "a", "web"), pod("cart-1", "a", "cart")]);
    pods.learn(Event::Init);
    pods.learn(Event::InitApply(pod("cart-1", "a", "cart")));
    assert_eq!(
        runs(&pods, "a", "web"),
        Some(true),
        "deleted while nobody watched, not known yet"
    );
    pods.learn(Event::InitDone);
    assert_eq!(
        (runs(&pods, "a", "web"), runs(&pods, "a", "cart")),
        (Some(false), Some(true))
    );
}

#[test]
fn a_pod_that_ended_or_is_its_node_has_no_identity() {
    let pods = ClusterPods::new("cluster.local", agents());
    listed(&pods, []);
    let with = |change: fn(&mut LeanPod)| {
        let mut changed = pod("web-1", "a", "web");
        change(&mut changed);
        pods.learn(Event::Apply(changed));
        runs(&pods, "a", "web").unwrap()
    };
    assert!(with(|_| {}));
    assert!(
        with(|pod| pod.status = None),
        "a pod that was just given to a node"
    );
    assert!(!with(|pod| pod.spec.host_network = true));
    for phase in ["Succeeded", "Failed"] {
        assert!(with(|_| {}));
        pods.learn(Event::Apply({
            let mut over = pod("web-1", "a", "web");
            over.status = Some(LeanStatus { phase: phase.into() });
            over
        }));
        assert_eq!(runs(&pods, "a", "web"), Some(false), "{phase}");
    }
    assert!(!with(|pod| pod.spec.service_account_name = "no/name".into()));
}

/// A node may show the API server such pods in any namespace, and would speak for all of them.
#[test]
fn a_static_pod_gives_its_node_no_identity() {
    let pods = ClusterPods::new("cluster.local", agents());
    let mut mirror = pod("static-a", "a", "");
    mirror.metadata.annotations = Some([("kubernetes.io/config.mirror".into(), "0a1b".into())].into());
    listed(&pods, [mirror]);
    assert_eq!(runs(&pods, "a", "default"), Some(false));
}

#[test]
fn an_agents_pod_is_there_by_its_uid_until_it_ends() {
    let pods = ClusterPods::new("cluster.local", agents());
    let of_uid = |uid: &str| BoundPod {
        namespace: "shop".into(),
        name: "mesh-agent-1".into(),
        uid: uid.into(),
    };
    let agent = || {
        let mut agent = pod("mesh-agent-1", "a", "mesh-agent");
        agent.spec.host_network = true;
        agent
    };
    assert!(!pods.is_there(&of_uid("u")), "before the first list");
    listed(&pods, [agent(), pod("web-1", "a", "web")]);
    assert!(pods.is_there(&of_uid("u")));
    assert!(!pods.is_there(&of_uid("of an earlier pod of this name")));
    let no_agent = BoundPod {
        name: "web-1".into(),
        ..of_uid("u")
    };
    assert!(!pods.is_there(&no_agent));
    pods.learn(Event::Apply({
        let mut over = agent();
        over.status = Some(LeanStatus {
            phase: "Failed".into(),
        });
        over
    }));
    assert!(!pods.is_there(&of_uid("u")));
    pods.learn(Event::Apply(agent()));
    assert!(pods.is_there(&of_uid("u")));
    pods.learn(Event::Delete(agent()));
    assert!(!pods.is_there(&of_uid("u")));
}

#[tokio::test]
async fn readiness_waits_for_the_first_list_and_failures_of_the_watch_change_nothing() {
    let (pods, readiness, tasks) = (
        ClusterPods::new("cluster.local", agents()),
        Readiness::new(),
        Tasks::new(),
    );
    let first = readiness.guard("pods");
    let gone = || {
        Status::failure("too old resource version", "Expired")
            .with_code(410)
            .boxed()
    };
    let events = stream::iter([
        Err(watcher::Error::InitialListFailed(kube::Error::Api(gone()))),
        Ok(Event::Init),
        Ok(Event::InitApply(pod("web-1", "a", "web"))),
        Ok(Event::InitDone),
        Err(watcher::Error::WatchError(gone())),
    ]);
    let metrics = CaMetrics::new();
    let learned = pods.learn_all(events.boxed(), &metrics, first, tasks.stop());
    tokio::time::timeout(Duration::from_mins(1), learned)
        .await
        .unwrap();
    assert!(readiness.is_ready());
    assert_eq!(runs(&pods, "a", "web"), Some(true));
}

#[test]
fn a_missing_rule_is_named_in_what_is_logged() {
    let words = "pods is forbidden: User \"x\" cannot list resource \"pods\"";
    let status = Status::failure(words, "Forbidden").with_code(403).boxed();
    let said = watch_error(&watcher::Error::InitialListFailed(kube::Error::Api(status)));
    assert!(
        said.contains("rbac rule is missing") && said.contains(words),
        "{said}"
    );
}
