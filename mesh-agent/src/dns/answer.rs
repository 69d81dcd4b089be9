//! The answer to a question about a known Service (kubernetes/dns, specification 1.1.0).

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::dns::names::{Known, Member, Names};
use crate::dns::question::Question;
use crate::dns::{HEADLESS_TTL, Zone};
use crate::mesh::service::ServiceName;

/// How an answer travels, and so how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram, as long as the asker takes it.
    Udp,
    /// In a stream.
    Tcp,
}

/// The answer to a pod of the namespace `client` as bytes; `None` when the question is not about a Service that is known
/// there, and so the resolver's to answer.
///
/// An answer that is too long says so and nothing else (TC): the asker comes again over TCP.
pub fn answer(
    question: &Question,
    client: &str,
    names: &Names,
    zone: &Zone,
    transport: Transport,
) -> Option<Vec<u8>> {
    if !question.is_ordinary() {
        return None;
    }
    let found = Asking {
        question,
        client,
        names,
        zone,
    }
    .look_up()
    .unwrap_or_else(|error| {
        // A name or a label that no record can hold: nobody can have registered it.
        tracing::debug!(%error, "a name cannot be answered");
        None
    })?;
    let limit = match transport {
        Transport::Udp => question.longest_datagram(),
        Transport::Tcp => LONGEST_MESSAGE,
    };
    match found.encode(question, zone, limit) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, "an answer cannot be written; the resolver is asked");
            None
        }
    }
}

/// A question and what is known.
struct Asking<'a> {
    question: &'a Question,
    /// The namespace of the pod that asks.
    client: &'a str,
    names: &'a Names,
    zone: &'a Zone,
}

/// What is to be said; no records at all mean that the name is there, but has none of this type.
struct Found {
    answers: Vec<RData>,
    additionals: Vec<Record>,
    ttl: Duration,
}

