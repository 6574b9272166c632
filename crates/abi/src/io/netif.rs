//! The network device protocol (`io/netif.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::GrantRef;

/// Slots that a back end must accept for one packet.
pub const XEN_NETIF_NR_SLOTS_MIN: usize = 18;
/// The largest packet to transmit, in bytes.
pub const XEN_NETIF_MAX_TX_SIZE: usize = 0xffff;

/// Tx: the checksum is not filled in (the field holds the pseudo-header's).
pub const NETTXF_csum_blank: u16 = 1 << 0;
/// Tx: the checksum is known to be right.
pub const NETTXF_data_validated: u16 = 1 << 1;
/// Tx: the packet goes on in the next request.
pub const NETTXF_more_data: u16 = 1 << 2;
/// Tx: extra-info slots follow this request.
pub const NETTXF_extra_info: u16 = 1 << 3;

/// Rx: the checksum is known to be right.
pub const NETRXF_data_validated: u16 = 1 << 0;
/// Rx: the checksum is not filled in.
pub const NETRXF_csum_blank: u16 = 1 << 1;
/// Rx: the packet goes on in the next response.
pub const NETRXF_more_data: u16 = 1 << 2;
/// Rx: extra-info slots follow this response.
pub const NETRXF_extra_info: u16 = 1 << 3;
/// Rx: a prefix response carrying the GSO size (old front ends).
pub const NETRXF_gso_prefix: u16 = 1 << 4;

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
/// One more than the largest type known.
pub const XEN_NETIF_EXTRA_TYPE_MAX: u8 = 5;
/// Another extra-info slot follows.
pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1;

/// No segmentation.
pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
/// TCP over IPv4.
pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;

/// Dropped.
pub const NETIF_RSP_DROPPED: i16 = -2;
/// Refused.
pub const NETIF_RSP_ERROR: i16 = -1;
/// Done.
pub const NETIF_RSP_OKAY: i16 = 0;
/// A response to an extra-info slot.
pub const NETIF_RSP_NULL: i16 = 1;

/// `struct netif_tx_request`, 12 bytes. Nothing in it has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetifTxRequest {
    /// The page with the data.
    pub gref: GrantRef,
    /// Where in the page, in bytes.
    pub offset: u16,
    /// `NETTXF_*`.
    pub flags: u16,
    /// Echoed in the response.
    pub id: u16,
    /// In the first request: the packet's whole size; in the others: this part's.
    pub size: u16,
}

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

/// `struct netif_tx_response`, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetifTxResponse {
    /// The request's `id`.
    pub id: u16,
    /// `NETIF_RSP_*`.
    pub status: i16,
}

/// `struct netif_rx_request`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetifRxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// A page to put data in.
    pub gref: GrantRef,
}

/// `struct netif_rx_response`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetifRxResponse {
    /// The request's `id`.
    pub id: u16,
    /// Where in the page the data begins, in bytes.
    pub offset: u16,
    /// `NETRXF_*`.
    pub flags: u16,
    /// The number of bytes, or a negative `NETIF_RSP_*`.
    pub status: i16,
}
