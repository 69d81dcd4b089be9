//! Istio's RequestAuthentication: which tokens workloads know, and what becomes of them.
//!
//! Place in the walk: becomes the guard of workloads. Must not know: which workloads exist, who fetches keys.
//!
//! Nothing here is left out (ADR 0013). Where only the keys of an issuer cannot be read, its tokens are refused; whatever
//! else is wrong might be where tokens come or which fields applications believe, and refuses every request to the
//! workloads that the policy selects.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use serde::Deserialize;
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::policy_target;
use crate::control::jwks::web_url;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::request_authentication::{
    ClaimHeader, JwtRule, KeySource, RequestAuthentication, TokenLocation,
};
use crate::policy::authentication::KeySet;

/// One of `jwtRules`, as Istio writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    issuer: String,
    audiences: Option<Vec<String>>,
    #[serde(alias = "jwks_uri")]
    jwks_uri: Option<String>,
    jwks: Option<String>,
    from_headers: Option<Vec<FromHeader>>,
    from_params: Option<Vec<String>>,
    from_cookies: Option<Vec<String>>,
    output_payload_to_header: Option<String>,
    forward_original_token: Option<bool>,
    output_claim_to_headers: Option<Vec<ToHeader>>,
    timeout: Option<String>,
    space_delimited_claims: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FromHeader {
    name: String,
    prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToHeader {
    header: String,
    claim: String,
}

pub(super) fn translate(object: &Object, rejections: &mut Vec<Rejection>) -> RequestAuthentication {
    let read = policy_target::Reading::of(object);
    rejections.extend(read.reports);
    let mut reading = Spec {
        object,
        rejections,
        is_whole: true,
    };
    for (field, what) in read.wrong {
        reading.refuse(&field, &what);
    }
    for field in unknown_fields(object.spec(), &FIELDS) {
        reading.refuse(&format!("spec.{field}"), "is not a field of this kind");
    }
    let rules = reading.rules();
    RequestAuthentication {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        target: read.target,
        rules,
        is_whole: reading.is_whole,
    }
}

/// A `spec` that is being read.
struct Spec<'a> {
    object: &'a Object,
    rejections: &'a mut Vec<Rejection>,
    is_whole: bool,
}