/// What a name below the cluster's domain names.
enum Named<'a> {
    Service(&'a Known),
    Members(Vec<&'a Member>),
    /// `_PORT._tcp` of a Service.
    Port(&'a Known, &'a str),
}

impl Asking<'_> {
    fn look_up(&self) -> Result<Option<Found>, ProtoError> {
        let name = self.question.query().name();
        if self.kind() == RecordType::PTR {
            return self.pointers(name);
        }
        let Some(labels) = self.below_domain(name) else {
            return Ok(self.host(name));
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let (service, named) = match *labels.as_slice() {
            [service, namespace, "svc"] => {
                let known = self.names.service(self.client, namespace, service);
                ((service, namespace), known.map(Named::Service))
            }
            [member, service, namespace, "svc"] => {
                let known = self.names.service(self.client, namespace, service);
                (
                    (service, namespace),
                    known.and_then(|known| members(known, member)),
                )
            }
            // The facts hold TCP ports only; others are the resolver's to know.
            [port, "_tcp", service, namespace, "svc"] => {
                let known = self.names.service(self.client, namespace, service);
                let port = port.strip_prefix('_').zip(known);
                (
                    (service, namespace),
                    port.map(|(port, known)| Named::Port(known, port)),
                )
            }
            _ => return Ok(None),
        };
        match named {
            Some(Named::Port(known, port)) => self.ports(known, port, service),
            // A Service itself has the SRV records of all its ports, UDP ones too.
            Some(Named::Service(_)) if self.kind() == RecordType::SRV => Ok(None),
            Some(Named::Service(Known::Cluster { addrs, .. })) => {
                Ok(Some(self.addresses(addrs.iter().copied(), self.zone.ttl)))
            }
            Some(Named::Service(Known::Headless(members))) => Ok(Some(
                self.addresses(members.iter().map(|member| member.addr), self.short()),
            )),
            Some(Named::Members(members)) => Ok(Some(
                self.addresses(members.into_iter().map(|member| member.addr), self.short()),
            )),
            None => Ok(None),
        }
    }

    /// A host of a ServiceEntry; what else there is below its name is the resolver's to know.
    fn host(&self, name: &Name) -> Option<Found> {
        let written = name.to_lowercase().to_ascii();
        let known = self.names.host(self.client, written.trim_end_matches('.'))?;
        let is_of_addresses = matches!(self.kind(), RecordType::A | RecordType::AAAA | RecordType::ANY);
        match known {
            Known::Cluster { addrs, .. } if is_of_addresses => {
                Some(self.addresses(addrs.iter().copied(), self.zone.ttl))
            }
            Known::Cluster { .. } | Known::Headless(_) => None,
        }
    }

    fn kind(&self) -> RecordType {
        self.question.query().query_type()
    }

    fn short(&self) -> Duration {
        self.zone.ttl.min(HEADLESS_TTL)
    }

    /// The labels of a name above the cluster's domain, in lower case.
    fn below_domain(&self, name: &Name) -> Option<Vec<String>> {
        let domain = &self.zone.domain;
        if !domain.zone_of(name) {
            return None;
        }
        let count = usize::from(name.num_labels()).checked_sub(usize::from(domain.num_labels()))?;
        let lower = |label: &[u8]| String::from_utf8(label.to_ascii_lowercase()).ok();
        name.iter().take(count).map(lower).collect()
    }

    fn addresses(&self, addrs: impl Iterator<Item = IpAddr>, ttl: Duration) -> Found {
        let kind = self.kind();
        let mut addrs: Vec<IpAddr> = addrs
            .filter(|addr| {
                let own = if addr.is_ipv4() {
                    RecordType::A
                } else {
                    RecordType::AAAA
                };
                kind == own || kind == RecordType::ANY
            })
            .collect();
        self.turn(&mut addrs);
        Found {
            answers: addrs.into_iter().map(address).collect(),
            additionals: Vec::new(),
            ttl,
        }
    }

    /// Many askers take the first answer: each question begins somewhere else.
    fn turn<T>(&self, answers: &mut Vec<T>) {
        if let Some(first) = usize::from(self.question.id()).checked_rem(answers.len()) {
            answers.rotate_left(first);
        }
        answers.truncate(MOST_ANSWERS);
    }

    fn ports(
        &self,
        known: &Known,
        port: &str,
        (service, namespace): (&str, &str),
    ) -> Result<Option<Found>, ProtoError> {
        let own = self.name_of(&[service, namespace])?;
        // Port, whose name, and that one's address.
        let mut targets: Vec<(u16, Name, Vec<IpAddr>)> = Vec::new();
        let ttl = match known {
            Known::Cluster { addrs, ports } => {
                let found = ports.iter().filter(|(name, _)| &**name == port);
                targets.extend(found.map(|(_, number)| (*number, own.clone(), addrs.clone())));
                self.zone.ttl
            }
            Known::Headless(members) => {
                for member in members {
                    for (_, number) in member.ports.iter().filter(|(name, _)| &**name == port) {
                        let name = self.name_of(&[&member.label, service, namespace])?;
                        match targets
                            .iter_mut()
                            .find(|(known, target, _)| known == number && *target == name)
                        {
                            Some((_, _, addrs)) => addrs.push(member.addr),
                            None => targets.push((*number, name, vec![member.addr])),
                        }
                    }
                }
                self.short()
            }
        };
        // Unknown here may mean a UDP port elsewhere.
        if targets.is_empty() {
            return Ok(None);
        }
        self.turn(&mut targets);
        let mut found = Found {
            answers: Vec::new(),
            additionals: Vec::new(),
            ttl,
        };
        if !matches!(self.kind(), RecordType::SRV | RecordType::ANY) {
            return Ok(Some(found));
        }
        let count = u16::try_from(targets.len()).unwrap_or(u16::MAX);
        let weight = (FULL_WEIGHT / count).max(1);
        for (number, target, addrs) in targets {
            let records = addrs.into_iter();
            let records = records.map(|addr| Record::from_rdata(target.clone(), seconds(ttl), address(addr)));
            found.additionals.extend(records);
            found
                .answers
                .push(RData::SRV(SRV::new(PRIORITY, weight, number, target)));
        }
        Ok(Some(found))
    }

    fn pointers(&self, name: &Name) -> Result<Option<Found>, ProtoError> {
        // A name that is no address is somebody else's.
        let Ok(block) = name.parse_arpa_name() else {
            return Ok(None);
        };
        if block.prefix_len() != block.max_prefix_len() {
            return Ok(None);
        }
        let owners = self.names.owners(self.client, block.addr());
        let mut answers = Vec::new();
        for owner in &owners {
            let ServiceName { namespace, name } = &owner.service;
            let name = match &owner.member {
                Some(member) => self.name_of(&[member, name, namespace])?,
                None => self.name_of(&[name, namespace])?,
            };
            answers.push(RData::PTR(PTR(name)));
        }
        let is_member = owners.iter().any(|owner| owner.member.is_some());
        let ttl = if is_member { self.short() } else { self.zone.ttl };
        Ok((!answers.is_empty()).then_some(Found {
            answers,
            additionals: Vec::new(),
            ttl,
        }))
    }

    /// `LABELS.svc.DOMAIN`.
    fn name_of(&self, labels: &[&str]) -> Result<Name, ProtoError> {
        let below = labels.iter().chain(&["svc"]).map(|label| label.as_bytes());
        Name::from_labels(below)?.append_domain(&self.zone.domain)
    }
}

impl Found {
    fn encode(self, question: &Question, zone: &Zone, limit: usize) -> Result<Vec<u8>, ProtoError> {
        let query = question.query();
        let mut message = Message::error_msg(
            question.id(),
            hickory_proto::op::OpCode::Query,
            ResponseCode::NoError,
        );
        message.metadata.authoritative = true;
        message.metadata.recursion_desired = question.is_recursion_desired();
        message.metadata.recursion_available = true;
        message.add_query(query.clone());
        if self.answers.is_empty() {
            message.add_authority(authority(zone, self.ttl)?);
        }
        let ttl = seconds(self.ttl);
        let answers = self.answers.into_iter();
        message.add_answers(answers.map(|data| Record::from_rdata(query.name().clone(), ttl, data)));
        message.add_additionals(self.additionals);
        if question.edns().is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OWN_PAYLOAD);
            message.set_edns(edns);
        }
        let bytes = message.to_vec()?;
        if bytes.len() <= limit && !is_truncated(&bytes) {
            return Ok(bytes);
        }
        message.truncate().to_vec()
    }
}

