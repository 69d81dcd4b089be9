//! Envoy's `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};

use super::changes::{HeaderChange, Mode, QueryChange, RequestChanges};
use super::proto::{
    Address, AskedRequest, AttributeContext, CheckRequest, CheckResponse, DeniedResponse, HeaderValueOption,
    HttpRequest, HttpResponse, OkResponse, Peer, SocketAddress, Timestamp,
};
use super::{Changes, CheckError, Contact, Decision, End, PARTIAL_BODY, Question, Reply, is_internal, unary};
use crate::mesh::policy::external::{Authorizer, GrpcCheck, NameMatch};

pub(super) fn check(
    authorizer: &Authorizer,
    how: &GrpcCheck,
    question: &Question<'_>,
) -> Result<Request<Bytes>, CheckError> {
    let as_bytes = authorizer.body.is_some_and(|body| body.as_bytes);
    call(
        authorizer,
        AttributeContext {
            source: Some(peer(&question.source)),
            destination: Some(peer(&question.destination)),
            request: Some(AskedRequest {
                time: Some(time(question)),
                http: Some(request(how, question, as_bytes)),
            }),
        },
    )
}

/// As Envoy's network filter asks: who and whom, and no word of a request.
pub(super) fn check_connection(
    authorizer: &Authorizer,
    contact: &Contact<'_>,
) -> Result<Request<Bytes>, CheckError> {
    call(
        authorizer,
        AttributeContext {
            source: Some(peer(&contact.source)),
            destination: Some(peer(&contact.destination)),
            request: None,
        },
    )
}

fn call(authorizer: &Authorizer, attributes: AttributeContext) -> Result<Request<Bytes>, CheckError> {
    let host = format!("{}:{}", authorizer.target.host(), authorizer.port);
    let message = CheckRequest {
        attributes: Some(attributes),
    };
    unary::call((&host, METHOD), authorizer.timeout, &message)
}

fn peer(end: &End<'_>) -> Peer {
    Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: end.addr.ip().to_canonical().to_string(),
                port_value: Some(end.addr.port().into()),
            }),
        }),
        service: end.service.clone().unwrap_or_default(),
        principal: end.principal.as_deref().unwrap_or_default().to_owned(),
    }
}

fn time(question: &Question<'_>) -> Timestamp {
    let since = question.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

fn request(how: &GrpcCheck, question: &Question<'_>, as_bytes: bool) -> HttpRequest {
    let shown = question.body.as_ref();
    let bytes = shown.map(|shown| shown.bytes.clone()).unwrap_or_default();
    let (body, raw_body) = if as_bytes {
        (String::new(), bytes)
    } else {
        (text(&bytes), Bytes::new())
    };
    let mut headers = headers(question.headers, &how.request_headers);
    for (name, value) in [
        (":authority", question.authority.as_str()),
        (":method", question.method.as_str()),
        (":path", question.path),
        (":scheme", SCHEME),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    if let Some(shown) = shown {
        headers.insert(PARTIAL_BODY.as_str().to_owned(), shown.is_partial.to_string());
    }
    let length = question.headers.get(CONTENT_LENGTH);
    HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: question.method.as_str().to_owned(),
        headers,
        path: question.path.to_owned(),
        host: question.authority.as_str().to_owned(),
        scheme: SCHEME.to_owned(),
        size: length
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(UNKNOWN_SIZE),
        protocol: format!("{:?}", question.version),
        body,
        raw_body,
    }
}

/// The lines of one name, joined as RFC 9110 section 5.3 and RFC 6265 section 5.4 do.
fn headers(headers: &HeaderMap, shown: &[NameMatch]) -> BTreeMap<String, String> {
    let is_shown = |name: &HeaderName| shown.is_empty() || shown.iter().any(|one| one.matches(name));
    let travelling = headers.keys();
    let travelling = travelling.filter(|name| **name != HOST && !is_internal(name) && is_shown(name));
    let joined = |name: &HeaderName| {
        let separator = if *name == COOKIE { "; " } else { "," };
        let lines = headers.get_all(name).iter();
        let lines: Vec<String> = lines.map(|line| text(line.as_bytes())).collect();
        (name.as_str().to_owned(), lines.join(separator))
    };
    travelling.map(joined).collect()
}

/// Protobuf's strings are UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn decide(answer: &Response<Bytes>, trailers: Option<&HeaderMap>) -> Result<Decision, CheckError> {
    let answer: CheckResponse = unary::message(answer, trailers)?;
    match (is_ok(&answer), answer.http_response) {
        (true, Some(HttpResponse::Ok(ok))) => allowed(ok),
        (true, None | Some(HttpResponse::Denied(_))) => Ok(Decision::Allowed(Changes::default())),
        (false, Some(HttpResponse::Denied(reply))) => denied(reply),
        (false, None | Some(HttpResponse::Ok(_))) => denied(DeniedResponse::default()),
    }
}

pub(super) fn lets_in(answer: &Response<Bytes>, trailers: Option<&HeaderMap>) -> Result<bool, CheckError> {
    unary::message(answer, trailers).map(|answer: CheckResponse| is_ok(&answer))
}

fn is_ok(answer: &CheckResponse) -> bool {
    answer.status.as_ref().is_none_or(|status| status.code == 0)
}

fn allowed(ok: OkResponse) -> Result<Decision, CheckError> {
    let mut request = RequestChanges {
        headers: changes(&ok.headers)?,
        ..RequestChanges::default()
    };
    for name in &ok.headers_to_remove {
        request.remove(name)?;
    }
    let set = ok.query_parameters_to_set.into_iter();
    let removed = ok.query_parameters_to_remove.into_iter();
    request.query = set
        .map(|parameter| QueryChange {
            name: parameter.key,
            value: Some(parameter.value),
        })
        .chain(removed.map(|name| QueryChange { name, value: None }))
        .collect();
    Ok(Decision::Allowed(Changes {
        request,
        response: changes(&ok.response_headers_to_add)?,
    }))
}

/// A status that is none (0 is "empty") is 403, as in Envoy.
fn denied(reply: DeniedResponse) -> Result<Decision, CheckError> {
    let code = reply.status.map_or(0, |status| status.code);
    let status = u16::try_from(code).ok().filter(|code| *code >= 200);
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let mut headers = HeaderMap::new();
    for change in changes(&reply.headers)? {
        change.apply(&mut headers);
    }
    if !headers.contains_key(CONTENT_TYPE) && !reply.body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    Ok(Decision::Denied(Box::new(Reply {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        headers,
        body: reply.body,
    })))
}

fn changes(declared: &[HeaderValueOption]) -> Result<Vec<HeaderChange>, CheckError> {
    let changes = declared.iter().filter_map(|option| {
        let header = option.header.as_ref()?;
        let value = if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        };
        HeaderChange::new(&header.key, value, mode(option)).transpose()
    });
    changes.collect()
}

/// `append` is false by default in these messages, whatever the default of `append_action` says.
fn mode(option: &HeaderValueOption) -> Mode {
    let is_append = option.append.as_ref().is_some_and(|append| append.value);
    match option.append_action {
        1 => Mode::AddIfAbsent,
        3 => Mode::SetIfPresent,
        0 if is_append => Mode::Append,
        _ => Mode::Set,
    }
}

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// What is protected speaks to the agent in plain, whatever was spoken between agents.
const SCHEME: &str = "http";
const UNKNOWN_SIZE: i64 = -1;
