//! What a route makes of a request before it is sent on, and of its response.
//!
//! Place in the walk: after a rule has matched and a backend is chosen, before policy is asked and an endpoint is
//! picked; once more when the response comes. Must not know: endpoints, connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, LOCATION, ORIGIN,
    VARY,
};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri};

use crate::external::HeaderChange;
use crate::mesh::mesh_config::PathForm;
use crate::mesh::policy::external::Authorizer;
use crate::mesh::route::{Cors, DirectResponse, Filters, Mirror, PathRewrite, Redirect, RetryPolicy};
use crate::mesh::workload::Workload;
use crate::proxy::http::headers::normalise_path;
use crate::proxy::refusal::Refusal;
use crate::route::{
    Asked, Backend, CompiledAction, CompiledRule, Decided, Dialled, RequestFacts, location, rewritten,
};

/// A rule that was chosen for a request, and its backend.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    rule: Arc<CompiledRule>,
    backend: Arc<Backend>,
    prefix: Option<Arc<str>>,
    /// What a script of another origin is told with the response.
    cors: HeaderMap,
    /// What those that let the request in want written into the response's headers.
    on_response: Vec<HeaderChange>,
}

/// Time limits; `None` is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Of the whole transaction.
    pub(super) request: Option<Duration>,
    /// Of one attempt, until its response begins.
    pub(super) attempt: Option<Duration>,
}

impl Applied {
    pub(super) fn new(decided: Decided, backend: Arc<Backend>, request: &HeaderMap) -> Self {
        let cors = decided.rule.cors.as_ref();
        Self {
            cors: cors
                .and_then(|cors| shared_with(cors, request))
                .unwrap_or_default(),
            rule: decided.rule,
            backend,
            prefix: decided.prefix,
            on_response: Vec::new(),
        }
    }

    /// Who must let the request in, in the order in which they are asked: whom the rule names, and whom the backend does.
    pub(super) fn gates(&self) -> impl Iterator<Item = &Arc<Authorizer>> {
        [&self.rule.filters, &self.backend.filters]
            .into_iter()
            .filter_map(gate_of)
    }

    /// With what those that let the request in want written into the response's headers.
    pub(super) fn let_in(&mut self, on_response: Vec<HeaderChange>) {
        self.on_response = on_response;
    }

    /// How long it may take.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            request: self.rule.request_timeout,
            attempt: self.rule.attempt_timeout,
        }
    }

    /// When the request is tried again, if ever.
    pub(super) fn retry(&self) -> Option<&RetryPolicy> {
        self.rule.retry.as_ref()
    }

    /// Who may get copies of the request: mirrors of the rule, then those of the backend.
    pub(super) fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        [&self.rule.filters, &self.backend.filters]
            .into_iter()
            .flat_map(|filters| &filters.mirrors)
    }

    /// Makes the request what the backend must see: the rule's changes first, then those of the backend.
    pub(super) fn edit_request(
        &self,
        request: &mut Request<impl Sized>,
        authority: &mut Authority,
        form: PathForm,
    ) -> Result<(), Refusal> {
        for filters in [&self.rule.filters, &self.backend.filters] {
            filters.request.apply(request.headers_mut());
            if let Some(named) = &filters.rewrite.authority {
                authority.clone_from(named);
            }
            if let Some(path) = &filters.rewrite.path {
                self.rewrite_path(request, path, form)?;
            }
        }
        Ok(())
    }

    fn rewrite_path(
        &self,
        request: &mut Request<impl Sized>,
        rewrite: &PathRewrite,
        form: PathForm,
    ) -> Result<(), Refusal> {
        let target = target(request.uri());
        let rewritten = rewritten(&target, rewrite, self.prefix.as_deref()).ok_or(Refusal::Malformed)?;
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(rewritten);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_invalid| Refusal::Malformed)?;
        // What is judged at the destination must be what the application gets.
        normalise_path(request, form)
    }

    /// Makes the response what the client must see: the backend's changes first, then those of the rule.
    pub(super) fn edit_response(&self, headers: &mut HeaderMap) {
        for Filters { response, .. } in [&self.backend.filters, &self.rule.filters] {
            response.apply(headers);
        }
        for (name, value) in &self.cors {
            if *name == VARY {
                headers.append(VARY, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
        for change in &self.on_response {
            change.apply(headers);
        }
    }
}

/// Who must let in what these filters are for.
pub(super) fn gate_of(filters: &Filters) -> Option<&Arc<Authorizer>> {
    filters.gate.as_ref().map(|gate| &gate.authorizer)
}

/// What routes may look at in a request of `client`, which dialled `port` of a Service.
pub(super) fn facts_of<'a>(
    request: &'a Request<impl Sized>,
    authority: &'a Authority,
    port: u16,
    client: &'a Workload,
) -> RequestFacts<'a> {
    RequestFacts {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
        dialled: Dialled {
            authority: authority.as_str(),
            port,
            namespace: &client.namespace,
            labels: Some(&client.labels),
        },
    }
}