/// The members of that label; `None` when there is none.
fn members<'a>(known: &'a Known, label: &str) -> Option<Named<'a>> {
    let Known::Headless(members) = known else {
        return None;
    };
    let found: Vec<_> = members.iter().filter(|member| &*member.label == label).collect();
    (!found.is_empty()).then_some(Named::Members(found))
}

/// What goes with "no such record", so that askers may remember it (RFC 2308 2.2).
fn authority(zone: &Zone, ttl: Duration) -> Result<Record, ProtoError> {
    let domain = &zone.domain;
    let below = |labels: &[&str]| {
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))?.append_domain(domain)
    };
    let soa = SOA::new(
        below(&["ns", "dns"])?,
        below(&["hostmaster"])?,
        1,
        7_200,
        1_800,
        86_400,
        seconds(ttl),
    );
    Ok(Record::from_rdata(domain.clone(), seconds(ttl), RData::SOA(soa)))
}

fn address(addr: IpAddr) -> RData {
    match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    }
}

fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

/// What two bytes can count (RFC 1035 4.2.2).
const LONGEST_MESSAGE: usize = 65_535;
/// What is told to askers that we would take; we never ask.
const OWN_PAYLOAD: u16 = 4096;
/// Of addresses, so that no Service fills a message by itself.
const MOST_ANSWERS: usize = 1_000;
/// As cluster DNS weighs: all ports of a Service share it.
const FULL_WEIGHT: u16 = 100;
const PRIORITY: u16 = 0;

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
