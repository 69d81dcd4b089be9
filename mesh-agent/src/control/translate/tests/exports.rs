//! `exportTo`: for whose clients an object says it is.

use std::sync::Arc;

use super::*;
use crate::mesh::export::Export;
use crate::mesh::service::ServiceName;

fn to(namespaces: &[&str]) -> Export {
    Export::Namespaces(namespaces.iter().map(|one| Arc::from(*one)).collect())
}

fn service(annotation: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop, annotations: \
         {{networking.istio.io/exportTo: '{annotation}'}}}}, spec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}}}"
    )
}

fn istio(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
         {{{spec}}}}}\n---\n"
    )
}

#[test]
fn words_name_the_own_namespace_all_or_none() {
    for (words, expected) in [
        (&[][..], Export::Everybody),
        (&["*"], Export::Everybody),
        (&[".", "*"], Export::Everybody),
        (&["."], to(&["shop"])),
        (&["bank", ".", "bank"], to(&["bank", "shop"])),
        (&["~"], to(&[])),
    ] {
        let list = format!(
            "[{}]",
            words
                .iter()
                .map(|word| format!("'{word}'"))
                .collect::<Vec<_>>()
                .join(", ")
        );
        let entry = format!("hosts: [a.b], exportTo: {list}, resolution: STATIC, ports: [{{number: 80}}]");
        let rule = format!("host: web, exportTo: {list}, trafficPolicy: {{outlierDetection: {{}}}}");
        let reading = read(&format!(
            "{}{}{}",
            istio("ServiceEntry", "e", "shop", &entry),
            istio("DestinationRule", "r", "shop", &rule),
            service(&words.join(", ")),
        ));
        assert_eq!(reading.rejections, [], "{words:?}");
        let facts = reading.facts;
        let of_services = facts.services.iter().map(|one| &one.traffic.exported_to);
        let of_rules = facts.destination_rules.iter().map(|one| &one.export);
        let all: Vec<_> = of_services.chain(of_rules).collect();
        assert_eq!(all, [&expected; 3], "{words:?}");
    }
}

#[test]
fn a_word_that_can_be_no_namespace_is_named_and_exports_to_nobody() {
    let reading = read(&service("Shop, *.local"));
    let field = "metadata.annotations[networking.istio.io/exportTo]";
    assert_eq!(
        named(&reading),
        [("Service shop/web", field), ("Service shop/web", field)]
    );
    assert_eq!(reading.facts.services[0].traffic.exported_to, to(&[]));
}

#[test]
fn a_rule_acts_for_the_pods_that_it_selects() {
    let rule =
        "host: web, workloadSelector: {matchLabels: {app: till}}, trafficPolicy: {outlierDetection: {}}";
    let reading = read(&istio("DestinationRule", "r", "shop", rule));
    let clients = reading.facts.destination_rules[0].clients.clone().unwrap();
    assert_eq!(clients.get("app").map(String::as_str), Some("till"));
}

#[test]
fn a_host_of_a_virtual_service_is_one_that_is_exported_to_its_namespace() {
    let entry = |namespace: &str, export: &str| {
        let spec = format!(
            "hosts: [a.example.com], exportTo: ['{export}'], resolution: STATIC, ports: [{{number: 80}}]"
        );
        istio("ServiceEntry", "e", namespace, &spec)
    };
    let route = istio(
        "VirtualService",
        "v",
        "shop",
        "hosts: [a.example.com], http: [{directResponse: {status: 200}}]",
    );
    for (bank, park, expected) in [("*", "*", "bank"), (".", "*", "park"), (".", "shop", "park")] {
        let reading = read(&format!("{}{}{route}", entry("bank", bank), entry("park", park)));
        assert_eq!(reading.rejections, []);
        let parents = &reading.facts.http_routes[0].parents;
        assert_eq!(parents[0].service, ServiceName::new(expected, "a.example.com"));
    }
}
