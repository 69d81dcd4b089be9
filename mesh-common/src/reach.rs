//! Which destinations are never captured: they do not leave the pod, or are no business of a mesh.

use crate::layout::Addr;

impl Addr {
    /// Whether a connect to this address is left alone: unspecified (the kernel takes it for loopback),
    /// loopback, link-local (cloud metadata, neighbours), multicast and broadcast. IPv4-mapped IPv6 is IPv4.
    #[inline(always)]
    pub const fn is_left_alone(&self) -> bool {
        if self.is_v4() {
            let ip = u32::from_be(self.0[3]);
            return ip == 0 || ip >> 24 == 127 || ip >> 16 == 0xa9fe || ip >> 28 == 0xe || ip == u32::MAX;
        }
        let first = u32::from_be(self.0[0]);
        self.is_v6_unspecified_or_loopback() || self.is_v6_link_local() || first >> 24 == 0xff
    }

    /// Whether this is an IPv6 link-local address, `fe80::/10`.
    #[inline(always)]
    pub const fn is_v6_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }

    /// Whether this is a loopback address of either family.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return u32::from_be(self.0[3]) >> 24 == 127;
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
    }

    /// Whether there is no address: what [`crate::layout::Pod`] holds for a family that the pod does not have.
    #[inline(always)]
    pub const fn is_absent(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// Whether both are the same address. `PartialEq` is no `const` and compares through a loop that the
    /// verifier must unroll.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.0[0] == other.0[0]
            && self.0[1] == other.0[1]
            && self.0[2] == other.0[2]
            && self.0[3] == other.0[3]
    }

    #[inline(always)]
    const fn is_v6_unspecified_or_loopback(&self) -> bool {
        self.is_absent() || self.is_loopback()
    }
}

#[cfg(feature = "user")]
#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn what_stays_in_the_pod_or_on_the_link_is_left_alone() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf:ffff::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.7.127",
        ] {
            assert!(addr(text).is_left_alone(), "{text}");
        }
    }

    #[test]
    fn every_other_address_is_captured() {
        for text in [
            "10.0.0.1",
            "0.0.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "169.255.0.1",
            "223.255.255.255",
            "240.0.0.1",
            "255.255.255.254",
            "::2",
            "::127.0.0.1",
            "fd00::1",
            "fe7f::1",
            "fec0::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!addr(text).is_left_alone(), "{text}");
        }
    }

    #[test]
    fn loopback_is_known_in_both_families_and_mapped() {
        for (text, is) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.1.1.1", true),
            ("10.0.0.1", false),
            ("::", false),
        ] {
            assert_eq!(addr(text).is_loopback(), is, "{text}");
        }
    }
}
