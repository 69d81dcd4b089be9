//! UDP passes untouched, and DNS is answered by the mesh where that is switched on, only there.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::ask::{addresses, curl, equal, python, until};
use super::{Claim, claims};
use crate::lab;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    datagrams_pass_untouched_between_pods,
    large_datagrams_pass_whole,
    dns_goes_to_the_pods_own_resolver_where_it_is_not_captured,
    a_service_has_its_addresses_by_name,
    a_headless_service_has_its_pods_addresses,
    a_port_of_a_service_has_its_place_by_name,
    an_address_has_its_service_by_number,
    a_service_without_such_a_record_says_so,
    other_names_are_answered_by_the_pods_own_resolver,
    the_resolver_sees_the_pods_own_address,
    each_of_two_resolvers_answers_for_itself,
    ordinary_programs_find_services_by_their_short_names,
    long_answers_are_cut_and_come_whole_over_tcp,
    bytes_that_are_no_question_are_counted_and_dropped,
    nobody_outside_of_the_pod_is_answered,
    capture_follows_the_annotation_within_a_second,
    a_dead_agent_refuses_questions_and_the_next_one_answers,
];

const ASKER: &str = "shop/asker";
const CLIENT: &str = "shop/client";
const NODE: &str = "node-a";
const FAR: &str = "far.shop.svc.cluster.local";
const HEADLESS: &str = "far-headless.shop.svc.cluster.local";
const SECOND: Duration = Duration::from_secs(1);
const FILE: &str = "dns.yaml";

fn datagrams_pass_untouched_between_pods(lab: &Running) -> Result<()> {
    for from in [CLIENT, "shop/client-b", ASKER, "outside/stranger"] {
        let own = addresses(lab, from)?;
        for (to, own) in addresses(lab, "shop/echo")?.into_iter().zip(own) {
            let said = python(lab, from, "udp_client.py", &[&to.to_string(), "9000", "100"])?;
            let expected = serde_json::json!({
                "is_whole": true,
                "from": to.to_string(),
                "server_saw": own.to_string(),
                "is_own_port": true,
            });
            equal(from, said, expected)?;
        }
    }
    Ok(())
}

/// Those of QUIC, and those that are sent in fragments.
fn large_datagrams_pass_whole(lab: &Running) -> Result<()> {
    for to in addresses(lab, "shop/echo")? {
        for bytes in ["1200", "1452", "9000", "60000"] {
            let said = python(lab, CLIENT, "udp_client.py", &[&to.to_string(), "9000", bytes])?;
            equal(bytes, said.get("is_whole"), Some(&true.into()))?;
        }
    }
    Ok(())
}

fn dns_goes_to_the_pods_own_resolver_where_it_is_not_captured(lab: &Running) -> Result<()> {
    let before = counts(lab)?;
    for resolver in resolvers(lab)? {
        equal(
            "who.test",
            short(lab, CLIENT, &resolver, "who.test", "A")?,
            ["192.0.2.1"],
        )?;
        ensure!(
            dig(lab, CLIENT, &resolver, &[FAR, "A"])?.contains("status: NXDOMAIN"),
            "a Service is known without capture"
        );
    }
    equal("captured", counts(lab)?, before)
}

fn a_service_has_its_addresses_by_name(lab: &Running) -> Result<()> {
    let before = counts(lab)?;
    for resolver in resolvers(lab)? {
        for (kind, family) in [("A", "ahostsv4"), ("AAAA", "ahostsv6")] {
            let found = short(lab, ASKER, &resolver, FAR, kind)?;
            equal(kind, found, [cluster_address(lab, family, "far")?])?;
        }
        let shouted = short(lab, ASKER, &resolver, "FAR.shop.SVC.cluster.local", "A")?;
        equal("in capitals", shouted.len(), 1)?;
    }
    let answered = counts(lab)?[0] - before[0];
    ensure!(answered >= 6.0, "only {answered} counted as answered");
    Ok(())
}

fn a_headless_service_has_its_pods_addresses(lab: &Running) -> Result<()> {
    let [resolver, _] = resolvers(lab)?;
    for (kind, address) in ["A", "AAAA"].into_iter().zip(addresses(lab, "shop/far")?) {
        let found = short(lab, ASKER, &resolver, HEADLESS, kind)?;
        equal(kind, found, [address.to_string()])?;
    }
    Ok(())
}

fn a_port_of_a_service_has_its_place_by_name(lab: &Running) -> Result<()> {
    let [resolver, _] = resolvers(lab)?;
    let found = short(lab, ASKER, &resolver, &format!("_http._tcp.{FAR}"), "SRV")?;
    equal("SRV", found, [format!("0 100 80 {FAR}.")])?;
    // A name that an answer gives can be asked for.
    let found = short(lab, ASKER, &resolver, &format!("_http._tcp.{HEADLESS}"), "SRV")?;
    let target = found
        .iter()
        .find_map(|record| {
            record
                .strip_prefix("0 50 8080 ")
                .or(record.strip_prefix("0 100 8080 "))
        })
        .with_context(|| format!("no target in {found:?}"))?;
    ensure!(
        !short(lab, ASKER, &resolver, target, "A")?.is_empty()
            || !short(lab, ASKER, &resolver, target, "AAAA")?.is_empty(),
        "{target} has no address"
    );
    Ok(())
}

