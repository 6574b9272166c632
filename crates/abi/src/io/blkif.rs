//! The block device protocol (`io/blkif.h`): the native 64-bit layout, and that of 32-bit x86 guests.
//!
//! All sector numbers and counts, in requests and in xenstore, are in units of 512 bytes, whatever `sector-size` says; requests are
//! aligned to `sector-size` (discards: to `discard-granularity`). Headers before Xen 4.20 said otherwise; see
//! [`keys::FEATURE_LARGE_SECTOR_SIZE`].
//!
//! What stands in a slot depends on its operation, and where it stands on the layout. A back end turns a 32-bit slot into a native one as
//! soon as it has its private copy ([`BlkifX86_32Request`]), and reads a native one by [`to_discard`](BlkifRequest::to_discard) or
//! [`to_indirect`](BlkifRequest::to_indirect) where the operation says so:
//!
//! ```
//! use cantle_abi::io::blkif::*;
//!
//! let slot = BlkifX86_32RequestDiscard {
//!     operation: BLKIF_OP_DISCARD,
//!     flag: 0,
//!     handle: 51712,
//!     id: 7.into(),
//!     sector_number: 2048.into(),
//!     nr_sectors: 8.into(),
//! };
//! let slot = BlkifX86_32Request::from(slot); // as it comes out of the ring of a 32-bit guest
//! let request = BlkifRequest::from(slot);
//! assert_eq!((request.operation, request.to_discard().nr_sectors), (BLKIF_OP_DISCARD, 8));
//! ```

pub mod keys;
mod x86_32;

pub use x86_32::{
    BlkifX86_32Request, BlkifX86_32RequestDiscard, BlkifX86_32RequestIndirect, BlkifX86_32Response,
};

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::{GrantRef, PAGE_SIZE};

/// Read sectors into the segments.
pub const BLKIF_OP_READ: u8 = 0;
/// Write sectors from the segments.
pub const BLKIF_OP_WRITE: u8 = 1;
/// A write before which all earlier writes, and after which it itself, are on the medium.
pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
/// Bring the write cache to the medium.
pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
/// Never used by a device.
pub const BLKIF_OP_RESERVED_1: u8 = 4;
/// Sectors whose contents are no longer wanted ([`BlkifRequestDiscard`]).
pub const BLKIF_OP_DISCARD: u8 = 5;
/// A read or write whose segments stand in pages of their own ([`BlkifRequestIndirect`]).
pub const BLKIF_OP_INDIRECT: u8 = 6;

/// Segments in one direct request.
pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments in one indirect request.
pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
/// Segments in one page of an indirect request.
pub const BLKIF_SEGMENTS_PER_INDIRECT_PAGE: usize = PAGE_SIZE / size_of::<BlkifRequestSegment>();
/// [`BlkifRequestDiscard::flag`]: the sectors must be unreadable afterwards.
pub const BLKIF_DISCARD_SECURE: u8 = 1;
/// The unit of `sector_number`, `first_sect` and `last_sect`, in bytes, whatever the device's sector size.
pub const BLKIF_SECTOR_SIZE: usize = 512;

/// Done.
pub const BLKIF_RSP_OKAY: i16 = 0;
/// Failed.
pub const BLKIF_RSP_ERROR: i16 = -1;
/// This operation is not supported.
pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;

/// xenstore `info`: a CD-ROM.
pub const VDISK_CDROM: u32 = 0x1;
/// xenstore `info`: a removable medium.
pub const VDISK_REMOVABLE: u32 = 0x2;
/// xenstore `info`: not writable.
pub const VDISK_READONLY: u32 = 0x4;

/// A part of one granted page: `struct blkif_request_segment`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifRequestSegment {
    /// The page.
    pub gref: GrantRef,
    /// The first 512-byte sector in it, 0 to 7.
    pub first_sect: u8,
    /// The last sector in it (inclusive).
    pub last_sect: u8,
    /// Padding.
    pub pad: u16,
}

