//! The node agent of a sidecar-free service mesh.

#![forbid(unsafe_code)]

pub mod balance;
pub mod control;
pub mod mesh;
pub mod pod;
pub mod policy;
pub mod route;
pub mod snapshot;
