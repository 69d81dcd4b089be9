use std::sync::Arc;

use hickory_proto::op::MessageType;
use proptest::prelude::*;

use super::*;
use crate::dns::question::tests::asking;
use crate::mesh::domain::ClusterDomain;
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::service::{AppProtocol, Endpoint, EndpointCondition, Resilience, Service, ServicePort};
use crate::mesh::traffic::{EndpointPlace, ServiceTraffic};

fn service(name: &str, vips: &[&str], ports: &[(&str, u16)]) -> Service {
    Service {
        name: ServiceName::new("shop", name),
        meta: Arc::new(ObjectMeta::default()),
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        is_headless: vips.is_empty(),
        ports: ports
            .iter()
            .map(|(name, port)| ServicePort {
                name: (*name).into(),
                port: *port,
                protocol: AppProtocol::Tcp,
            })
            .collect(),
        traffic: ServiceTraffic::default(),
        resilience: Resilience::default(),
    }
}

fn endpoint(service: &str, port: &str, addr: &str, hostname: Option<&str>) -> Endpoint {
    Endpoint {
        service: ServiceName::new("shop", service),
        meta: Arc::new(ObjectMeta::default()),
        port_name: port.into(),
        addr: addr.parse().unwrap(),
        condition: EndpointCondition::Ready,
        workload: None,
        hostname: hostname.map(Into::into),
        place: EndpointPlace::default(),
        labels: std::collections::BTreeMap::new(),
        weight: 1,
    }
}

fn facts() -> Facts {
    let ending = Endpoint {
        condition: EndpointCondition::ServingTerminating,
        ..endpoint("db", "sql", "10.0.0.3:5432", Some("db-2"))
    };
    let gone = Endpoint {
        condition: EndpointCondition::NotServing,
        ..endpoint("late", "tcp", "10.0.1.9:1", None)
    };
    Facts {
        services: vec![
            service(
                "web",
                &["10.96.0.1", "fd00:96::1"],
                &[("http", 80), ("grpc", 9000)],
            )
            .into(),
            service("api.example.com", &["240.240.1.1"], &[("tls", 443)]).into(),
            service("v4only", &["10.96.0.2"], &[("", 80)]).into(),
            service("db", &[], &[("sql", 5432), ("admin", 81)]).into(),
            service("late", &[], &[("tcp", 1)]).into(),
            service("udp", &[], &[]).into(),
        ],
        endpoints: vec![
            endpoint("db", "sql", "10.0.0.1:5433", Some("db-0")),
            endpoint("db", "admin", "10.0.0.1:81", Some("db-0")),
            endpoint("db", "sql", "[fd00::1]:5433", Some("db-0")),
            endpoint("db", "sql", "10.0.0.2:5433", None),
            ending,
            gone,
            endpoint("web", "http", "10.0.0.7:8080", None),
        ],
        ..Facts::default()
    }
}

fn zone() -> Zone {
    Zone::new(&ClusterDomain::default(), Duration::from_secs(30)).unwrap()
}

fn reply_to(message: &Message, transport: Transport) -> Option<Message> {
    let question = Question::read(&message.to_vec().unwrap()).unwrap();
    let bytes = answer(&question, "shop", &Names::index(&facts()), &zone(), transport)?;
    assert!(question.is_answered_by(&bytes, question.id()));
    Some(Message::from_vec(&bytes).unwrap())
}

/// The answers as text with their TTL, sorted; `None` when the resolver is to be asked.
fn answers(name: &str, kind: RecordType) -> Option<Vec<String>> {
    let reply = reply_to(&asking(name, kind), Transport::Udp)?;
    let mut texts: Vec<_> = reply
        .answers
        .iter()
        .map(|record| format!("{} {}", record.ttl, record.data))
        .collect();
    texts.sort();
    Some(texts)
}

