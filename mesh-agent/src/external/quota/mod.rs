//! Whether a request is within what a service counts for the whole cluster: Envoy's
//! `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.
//!
//! Place in the walk: after all policies have let the request in. Must not know: policies, sockets; who asks carries the
//! question and brings the answer.

mod proto;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response};

use self::proto::{DescriptorStatus, Entry, RateLimitDescriptor, RateLimitRequest, RateLimitResponse};
use super::proto::HeaderValue as Written;
use super::{CheckError, HeaderChange, Mode, unary};
use crate::mesh::policy::rate_limit::GlobalLimit;

/// What the service says.
#[derive(Debug)]
pub enum Answer {
    /// The request is within all limits, and is changed in this way.
    Within(Changes),
    /// It is over one.
    Over(Reply),
}

/// What becomes of a request that is let in, and of its response.
#[derive(Debug, Default)]
pub struct Changes {
    /// Of the request's headers.
    pub request: Vec<HeaderChange>,
    /// Of the response's headers.
    pub response: Vec<HeaderChange>,
}

/// What a client that is refused is told besides the status.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// Seconds until the last limit that refuses begins anew, if the service says that.
    pub retry_after_s: Option<u64>,
    /// Headers, none of them of one connection only.
    pub headers: HeaderMap,
    /// The body, if the service gave one.
    pub body: Bytes,
}

/// Makes the request by which `service` is asked about keys and values.
pub fn question(
    service: &GlobalLimit,
    descriptors: &[Vec<(Arc<str>, String)>],
) -> Result<Request<Bytes>, CheckError> {
    let descriptors = descriptors.iter().map(|entries| {
        let entries = entries.iter().map(|(key, value)| Entry {
            key: key.as_ref().to_owned(),
            value: value.clone(),
        });
        RateLimitDescriptor {
            entries: entries.collect(),
        }
    });
    let message = RateLimitRequest {
        domain: service.domain.as_ref().to_owned(),
        descriptors: descriptors.collect(),
    };
    let host = format!("{}:{}", service.target.host(), service.port);
    unary::call((&host, METHOD), service.timeout, &message)
}

/// Reads the answer, of which the whole body and the trailers were collected.
pub fn answer(answer: &Response<Bytes>, trailers: Option<&HeaderMap>) -> Result<Answer, CheckError> {
    let read: RateLimitResponse = unary::message(answer, trailers)?;
    let response = changes(&read.response_headers_to_add)?;
    match read.overall_code {
        OK => Ok(Answer::Within(Changes {
            request: changes(&read.request_headers_to_add)?,
            response,
        })),
        OVER_LIMIT => {
            let mut headers = HeaderMap::new();
            for change in response {
                change.apply(&mut headers);
            }
            if !headers.contains_key(CONTENT_TYPE) && !read.raw_body.is_empty() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            Ok(Answer::Over(Reply {
                retry_after_s: read.statuses.iter().filter_map(reset_in_s).max(),
                headers,
                body: read.raw_body,
            }))
        }
        other => Err(CheckError::Code(other)),
    }
}

/// Rounded up; `None` for a descriptor that is not over its limit.
fn reset_in_s(status: &DescriptorStatus) -> Option<u64> {
    let reset = status
        .duration_until_reset
        .as_ref()
        .filter(|_| status.code == OVER_LIMIT)?;
    let seconds = u64::try_from(reset.seconds).ok()?;
    Some(seconds.saturating_add(u64::from(reset.nanos > 0)))
}

/// Lines are added, as Envoy adds them.
fn changes(written: &[Written]) -> Result<Vec<HeaderChange>, CheckError> {
    let changes = written.iter().filter_map(|header| {
        let value = if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        };
        HeaderChange::new(&header.key, value, Mode::Append).transpose()
    });
    changes.collect()
}

/// The path of the call.
pub const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const OK: i32 = 1;
const OVER_LIMIT: i32 = 2;
