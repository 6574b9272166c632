//! Extra info: what goes with a packet in slots of its own, in either ring.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{NetifRxResponse, NetifTxRequest};
use crate::GrantRef;

/// Extra info: none (invalid on a ring).
pub const XEN_NETIF_EXTRA_TYPE_NONE: u8 = 0;
/// Extra info: segmentation offload.
pub const XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
/// Extra info: join a multicast group.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// Extra info: leave a multicast group.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// Extra info: a hash value.
pub const XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
/// One more than the largest type that Xen's header knows.
pub const XEN_NETIF_EXTRA_TYPE_MAX: u8 = 5;
/// Extra info: how far into its page a packet begins. Linux's copy of the header only: Xen's has no such type.
pub const XEN_NETIF_EXTRA_TYPE_XDP: u8 = 5;
/// The most that a front end may ask for in `xdp-headroom`, in bytes. Linux's copy of the header only.
pub const XEN_NETIF_MAX_XDP_HEADROOM: u16 = 0x7fff;
/// Another extra-info slot follows.
pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1;

/// No segmentation.
pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
/// TCP over IPv4.
pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;

/// `struct netif_extra_info`, 8 bytes, in a slot of either ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetifExtraInfo {
    /// `XEN_NETIF_EXTRA_TYPE_*`.
    pub kind: u8,
    /// `XEN_NETIF_EXTRA_FLAG_MORE` or 0.
    pub flags: u8,
    /// The union: its meaning depends on `kind`.
    pub u: [u8; 6],
}

impl NetifExtraInfo {
    /// Segmentation info: segment size in bytes, and `XEN_NETIF_GSO_TYPE_*`.
    #[must_use]
    pub const fn gso(size: u16, gso_type: u8, flags: u8) -> Self {
        let s = size.to_le_bytes();
        Self {
            kind: XEN_NETIF_EXTRA_TYPE_GSO,
            flags,
            u: [s[0], s[1], gso_type, 0, 0, 0],
        }
    }

    /// `u.gso.size`: the segment size in bytes, as said by the other side.
    #[must_use]
    pub const fn gso_size(&self) -> u16 {
        u16::from_le_bytes([self.u[0], self.u[1]])
    }

    /// `u.gso.type`.
    #[must_use]
    pub const fn gso_type(&self) -> u8 {
        self.u[2]
    }

    /// A request to join a multicast group ([`XEN_NETIF_EXTRA_TYPE_MCAST_ADD`]) or to leave it ([`XEN_NETIF_EXTRA_TYPE_MCAST_DEL`]).
    #[must_use]
    pub const fn mcast(kind: u8, addr: [u8; 6], flags: u8) -> Self {
        let u = addr;
        Self { kind, flags, u }
    }

    /// `u.mcast.addr`: the group's Ethernet address, as said by the other side.
    #[must_use]
    pub const fn mcast_addr(&self) -> [u8; 6] {
        self.u
    }

    /// A packet's hash: which fields of the packet it is of (`_XEN_NETIF_CTRL_HASH_TYPE_*`, a bit's number), by which algorithm
    /// (`XEN_NETIF_CTRL_HASH_ALGORITHM_*`), and its value.
    #[must_use]
    pub const fn hash(hash_type: u8, algorithm: u8, value: u32, flags: u8) -> Self {
        let v = value.to_le_bytes();
        Self {
            kind: XEN_NETIF_EXTRA_TYPE_HASH,
            flags,
            u: [hash_type, algorithm, v[0], v[1], v[2], v[3]],
        }
    }

    /// `u.hash.type`: `_XEN_NETIF_CTRL_HASH_TYPE_*`, as said by the other side.
    #[must_use]
    pub const fn hash_type(&self) -> u8 {
        self.u[0]
    }

    /// `u.hash.algorithm`: `XEN_NETIF_CTRL_HASH_ALGORITHM_*`.
    #[must_use]
    pub const fn hash_algorithm(&self) -> u8 {
        self.u[1]
    }

    /// `u.hash.value`: the least significant byte comes first, as the header says.
    #[must_use]
    pub const fn hash_value(&self) -> u32 {
        u32::from_le_bytes([self.u[2], self.u[3], self.u[4], self.u[5]])
    }

