//! The node agent of a sidecar-free service mesh.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod balance;
pub mod capture;
pub mod config;
pub mod control;
pub mod detect;
pub mod identity;
pub mod kernel;
pub mod lifecycle;
pub mod mesh;
pub mod pod;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod snapshot;
pub mod status;
pub mod telemetry;
pub mod transport;
