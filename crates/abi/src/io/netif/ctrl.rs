//! The control ring: how packets are hashed and spread over queues, and grants that stay mapped.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::GrantRef;

/// The number of [`XEN_NETIF_CTRL_HASH_TYPE_IPV4`]'s bit: what extra info names it by.
pub const _XEN_NETIF_CTRL_HASH_TYPE_IPV4: u8 = 0;
/// Hash of source and destination address of an IPv4 packet: 8 bytes.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4: u32 = 1 << _XEN_NETIF_CTRL_HASH_TYPE_IPV4;
/// The number of [`XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP`]'s bit.
pub const _XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP: u8 = 1;
/// The same and the TCP ports, source first: 12 bytes.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP: u32 = 1 << _XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP;
/// The number of [`XEN_NETIF_CTRL_HASH_TYPE_IPV6`]'s bit.
pub const _XEN_NETIF_CTRL_HASH_TYPE_IPV6: u8 = 2;
/// Hash of source and destination address of an IPv6 packet: 32 bytes.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6: u32 = 1 << _XEN_NETIF_CTRL_HASH_TYPE_IPV6;
/// The number of [`XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP`]'s bit.
pub const _XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP: u8 = 3;
/// The same and the TCP ports, source first: 36 bytes.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP: u32 = 1 << _XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP;

/// No hashing: the back end spreads packets as it likes.
pub const XEN_NETIF_CTRL_HASH_ALGORITHM_NONE: u8 = 0;
/// The Toeplitz hash: the exclusive or, over the bits that are set in what is hashed, of the 32 bits of the key that begin at the same place.
pub const XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ: u8 = 1;

/// Never a request.
pub const XEN_NETIF_CTRL_TYPE_INVALID: u16 = 0;
/// Asks for the types of hash that the back end knows. Out: `XEN_NETIF_CTRL_HASH_TYPE_*` bits.
pub const XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS: u16 = 1;
/// Sets the types of hash to use: data\[0\] is their bits, 0 for no hashing.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS: u16 = 2;
/// Sets the key: data\[0\] is the gref of a page that begins with it, data\[1\] its length in bytes; what is not given of it is zero.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_KEY: u16 = 3;
/// Asks for the most entries that the mapping of hashes to queues can have. Out: entries.
pub const XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE: u16 = 4;
/// Makes a mapping of data\[0\] entries, all of them queue 0; with 0 entries, the queue is the hash modulo the number of queues.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE: u16 = 5;
/// Sets entries of the mapping: data\[0\] is the gref of a page that begins with them (queue numbers of 32 bits), data\[1\] how many there
/// are, data\[2\] the number of the first.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING: u16 = 6;
/// Sets the algorithm: data\[0\] is `XEN_NETIF_CTRL_HASH_ALGORITHM_*`.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM: u16 = 7;
/// Asks how many grants can stay mapped for queue data\[0\]. Out: entries.
pub const XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE: u16 = 8;
/// Maps grants for queue data\[0\], all of them or none: data\[1\] is the gref of a page that begins with [`XenNetifGref`]s, data\[2\] how many.
pub const XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING: u16 = 9;
/// Unmaps grants of queue data\[0\], given as above, each with a status of its own. Out: how many were unmapped.
pub const XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING: u16 = 10;

/// Done.
pub const XEN_NETIF_CTRL_STATUS_SUCCESS: u16 = 0;
/// The back end has no such operation.
pub const XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED: u16 = 1;
/// An argument, or what a page has in it, is wrong.
pub const XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER: u16 = 2;
/// More than the back end has room for.
pub const XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW: u16 = 3;

/// The page is only read: it does not serve to receive.
pub const XEN_NETIF_CTRLF_GREF_readonly: u16 = 1 << 0;

/// `struct xen_netif_ctrl_request`, 16 bytes. Nothing in it has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenNetifCtrlRequest {
    /// Echoed in the response.
    pub id: u16,
    /// `XEN_NETIF_CTRL_TYPE_*`; echoed in the response.
    pub kind: u16,
    /// What they mean depends on `kind`.
    pub data: [u32; 3],
}

/// `struct xen_netif_ctrl_response`, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenNetifCtrlResponse {
    /// The request's `id`.
    pub id: u16,
    /// The request's `kind`.
    pub kind: u16,
    /// `XEN_NETIF_CTRL_STATUS_*`.
    pub status: u32,
    /// What it means depends on `kind`.
    pub data: u32,
}

/// `struct xen_netif_gref`, 8 bytes: an entry of the list that `XEN_NETIF_CTRL_TYPE_{ADD,DEL}_GREF_MAPPING` takes. Nothing in it has
/// been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenNetifGref {
    /// The grant.
    pub gref: GrantRef,
    /// `XEN_NETIF_CTRLF_GREF_*`.
    pub flags: u16,
    /// Out: `XEN_NETIF_CTRL_STATUS_*`.
    pub status: u16,
}

impl XenNetifGref {
    /// An entry, as it stands in a list page.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        transmute!(bytes)
    }

    /// How it stands in a list page.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        transmute!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_list_page_is_read_and_written_at_its_places() {
        let bytes = [4, 3, 2, 1, 1, 0, 2, 0];
        let entry = XenNetifGref::from_bytes(bytes);
        assert_eq!(
            entry,
            XenNetifGref {
                gref: GrantRef(0x0102_0304),
                flags: XEN_NETIF_CTRLF_GREF_readonly,
                status: XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
            }
        );
        assert_eq!(entry.to_bytes(), bytes);
    }
}
