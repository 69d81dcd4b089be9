//! One gRPC call as a request and a response: what authorizers and rate limit services that speak it have in common.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, TE};
use http::{Request, Response, StatusCode, Version};
use prost::Message;

use super::CheckError;
use crate::grpc::{self, CallError};

/// The request that calls `method` of the service at `host`, with a port.
pub(super) fn call(
    (host, method): (&str, &str),
    timeout: Duration,
    message: &impl Message,
) -> Result<Request<Bytes>, CheckError> {
    // At most eight digits; a server needs no more of it than to know when nobody waits any more.
    let patience = timeout.as_millis().clamp(1, 99_999_999);
    Request::post(format!("http://{host}{method}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{patience}m"))
        .body(grpc::frame(message))
        .map_err(CheckError::Write)
}

/// The message of an answer whose status, in headers or trailers, is well.
pub(super) fn message<M: Message + Default>(
    answer: &Response<Bytes>,
    trailers: Option<&HeaderMap>,
) -> Result<M, CheckError> {
    grpc::outcome(answer.headers())?;
    if answer.status() != StatusCode::OK {
        return Err(CallError::NotGrpc(answer.status()).into());
    }
    if let Some(trailers) = trailers {
        grpc::outcome(trailers)?;
    }
    let ends = [Some(answer.headers()), trailers];
    if !ends
        .into_iter()
        .flatten()
        .any(|end| end.contains_key("grpc-status"))
    {
        return Err(CheckError::NoStatus);
    }
    Ok(grpc::unframe(answer.body())?)
}
