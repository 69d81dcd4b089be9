//! The addresses of the network namespace that the agent lives in: those from which its kubelet probes.
//!
//! Node objects name some of them; the bridge or veth end that a pod sees its kubelet come from mostly is not there.
//! Must not know: pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

use crate::kernel::error::KernelError;

/// Every address of every interface that a pod could see as a peer: neither loopback nor link-local. Some system calls.
pub fn own() -> Result<BTreeSet<IpAddr>, KernelError> {
    let interfaces = getifaddrs().map_err(|errno| KernelError::Interfaces(errno.into()))?;
    let addrs = interfaces.filter_map(|interface| {
        let addr = interface.address?;
        let v4 = addr.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| addr.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addrs.filter(|addr| is_seen_by_pods(*addr)).collect())
}

fn is_seen_by_pods(addr: IpAddr) -> bool {
    let is_link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !addr.is_loopback() && !addr.is_unspecified() && !addr.is_multicast() && !is_link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_link_local_are_nobodys_kubelet() {
        for (addr, is) in [
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("fe80::1", false),
            ("10.244.1.1", true),
            ("fd00:244:1::1", true),
        ] {
            assert_eq!(is_seen_by_pods(addr.parse().unwrap()), is, "{addr}");
        }
    }

    #[test]
    fn the_interfaces_of_this_namespace_are_read() {
        assert!(own().unwrap().into_iter().all(is_seen_by_pods));
    }
}
