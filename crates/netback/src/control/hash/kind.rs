//! A packet's hash, and the kinds there are.

use cantle_abi::io::netif::{
    _XEN_NETIF_CTRL_HASH_TYPE_IPV4, _XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    _XEN_NETIF_CTRL_HASH_TYPE_IPV6, _XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP, NetifExtraInfo,
    XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
};

/// What of a packet is hashed (`_XEN_NETIF_CTRL_HASH_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HashKind {
    /// The addresses of an IPv4 packet.
    Ipv4 = _XEN_NETIF_CTRL_HASH_TYPE_IPV4,
    /// The addresses and ports of a TCP packet over IPv4.
    Ipv4Tcp = _XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    /// The addresses of an IPv6 packet.
    Ipv6 = _XEN_NETIF_CTRL_HASH_TYPE_IPV6,
    /// The addresses and ports of a TCP packet over IPv6.
    Ipv6Tcp = _XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
}

impl HashKind {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Ipv4, Self::Ipv4Tcp, Self::Ipv6, Self::Ipv6Tcp];

    /// Its `XEN_NETIF_CTRL_HASH_TYPE_*`.
    #[must_use]
    pub const fn flag(self) -> u32 {
        1 << self as u8
    }
}

/// A packet's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// The hash.
    pub value: u32,
    /// What it is of.
    pub kind: HashKind,
}

impl Hash {
    /// The extra info that tells a front end; `flags` is `XEN_NETIF_EXTRA_FLAG_MORE` or 0.
    #[must_use]
    pub const fn extra(self, flags: u8) -> NetifExtraInfo {
        let algorithm = XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ;
        NetifExtraInfo::hash(self.kind as u8, algorithm, self.value, flags)
    }
}
