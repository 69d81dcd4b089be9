//! The node agent of a sidecar-free service mesh.
//!
//! ```text
//!             facts in                                       bytes in
//!   files (later: kubernetes, consul)                eBPF-captured socket
//!          │                                                   │
//!     ┌────▼─────┐   build + publish   ┌──────────┐   load ┌───▼──────────────────────────────┐
//!     │ control  ├────────────────────►│ snapshot │◄───────┤ proxy: capture → detect → identity │
//!     └──────────┘                     └────┬─────┘        │ → policy → route → balance →       │
//!                                           │ local pods   │ transport → telemetry              │
//!                                      ┌────▼─────┐        └───▲──────────────────────────────┘
//!                                      │  kernel  ├─ maps, links, listeners ─► mesh-ebpf
//!                                      └──────────┘
//! ```
//!
//! A room imports rooms of strictly lower layers only; `cargo xtask layers` checks it.
//!
//! | rooms | layer |
//! |---|---|
//! | `mesh` facts as plain data, `lifecycle` tasks, stop, readiness, `grpc` calls over HTTP/2, `cni` the plugin that lets pods begin | 1 |
//! | `identity` who, `telemetry` what happened, `admin` pages, `pod` the way into a pod, `config` settings, `privileges` what the process may do | 2 |
//! | `capture` in, `detect` what is spoken, `dns` names, `policy` may it, `route` where to, `balance` which one, `transport` out, `ca` the certificate authority as a service, `external` whom policies ask | 3 |
//! | `snapshot` all that a walk needs to know | 4 |
//! | `control` facts to snapshots, `kernel` snapshots to hooks, `proxy` the walks | 5 |
//! | `status` what the operator is shown | 6 |
//! | `app` builds all parts and joins them | 7 |

#![forbid(unsafe_code)]

pub mod mesh;

pub mod cni;
pub mod grpc;
pub mod lifecycle;

pub mod admin;
pub mod config;
pub mod identity;
pub mod pod;
pub mod privileges;
pub mod telemetry;

pub mod balance;
pub mod ca;
pub mod capture;
pub mod detect;
pub mod dns;
pub mod external;
pub mod policy;
pub mod route;
pub mod transport;

pub mod snapshot;

pub mod control;
pub mod kernel;
pub mod proxy;

pub mod status;

pub mod app;