fn an_address_has_its_service_by_number(lab: &Running) -> Result<()> {
    let [resolver, _] = resolvers(lab)?;
    for family in ["ahostsv4", "ahostsv6"] {
        let address = cluster_address(lab, family, "far")?;
        let found = dig(lab, ASKER, &resolver, &["+short", "-x", &address])?;
        equal(&address, found.trim(), format!("{FAR}."))?;
    }
    Ok(())
}

fn a_service_without_such_a_record_says_so(lab: &Running) -> Result<()> {
    let [resolver, _] = resolvers(lab)?;
    let said = dig(lab, ASKER, &resolver, &[FAR, "MX"])?;
    ensure!(
        said.contains("status: NOERROR") && said.contains("ANSWER: 0") && said.contains("\tSOA\t"),
        "{said}"
    );
    Ok(())
}

fn other_names_are_answered_by_the_pods_own_resolver(lab: &Running) -> Result<()> {
    let before = counts(lab)?;
    for resolver in resolvers(lab)? {
        equal(
            "who.test",
            short(lab, ASKER, &resolver, "who.test", "A")?,
            ["192.0.2.1"],
        )?;
        let nobody = dig(lab, ASKER, &resolver, &["nobody.test", "A"])?;
        ensure!(nobody.contains("status: NXDOMAIN"), "{nobody}");
        // Also below the cluster's domain, for what the mesh does not read.
        let alias = short(lab, ASKER, &resolver, "alias.shop.svc.cluster.local", "A")?;
        equal("alias", alias, ["192.0.2.77"])?;
    }
    let forwarded = counts(lab)?[1] - before[1];
    ensure!(forwarded >= 6.0, "only {forwarded} counted as forwarded");
    Ok(())
}

fn the_resolver_sees_the_pods_own_address(lab: &Running) -> Result<()> {
    for (resolver, own) in resolvers(lab)?.iter().zip(addresses(lab, ASKER)?) {
        let name = if own.is_ipv4() { "four.test" } else { "six.test" };
        dig(lab, ASKER, resolver, &[name, "A"])?;
        let log = lab::program_log(&lab.site, &"outside/resolver".parse()?);
        let said = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        let expected = format!("query[A] {name} from {own}");
        ensure!(
            said.contains(&expected),
            "{expected:?} is not in {}",
            log.display()
        );
    }
    Ok(())
}

fn each_of_two_resolvers_answers_for_itself(lab: &Running) -> Result<()> {
    let of = |pod| Ok::<_, anyhow::Error>(addresses(lab, pod)?.map(|addr| addr.to_string()));
    for (one, two) in of("outside/resolver")?
        .iter()
        .zip(of("outside/resolver-2")?.iter())
    {
        let said = python(lab, ASKER, "dns_client.py", &["who.test", one, two])?;
        let expected = serde_json::json!({
            one: { "rcode": 0, "addresses": ["192.0.2.1"] },
            two: { "rcode": 0, "addresses": ["192.0.2.2"] },
        });
        equal("at once from one socket", said, expected)?;
        for (resolver, address) in [(one, "192.0.2.1"), (two, "192.0.2.2"), (one, "192.0.2.1")] {
            equal(
                "in turn",
                short(lab, ASKER, resolver, "who.test", "A")?,
                [address],
            )?;
        }
    }
    Ok(())
}

