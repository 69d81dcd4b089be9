//! The `MeshConfig` that counts: that of the root namespace.
//!
//! Place in the walk: asked for the form of paths, and for the services that decide about requests. Must not know:
//! policies, how such a service is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::services::Services;
use crate::mesh::facts::Rejection;
use crate::mesh::mesh_config::{MeshConfig, PathForm};
use crate::mesh::policy::external::{Authorizer, AuthorizerTarget};

/// What it declares; nothing where there is none.
#[derive(Debug, Default)]
pub(super) struct MeshSettings {
    pub(super) authorizers: BTreeMap<Arc<str>, Arc<Authorizer>>,
    pub(super) path_form: PathForm,
}

impl MeshSettings {
    /// Providers whose Service is not known are kept, and named: it may come.
    pub(super) fn choose(
        declared: &[MeshConfig],
        root_namespace: &str,
        services: &Services,
        rejections: &mut Vec<Rejection>,
    ) -> Self {
        let of_root = |config: &&MeshConfig| config.namespace.as_ref() == root_namespace;
        let Some(config) = declared.iter().find(of_root) else {
            return Self::default();
        };
        for (name, authorizer) in &config.authorizers {
            if let AuthorizerTarget::Service(service) = &authorizer.target
                && services.upstream(service, authorizer.port).is_none()
            {
                rejections.push(config.meta.reject(
                    &format!("data.mesh.extensionProviders[{name}]"),
                    format!(
                        "Service {service} with port {} is not known; for now every check fails",
                        authorizer.port
                    ),
                ));
            }
        }
        Self {
            authorizers: config.authorizers.clone(),
            path_form: config.path_form,
        }
    }
}
