//! Keys of what a pod's annotations exclude: `repr(C)`, no padding, every bit pattern valid.
//!
//! A port of a pod that takes its connections itself is an [`crate::layout::Endpoint`].

use crate::layout::Addr;

/// A port that connects of a pod go to directly, whatever the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundPort {
    /// The pod's netns cookie.
    pub netns: u64,
    /// Port in host byte order; the upper half is zero.
    pub port: u32,
    /// Always zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}

/// A block of addresses that connects of a pod go to directly: what a longest-prefix trie compares, from the first
/// byte on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundBlock {
    /// The pod's netns cookie: always compared whole.
    pub netns: u64,
    /// [`FAMILY_V4`] or [`FAMILY_V6`], always compared whole: `::/0` must not contain IPv4 in its mapped form.
    pub family: u32,
    /// The address; only the leading bits of the block are compared.
    pub addr: Addr,
    /// Always zero, never compared: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}

impl OutboundBlock {
    /// Bits before the address.
    pub const BEFORE_ADDR: u32 = 64 + 32;

    /// Bits up to the end of the address: what a lookup gives as its length.
    pub const WHOLE: u32 = Self::BEFORE_ADDR + 128;

    /// What is looked up for one address.
    #[inline(always)]
    pub const fn of(netns: u64, addr: Addr) -> Self {
        Self {
            netns,
            family: if addr.is_v4() { FAMILY_V4 } else { FAMILY_V6 },
            addr,
            reserved: 0,
        }
    }
}

/// IPv4.
pub const FAMILY_V4: u32 = 4;

/// IPv6.
pub const FAMILY_V6: u32 = 6;

#[cfg(feature = "user")]
mod user {
    use core::net::IpAddr;

    use super::{OutboundBlock, OutboundPort};
    use crate::layout::Addr;

    // SAFETY: `repr(C)`, 8 + 4 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for OutboundPort {}
    // SAFETY: `repr(C)`, 8 + 4 + 16 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for OutboundBlock {}

    impl OutboundPort {
        /// A port that the pod of namespace `netns` dials directly.
        pub fn new(netns: u64, port: u16) -> Self {
            Self {
                netns,
                port: port.into(),
                reserved: 0,
            }
        }
    }

    impl OutboundBlock {
        /// The trie's prefix length and key of the block of `bits` leading bits at `first`.
        pub fn keyed(netns: u64, first: IpAddr, bits: u8) -> (u32, Self) {
            // IPv4 lies behind the 96 bits of its mapped form.
            let mapped = if first.is_ipv4() { 96 } else { 0 };
            let length = Self::BEFORE_ADDR + mapped + u32::from(bits);
            (length, Self::of(netns, Addr::from(first)))
        }
    }
}

#[cfg(feature = "user")]
#[cfg(test)]
mod tests {
    extern crate std;
    use core::net::IpAddr;
    use std::vec::Vec;

    use super::*;

    fn bytes(key: &OutboundBlock) -> Vec<u8> {
        let words = key.addr.0.iter().flat_map(|word| word.to_ne_bytes());
        let netns = key.netns.to_ne_bytes().into_iter();
        netns.chain(key.family.to_ne_bytes()).chain(words).collect()
    }

    /// What the kernel's trie does: compares the leading bits.
    fn contains(block: (&str, u8), netns: u64, addr: &str) -> bool {
        let (length, key) = OutboundBlock::keyed(7, block.0.parse().unwrap(), block.1);
        let sought = OutboundBlock::of(netns, Addr::from(addr.parse::<IpAddr>().unwrap()));
        let (key, sought) = (bytes(&key), bytes(&sought));
        (0..usize::try_from(length).unwrap()).all(|bit| {
            let mask = 0x80 >> (bit % 8);
            key[bit / 8] & mask == sought[bit / 8] & mask
        })
    }

    #[test]
    fn a_block_contains_the_addresses_of_its_family_that_share_its_bits() {
        for (block, addr, is_in) in [
            (("10.0.0.0", 8), "10.255.0.1", true),
            (("10.0.0.0", 8), "11.0.0.0", false),
            (("10.0.0.0", 8), "::ffff:10.1.2.3", true),
            (("10.1.2.3", 32), "10.1.2.3", true),
            (("10.1.2.3", 32), "10.1.2.2", false),
            (("10.1.2.128", 25), "10.1.2.127", false),
            (("0.0.0.0", 0), "203.0.113.9", true),
            (("0.0.0.0", 0), "2001:db8::1", false),
            (("::", 0), "2001:db8::1", true),
            (("::", 0), "10.0.0.1", false),
            (("fd00::", 8), "fdff::1", true),
            (("fd00::", 8), "fe00::1", false),
            (("fd00::1", 128), "fd00::1", true),
            (("fd00::1", 128), "fd00::3", false),
        ] {
            assert_eq!(contains(block, 7, addr), is_in, "{addr} in {block:?}");
        }
    }

    #[test]
    fn a_block_of_another_pod_contains_nothing() {
        assert!(!contains(("0.0.0.0", 0), 8, "10.0.0.1"));
        assert!(!contains(("::", 0), 8, "fd00::1"));
    }

    #[test]
    fn keys_have_no_padding() {
        assert_eq!(size_of::<OutboundPort>(), 16);
        assert_eq!(size_of::<OutboundBlock>(), 32);
    }
}
