//! Istio's `MeshConfig`, as far as it is read: what holds in the whole mesh and is declared by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::policy::external::Authorizer;

/// The `ConfigMap` `istio` of one namespace; that of the root namespace counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `extensionProviders` that CUSTOM policies may name, by name.
    pub authorizers: BTreeMap<Arc<str>, Arc<Authorizer>>,
    /// `pathNormalization.normalization`.
    pub path_form: PathForm,
}

/// The form in which paths are routed, judged and sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathForm {
    /// `NONE`: as the client sent it.
    AsSent,
    /// `BASE` (`DEFAULT`): unreserved characters decoded, backslashes turned, dot segments resolved.
    #[default]
    Base,
    /// `MERGE_SLASHES`: and repeated slashes merged.
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`: and encoded slashes decoded before that.
    DecodeAndMergeSlashes,
}
