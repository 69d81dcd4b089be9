//! What answers over HTTP mean.

use super::*;

fn answered(how: &HttpCheck, status: u16, lines: &[(&str, &str)]) -> Result<Decision, CheckError> {
    let mut answer = Response::new(Bytes::from_static(b"body"));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    *answer.headers_mut() = headers(lines);
    decide(&over_http(how.clone()), answer, None)
}

#[test]
fn over_http_only_200_lets_in_and_5xx_is_no_decision() {
    let how = HttpCheck::default();
    for (status, expected) in [
        (200, "in"),
        (201, "out"),
        (302, "out"),
        (401, "out"),
        (404, "out"),
        (500, "?"),
        (503, "?"),
    ] {
        let outcome = match answered(&how, status, &[]) {
            Ok(Decision::Allowed(_)) => "in",
            Ok(Decision::Denied(reply)) => {
                assert_eq!(reply.status.as_u16(), status);
                "out"
            }
            Err(_) => "?",
        };
        assert_eq!(outcome, expected, "{status}");
    }
}

#[test]
fn over_http_listed_headers_travel_and_no_others() {
    let how = HttpCheck {
        upstream_on_allow: vec![
            NameMatch::Exact("x-user".into()),
            NameMatch::Exact("connection".into()),
        ],
        downstream_on_allow: vec![NameMatch::Prefix("x-told".into())],
        ..HttpCheck::default()
    };
    let lines = [
        ("x-user", "alice"),
        ("x-user", "admin"),
        ("x-told-1", "a"),
        ("x-other", "b"),
        ("connection", "close"),
        ("x-envoy-auth-headers-to-remove", "x-secret, host"),
    ];
    let changes = allowed(answered(&how, 200, &lines));
    let mut request = headers(&[("x-user", "mallory"), ("x-secret", "s"), ("host", "shop")]);
    changes.request.apply(&mut request);
    let expected = headers(&[("x-user", "alice"), ("x-user", "admin"), ("host", "shop")]);
    assert_eq!(request, expected);
    let mut response = HeaderMap::new();
    changes
        .response
        .iter()
        .for_each(|change| change.apply(&mut response));
    assert_eq!(response, headers(&[("x-told-1", "a")]));
}

#[test]
fn over_http_a_denial_tells_what_is_listed_and_what_a_client_needs() {
    let lines = [
        ("location", "/login"),
        ("x-a", "1"),
        ("x-b", "2"),
        ("connection", "close"),
        ("content-length", "4"),
    ];
    let all = denied(answered(&HttpCheck::default(), 302, &lines));
    assert_eq!(
        all.headers,
        headers(&[("location", "/login"), ("x-a", "1"), ("x-b", "2")])
    );
    let how = HttpCheck {
        downstream_on_deny: vec![NameMatch::Exact("x-a".into())],
        ..HttpCheck::default()
    };
    let listed = denied(answered(&how, 302, &lines));
    assert_eq!(listed.headers, headers(&[("location", "/login"), ("x-a", "1")]));
    assert_eq!(listed.body.as_ref(), b"body");
}