    /// Where in its page a packet begins, in bytes.
    #[must_use]
    pub const fn xdp(headroom: u16, flags: u8) -> Self {
        let h = headroom.to_le_bytes();
        Self {
            kind: XEN_NETIF_EXTRA_TYPE_XDP,
            flags,
            u: [h[0], h[1], 0, 0, 0, 0],
        }
    }

    /// `u.xdp.headroom`, in bytes.
    #[must_use]
    pub const fn xdp_headroom(&self) -> u16 {
        u16::from_le_bytes([self.u[0], self.u[1]])
    }

    /// What a tx slot holds when it carries extra info: the slot's first 8 bytes.
    #[must_use]
    pub const fn from_tx_slot(slot: &NetifTxRequest) -> Self {
        let g = slot.gref.0.to_le_bytes();
        let o = slot.offset.to_le_bytes();
        let f = slot.flags.to_le_bytes();
        Self {
            kind: g[0],
            flags: g[1],
            u: [g[2], g[3], o[0], o[1], f[0], f[1]],
        }
    }

    /// The tx slot that carries this extra info.
    #[must_use]
    pub const fn to_tx_slot(&self) -> NetifTxRequest {
        NetifTxRequest {
            gref: GrantRef(u32::from_le_bytes([
                self.kind, self.flags, self.u[0], self.u[1],
            ])),
            offset: u16::from_le_bytes([self.u[2], self.u[3]]),
            flags: u16::from_le_bytes([self.u[4], self.u[5]]),
            id: 0,
            size: 0,
        }
    }

    /// The rx response slot that carries this extra info.
    #[must_use]
    pub const fn to_rx_slot(&self) -> NetifRxResponse {
        NetifRxResponse {
            id: u16::from_le_bytes([self.kind, self.flags]),
            offset: u16::from_le_bytes([self.u[0], self.u[1]]),
            flags: u16::from_le_bytes([self.u[2], self.u[3]]),
            status: i16::from_le_bytes([self.u[4], self.u[5]]),
        }
    }

    /// What an rx response slot holds when it carries extra info.
    #[must_use]
    pub const fn from_rx_slot(slot: &NetifRxResponse) -> Self {
        let i = slot.id.to_le_bytes();
        let o = slot.offset.to_le_bytes();
        let f = slot.flags.to_le_bytes();
        let s = slot.status.to_le_bytes();
        Self {
            kind: i[0],
            flags: i[1],
            u: [o[0], o[1], f[0], f[1], s[0], s[1]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_the_union_are_where_c_has_them() {
        // As the expressions of `tests/c_headers/tables.rs` say of `u.hash`, `u.mcast` and `u.gso`.
        let hash = NetifExtraInfo::hash(3, 1, 0x0403_0201, XEN_NETIF_EXTRA_FLAG_MORE);
        assert_eq!(hash.as_bytes(), [4, 1, 3, 1, 1, 2, 3, 4]);
        assert_eq!((hash.hash_type(), hash.hash_algorithm()), (3, 1));
        assert_eq!(hash.hash_value(), 0x0403_0201);

        let group = [0x33, 0x33, 0, 0, 0, 1];
        let join = NetifExtraInfo::mcast(XEN_NETIF_EXTRA_TYPE_MCAST_ADD, group, 0);
        assert_eq!(join.as_bytes(), [2, 0, 0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(join.mcast_addr(), group);

        let xdp = NetifExtraInfo::xdp(0x0102, 0);
        assert_eq!(xdp.as_bytes(), [5, 0, 2, 1, 0, 0, 0, 0]);
        assert_eq!(xdp.xdp_headroom(), 0x0102);
    }

    #[test]
    fn a_slot_of_either_ring_carries_it_whole() {
        let extra = NetifExtraInfo::hash(2, 1, 0xdead_beef, 1);
        assert_eq!(NetifExtraInfo::from_tx_slot(&extra.to_tx_slot()), extra);
        assert_eq!(NetifExtraInfo::from_rx_slot(&extra.to_rx_slot()), extra);
    }
}
