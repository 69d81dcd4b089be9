//! The node agent of a sidecar-free service mesh.

#![forbid(unsafe_code)]

pub mod capture;
pub mod kernel;
pub mod mesh;
pub mod pod;