/// What the rule that was chosen answers a preflight, if it does; nobody is asked whether it may.
pub(super) fn preflight_answer(decided: &Decided, request: &Request<impl Sized>) -> Option<Response<Bytes>> {
    let cors = decided.rule.cors.as_ref()?;
    preflight(cors, request)
}

/// What the rule that was chosen answers itself, if it does; `dialled` is the port that the client dialled.
pub(super) fn own_answer(
    decided: &Decided,
    request: &Request<impl Sized>,
    authority: &Authority,
    dialled: u16,
) -> Result<Option<Response<Bytes>>, Refusal> {
    let Decided { rule, prefix, .. } = decided;
    match &rule.action {
        CompiledAction::Redirect(to) => {
            redirect(to, request.uri(), authority, dialled, prefix.as_deref()).map(Some)
        }
        CompiledAction::Respond(response) => Ok(Some(respond(response))),
        CompiledAction::Forward(_) => Ok(None),
    }
}

/// Where a redirected client must go; `dialled` is the port that it dialled.
fn redirect(
    redirect_to: &Redirect,
    uri: &Uri,
    authority: &Authority,
    dialled: u16,
    prefix: Option<&str>,
) -> Result<Response<Bytes>, Refusal> {
    let asked = Asked {
        host: authority.host(),
        port: authority.port_u16().unwrap_or(dialled),
        target: &target(uri),
    };
    let location = location(redirect_to, asked, prefix).ok_or(Refusal::Malformed)?;
    let location = HeaderValue::try_from(location).map_err(|_invalid| Refusal::Malformed)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = redirect_to.status;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// What a rule answers itself.
fn respond(direct: &DirectResponse) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(&direct.body));
    *response.status_mut() = direct.status;
    response
}

/// The answer to a preflight of an origin that may ask; any other is the application's business, or answered without leave.
pub(super) fn preflight(cors: &Cors, request: &Request<impl Sized>) -> Option<Response<Bytes>> {
    let headers = request.headers();
    let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method() != Method::OPTIONS {
        return None;
    }
    let Some(mut allowed) = shared_with(cors, headers) else {
        let is_answered = cors.keeps_others_away && headers.contains_key(ORIGIN);
        return is_answered.then(|| no_content(HeaderMap::new()));
    };
    allowed.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
    if let Some(methods) = told(&cors.methods, Some(method)) {
        allowed.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    if let Some(names) = told(&cors.request_headers, asked) {
        allowed.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    if let Some(age) = cors.max_age {
        allowed.insert(ACCESS_CONTROL_MAX_AGE, age.as_secs().into());
    }
    Some(no_content(allowed))
}

fn no_content(headers: HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    response
}

/// What any response tells an origin that may ask; `None` for others.
fn shared_with(cors: &Cors, request: &HeaderMap) -> Option<HeaderMap> {
    let origin = request.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    cors.origins.iter().find(|matcher| matcher.holds(text))?;
    let mut headers = HeaderMap::new();
    // Its own name rather than `*`, which would not do with credentials; so the answer depends on who asked.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(VARY, HeaderValue::from_static("origin"));
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(names) = told(&cors.exposed_headers, None) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
    Some(headers)
}

/// A list as it is sent; for `*` alone what was asked for, which also holds with credentials.
fn told(list: &[Arc<str>], asked: Option<&HeaderValue>) -> Option<HeaderValue> {
    match list {
        [] => None,
        [any] if any.as_ref() == "*" && asked.is_some() => asked.cloned(),
        names => HeaderValue::try_from(names.join(", ")).ok(),
    }
}

fn target(uri: &Uri) -> PathAndQuery {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
}