#[test]
fn each_name_of_a_known_service_has_its_records() {
    use RecordType::{A, AAAA, ANY, SRV};
    let table: &[(&str, RecordType, &[&str])] = &[
        ("web.shop.svc.cluster.local.", A, &["30 10.96.0.1"]),
        ("web.shop.svc.cluster.local.", AAAA, &["30 fd00:96::1"]),
        ("api.example.com.", A, &["30 240.240.1.1"]),
        ("API.Example.com.", A, &["30 240.240.1.1"]),
        ("api.example.com.", AAAA, &[]),
        (
            "web.shop.svc.cluster.local.",
            ANY,
            &["30 10.96.0.1", "30 fd00:96::1"],
        ),
        ("db.shop.svc.cluster.local.", A, &["5 10.0.0.1", "5 10.0.0.2"]),
        ("db.shop.svc.cluster.local.", AAAA, &["5 fd00::1"]),
        ("db-0.db.shop.svc.cluster.local.", A, &["5 10.0.0.1"]),
        ("db-0.db.shop.svc.cluster.local.", AAAA, &["5 fd00::1"]),
        ("10-0-0-2.db.shop.svc.cluster.local.", A, &["5 10.0.0.2"]),
        (
            "_http._tcp.web.shop.svc.cluster.local.",
            SRV,
            &["30 0 100 80 web.shop.svc.cluster.local."],
        ),
        (
            "_sql._tcp.db.shop.svc.cluster.local.",
            SRV,
            &[
                "5 0 50 5433 10-0-0-2.db.shop.svc.cluster.local.",
                "5 0 50 5433 db-0.db.shop.svc.cluster.local.",
            ],
        ),
        (
            "_admin._tcp.db.shop.svc.cluster.local.",
            SRV,
            &["5 0 100 81 db-0.db.shop.svc.cluster.local."],
        ),
        (
            "1.0.96.10.in-addr.arpa.",
            RecordType::PTR,
            &["30 web.shop.svc.cluster.local."],
        ),
        (
            "1.0.0.10.in-addr.arpa.",
            RecordType::PTR,
            &["5 db-0.db.shop.svc.cluster.local."],
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.0.0.d.f.ip6.arpa.",
            RecordType::PTR,
            &[],
        ),
    ];
    for (name, kind, expected) in table.iter().take(table.len() - 1) {
        assert_eq!(
            answers(name, *kind).as_deref(),
            Some(&expected.map_strings()[..]),
            "{name} {kind}"
        );
    }
    let mut nibbles = String::from("1.");
    nibbles.push_str(&"0.".repeat(23));
    nibbles.push_str("6.9.0.0.0.0.d.f.ip6.arpa.");
    assert_eq!(
        answers(&nibbles, RecordType::PTR),
        Some(vec!["30 web.shop.svc.cluster.local.".to_owned()])
    );
}

trait Texts {
    fn map_strings(&self) -> Vec<String>;
}

