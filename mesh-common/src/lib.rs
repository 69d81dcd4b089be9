//! The words that both sides of the kernel boundary speak: map keys and values, ports, counters.
//!
//! `no_std`, no I/O, except behind the feature `user`: the socket options that name a network namespace and a socket, `bpf(2)` on
//! links, and what a thread asks of the scheduler.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "in a kernel program a call costs a frame of the 512-byte stack"
)]

#[cfg(feature = "user")]
pub mod bpf_link;
pub mod counter;
pub mod direct;
pub mod dns;
pub mod exclusion;
pub mod layout;
pub mod map;
#[cfg(feature = "user")]
pub mod netns_cookie;
pub mod reach;
#[cfg(feature = "user")]
pub mod scheduling;
#[cfg(feature = "user")]
pub mod socket_cookie;
pub mod splice;
#[cfg(feature = "user")]
pub mod unread;
