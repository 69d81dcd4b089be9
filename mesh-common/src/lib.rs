//! The words that both sides of the kernel boundary speak: map keys and values, ports, counters.
//!
//! `no_std`, no I/O, except the one socket option behind the feature `user` that names a network namespace.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "in a kernel program a call costs a frame of the 512-byte stack"
)]

pub mod counter;
pub mod exclusion;
pub mod layout;
#[cfg(feature = "user")]
pub mod netns_cookie;
pub mod reach;