/// A request's slot: `struct blkif_request`, 112 bytes. Nothing in it has been checked.
///
/// For `BLKIF_OP_DISCARD` and `BLKIF_OP_INDIRECT` only `operation`, `id` and `sector_number` are at their places; the whole is then
/// [`to_discard`](Self::to_discard) or [`to_indirect`](Self::to_indirect).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifRequest {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// How many of `seg` count.
    pub nr_segments: u8,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// The front end's own value, echoed in the response.
    pub id: u64,
    /// The first sector on the disk, in units of 512 bytes.
    pub sector_number: u64,
    /// Where the data is.
    pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
}

/// The same slot for `BLKIF_OP_DISCARD`: `struct blkif_request_discard`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifRequestDiscard {
    /// `BLKIF_OP_DISCARD`.
    pub operation: u8,
    /// `BLKIF_DISCARD_SECURE` or 0; ignored where the back end has not said `discard-secure`.
    pub flag: u8,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// The first sector, in units of 512 bytes.
    pub sector_number: u64,
    /// How many sectors.
    pub nr_sectors: u64,
}

/// The same slot for `BLKIF_OP_INDIRECT`: `struct blkif_request_indirect`, 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifRequestIndirect {
    /// `BLKIF_OP_INDIRECT`.
    pub operation: u8,
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub indirect_op: u8,
    /// Segments over all pages.
    pub nr_segments: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// The first sector, in units of 512 bytes.
    pub sector_number: u64,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad2: u16,
    /// The pages of [`BlkifRequestSegment`]s.
    pub indirect_grefs: [GrantRef; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding.
    pub pad3: u32,
}

/// `struct blkif_response`, 16 bytes. All of it is written, padding included (XSA-216).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifResponse {
    /// The request's `id`.
    pub id: u64,
    /// The request's `operation`.
    pub operation: u8,
    /// Padding.
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
    /// Padding.
    pub pad2: u32,
}

const _: () = assert!(size_of::<BlkifRequestSegment>() == 8);
const _: () = assert!(size_of::<BlkifRequest>() == 112 && offset_of!(BlkifRequest, seg) == 24);
const _: () = assert!(size_of::<BlkifRequestDiscard>() == 32);
const _: () = assert!(
    size_of::<BlkifRequestIndirect>() == 64
        && offset_of!(BlkifRequestIndirect, indirect_grefs) == 28
);
const _: () = assert!(size_of::<BlkifResponse>() == 16);

/// A native slot that holds a discard.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct DiscardSlot {
    request: BlkifRequestDiscard,
    rest: [u64; 10],
}

/// A native slot that holds an indirect request.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IndirectSlot {
    request: BlkifRequestIndirect,
    rest: [u64; 6],
}

impl BlkifRequest {
    /// The slot's bytes as a discard: what they are where `operation` is `BLKIF_OP_DISCARD`.
    #[must_use]
    pub fn to_discard(&self) -> BlkifRequestDiscard {
        let slot: DiscardSlot = transmute!(*self);
        slot.request
    }

    /// The slot's bytes as an indirect request: what they are where `operation` is `BLKIF_OP_INDIRECT`.
    #[must_use]
    pub fn to_indirect(&self) -> BlkifRequestIndirect {
        let slot: IndirectSlot = transmute!(*self);
        slot.request
    }
}

impl From<BlkifRequestDiscard> for BlkifRequest {
    /// The slot that holds this discard; the rest of it is zero.
    fn from(request: BlkifRequestDiscard) -> Self {
        let rest = [0; 10];
        transmute!(DiscardSlot { request, rest })
    }
}

impl From<BlkifRequestIndirect> for BlkifRequest {
    /// The slot that holds this indirect request; the rest of it is zero.
    fn from(request: BlkifRequestIndirect) -> Self {
        let rest = [0; 6];
        transmute!(IndirectSlot { request, rest })
    }
}
