//! What only Istio's VirtualService asks of a request.
//!
//! Place in the walk: part of a [`Matcher`]. Must not know: rules, backends, services.

use std::fmt;
use std::sync::Arc;

use http::header::HeaderName;

use super::matcher::{Matcher, header};
use super::{Mismatch, RequestFacts};
use crate::mesh::route::{FieldMatch, FurtherMatch, ValueMatch};

/// All parts must hold.
#[derive(Debug)]
pub(super) struct Further {
    declared: Arc<FurtherMatch>,
    without_headers: Vec<(HeaderName, ValueMatch)>,
    root: Option<Matcher>,
}

impl Further {
    pub(super) fn compile(declared: &Arc<FurtherMatch>) -> Self {
        let unwanted = |FieldMatch { name, value }: &FieldMatch| {
            // What no request can carry is never there.
            Some((HeaderName::try_from(name.as_ref()).ok()?, value.clone()))
        };
        Self {
            without_headers: declared.without_headers.iter().filter_map(unwanted).collect(),
            root: declared.root.as_ref().map(Matcher::compile),
            declared: Arc::clone(declared),
        }
    }

    /// The first of its parts that does not hold; `None` where all do.
    pub(super) fn mismatch(&self, request: &RequestFacts<'_>) -> Option<Mismatch<'_>> {
        let FurtherMatch {
            method,
            authority,
            port,
            source_namespace,
            source_labels,
            ..
        } = self.declared.as_ref();
        let dialled = &request.dialled;
        let other = |wanted: &ValueMatch, value: &str| !wanted.holds(value.as_bytes());
        if let Some(method) = method.as_ref().filter(|wanted| other(wanted, request.method)) {
            return Some(Mismatch::MethodLike(method));
        }
        let authority = authority.as_ref();
        if let Some(authority) = authority.filter(|wanted| other(wanted, dialled.authority)) {
            return Some(Mismatch::Authority(authority));
        }
        if let Some(port) = port.filter(|port| *port != dialled.port) {
            return Some(Mismatch::Port(port));
        }
        let namespace = source_namespace.as_deref();
        if let Some(namespace) = namespace.filter(|wanted| *wanted != dialled.namespace) {
            return Some(Mismatch::Namespace(namespace));
        }
        let has_label = |(name, value): &&(String, String)| {
            dialled.labels.and_then(|labels| labels.get(name)) == Some(value)
        };
        if let Some((name, value)) = source_labels.iter().find(|label| !has_label(label)) {
            return Some(Mismatch::Label(name, value));
        }
        let is_there = |(name, value): &&(HeaderName, ValueMatch)| {
            header(request.headers, name).is_some_and(|found| value.holds(&found))
        };
        if let Some((name, value)) = self.without_headers.iter().find(is_there) {
            return Some(Mismatch::Unwanted(name, value));
        }
        self.root.as_ref()?.mismatch(request)
    }

    /// The match of the VirtualService that delegates.
    pub(super) fn root(&self) -> Option<&Matcher> {
        self.root.as_ref()
    }
}

/// What follows the other parts of a match, each part with a comma before it.
impl fmt::Display for Further {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let declared = self.declared.as_ref();
        if let Some(method) = &declared.method {
            write!(f, ", method {method}")?;
        }
        if let Some(authority) = &declared.authority {
            write!(f, ", authority {authority}")?;
        }
        if let Some(port) = declared.port {
            write!(f, ", port {port}")?;
        }
        if let Some(namespace) = &declared.source_namespace {
            write!(f, ", clients of namespace {namespace}")?;
        }
        for (name, value) in &declared.source_labels {
            write!(f, ", clients with label {name}={value}")?;
        }
        for (name, value) in &self.without_headers {
            write!(f, ", header {name} not {value}")?;
        }
        match &self.root {
            Some(root) => write!(f, ", and of what delegates: {root}"),
            None => Ok(()),
        }
    }
}
