//! What a pod's annotations take out of the mesh: ports and address blocks that its connections reach directly.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Traffic of an enrolled pod that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Exclusions {
    /// Annotation `mesh-agent.dev/exclude-outbound-ports`: connects to these ports are not captured.
    pub outbound_ports: BTreeSet<u16>,
    /// Annotation `mesh-agent.dev/exclude-outbound-cidrs`: connects to these addresses are not captured.
    pub outbound_cidrs: BTreeSet<Cidr>,
    /// Annotation `mesh-agent.dev/exclude-inbound-ports`: the application takes these connections itself.
    pub inbound_ports: BTreeSet<u16>,
}

impl Exclusions {
    /// Whether everything is captured.
    pub fn is_empty(&self) -> bool {
        self.outbound_ports.is_empty() && self.outbound_cidrs.is_empty() && self.inbound_ports.is_empty()
    }
}

/// A block of addresses: the bits behind its prefix are zero, and IPv4 is never written in its mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Its first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many leading bits its addresses share.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The block of one address.
    pub fn of_host(addr: IpAddr) -> Self {
        let first = addr.to_canonical();
        Self {
            first,
            bits: if first.is_ipv4() { 32 } else { 128 },
        }
    }

    /// The block of `bits` leading bits that holds `addr`; `None` when its family has fewer.
    pub fn round(addr: IpAddr, bits: u8) -> Option<Self> {
        let is_mapped = addr.to_canonical() != addr;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        (bits <= most && !is_mapped).then(|| Self {
            first: masked(addr, bits),
            bits,
        })
    }

    /// Whether it holds an address; an IPv4-mapped one is IPv4.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        addr.is_ipv4() == self.first.is_ipv4() && masked(addr, self.bits) == self.first
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// What is wrong with a block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    /// No slash, or nothing readable on one side of it.
    #[error("write ADDRESS/BITS, for instance 10.0.0.0/8")]
    Form,
    /// More bits than the family has.
    #[error("more than {0} bits")]
    Bits(u8),
    /// Bits behind the prefix.
    #[error("there are bits behind the prefix; write {0}")]
    Host(Cidr),
    /// IPv4 in IPv6.
    #[error("write an IPv4 block as IPv4")]
    Mapped,
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (addr, bits) = text.split_once('/').ok_or(InvalidCidr::Form)?;
        let addr: IpAddr = addr.parse().map_err(|_| InvalidCidr::Form)?;
        if !bits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidCidr::Form);
        }
        let bits: u8 = bits.parse().map_err(|_| InvalidCidr::Form)?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err(InvalidCidr::Bits(most));
        }
        if addr.to_canonical() != addr {
            return Err(InvalidCidr::Mapped);
        }
        let block = Self {
            first: masked(addr, bits),
            bits,
        };
        if block.first == addr {
            Ok(block)
        } else {
            Err(InvalidCidr::Host(block))
        }
    }
}

fn masked(addr: IpAddr, bits: u8) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_is_read_as_it_is_written() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "10.1.2.3/32",
            "::/0",
            "fd00::/8",
            "fd00::1/128",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wrong) in [
            ("10.0.0.0", "write ADDRESS/BITS, for instance 10.0.0.0/8"),
            ("", "write ADDRESS/BITS, for instance 10.0.0.0/8"),
            ("here/8", "write ADDRESS/BITS, for instance 10.0.0.0/8"),
            ("10.0.0.0/", "write ADDRESS/BITS, for instance 10.0.0.0/8"),
            ("10.0.0.0/+8", "write ADDRESS/BITS, for instance 10.0.0.0/8"),
            ("10.0.0.0/-1", "write ADDRESS/BITS, for instance 10.0.0.0/8"),
            ("10.0.0.0/33", "more than 32 bits"),
            ("fd00::/129", "more than 128 bits"),
            ("10.0.0.1/8", "there are bits behind the prefix; write 10.0.0.0/8"),
            ("fd00::1/64", "there are bits behind the prefix; write fd00::/64"),
            ("::ffff:10.0.0.0/104", "write an IPv4 block as IPv4"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap_err().to_string(), wrong, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_either_reads_back_or_is_refused(text in "[0-9a-f:./+ -]{0,24}") {
            if let Ok(block) = text.parse::<Cidr>() {
                prop_assert_eq!(block.to_string().parse::<Cidr>(), Ok(block));
            }
        }

        #[test]
        fn the_block_that_is_proposed_instead_is_accepted(addr: u32, bits in 0_u8..=32) {
            let text = format!("{}/{bits}", Ipv4Addr::from_bits(addr));
            let block = match text.parse::<Cidr>() {
                Ok(block) | Err(InvalidCidr::Host(block)) => block,
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            };
            prop_assert_eq!(block.to_string().parse::<Cidr>(), Ok(block));
        }
    }
}
