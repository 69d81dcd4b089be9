//! What a rule of a VirtualService answers itself: `directResponse`, `redirect` to another beginning, preflights.

use super::virtual_service::{rule, translated};
use crate::mesh::route::{Cors, OriginMatch, PathRewrite, RuleAction};

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

#[test]
fn a_redirect_replaces_the_beginning_that_matched_or_the_whole_path_not_both() {
    let path = |written: &str| {
        let RuleAction::Redirect(redirect) = rule(&format!("redirect: {{{written}}}")).action else {
            panic!("{written}");
        };
        redirect.path
    };
    assert_eq!(
        path("prefixRewrite: /b"),
        Some(PathRewrite::Beginning("/b".into()))
    );
    assert_eq!(
        path("uri: /b, prefixRewrite: ''"),
        Some(PathRewrite::Full("/b".into()))
    );
    for wrong in ["uri: /b, prefixRewrite: /c", "prefixRewrite: '/b?c'"] {
        let (route, fields) = translated(&format!("hosts: [web], http: [{{redirect: {{{wrong}}}}}]"));
        let field = "spec.http[0].redirect.prefixRewrite".to_owned();
        assert_eq!((route, fields), (None, vec![field]), "{wrong}");
    }
}

#[test]
fn an_authority_with_a_port_that_is_none_leaves_the_virtual_service_out() {
    for (part, field) in [
        ("redirect: {authority: 'a.example:99999'}", "redirect"),
        ("redirect: {authority: 'a.example:'}", "redirect"),
        (
            "rewrite: {authority: 'a.example:99999'}, route: [{destination: {host: web}}]",
            "rewrite",
        ),
    ] {
        let (route, fields) = translated(&format!("hosts: [web], http: [{{{part}}}]"));
        let field = format!("spec.http[0].{field}.authority");
        assert_eq!((route, fields), (None, vec![field]), "{part}");
    }
    for (authority, host, port) in [
        ("a.example:8080", "a.example", 8080),
        ("'[fd00::1]:8080'", "[fd00::1]", 8080),
        ("a.example", "a.example", 80),
    ] {
        let RuleAction::Redirect(redirect) = rule(&format!("redirect: {{authority: {authority}}}")).action
        else {
            panic!("{authority}");
        };
        assert_eq!(
            (redirect.host.as_deref(), redirect.port),
            (Some(host), Some(port))
        );
    }
}

#[test]
fn preflights_of_others_go_to_the_application_unless_the_policy_ignores_them() {
    let cors = |written: &str| -> Cors {
        rule(&format!(
            "corsPolicy: {{{written}}}, route: [{{destination: {{host: web}}}}]"
        ))
        .cors
        .unwrap()
    };
    for (written, expected) in [
        ("maxAge: 1s", false),
        ("unmatchedPreflights: FORWARD", false),
        ("unmatchedPreflights: UNSPECIFIED", false),
        ("unmatchedPreflights: IGNORE", true),
    ] {
        assert_eq!(cors(written).keeps_others_away, expected, "{written}");
    }
    let old = cors("allowOrigin: ['*', 'https://a.example']").origins;
    assert_eq!(
        old,
        [OriginMatch::Any, OriginMatch::Exact("https://a.example".into())]
    );
    let both = cors("allowOrigin: ['*'], allowOrigins: [{exact: 'https://a.example'}]").origins;
    assert_eq!(both, [OriginMatch::Exact("https://a.example".into())]);
}
