//! The network device protocol (`io/netif.h`).
//!
//! What stands in the tx and rx rings is here and in [`NetifExtraInfo`]; the control ring's messages begin with [`XenNetifCtrlRequest`].
//! The names of xenstore are in [`keys`].

mod ctrl;
mod extra;
pub mod keys;

pub use ctrl::*;
pub use extra::*;

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
