//! Layout of what lies in the maps: `repr(C)`, no padding, every bit pattern valid.

/// Counted up when what lies in a map changes its meaning but not its size: an agent does not adopt maps that were
/// pinned under another number. A changed size is noticed without it.
pub const LAYOUT_VERSION: u32 = 2;

/// Port of the in-pod listener that takes captured outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;

/// The same of an agent that takes over from one that has [`OUTBOUND_PORT`] still; the one after it has that again.
pub const SPARE_OUTBOUND_PORT: u16 = 15002;

/// Port of the in-pod listener that inbound connections are steered to, whatever port they dial.
pub const INBOUND_PORT: u16 = 15006;

/// As [`SPARE_OUTBOUND_PORT`].
pub const SPARE_INBOUND_PORT: u16 = 15007;

/// Every port of a pod's address that is an agent's.
pub const AGENTS_PORTS: [u16; 4] = [
    OUTBOUND_PORT,
    SPARE_OUTBOUND_PORT,
    INBOUND_PORT,
    SPARE_INBOUND_PORT,
];

/// Whether captured outbound connections go to that port of the pod's own address, those of this agent or of another.
#[inline(always)]
#[expect(clippy::as_conversions, reason = "`From` is not const, and this widens")]
pub const fn is_outbound_port(port: u32) -> bool {
    port == OUTBOUND_PORT as u32 || port == SPARE_OUTBOUND_PORT as u32
}

/// Whether that port of a pod's address is an agent's.
#[inline(always)]
#[expect(clippy::as_conversions, reason = "`From` is not const, and this widens")]
pub const fn is_agents_port(port: u32) -> bool {
    is_outbound_port(port) || port == INBOUND_PORT as u32 || port == SPARE_INBOUND_PORT as u32
}

/// An address in IPv6 form; IPv4 is mapped (`::ffff:a.b.c.d`). Network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// Third word of an IPv4-mapped address, in network byte order.
    pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();

    /// The mapped form of an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn v4(addr: u32) -> Self {
        Self([0, 0, Self::MAPPED, addr])
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }
}

/// One end of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub struct Endpoint {
    /// Address.
    pub addr: Addr,
    /// Port in host byte order; the upper half is zero.
    pub port: u32,
}

/// Names a socket of a pod: its network namespace and local end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey {
    /// `bpf_get_netns_cookie` in the kernel, `SO_NETNS_COOKIE` in the agent.
    pub netns: u64,
    /// Local address.
    pub addr: Addr,
    /// Local port in host byte order; the upper half is zero.
    pub port: u32,
    /// Always zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}

/// What the hooks must know of an enrolled pod; key: its netns cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod's IPv4 address in mapped form; all zero when it has none.
    pub v4: Addr,
    /// The pod's IPv6 address; all zero when it has none.
    pub v6: Addr,
    /// 1 when connections bypass a dead agent, 0 when they are refused.
    pub fails_open: u32,
    /// Where captured connections go on the pod's own address, in host byte order; 0, which agents wrote that knew of no
    /// other, is [`OUTBOUND_PORT`].
    pub outbound_port: u32,
}

impl Pod {
    /// Where captured connections go on the pod's own address.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "`From` is not const, and this widens")]
    pub const fn agents_port(&self) -> u32 {
        if self.outbound_port == 0 {
            OUTBOUND_PORT as u32
        } else {
            self.outbound_port
        }
    }
}

/// What `sk_lookup` must know of the pod behind an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddr {
    /// The pod's netns cookie.
    pub netns: u64,
    /// As in [`Pod`].
    pub fails_open: u32,
    /// Always zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}

/// How old the agent's last heartbeat may be, in nanoseconds, before the hooks take the agent for dead.
pub const HEARTBEAT_LIMIT_NS: u64 = 3_000_000_000;

/// Whether an agent whose last heartbeat was at `beat` is dead at `now`, both of `CLOCK_MONOTONIC`; 0 is no beat.
#[inline(always)]
pub const fn is_dead(beat: u64, now: u64) -> bool {
    beat == 0 || now > beat.wrapping_add(HEARTBEAT_LIMIT_NS)
}

#[cfg(feature = "user")]
mod user {
    use super::{Addr, Endpoint, Pod, PodAddr, SocketKey};

    // SAFETY: `repr(C)` over `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Addr {}
    // SAFETY: `repr(C)`, five `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: `repr(C)`, 8 + 16 + 4 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for SocketKey {}
    // SAFETY: `repr(C)`, ten `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Pod {}
    // SAFETY: `repr(C)`, 8 + 4 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for PodAddr {}

    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            let v6 = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            Self(words)
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            let [w, x, y, z] = addr.0.map(u32::to_ne_bytes);
            if addr.is_v4() {
                return Self::V4(Ipv4Addr::from(z));
            }
            let mut octets = [0; 16];
            for (slot, byte) in octets.iter_mut().zip([w, x, y, z].into_iter().flatten()) {
                *slot = byte;
            }
            Self::V6(Ipv6Addr::from(octets))
        }
    }

    impl From<SocketAddr> for Endpoint {
        fn from(addr: SocketAddr) -> Self {
            Self {
                addr: addr.ip().into(),
                port: addr.port().into(),
            }
        }
    }

    impl TryFrom<Endpoint> for SocketAddr {
        type Error = core::num::TryFromIntError;

        fn try_from(end: Endpoint) -> Result<Self, Self::Error> {
            Ok(Self::new(end.addr.into(), u16::try_from(end.port)?))
        }
    }

    impl SocketKey {
        /// The socket of namespace `netns` whose local end is `local`.
        pub fn new(netns: u64, local: SocketAddr) -> Self {
            Self {
                netns,
                addr: local.ip().into(),
                port: local.port().into(),
                reserved: 0,
            }
        }
    }
}

#[cfg(feature = "user")]
#[cfg(test)]
mod tests {
    extern crate std;
    use core::net::{IpAddr, SocketAddr};

    use super::*;

    #[test]
    fn addresses_survive_the_way_into_a_map_and_back() {
        for text in [
            "10.0.0.1",
            "255.255.255.255",
            "fd00::1",
            "::1",
            "2001:db8:1:2:3:4:5:6",
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }
    }

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one_key() {
        let v4: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(SocketKey::new(7, v4), SocketKey::new(7, mapped));
        assert!(Addr::from(v4.ip()).is_v4());
    }

    #[test]
    fn an_agent_is_dead_three_seconds_after_its_last_beat_or_without_one() {
        let beat = 5_000_000_000;
        for (now, dead) in [
            (beat - 1, false),
            (beat, false),
            (beat + HEARTBEAT_LIMIT_NS, false),
            (beat + HEARTBEAT_LIMIT_NS + 1, true),
        ] {
            assert_eq!(is_dead(beat, now), dead, "{now}");
        }
        assert!(is_dead(0, 1));
    }

    #[test]
    fn keys_have_no_padding() {
        assert_eq!(size_of::<SocketKey>(), 32);
        assert_eq!(size_of::<Endpoint>(), 20);
        assert_eq!(size_of::<Pod>(), 40);
        assert_eq!(size_of::<PodAddr>(), 16);
    }
}
