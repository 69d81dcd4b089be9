//! What becomes of a copy on disk beside an API server that has told a part.

use kube::Config;
use serde_json::{Value, json};

use super::*;

fn source(dir: &Path) -> KubernetesSource {
    let nowhere = http::Uri::from_static("http://127.0.0.1:1");
    let client = Client::try_from(Config::new(nowhere)).unwrap();
    let copy = Copy::at(dir.join("objects"));
    KubernetesSource::new(client, Standing::new(), "cluster.local", copy, DISCOVERY)
}

fn pod(name: &str, addr: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "nodeName": "n" }, "status": { "podIP": addr },
    })
}

impl KubernetesSource {
    fn is_told(&mut self, name: &str, addr: &str) {
        let object = pod(name, addr);
        let name: Arc<str> = object_name("Pod", "shop", name).into();
        let text = object.to_string().into();
        let document = Document {
            origin: Arc::clone(&self.origin),
            place: name.as_ref().to_owned(),
            value: object,
        };
        let is_new = !self.store.holds(&name);
        assert!(self.store.put(document));
        self.copy.note(&name, Some(text), is_new);
    }

    fn addrs(&mut self) -> Vec<String> {
        let pods = self.store.reading().facts.workloads;
        let mut addrs: Vec<_> = pods
            .iter()
            .flat_map(|pod| &pod.addrs)
            .map(ToString::to_string)
            .collect();
        addrs.sort();
        addrs
    }
}

#[tokio::test]
async fn what_was_told_is_not_replaced_by_what_a_copy_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = source(dir.path());
    before.is_told("a", "10.0.0.1");
    before.is_told("b", "10.0.0.2");
    before.copy.is_whole_now();
    before.finish().await;
    let mut now = source(dir.path());
    now.is_told("a", "10.0.0.9");
    now.begin_with_copy();
    assert_eq!(now.addrs(), ["10.0.0.2", "10.0.0.9"]);
    now.copy.is_whole_now();
    now.finish().await;
    let mut after = source(dir.path());
    after.begin_with_copy();
    assert_eq!(after.addrs(), ["10.0.0.2", "10.0.0.9"], "the next agent's copy");
}
