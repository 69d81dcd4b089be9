//! The node agent of a sidecar-free service mesh.

#![forbid(unsafe_code)]

pub mod admin;
pub mod identity;
pub mod lifecycle;
pub mod mesh;
pub mod pod;
pub mod telemetry;
