//! Which values settings may have.
//!
//! Must not know: where a value was given.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::{AccessLogTarget, ConfigError, default_admin_addr};
use crate::mesh::domain::{ClusterDomain, InvalidDomain};

/// Where the admin pages are: on this machine, or behind a token.
pub(super) fn guarded(addr: Option<SocketAddr>, has_token: bool) -> Result<SocketAddr, ConfigError> {
    let addr = addr.unwrap_or_else(default_admin_addr);
    if addr.ip().to_canonical().is_loopback() || has_token {
        Ok(addr)
    } else {
        Err(ConfigError::OpenAdmin(addr))
    }
}

pub(super) fn threads(given: Option<usize>, cores: usize) -> Result<usize, ConfigError> {
    let threads = given.unwrap_or_else(|| (cores / 4).max(2));
    let checked = u64::try_from(threads).unwrap_or(u64::MAX);
    ranged("data_threads", checked, 1, 1024).map(|_| threads)
}

pub(super) fn handshake_rate(given: Option<NonZeroU32>) -> Result<NonZeroU32, ConfigError> {
    let rate = given.unwrap_or(DEFAULT_HANDSHAKE_RATE);
    ranged("handshake_rate", rate.get().into(), 1, 1_000_000).map(|_| rate)
}

/// How many pods and flows the kernel's maps are made for.
pub(super) fn capacity(pods: Option<u32>, flows: Option<u32>) -> Result<(u32, u32), ConfigError> {
    let (pods, flows) = (pods.unwrap_or(4_096), flows.unwrap_or(262_144));
    ranged("max_pods", pods.into(), 16, 65_536)?;
    ranged("max_flows", flows.into(), 1_024, 4_194_304)?;
    Ok((pods, flows))
}

pub(super) fn ranged(name: &'static str, value: u64, min: u64, max: u64) -> Result<u64, ConfigError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::Range {
            name,
            value,
            min,
            max,
        })
    }
}

pub(super) fn access_log(written: Option<&str>) -> AccessLogTarget {
    match written {
        None | Some("stdout" | "-") => AccessLogTarget::Stdout,
        Some("off") => AccessLogTarget::Off,
        Some(path) => AccessLogTarget::File(PathBuf::from(path)),
    }
}

pub(super) fn on_or_off(name: &'static str, value: Option<&str>) -> Result<bool, ConfigError> {
    match value {
        Some("on") => Ok(true),
        None | Some("off") => Ok(false),
        Some(other) => Err(ConfigError::Word {
            name,
            value: other.to_owned(),
            expected: "use on or off".to_owned(),
        }),
    }
}

pub(super) fn domain(written: Option<String>) -> Result<ClusterDomain, ConfigError> {
    let Some(value) = written else {
        return Ok(ClusterDomain::default());
    };
    value.parse().map_err(|invalid: InvalidDomain| ConfigError::Word {
        name: "cluster_domain",
        value,
        expected: invalid.to_string(),
    })
}

/// A fleet that connects anew; a storm of so many costs a machine about half a core.
const DEFAULT_HANDSHAKE_RATE: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
