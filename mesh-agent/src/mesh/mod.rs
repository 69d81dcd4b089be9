//! Facts about the mesh as plain data.
//!
//! Place in the walk: everything else reads these types; `control` writes them from Kubernetes objects.
//! Must not know: how a fact was learned, how bytes move, any async runtime or HTTP stack.

pub mod backend_policy;
pub mod backend_tls;
pub mod connection_pool;
pub mod domain;
pub mod exclusions;
pub mod export;
pub mod facts;
pub mod fallback;
pub mod health_check;
pub mod hedge;
pub mod identity;
pub mod leaving;
pub mod mesh_config;
pub mod node;
pub mod outlier_detection;
pub mod pod_selector;
pub mod policy;
pub mod proxy_protocol;
pub mod route;
pub mod service;
pub mod shared;
pub mod slice;
pub mod traffic;
pub mod tunnel;
pub mod workload;