impl Spec<'_> {
    fn refuse(&mut self, field: &str, what: &str) {
        self.is_whole = false;
        let reason =
            format!("{what}; until this is right, every request to the workloads of the policy gets 401");
        self.rejections.push(self.object.reject(field, reason));
    }

    fn rules(&mut self) -> Vec<JwtRule> {
        let listed = match self.object.spec().get("jwtRules") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(rules)) => rules,
            Some(_) => {
                self.refuse("spec.jwtRules", "expected a list");
                return Vec::new();
            }
        };
        let mut rules = Vec::with_capacity(listed.len());
        for (index, rule) in listed.iter().enumerate() {
            let at = format!("spec.jwtRules[{index}]");
            match self.object.parse_part::<Fields>(rule, &at) {
                Ok(fields) => rules.push(self.rule(&at, fields)),
                Err(rejection) => self.refuse(&rejection.field, &rejection.reason),
            }
        }
        rules
    }

    fn rule(&mut self, at: &str, fields: Fields) -> JwtRule {
        if fields.issuer.is_empty() {
            self.refuse(&format!("{at}.issuer"), "must not be empty");
        }
        JwtRule {
            keys: self.keys(at, &fields),
            timeout: self.timeout(&format!("{at}.timeout"), fields.timeout.as_deref()),
            locations: self.locations(at, &fields),
            audiences: self.names(&format!("{at}.audiences"), fields.audiences),
            forwards_token: fields.forward_original_token.unwrap_or(false),
            payload_header: fields
                .output_payload_to_header
                .filter(|name| !name.is_empty())
                .and_then(|name| self.output(&format!("{at}.outputPayloadToHeader"), &name)),
            claim_headers: self.claim_headers(at, fields.output_claim_to_headers),
            spaced: self.names(
                &format!("{at}.spaceDelimitedClaims"),
                fields.space_delimited_claims,
            ),
            issuer: fields.issuer.into(),
        }
    }

    fn keys(&mut self, at: &str, fields: &Fields) -> KeySource {
        let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (field, wrong) = match (named(&fields.jwks), named(&fields.jwks_uri)) {
            (Some(_), Some(_)) => ("jwksUri", "write jwks or jwksUri, not both".to_owned()),
            (Some(text), None) => match KeySet::read(text.as_bytes()) {
                Ok(_) => return KeySource::Inline(text.into()),
                Err(error) => ("jwks", error.to_string()),
            },
            (None, Some(uri)) if web_url(&uri).is_some() => return KeySource::Uri(uri.into()),
            (None, Some(_)) => ("jwksUri", "expected an http or https URL".to_owned()),
            (None, None) if web_url(&fields.issuer).is_some() => {
                return KeySource::Issuer(fields.issuer.as_str().into());
            }
            (None, None) => (
                "jwksUri",
                "needed, as is jwks: the issuer is no URL that could name its keys".to_owned(),
            ),
        };
        let reason = format!("{wrong}; until this is right, tokens of the issuer are refused");
        self.rejections
            .push(self.object.reject(&format!("{at}.{field}"), reason));
        KeySource::Unreadable
    }

    fn locations(&mut self, at: &str, fields: &Fields) -> Vec<TokenLocation> {
        let mut locations = Vec::new();
        for (index, header) in fields.from_headers.iter().flatten().enumerate() {
            let Ok(name) = HeaderName::try_from(header.name.as_str()) else {
                self.refuse(&format!("{at}.fromHeaders[{index}].name"), "is no header's name");
                continue;
            };
            let prefix = header.prefix.clone().unwrap_or_default();
            let is_bearer = name == http::header::AUTHORIZATION && prefix.trim_end() == "Bearer";
            locations.push(if is_bearer {
                TokenLocation::Bearer
            } else {
                let prefix = prefix.into();
                TokenLocation::Header { name, prefix }
            });
        }
        let names = self.names(&format!("{at}.fromParams"), fields.from_params.clone());
        locations.extend(names.into_iter().map(TokenLocation::Parameter));
        let names = self.names(&format!("{at}.fromCookies"), fields.from_cookies.clone());
        locations.extend(names.into_iter().map(TokenLocation::Cookie));
        if locations.is_empty() {
            locations.push(TokenLocation::Bearer);
            locations.push(TokenLocation::Parameter("access_token".into()));
        }
        locations
    }

    fn claim_headers(&mut self, at: &str, listed: Option<Vec<ToHeader>>) -> Vec<ClaimHeader> {
        let mut headers = Vec::new();
        for (index, one) in listed.into_iter().flatten().enumerate() {
            let at = format!("{at}.outputClaimToHeaders[{index}]");
            let claim: Vec<Arc<str>> = one.claim.split('.').map(Arc::from).collect();
            if claim.iter().any(|name| name.is_empty()) {
                self.refuse(&format!("{at}.claim"), "is no claim's name");
            }
            if let Some(header) = self.output(&format!("{at}.header"), &one.header) {
                headers.push(ClaimHeader { header, claim });
            }
        }
        headers
    }

    /// A header that the agent may set: not one that frames the message or names its target.
    fn output(&mut self, at: &str, name: &str) -> Option<HeaderName> {
        let name = HeaderName::try_from(name).ok();
        let name = name.filter(|name| !RESERVED.contains(name));
        if name.is_none() {
            self.refuse(at, "is no header that can be set");
        }
        name
    }

    fn names(&mut self, at: &str, names: Option<Vec<String>>) -> Vec<Arc<str>> {
        let names = names.unwrap_or_default();
        if names.iter().any(String::is_empty) {
            self.refuse(at, "a name must not be empty");
        }
        names.into_iter().map(Arc::from).collect()
    }

    fn timeout(&mut self, at: &str, text: Option<&str>) -> Duration {
        let Some(text) = text else { return TIMEOUT };
        let read = duration(text).filter(|limit| LIMITS.contains(limit));
        read.unwrap_or_else(|| {
            let reason = "expected a duration of 1ms to 1m, for instance 5s; 5s is used";
            self.rejections.push(self.object.reject(at, reason));
            TIMEOUT
        })
    }
}

/// As protobuf writes it (`1.5s`), or as Gateway API does (`1m30s`, `500ms`).
fn duration(text: &str) -> Option<Duration> {
    let seconds = text
        .strip_suffix('s')
        .and_then(|seconds| seconds.parse::<f64>().ok());
    let of_protobuf = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let of_gateway = || text.parse::<gateway_api::Duration>().ok();
    of_protobuf.or_else(|| of_gateway().map(|limit| Duration::new(limit.as_secs(), limit.subsec_nanos())))
}

const FIELDS: [&str; 4] = ["selector", "targetRef", "targetRefs", "jwtRules"];
/// Istio's default.
const TIMEOUT: Duration = Duration::from_secs(5);
const LIMITS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(1);
const RESERVED: [HeaderName; 7] = [
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
