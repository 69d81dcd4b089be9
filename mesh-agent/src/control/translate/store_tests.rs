//! Claims about the store: whatever came in whatever order, it knows what is there, and nothing else.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::control::manifest::documents;
use crate::control::translate::translate;
use crate::mesh::facts::Facts;

/// Objects that rest on one another in every way there is, most in two versions.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh-agent.dev/dataplane: enabled}, annotations: {mesh-agent.dev/dns-capture: 'true'}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop}
spec: {nodeName: n}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {mesh-agent.dev/dataplane: disabled}}
spec: {nodeName: n}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: other}
status: {podIP: not-one}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 0}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec: {hosts: [api.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web, api.example.com], http: [{delegate: {name: part}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: shop}
spec: {http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: roots, namespace: shop}
data: {ca.crt: no certificate}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: roots, namespace: shop}
data: {}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: mesh-system}
data: {mesh: 'pathNormalization: {normalization: NONE}'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {hostname: web.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

fn all() -> Vec<Document> {
    let (documents, rejections) = documents("api", OBJECTS, false);
    assert_eq!(rejections, []);
    documents
}

fn name(document: &Document) -> String {
    let text = |pointer: &str| {
        document
            .value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    super::super::object_name(text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn same(document: &Document) -> Document {
    Document {
        place: name(document),
        ..document.clone()
    }
}

/// Lists in an order of their own, since the order of facts says nothing.
fn sorted(reading: &Reading) -> (Vec<String>, Vec<String>, usize) {
    let Facts {
        workloads,
        nodes,
        services,
        slices,
        endpoints,
        http_routes,
        stream_routes,
        peer_authentications,
        mesh_configs,
        backend_tls_policies,
        ..
    } = &reading.facts;
    let mut facts = Vec::new();
    let mut list = |all: Vec<String>| facts.extend(all);
    list(workloads.iter().map(|one| format!("{one:?}")).collect());
    list(nodes.iter().map(|one| format!("{one:?}")).collect());
    list(services.iter().map(|one| format!("{one:?}")).collect());
    list(slices.iter().map(|one| format!("{one:?}")).collect());
    list(endpoints.iter().map(|one| format!("{one:?}")).collect());
    list(http_routes.iter().map(|one| format!("{one:?}")).collect());
    list(stream_routes.iter().map(|one| format!("{one:?}")).collect());
    list(
        peer_authentications
            .iter()
            .map(|one| format!("{one:?}"))
            .collect(),
    );
    list(mesh_configs.iter().map(|one| format!("{one:?}")).collect());
    list(
        backend_tls_policies
            .iter()
            .map(|one| format!("{one:?}"))
            .collect(),
    );
    facts.sort();
    let mut rejections: Vec<_> = reading.rejections.iter().map(ToString::to_string).collect();
    rejections.sort();
    (facts, rejections, reading.skipped)
}

proptest! {
    #[test]
    fn after_any_changes_a_reading_is_that_of_the_objects_that_are_there(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<bool>()), 0..60),
    ) {
        let objects = all();
        let mut store = Store::new("cluster.local");
        let mut there: Vec<&Document> = Vec::new();
        for (index, is_gone, is_read) in changes {
            let document = index.get(&objects);
            there.retain(|one| name(one) != name(document));
            if is_gone {
                store.remove(&name(document));
            } else {
                store.put(same(document));
                there.push(document);
            }
            // What a reading keeps for the next one must not be of old.
            if is_read {
                store.reading();
            }
        }
        let anew = translate(there.into_iter().map(same).collect(), "cluster.local");
        prop_assert_eq!(sorted(&store.reading()), sorted(&anew));
    }
}

#[test]
fn only_what_changes_something_is_a_change() {
    let mut store = Store::new("cluster.local");
    for document in all() {
        assert!(store.put(same(&document)), "{}", name(&document));
        assert!(!store.put(same(&document)), "{} again", name(&document));
    }
    assert!(store.remove("Pod shop/a"));
    assert!(!store.remove("Pod shop/a"));
}

#[test]
fn the_certificates_that_policies_name_are_wanted_while_they_name_them() {
    let mut store = Store::new("cluster.local");
    for document in all() {
        store.put(same(&document));
    }
    let wanted: Vec<_> = store.wanted_bundles().into_iter().collect();
    assert_eq!(wanted, [("shop".into(), "roots".into())]);
    store.remove("BackendTLSPolicy shop/tls");
    assert!(store.wanted_bundles().is_empty());
}

#[test]
fn places_of_what_is_gone_are_used_again() {
    let mut store = Store::new("cluster.local");
    let documents = all();
    for _ in 0..100 {
        for document in &documents {
            store.put(same(document));
        }
        for document in &documents {
            store.remove(&name(document));
        }
    }
    assert!(store.objects.len() <= documents.len());
    assert_eq!(store.reading(), Reading::default());
}

#[test]
fn readings_hold_what_did_not_change_in_common_and_copy_none_of_it() {
    let [pod, other, changed, service, slice] = [
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}, status: {podIP: 10.0.0.1}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop}, status: {podIP: 10.0.0.2}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop}, status: {podIP: 10.0.0.3}}",
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}},
          addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1]}]}",
    ]
    .map(|manifest| documents("api", manifest, false).0.remove(0));
    let mut store = Store::new("cluster.local");
    for document in [pod, other, service, slice] {
        store.put(document);
    }
    let first = store.reading().facts;
    store.put(changed);
    let second = store.reading().facts;
    assert!(Arc::ptr_eq(&first.slices[0], &second.slices[0]));
    assert!(first.services[0].is_same(second.services[0].arc()));
    let pods = first.workloads.iter().zip(&second.workloads);
    let kept: Vec<_> = pods.map(|(before, now)| before.is_same(now.arc())).collect();
    assert_eq!(kept, [true, false], "only pod b changed");
}
