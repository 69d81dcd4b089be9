//! A request much like the one that it is about: its method, path and some of its headers.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use http::{Request, Response, StatusCode, Version};

use super::changes::{HeaderChange, Mode, RequestChanges};
use super::{Changes, CheckError, Decision, PARTIAL_BODY, Question, Reply, is_protected};
use crate::mesh::policy::external::{HttpCheck, NameMatch};

/// The authority is the request's own, as in Envoy: for whom it is meant is part of the question.
pub(super) fn check(how: &HttpCheck, question: &Question<'_>) -> Result<Request<Bytes>, CheckError> {
    let target = format!(
        "http://{}{}{}",
        question.authority, how.path_prefix, question.path
    );
    let shown = question.body.as_ref();
    let body = shown.map(|shown| shown.bytes.clone()).unwrap_or_default();
    let mut check = Request::builder()
        .method(question.method)
        .uri(target)
        .version(Version::HTTP_11)
        .body(body)
        .map_err(CheckError::Write)?;
    let headers = check.headers_mut();
    for (name, value) in question.headers {
        let is_shown = *name == AUTHORIZATION || is_named(&how.request_headers, name);
        if is_shown && !is_protected(name) {
            headers.append(name, value.clone());
        }
    }
    if let Some(shown) = shown {
        let is_partial = if shown.is_partial { "true" } else { "false" };
        headers.insert(PARTIAL_BODY, HeaderValue::from_static(is_partial));
    }
    for (name, value) in how
        .additional_headers
        .iter()
        .filter(|(name, _)| !is_protected(name))
    {
        headers.insert(name, value.clone());
    }
    let length = HeaderValue::from(check.body().len());
    check.headers_mut().insert(CONTENT_LENGTH, length);
    Ok(check)
}

/// 200 lets the request in, and nothing else does; of 5xx it is the authorizer that failed.
pub(super) fn decide(how: &HttpCheck, answer: Response<Bytes>) -> Result<Decision, CheckError> {
    let (head, body) = answer.into_parts();
    if head.status == StatusCode::OK {
        let mut request = RequestChanges {
            headers: changes(&head.headers, &how.upstream_on_allow)?,
            ..RequestChanges::default()
        };
        let removed = head.headers.get_all(TO_REMOVE).iter();
        let removed = removed.filter_map(|line| line.to_str().ok());
        for name in removed.flat_map(|line| line.split(',')).map(str::trim) {
            if !name.is_empty() {
                request.remove(name)?;
            }
        }
        return Ok(Decision::Allowed(Changes {
            request,
            response: changes(&head.headers, &how.downstream_on_allow)?,
        }));
    }
    if head.status.is_server_error() || head.status.is_informational() {
        return Err(CheckError::Status(head.status));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let is_told = how.downstream_on_deny.is_empty()
            || [WWW_AUTHENTICATE, LOCATION].contains(name)
            || is_named(&how.downstream_on_deny, name);
        if is_told && !is_protected(name) {
            headers.append(name, value.clone());
        }
    }
    Ok(Decision::Denied(Box::new(Reply {
        status: head.status,
        headers,
        body,
    })))
}

fn is_named(list: &[NameMatch], name: &HeaderName) -> bool {
    list.iter().any(|wanted| wanted.matches(name))
}

/// The first line of a name replaces what there is, others are added to it.
fn changes(headers: &HeaderMap, wanted: &[NameMatch]) -> Result<Vec<HeaderChange>, CheckError> {
    let mut changes = Vec::new();
    for name in headers.keys().filter(|name| is_named(wanted, name)) {
        for (index, value) in headers.get_all(name).iter().enumerate() {
            let mode = if index == 0 { Mode::Set } else { Mode::Append };
            changes.extend(HeaderChange::new(name.as_str(), value.as_bytes(), mode)?);
        }
    }
    Ok(changes)
}

/// Names of request headers that the authorizer wants taken away.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
