//! `directResponse` of a VirtualService: its body as text or as bytes.

use super::virtual_service::{rule, translated};
use crate::mesh::route::RuleAction;

fn body_of(written: &str) -> Vec<u8> {
    let action = rule(&format!("directResponse: {{status: 200, body: {written}}}")).action;
    let RuleAction::Respond(response) = action else {
        panic!("{action:?}");
    };
    response.body.to_vec()
}

#[test]
fn a_body_is_text_or_bytes_in_either_alphabet_of_base64() {
    for (written, expected) in [
        ("{}", b"".as_slice()),
        ("{string: gone}", b"gone"),
        ("{bytes: ''}", b""),
        ("{bytes: Z29uZQ==}", b"gone"),
        ("{bytes: Z29uZQ}", b"gone"),
        ("{bytes: '+/8='}", &[0xfb, 0xff]),
        ("{bytes: '-_8'}", &[0xfb, 0xff]),
    ] {
        assert_eq!(body_of(written), expected, "{written}");
    }
}

#[test]
fn a_body_that_cannot_be_read_leaves_the_virtual_service_out() {
    for (body, field) in [
        ("{bytes: 'no base64'}", "spec.http[0].directResponse.body.bytes"),
        ("{bytes: 7}", "spec.http[0].directResponse.body.bytes"),
        ("{bytes: aa, string: b}", "spec.http[0].directResponse.body"),
    ] {
        let (route, fields) = translated(&format!(
            "hosts: [web], http: [{{directResponse: {{status: 200, body: {body}}}}}]"
        ));
        assert_eq!((route, fields), (None, vec![field.to_owned()]), "{body}");
    }
}
