//! A query as it came: parsed under limits, its bytes kept.

use std::ops::Range;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::DNSClass;

/// A datagram, or a message of a TCP stream, that asks one question.
#[derive(Debug, Clone)]
pub struct Question {
    bytes: Vec<u8>,
    message: Message,
    query: Query,
    /// Where the question section lies in `bytes`.
    section: Range<usize>,
}

/// Why something is no question. It is dropped: an answer would serve only whoever forged its source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoQuestion {
    /// Too long to be a query.
    #[error("{0} bytes are too long for a query")]
    TooLong(usize),
    /// It cannot be read.
    #[error("not a message: {0}")]
    Unreadable(String),
    /// An answer, which nobody waits for here.
    #[error("a response")]
    Response,
    /// None or several: RFC 9619 allows one.
    #[error("{0} questions instead of one")]
    Count(usize),
}

impl Question {
    /// Reads the message of a pod.
    pub fn read(bytes: &[u8]) -> Result<Self, NoQuestion> {
        if bytes.len() > LONGEST_QUERY {
            return Err(NoQuestion::TooLong(bytes.len()));
        }
        let message = Message::from_vec(bytes).map_err(|error| NoQuestion::Unreadable(error.to_string()))?;
        if message.metadata.message_type != MessageType::Query {
            return Err(NoQuestion::Response);
        }
        let [query] = message.queries.as_slice() else {
            return Err(NoQuestion::Count(message.queries.len()));
        };
        let section = section(bytes).ok_or_else(|| NoQuestion::Unreadable("compressed question".into()))?;
        Ok(Self {
            bytes: bytes.to_owned(),
            query: query.clone(),
            section,
            message,
        })
    }

    /// The id that the asker chose.
    pub fn id(&self) -> u16 {
        self.message.metadata.id
    }

    /// What is asked, in the asker's own spelling.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Whether recursion is desired, to be told back.
    pub fn is_recursion_desired(&self) -> bool {
        self.message.metadata.recursion_desired
    }

    /// What the asker says of itself by EDNS.
    pub fn edns(&self) -> Option<&Edns> {
        self.message.edns.as_ref()
    }

    /// Whether it is an ordinary question, rather than an update, a transfer or one of another class or version.
    pub fn is_ordinary(&self) -> bool {
        self.message.metadata.op_code == OpCode::Query
            && self.query.query_class() == DNSClass::IN
            && self.message.signature.is_none()
            && self.edns().is_none_or(|edns| edns.version() == 0)
    }

    /// The longest answer that the asker takes in one datagram.
    pub fn longest_datagram(&self) -> usize {
        let said = self.edns().map_or(SHORTEST_LIMIT, Edns::max_payload);
        usize::from(said.clamp(SHORTEST_LIMIT, LONGEST_DATAGRAM))
    }

    /// The query as it came, under another id.
    pub fn bytes_with(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.clone(), id)
    }

    /// What tells the asker that nobody can answer (SERVFAIL), so that it need not wait before it asks another resolver.
    pub fn failure(&self) -> Vec<u8> {
        let asked = self.bytes.get(self.section.clone()).unwrap_or_default();
        let flags = self.bytes.get(2).map_or(0, |flags| flags & OPCODE_AND_RD) | RESPONSE;
        let [high, low] = self.id().to_be_bytes();
        let header = [
            high,
            low,
            flags,
            RECURSION_AVAILABLE | SERVFAIL,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        [header.as_slice(), asked].concat()
    }

    /// Whether `answer` is a response with this id to this very question, letter case aside.
    pub fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let is_response = answer.get(2).is_some_and(|flags| flags & RESPONSE != 0);
        let has_id = answer.get(..2) == Some(id.to_be_bytes().as_slice());
        let has_one_question = answer.get(4..6) == Some([0, 1].as_slice());
        let asked = self.bytes.get(self.section.clone());
        let echoed = answer.get(self.section.clone());
        let is_same = asked.zip(echoed).is_some_and(|(asked, echoed)| {
            let name = asked.len().saturating_sub(TYPE_AND_CLASS);
            let ((asked, kind), (echoed, echoed_kind)) = (asked.split_at(name), echoed.split_at(name));
            asked.eq_ignore_ascii_case(echoed) && kind == echoed_kind
        });
        // A server that cannot read a question need not echo it (FORMERR, RFC 8906 3.1.2).
        let is_bare_error = answer.len() == HEADER && answer.get(3).is_some_and(|flags| flags & RCODE != 0);
        has_id && is_response && (is_bare_error || has_one_question && is_same)
    }
}

/// `message` under another id.
pub fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(head) = message.first_chunk_mut::<2>() {
        *head = id.to_be_bytes();
    }
    message
}

/// Where the first question lies: a name without compression, since nothing stands before it, type and class.
fn section(bytes: &[u8]) -> Option<Range<usize>> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => break,
            1..=63 => at += 1 + length,
            _ => return None,
        }
    }
    let end = at + 1 + TYPE_AND_CLASS;
    (end <= bytes.len()).then_some(HEADER..end)
}

/// RFC 1035 4.1.1.
const HEADER: usize = 12;
const TYPE_AND_CLASS: usize = 4;
/// QR, in the third byte.
const RESPONSE: u8 = 0x80;
/// OPCODE and RD, in the third byte.
const OPCODE_AND_RD: u8 = 0x79;
/// RA and an RCODE, in the fourth byte.
const RECURSION_AVAILABLE: u8 = 0x80;
const SERVFAIL: u8 = 2;
/// In the fourth byte.
const RCODE: u8 = 0x0f;
/// How many bytes a query has at most: it is a name and some options.
pub const LONGEST_QUERY: usize = 4096;
/// What every asker takes (RFC 1035 4.2.1); a smaller announcement is read as this (RFC 6891 6.2.3).
const SHORTEST_LIMIT: u16 = 512;
/// Nothing leaves the pod's loopback, so no path sets a limit; this is what resolvers commonly announce.
const LONGEST_DATAGRAM: u16 = 4096;

