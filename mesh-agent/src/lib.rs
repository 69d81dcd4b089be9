//! The node agent of a sidecar-free service mesh.

#![forbid(unsafe_code)]

pub mod balance;
pub mod capture;
pub mod lifecycle;
pub mod mesh;
pub mod pod;
pub mod policy;
pub mod route;
pub mod snapshot;
pub mod telemetry;
