//! Questions and answers in bytes, as Envoy's messages have them.

use std::time::Duration;

use prost::Message;

use super::*;
use crate::grpc;
use crate::mesh::policy::external::AuthorizerTarget;
use crate::mesh::service::ServiceName;

fn service() -> GlobalLimit {
    GlobalLimit {
        target: AuthorizerTarget::Service(ServiceName::new("infra", "limiter")),
        port: 8081,
        domain: "shop".into(),
        descriptors: Vec::new(),
        timeout: Duration::from_millis(20),
        fails_open: true,
    }
}

/// An answer with `status` in its trailers.
fn read(message: &[u8], status: &str) -> Result<Answer, CheckError> {
    let length = u8::try_from(message.len()).unwrap();
    let body = [&[0, 0, 0, 0, length], message].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    answer(&Response::new(Bytes::from(body)), Some(&trailers))
}

#[test]
fn a_question_has_the_tags_of_the_published_messages() {
    let descriptors = [vec![("k".into(), "v".to_owned())]];
    let question = question(&service(), &descriptors).unwrap();
    assert_eq!(
        question.uri(),
        "http://limiter.infra.svc.cluster.local:8081/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
    );
    assert_eq!(question.headers()["grpc-timeout"], "20m");
    // domain (1): "shop"; descriptors (2): { entries (1): { key (1): "k", value (2): "v" } }.
    let expected = b"\x0a\x04shop\x12\x08\x0a\x06\x0a\x01k\x12\x01v";
    assert_eq!(question.body().escape_ascii().to_string(), {
        let length = u8::try_from(expected.len()).unwrap();
        let framed = [&[0, 0, 0, 0, length], &expected[..]].concat();
        framed.escape_ascii().to_string()
    });
}

#[test]
fn one_is_within_two_is_over_and_anything_else_is_no_answer() {
    assert!(matches!(read(b"\x08\x01", "0"), Ok(Answer::Within(_))));
    assert!(matches!(read(b"\x08\x02", "0"), Ok(Answer::Over(_))));
    for message in [&b""[..], b"\x08\x00", b"\x08\x03"] {
        assert!(
            matches!(read(message, "0"), Err(CheckError::Code(_))),
            "{message:?}"
        );
    }
    assert!(matches!(read(b"\x08\x01", "14"), Err(CheckError::Call(_))));
    assert!(matches!(
        read(b"\xff\xff\xff\xff", "0"),
        Err(CheckError::Frame(_))
    ));
    let body = grpc::frame(&RateLimitResponse::default());
    let no_status = answer(&Response::new(body), None);
    assert!(matches!(no_status, Err(CheckError::NoStatus)));
}

#[test]
fn headers_and_body_of_the_answer_go_where_they_belong() {
    let header = |key: &str, value: &str| Written {
        key: key.into(),
        value: value.into(),
        raw_value: Bytes::new(),
    };
    let status = |code, seconds, nanos| DescriptorStatus {
        code,
        duration_until_reset: Some(proto::Duration { seconds, nanos }),
    };
    let message = |overall_code| RateLimitResponse {
        overall_code,
        statuses: vec![
            status(OVER_LIMIT, 3, 1),
            status(OVER_LIMIT, 2, 0),
            status(OK, 60, 0),
        ],
        response_headers_to_add: vec![header("x-told", "yes"), header("content-length", "7")],
        request_headers_to_add: vec![header("x-quota", "5"), header("host", "elsewhere")],
        raw_body: Bytes::from_static(b"later"),
    };
    let Answer::Within(changes) = read(&message(OK).encode_to_vec(), "0").unwrap() else {
        panic!("not within")
    };
    let mut headers = HeaderMap::new();
    for change in &changes.request {
        change.apply(&mut headers);
    }
    assert_eq!(headers.len(), 1, "the target stays what it is");
    assert_eq!(headers["x-quota"], "5");
    assert_eq!(changes.response.len(), 1);

    let Answer::Over(reply) = read(&message(OVER_LIMIT).encode_to_vec(), "0").unwrap() else {
        panic!("not over")
    };
    assert_eq!(reply.retry_after_s, Some(4), "the last that refuses, rounded up");
    assert_eq!(reply.headers["x-told"], "yes");
    assert_eq!(reply.headers["content-type"], "text/plain");
    assert!(!reply.headers.contains_key("content-length"));
    assert_eq!(&reply.body[..], b"later");
}