#[cfg(test)]
pub(super) mod tests {
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    use super::*;

    /// A query as a stub resolver sends it.
    pub(in crate::dns) fn asking(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn read(message: &Message) -> Result<Question, NoQuestion> {
        Question::read(&message.to_vec().unwrap())
    }

    #[test]
    fn what_is_no_question_is_told_apart() {
        let good = asking("web.shop.svc.cluster.local.", RecordType::A);
        assert_eq!(read(&good).unwrap().id(), 0x1234);
        assert_eq!(
            read(&good.clone().into_response()).unwrap_err(),
            NoQuestion::Response
        );
        let mut two = good.clone();
        two.add_query(good.queries[0].clone());
        assert_eq!(read(&two).unwrap_err(), NoQuestion::Count(2));
        let none = Message::new(1, MessageType::Query, OpCode::Query);
        assert_eq!(read(&none).unwrap_err(), NoQuestion::Count(0));
        assert_eq!(Question::read(&[0; 4097]).unwrap_err(), NoQuestion::TooLong(4097));
        for cut in 0..good.to_vec().unwrap().len() {
            let bytes = good.to_vec().unwrap();
            assert!(
                matches!(Question::read(&bytes[..cut]), Err(NoQuestion::Unreadable(_))),
                "{cut}"
            );
        }
    }

    #[test]
    fn only_a_plain_question_of_the_internet_is_ordinary() {
        let good = asking("web.", RecordType::A);
        assert!(read(&good).unwrap().is_ordinary());
        let mut update = good.clone();
        update.metadata.op_code = OpCode::Notify;
        let mut chaos = good.clone();
        chaos.queries[0].set_query_class(DNSClass::CH);
        let mut later = good.clone();
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        for message in [update, chaos, later] {
            assert!(!read(&message).unwrap().is_ordinary(), "{message:?}");
        }
    }

    #[test]
    fn an_asker_takes_512_bytes_unless_it_says_more() {
        let mut message = asking("web.", RecordType::A);
        assert_eq!(read(&message).unwrap().longest_datagram(), 512);
        for (said, limit) in [(0, 512), (511, 512), (1232, 1232), (65_535, 4096)] {
            let mut edns = Edns::new();
            edns.set_max_payload(said);
            message.set_edns(edns);
            let bytes = message.to_vec().unwrap();
            assert_eq!(
                Question::read(&bytes).unwrap().longest_datagram(),
                limit,
                "{said}"
            );
        }
    }

    #[test]
    fn an_answer_must_fit_its_question() {
        let message = asking("web.example.", RecordType::A);
        let question = read(&message).unwrap();
        let good = with_id(message.clone().into_response().to_vec().unwrap(), 7);
        assert!(question.is_answered_by(&good, 7));
        assert!(!question.is_answered_by(&good, 8), "another id");
        assert!(!question.is_answered_by(&question.bytes_with(7), 7), "a query");
        for (other, why) in [
            (asking("wab.example.", RecordType::A), "another name"),
            (asking("web.example.", RecordType::AAAA), "another type"),
            (asking("web.example.org.", RecordType::A), "a longer name"),
        ] {
            let answer = with_id(other.into_response().to_vec().unwrap(), 7);
            assert!(!question.is_answered_by(&answer, 7), "{why}");
        }
        let shouted = asking("WEB.example.", RecordType::A).into_response();
        assert!(question.is_answered_by(&with_id(shouted.to_vec().unwrap(), 7), 7));
        assert!(!question.is_answered_by(&good[..good.len() - 1], 7));
        let bare = |rcode: u8| [0, 7, 0x80, rcode, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(question.is_answered_by(&bare(1), 7));
        assert!(!question.is_answered_by(&bare(0), 7), "no error and no question");
    }

    #[test]
    fn a_failure_answers_its_question() {
        let message = asking("Web.example.", RecordType::A);
        let failure = read(&message).unwrap().failure();
        let failure = Message::from_vec(&failure).unwrap();
        assert_eq!(
            failure.metadata.response_code,
            hickory_proto::op::ResponseCode::ServFail
        );
        assert_eq!(failure.metadata.message_type, MessageType::Response);
        assert!(failure.metadata.recursion_desired && failure.metadata.recursion_available);
        assert_eq!((failure.metadata.id, failure.queries), (0x1234, message.queries));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(question) = Question::read(&bytes) {
                prop_assert!(!question.is_answered_by(&answer, !u16::from_be_bytes([*answer.first().unwrap_or(&0), *answer.get(1).unwrap_or(&0)])));
                prop_assert_eq!(question.bytes_with(question.id()), bytes);
            }
        }

        #[test]
        fn no_question_with_noise_makes_it_panic(noise in proptest::collection::vec((0_usize..80, any::<u8>()), 0..6)) {
            let mut message = asking("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
            message.set_edns(Edns::new());
            let mut bytes = message.to_vec().unwrap();
            for (at, byte) in noise {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            if let Ok(question) = Question::read(&bytes) {
                prop_assert_eq!(question.bytes_with(question.id()), bytes);
            }
        }
    }
}
