//! What only Istio's VirtualService asks of a request.
//!
//! Place in the walk: part of a [`Matcher`]. Must not know: rules, backends, services.

use std::sync::Arc;

use http::header::HeaderName;

use super::RequestFacts;
use super::matcher::{Matcher, header};
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

    pub(super) fn holds(&self, request: &RequestFacts<'_>) -> bool {
        let FurtherMatch {
            method,
            authority,
            port,
            source_namespace,
            source_labels,
            ..
        } = self.declared.as_ref();
        let dialled = &request.dialled;
        let is = |wanted: &Option<ValueMatch>, value: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.holds(value.as_bytes()))
        };
        let has_label = |(name, value): &(String, String)| {
            dialled.labels.and_then(|labels| labels.get(name)) == Some(value)
        };
        let is_there = |(name, value): &(HeaderName, ValueMatch)| {
            header(request.headers, name).is_some_and(|found| value.holds(&found))
        };
        is(method, request.method)
            && is(authority, dialled.authority)
            && port.is_none_or(|port| port == dialled.port)
            && source_namespace
                .as_deref()
                .is_none_or(|wanted| wanted == dialled.namespace)
            && source_labels.iter().all(has_label)
            && !self.without_headers.iter().any(is_there)
            && self.root.as_ref().is_none_or(|root| root.holds(request))
    }

    /// The match of the VirtualService that delegates.
    pub(super) fn root(&self) -> Option<&Matcher> {
        self.root.as_ref()
    }
}