impl Texts for &[&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn what_is_not_known_is_the_resolvers_to_answer() {
    for (name, kind) in [
        ("example.org.", RecordType::A),
        ("api.example.com.", RecordType::MX),
        ("b.api.example.com.", RecordType::A),
        ("cluster.local.", RecordType::A),
        ("svc.cluster.local.", RecordType::A),
        ("shop.svc.cluster.local.", RecordType::A),
        ("other.shop.svc.cluster.local.", RecordType::A),
        ("web.other.svc.cluster.local.", RecordType::A),
        ("web.shop.pod.cluster.local.", RecordType::A),
        // As a search list makes it of `web.shop`.
        ("web.shop.shop.svc.cluster.local.", RecordType::A),
        ("db-9.db.shop.svc.cluster.local.", RecordType::A),
        // It ends, and others do not.
        ("db-2.db.shop.svc.cluster.local.", RecordType::A),
        ("10-0-0-7.web.shop.svc.cluster.local.", RecordType::A),
        ("udp.shop.svc.cluster.local.", RecordType::A),
        ("web.shop.svc.cluster.local.", RecordType::SRV),
        ("_http._udp.web.shop.svc.cluster.local.", RecordType::SRV),
        ("_dns._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        ("http._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        ("web.shop.svc.cluster.local.example.org.", RecordType::A),
        ("9.9.9.9.in-addr.arpa.", RecordType::PTR),
        ("7.0.0.10.in-addr.arpa.", RecordType::PTR),
        ("0.96.10.in-addr.arpa.", RecordType::PTR),
        ("web.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(answers(name, kind), None, "{name} {kind}");
    }
}

#[test]
fn a_known_name_without_that_type_says_so_for_as_long_as_it_would_say_yes() {
    for (name, kind, ttl) in [
        ("v4only.shop.svc.cluster.local.", RecordType::AAAA, 30),
        ("web.shop.svc.cluster.local.", RecordType::MX, 30),
        ("web.shop.svc.cluster.local.", RecordType::HTTPS, 30),
        ("_http._tcp.web.shop.svc.cluster.local.", RecordType::A, 30),
        ("late.shop.svc.cluster.local.", RecordType::A, 5),
        ("10-0-0-2.db.shop.svc.cluster.local.", RecordType::AAAA, 5),
    ] {
        let reply = reply_to(&asking(name, kind), Transport::Udp).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{name}");
        assert_eq!(reply.answers, [], "{name}");
        let RData::SOA(soa) = &reply.authorities[0].data else {
            panic!("{:?}", reply.authorities);
        };
        assert_eq!((soa.minimum, reply.authorities[0].ttl), (ttl, ttl), "{name}");
    }
}

#[test]
fn an_answer_has_the_head_that_stub_resolvers_look_for() {
    let reply = reply_to(
        &asking("web.shop.svc.cluster.local.", RecordType::A),
        Transport::Udp,
    )
    .unwrap();
    let head = reply.metadata;
    assert_eq!(head.message_type, MessageType::Response);
    assert!(head.authoritative && head.recursion_desired && head.recursion_available);
    assert!(!head.truncation);
    assert_eq!((head.id, reply.edns), (0x1234, None));
    let mut message = asking("web.shop.svc.cluster.local.", RecordType::A);
    message.set_edns(Edns::new());
    assert!(reply_to(&message, Transport::Udp).unwrap().edns.is_some());
}

#[test]
fn letter_case_does_not_matter_and_comes_back_as_it_was() {
    let name = "wEb.SHOP.Svc.cLuster.Local.";
    let reply = reply_to(&asking(name, RecordType::A), Transport::Udp).unwrap();
    assert_eq!(reply.queries[0].name().to_ascii(), name);
    assert_eq!(reply.answers[0].name.to_ascii(), name);
}

#[test]
fn the_target_of_a_port_comes_with_its_addresses() {
    let message = asking("_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    let reply = reply_to(&message, Transport::Udp).unwrap();
    let mut with: Vec<_> = reply
        .additionals
        .iter()
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    with.sort();
    assert_eq!(
        with,
        [
            "10-0-0-2.db.shop.svc.cluster.local. 10.0.0.2",
            "db-0.db.shop.svc.cluster.local. 10.0.0.1",
            "db-0.db.shop.svc.cluster.local. fd00::1",
        ]
    );
}

#[test]
fn questions_begin_with_different_addresses() {
    let mut message = asking("db.shop.svc.cluster.local.", RecordType::A);
    let mut first = |id| {
        message.metadata.id = id;
        reply_to(&message, Transport::Udp).unwrap().answers[0]
            .data
            .clone()
    };
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(2));
}

#[test]
fn what_does_not_fit_a_datagram_is_cut_and_asked_again_over_tcp() {
    let mut facts = facts();
    let many = (0..60).map(|n| endpoint("db", "sql", &format!("10.0.2.{n}:5432"), None));
    facts.endpoints.extend(many);
    let names = Names::index(&facts);
    let ask = |payload: Option<u16>, transport| {
        let mut message = asking("db.shop.svc.cluster.local.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let question = Question::read(&message.to_vec().unwrap()).unwrap();
        let bytes = answer(&question, "shop", &names, &zone(), transport).unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        (bytes.len(), reply.metadata.truncation, reply.answers.len())
    };
    let (length, is_cut, count) = ask(None, Transport::Udp);
    assert!(length <= 512 && is_cut && count == 0, "{length} {is_cut} {count}");
    let (_, is_cut, count) = ask(Some(4096), Transport::Udp);
    assert!(!is_cut && count == 62, "{count}");
    let (_, is_cut, count) = ask(None, Transport::Tcp);
    assert!(!is_cut && count == 62, "{count}");
}

#[test]
fn of_two_services_with_one_name_or_address_the_elder_counts() {
    let mut facts = facts();
    let mut late = service("web", &["10.96.0.9"], &[]);
    let meta = ObjectMeta {
        created: None,
        object: "z".into(),
        ..ObjectMeta::default()
    };
    late.meta = Arc::new(meta);
    let mut thief = service("thief", &["10.96.0.1"], &[]);
    thief.meta = Arc::clone(&late.meta);
    facts.services.splice(0..0, [late.into(), thief.into()]);
    let names = Names::index(&facts);
    let Some(Known::Cluster { addrs, .. }) = names.service("shop", "shop", "web") else {
        panic!("no web");
    };
    assert_eq!(addrs[0], "10.96.0.1".parse::<IpAddr>().unwrap());
    let owners = names.owners("shop", "10.96.0.1".parse().unwrap());
    assert_eq!(owners.len(), 1);
    assert_eq!(&*owners[0].service.name, "web");
}

#[test]
fn members_that_end_are_named_only_when_no_other_is_there() {
    let mut facts = facts();
    facts
        .endpoints
        .retain(|endpoint| endpoint.condition != EndpointCondition::Ready);
    let names = Names::index(&facts);
    let Some(Known::Headless(members)) = names.service("shop", "shop", "db") else {
        panic!("no db");
    };
    assert_eq!(
        members.iter().map(|member| &*member.label).collect::<Vec<_>>(),
        ["db-2"]
    );
}

proptest! {
    #[test]
    fn no_question_makes_the_resolver_panic_or_exceed_its_limit(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..8),
        tail in prop_oneof![
            Just(""), Just("svc.cluster.local"), Just("shop.svc.cluster.local"), Just("db.shop.svc.cluster.local"),
            Just("in-addr.arpa"), Just("ip6.arpa"),
        ],
        kind in any::<u16>(),
        id in any::<u16>(),
    ) {
        let tail = tail.split('.').filter(|label| !label.is_empty()).map(|label| label.as_bytes().to_vec());
        let Ok(name) = Name::from_labels(labels.into_iter().chain(tail)) else { return Ok(()) };
        let mut message = asking("a.", RecordType::from(kind));
        message.queries[0].set_name(name);
        message.metadata.id = id;
        let bytes = message.to_vec().unwrap();
        if let Ok(question) = Question::read(&bytes) {
            let names = Names::index(&facts());
            if let Some(reply) = answer(&question, "shop", &names, &zone(), Transport::Udp) {
                prop_assert!(reply.len() <= 512);
                prop_assert!(question.is_answered_by(&reply, id));
            }
        }
    }
}
