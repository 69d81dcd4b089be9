//! WebSocket over HTTP/2 (RFC 8441), made what it is over HTTP/1.1 where it comes in and again HTTP/2's where it goes
//! out: whatever decides in between, here or on another node, knows one WebSocket.
//!
//! Place in the walk: first and last of all, and where a request leaves for a server that takes extended CONNECT. Must
//! not know: where requests go.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode};
use hyper::ext::Protocol;
use rand::Rng as _;

use crate::proxy::refusal::Refusal;

/// An extended CONNECT of a client, which became a GET.
#[derive(Debug)]
pub(super) struct Extended {
    /// What the server must show that it has read, in the client's place.
    key: HeaderValue,
}

impl Extended {
    /// Makes a client's extended CONNECT for WebSocket the GET that asks for the same over HTTP/1.1 (RFC 6455 section
    /// 4.1); other requests stay as they are, other protocols too.
    pub(super) fn of(request: &mut Request<impl Sized>) -> Option<Self> {
        let is_extended = request.method() == Method::CONNECT
            && request
                .extensions()
                .get::<Protocol>()
                .is_some_and(|protocol| protocol.as_str() == WEBSOCKET);
        if !is_extended {
            return None;
        }
        request.extensions_mut().remove::<Protocol>();
        *request.method_mut() = Method::GET;
        let key = HeaderValue::try_from(STANDARD.encode(rand::rng().random::<[u8; 16]>())).ok()?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        headers
            .entry(SEC_WEBSOCKET_VERSION)
            .or_insert(HeaderValue::from_static("13"));
        Some(Self { key })
    }

    /// The protocol that the client asks to change to.
    pub(super) fn protocol() -> HeaderValue {
        HeaderValue::from_static(WEBSOCKET)
    }

    /// What the client is answered. Over HTTP/2 every 2xx begins a WebSocket, so only an agreement may become one.
    pub(super) fn answer<B>(&self, mut response: Response<B>) -> Result<Response<B>, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return if response.status().is_success() {
                Err(Refusal::NoAnswer)
            } else {
                Ok(response)
            };
        }
        let headers = response.headers_mut();
        let shown = headers.remove(SEC_WEBSOCKET_ACCEPT);
        if shown.is_none() || shown != accept(&self.key) {
            return Err(Refusal::NoAnswer);
        }
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        *response.status_mut() = StatusCode::OK;
        Ok(response)
    }
}

/// Whether a request that asks for `protocol` can be an extended CONNECT.
pub(super) fn can_be_extended(request: &Request<impl http_body::Body>, protocol: &HeaderValue) -> bool {
    request.method() == Method::GET
        && request.body().is_end_stream()
        && protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// Makes a GET that asks for WebSocket, in HTTP/2's form, an extended CONNECT. Returns the key of the client.
pub(super) fn extend(request: &mut Request<impl Sized>) -> Option<HeaderValue> {
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
    request.headers_mut().remove(SEC_WEBSOCKET_KEY)
}

/// Makes what a server answers to an extended CONNECT what it answers over HTTP/1.1 to a client with `key`.
pub(super) fn restore<B>(response: &mut Response<B>, key: Option<&HeaderValue>) -> Result<(), Refusal> {
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        if let Some(accept) = key.and_then(accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        return Ok(());
    }
    if response.status().is_success() || response.status().is_informational() {
        return Err(Refusal::NoAnswer);
    }
    Ok(())
}

/// What a server shows to have read `key` (RFC 6455 section 4.2.2).
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let text = [key.as_bytes(), GUID].concat();
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

const WEBSOCKET: &str = "websocket";
/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::connect("http://shop/chat").body(()).unwrap();
        if let Some(protocol) = protocol {
            let protocol = Protocol::from_static(protocol);
            request.extensions_mut().insert(protocol);
        }
        request
    }

    #[test]
    fn a_key_is_answered_as_the_rfc_says() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_a_websocket_becomes_a_get_and_each_has_its_own_key() {
        let (mut one, mut other) = (connect(Some("websocket")), connect(Some("websocket")));
        let key = Extended::of(&mut one).unwrap().key;
        assert_ne!(key, Extended::of(&mut other).unwrap().key);
        assert_eq!((one.method(), one.uri().path()), (&Method::GET, "/chat"));
        assert_eq!(one.headers()[UPGRADE], "websocket");
        assert_eq!(one.headers()[SEC_WEBSOCKET_KEY], key);
        assert_eq!(one.headers()[SEC_WEBSOCKET_VERSION], "13");
        for mut other in [connect(None), connect(Some("connect-udp")), Request::new(())] {
            let before = other.method().clone();
            assert!(Extended::of(&mut other).is_none());
            assert_eq!(other.method(), before);
        }
    }

    #[test]
    fn only_a_server_that_has_read_the_key_makes_a_2xx() {
        let extended = Extended::of(&mut connect(Some("websocket"))).unwrap();
        let right = accept(&extended.key).unwrap();
        for (status, shown, expected) in [
            (101, Some(&right), Some(200)),
            (101, Some(&extended.key), None),
            (101, None, None),
            (200, None, None),
            (204, Some(&right), None),
            (404, None, Some(404)),
            (302, None, Some(302)),
        ] {
            let mut response = Response::builder().status(status).header(UPGRADE, "websocket");
            if let Some(shown) = shown {
                response = response.header(SEC_WEBSOCKET_ACCEPT, shown);
            }
            let answered = extended.answer(response.body(()).unwrap()).ok();
            let told = answered.as_ref().map(|answer| answer.status().as_u16());
            assert_eq!(told, expected, "{status} {shown:?}");
            if told == Some(200) {
                assert!(answered.unwrap().headers().is_empty());
            }
        }
    }

    #[test]
    fn a_server_of_extended_connect_answers_as_one_of_http_1_does() {
        let mut request = connect(Some("websocket"));
        let extended = Extended::of(&mut request).unwrap();
        let key = extend(&mut request);
        assert_eq!(request.method(), Method::CONNECT);
        assert!(!request.headers().contains_key(SEC_WEBSOCKET_KEY));
        let mut response = Response::new(());
        restore(&mut response, key.as_ref()).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(extended.answer(response).is_ok());
        for (status, is_answer) in [(204, false), (101, false), (404, true), (501, true)] {
            let mut response = Response::builder().status(status).body(()).unwrap();
            assert_eq!(restore(&mut response, None).is_ok(), is_answer, "{status}");
        }
    }
}
