//! What the pods of one template say alike is in memory once: there may be a hundred thousand pods.

use std::ptr;
use std::sync::Arc;

use super::*;
use crate::control::translate::piece::Piece;
use crate::mesh::slice::SliceMember;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4f8c7b9-a
  namespace: shop
  uid: 5ca1ab1e-0000-4000-8000-000000000001
  labels: {app: web, version: v1, pod-template-hash: 5d4f8c7b9}
  annotations: {mesh-agent.dev/exclude-outbound-ports: '25'}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d4f8c7b9, uid: u, controller: true}]
spec:
  nodeName: n
  serviceAccountName: web
  containers:
    - {name: main, ports: [{name: http, containerPort: 8080}], readinessProbe: {httpGet: {port: http}}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4f8c7b9-b
  namespace: shop
  uid: 5ca1ab1e-0000-4000-8000-000000000002
  labels: {app: web, version: v1, pod-template-hash: 5d4f8c7b9}
  annotations: {mesh-agent.dev/exclude-outbound-ports: '25'}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d4f8c7b9, uid: u, controller: true}]
spec:
  nodeName: n
  serviceAccountName: web
  containers:
    - {name: main, ports: [{name: http, containerPort: 8080}], readinessProbe: {httpGet: {port: http}}}
status: {podIP: 10.0.0.2}
";

#[test]
fn pods_of_one_template_share_what_they_say_alike() {
    let reading = read(PODS);
    let [one, other] = ["web-5d4f8c7b9-a", "web-5d4f8c7b9-b"].map(|name| workload(&reading, name));
    assert_eq!(*one.probe_ports, [8080].into());
    assert_eq!(one.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_ne!(one.uid, other.uid);
    for (what, is_shared) in [
        ("labels", one.labels.is_same(other.labels.arc())),
        ("naming", one.naming.is_same(other.naming.arc())),
        ("ports", one.ports.is_same(other.ports.arc())),
        ("probe ports", one.probe_ports.is_same(other.probe_ports.arc())),
        ("exclusions", one.exclusions.is_same(other.exclusions.arc())),
        (
            "identity",
            ptr::eq(one.identity.service_account(), other.identity.service_account()),
        ),
        ("namespace", Arc::ptr_eq(&one.namespace, &other.namespace)),
        ("node", Arc::ptr_eq(&one.node, &other.node)),
    ] {
        assert!(is_shared, "{what}");
    }
}

#[test]
fn what_each_pod_and_endpoint_takes_for_itself_is_little() {
    // Each byte is 100 KB in a mesh of a hundred thousand.
    assert!(size_of::<Workload>() <= 184, "{}", size_of::<Workload>());
    assert!(size_of::<SliceMember>() <= 88, "{}", size_of::<SliceMember>());
    assert!(size_of::<Piece>() <= 32, "{}", size_of::<Piece>());
}