/// With a `resolv.conf` as the kubelet writes it, and no other source of names.
fn ordinary_programs_find_services_by_their_short_names(lab: &Running) -> Result<()> {
    for resolver in resolvers(lab)? {
        let settings = format!(
            "nameserver {resolver}\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        let write = "printf %s \"$1\" > /etc/resolv.conf && echo '127.0.0.1 localhost' > /etc/hosts";
        lab.exec(ASKER, &["sh", "-c", write, "sh", &settings])?
            .success()?;
        for name in ["far", "far.shop", "far.shop.svc", FAR] {
            let found = lab.exec(ASKER, &["getent", "ahostsv4", name])?.success()?;
            let expected = cluster_address(lab, "ahostsv4", "far")?;
            ensure!(found.stdout.starts_with(&expected), "{name}: {}", found.stdout);
        }
        for family in ["-4", "-6"] {
            let reply = curl(lab, ASKER, &[family, "http://far/"])?;
            equal(family, reply.says("pod")?, "far")?;
        }
        let other = lab.exec(ASKER, &["getent", "ahostsv4", "who.test"])?.success()?;
        ensure!(other.stdout.starts_with("192.0.2.1"), "{}", other.stdout);
    }
    Ok(())
}

fn long_answers_are_cut_and_come_whole_over_tcp(lab: &Running) -> Result<()> {
    for resolver in resolvers(lab)? {
        let cut = dig(lab, ASKER, &resolver, &["+ignore", "+noedns", "big.test", "TXT"])?;
        ensure!(cut.contains("flags: qr aa tc") || cut.contains(" tc "), "{cut}");
        let whole = dig(lab, ASKER, &resolver, &["+noedns", "+short", "big.test", "TXT"])?;
        ensure!(whole.len() > 1_200, "{} bytes: {whole}", whole.len());
        for (name, expected) in [
            (FAR, cluster_address(lab, "ahostsv4", "far")?),
            ("who.test", "192.0.2.1".into()),
        ] {
            let found = dig(lab, ASKER, &resolver, &["+tcp", "+short", name, "A"])?;
            equal(name, found.trim(), expected)?;
        }
    }
    Ok(())
}

fn bytes_that_are_no_question_are_counted_and_dropped(lab: &Running) -> Result<()> {
    let before = counts(lab)?;
    for resolver in resolvers(lab)? {
        let said = python(lab, ASKER, "dns_client.py", &["--junk", "who.test", &resolver])?;
        let rcode = said.get(&resolver).and_then(|answer| answer.get("rcode"));
        equal("the question after them", rcode, Some(&0.into()))?;
    }
    let malformed = counts(lab)?[3] - before[3];
    equal("counted as malformed", malformed, 10.0)
}

fn nobody_outside_of_the_pod_is_answered(lab: &Running) -> Result<()> {
    for own in addresses(lab, ASKER)? {
        let at = format!("@{own}");
        let port = mesh_common::dns::FIRST_DNS_LISTENER.to_string();
        let asked = ["dig", &at, "-p", &port, "+time=1", "+tries=1", FAR, "A"];
        for stranger in ["outside/stranger", "outside/stranger-b", CLIENT, ASKER] {
            let said = lab.exec(stranger, &asked)?;
            ensure!(!said.status.success(), "{stranger} was answered: {}", said.stdout);
        }
    }
    Ok(())
}

fn capture_follows_the_annotation_within_a_second(lab: &Running) -> Result<()> {
    let [resolver, _] = resolvers(lab)?;
    let is_captured = || Ok(!short(lab, ASKER, &resolver, FAR, "A")?.is_empty());
    ensure!(is_captured()?, "not captured before");
    let before = lab.manifest(FILE)?;
    let without = before.replace("dns-capture: 'true'", "dns-capture: 'false'");
    ensure!(without != before, "{FILE} has no such annotation");
    lab.put_manifest(FILE, &without)?;
    let let_go = until(SECOND, "DNS is left alone", || Ok(!is_captured()?));
    lab.put_manifest(FILE, &before)?;
    let_go?;
    until(SECOND, "DNS is captured again", is_captured).map(|_| ())
}

fn a_dead_agent_refuses_questions_and_the_next_one_answers(lab: &Running) -> Result<()> {
    let resolvers = resolvers(lab)?;
    lab.end_agent(NODE, Signal::SIGKILL)?;
    let refused = (|| {
        for resolver in &resolvers {
            for name in [FAR, "who.test"] {
                let at = format!("@{resolver}");
                let said = lab.exec(ASKER, &["dig", &at, "+time=2", "+tries=1", name, "A"])?;
                ensure!(!said.status.success(), "{name} was answered: {}", said.stdout);
            }
        }
        Ok(())
    })();
    lab.start_agent(NODE)?;
    refused?;
    for resolver in &resolvers {
        equal("a Service", short(lab, ASKER, resolver, FAR, "A")?.len(), 1)?;
        equal(
            "another name",
            short(lab, ASKER, resolver, "who.test", "A")?,
            ["192.0.2.1"],
        )?;
    }
    Ok(())
}

/// The addresses of the pod that is asked, IPv4 first.
fn resolvers(lab: &Running) -> Result<[String; 2]> {
    Ok(addresses(lab, "outside/resolver")?.map(|addr| addr.to_string()))
}

/// What dig says, which has to be an answer of some kind.
fn dig(lab: &Running, pod: &str, resolver: &str, question: &[&str]) -> Result<String> {
    let at = format!("@{resolver}");
    let program = [&["dig", &at, "+time=5", "+tries=1"], question].concat();
    Ok(lab.exec(pod, &program)?.success()?.stdout)
}

/// The records that answer a question, one a line.
fn short(lab: &Running, pod: &str, resolver: &str, name: &str, kind: &str) -> Result<Vec<String>> {
    let said = dig(lab, pod, resolver, &["+short", name, kind])?;
    let lines: BTreeSet<_> = said.lines().map(str::to_owned).collect();
    Ok(lines.into_iter().collect())
}

/// A Service's address, from the hosts file of a pod whose DNS nobody captures.
fn cluster_address(lab: &Running, family: &str, service: &str) -> Result<String> {
    let said = lab.exec(CLIENT, &["getent", family, service])?.success()?;
    let address = said.stdout.split_whitespace().next();
    Ok(address.context("getent said nothing")?.to_owned())
}

/// DNS questions on the asker's node: answered, forwarded, failed, malformed.
fn counts(lab: &Running) -> Result<[f64; 4]> {
    let metrics = lab.metrics(NODE)?;
    let count = |outcome| metrics.sum("mesh_dns_requests_total", &[("outcome", outcome)]);
    Ok(["answered", "forwarded", "failed", "malformed"].map(count))
}
