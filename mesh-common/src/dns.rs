//! DNS capture: which ports of a pod the agent answers on, and which destinations are a resolver.
//!
//! Each resolver that a pod asks has a listener of its own on the pod's address, so that the port which an answer comes
//! from tells whom it stands for, however many resolvers one socket asks. Must not know: messages, names.

use crate::layout::Addr;

/// Where resolvers listen.
pub const DNS_PORT: u16 = 53;

/// Port of the first in-pod DNS listener; the others follow.
pub const FIRST_DNS_LISTENER: u16 = 15053;

/// How many DNS listeners each address of a pod has, and so how many resolvers of a family are captured. A stub resolver
/// asks three at most (`MAXNS` of resolv.h).
pub const DNS_LISTENERS: u16 = 8;

/// The port of the listener number `index`, which is below [`DNS_LISTENERS`].
#[inline(always)]
pub const fn dns_listener(index: u16) -> u16 {
    FIRST_DNS_LISTENER + index
}

/// Whether `port`, in host byte order, is one of an in-pod DNS listener.
#[inline(always)]
pub const fn is_dns_listener(port: u32) -> bool {
    // Casts are the only lossless conversion that a constant function has.
    #[expect(clippy::as_conversions, reason = "u16 to u32 loses nothing")]
    let (first, count) = (FIRST_DNS_LISTENER as u32, DNS_LISTENERS as u32);
    port >= first && port < first + count
}

impl Addr {
    /// Whether DNS to this address is left alone: what never leaves the pod or has many receivers. Unlike other traffic, DNS
    /// to an IPv4 link-local address is captured, since a node's DNS cache listens on one.
    #[inline(always)]
    pub const fn is_no_resolver(&self) -> bool {
        self.is_left_alone() && !self.is_v4_link_local()
    }

    #[inline(always)]
    const fn is_v4_link_local(&self) -> bool {
        self.is_v4() && u32::from_be(self.0[3]) >> 16 == 0xa9fe
    }
}

#[cfg(feature = "user")]
#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn the_listeners_are_consecutive_ports_and_no_others() {
        let listeners = (0..DNS_LISTENERS).map(|index| u32::from(dns_listener(index)));
        assert!(
            (0..=65_535_u32)
                .filter(|port| is_dns_listener(*port))
                .eq(listeners)
        );
        assert!(!is_dns_listener(65_536 + u32::from(FIRST_DNS_LISTENER)));
    }

    #[test]
    fn a_resolver_is_any_address_outside_of_the_pod_that_is_one_hosts() {
        for (text, is_none) in [
            ("10.96.0.10", false),
            ("169.254.20.10", false),
            ("::ffff:169.254.20.10", false),
            ("fd00::a", false),
            ("127.0.0.53", true),
            ("::1", true),
            ("0.0.0.0", true),
            ("224.0.0.251", true),
            ("255.255.255.255", true),
            // It means something together with an interface only, which a rewritten address would lose.
            ("fe80::1", true),
            ("ff02::fb", true),
        ] {
            let addr = Addr::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(addr.is_no_resolver(), is_none, "{text}");
        }
    }
}
