//! The slots of 32-bit x86 guests (`protocol` is `x86_32-abi`): 64-bit numbers are aligned to 4 bytes there.
//!
//! A back end converts what it takes out of such a ring, and what it puts in; all else is done with the native structures. The front
//! end's side of the conversions is for tests and benchmarks.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use super::{
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD,
    BLKIF_OP_INDIRECT, BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect,
    BlkifRequestSegment, BlkifResponse,
};
use crate::GrantRef;

/// [`BlkifRequest`] of a 32-bit guest: 108 bytes. As there, `operation` says what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifX86_32Request {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// How many of `seg` count.
    pub nr_segments: u8,
    /// The device's number.
    pub handle: u16,
    /// The front end's own value, echoed in the response.
    pub id: U64,
    /// The first sector on the disk, in units of 512 bytes.
    pub sector_number: U64,
    /// Where the data is.
    pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
}

/// [`BlkifRequestDiscard`] of a 32-bit guest: 28 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifX86_32RequestDiscard {
    /// `BLKIF_OP_DISCARD`.
    pub operation: u8,
    /// `BLKIF_DISCARD_SECURE` or 0.
    pub flag: u8,
    /// The device's number.
    pub handle: u16,
    /// Echoed in the response.
    pub id: U64,
    /// The first sector, in units of 512 bytes.
    pub sector_number: U64,
    /// How many sectors.
    pub nr_sectors: U64,
}

/// [`BlkifRequestIndirect`] of a 32-bit guest: 64 bytes, as the native one; its grefs are at 24, not 28.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifX86_32RequestIndirect {
    /// `BLKIF_OP_INDIRECT`.
    pub operation: u8,
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub indirect_op: u8,
    /// Segments over all pages.
    pub nr_segments: u16,
    /// Echoed in the response.
    pub id: U64,
    /// The first sector, in units of 512 bytes.
    pub sector_number: U64,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad: u16,
    /// The pages of [`BlkifRequestSegment`]s.
    pub indirect_grefs: [GrantRef; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding.
    pub pad2: U64,
}

/// [`BlkifResponse`] to a 32-bit guest: 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkifX86_32Response {
    /// The request's `id`.
    pub id: U64,
    /// The request's `operation`.
    pub operation: u8,
    /// Padding.
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
}

const _: () = assert!(
    size_of::<BlkifX86_32Request>() == 108
        && offset_of!(BlkifX86_32Request, id) == 4
        && offset_of!(BlkifX86_32Request, sector_number) == 12
        && offset_of!(BlkifX86_32Request, seg) == 20
);
const _: () = assert!(
    size_of::<BlkifX86_32RequestDiscard>() == 28
        && offset_of!(BlkifX86_32RequestDiscard, nr_sectors) == 20
);
const _: () = assert!(
    size_of::<BlkifX86_32RequestIndirect>() == 64
        && offset_of!(BlkifX86_32RequestIndirect, handle) == 20
        && offset_of!(BlkifX86_32RequestIndirect, indirect_grefs) == 24
);
const _: () = assert!(
    size_of::<BlkifX86_32Response>() == 12 && offset_of!(BlkifX86_32Response, status) == 10
);

/// A slot that holds a discard.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct DiscardSlot {
    request: BlkifX86_32RequestDiscard,
    rest: [u8; 80],
}

/// A slot that holds an indirect request.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IndirectSlot {
    request: BlkifX86_32RequestIndirect,
    rest: [u8; 44],
}

impl From<BlkifX86_32RequestDiscard> for BlkifX86_32Request {
    /// The slot that holds this discard; the rest of it is zero.
    fn from(request: BlkifX86_32RequestDiscard) -> Self {
        let rest = [0; 80];
        transmute!(DiscardSlot { request, rest })
    }
}

impl From<BlkifX86_32RequestIndirect> for BlkifX86_32Request {
    /// The slot that holds this indirect request; the rest of it is zero.
    fn from(request: BlkifX86_32RequestIndirect) -> Self {
        let rest = [0; 44];
        transmute!(IndirectSlot { request, rest })
    }
}

impl From<BlkifX86_32Request> for BlkifRequest {
    /// The native slot with the same request in it, by its `operation`.
    fn from(slot: BlkifX86_32Request) -> Self {
        match slot.operation {
            BLKIF_OP_DISCARD => {
                let slot: DiscardSlot = transmute!(slot);
                BlkifRequestDiscard::from(slot.request).into()
            }
            BLKIF_OP_INDIRECT => {
                let slot: IndirectSlot = transmute!(slot);
                BlkifRequestIndirect::from(slot.request).into()
            }
            operation => Self {
                operation,
                nr_segments: slot.nr_segments,
                handle: slot.handle,
                pad: 0,
                id: slot.id.get(),
                sector_number: slot.sector_number.get(),
                seg: slot.seg,
            },
        }
    }
}

impl From<BlkifX86_32RequestDiscard> for BlkifRequestDiscard {
    fn from(request: BlkifX86_32RequestDiscard) -> Self {
        Self {
            operation: request.operation,
            flag: request.flag,
            handle: request.handle,
            pad: 0,
            id: request.id.get(),
            sector_number: request.sector_number.get(),
            nr_sectors: request.nr_sectors.get(),
        }
    }
}

impl From<BlkifX86_32RequestIndirect> for BlkifRequestIndirect {
    fn from(request: BlkifX86_32RequestIndirect) -> Self {
        Self {
            operation: request.operation,
            indirect_op: request.indirect_op,
            nr_segments: request.nr_segments,
            pad: 0,
            id: request.id.get(),
            sector_number: request.sector_number.get(),
            handle: request.handle,
            pad2: 0,
            indirect_grefs: request.indirect_grefs,
            pad3: 0,
        }
    }
}

impl From<BlkifResponse> for BlkifX86_32Response {
    fn from(response: BlkifResponse) -> Self {
        Self {
            id: response.id.into(),
            operation: response.operation,
            pad: 0,
            status: response.status,
        }
    }
}

impl From<BlkifRequest> for BlkifX86_32Request {
    /// The 32-bit slot with the same request in it, by its `operation`: what a 32-bit front end writes.
    fn from(slot: BlkifRequest) -> Self {
        match slot.operation {
            BLKIF_OP_DISCARD => BlkifX86_32RequestDiscard::from(slot.to_discard()).into(),
            BLKIF_OP_INDIRECT => BlkifX86_32RequestIndirect::from(slot.to_indirect()).into(),
            operation => Self {
                operation,
                nr_segments: slot.nr_segments,
                handle: slot.handle,
                id: slot.id.into(),
                sector_number: slot.sector_number.into(),
                seg: slot.seg,
            },
        }
    }
}

impl From<BlkifRequestDiscard> for BlkifX86_32RequestDiscard {
    fn from(request: BlkifRequestDiscard) -> Self {
        Self {
            operation: request.operation,
            flag: request.flag,
            handle: request.handle,
            id: request.id.into(),
            sector_number: request.sector_number.into(),
            nr_sectors: request.nr_sectors.into(),
        }
    }
}

impl From<BlkifRequestIndirect> for BlkifX86_32RequestIndirect {
    fn from(request: BlkifRequestIndirect) -> Self {
        Self {
            operation: request.operation,
            indirect_op: request.indirect_op,
            nr_segments: request.nr_segments,
            id: request.id.into(),
            sector_number: request.sector_number.into(),
            handle: request.handle,
            pad: 0,
            indirect_grefs: request.indirect_grefs,
            pad2: 0.into(),
        }
    }
}

impl From<BlkifX86_32Response> for BlkifResponse {
    fn from(response: BlkifX86_32Response) -> Self {
        Self {
            id: response.id.get(),
            operation: response.operation,
            pad: 0,
            status: response.status,
            pad2: 0,
        }
    }
}
