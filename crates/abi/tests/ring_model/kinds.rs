//! The kinds of rings.

use std::fmt::Debug;

use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BlkifRequest, BlkifRequestSegment, BlkifResponse, BlkifX86_32Request,
    BlkifX86_32Response,
};
use cantle_abi::io::netif::{NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A kind of ring, with requests and responses that carry a number in all of their fields.
pub(crate) trait Kind {
    type Q: FromBytes + IntoBytes + Immutable + PartialEq + Debug + Copy;
    type S: FromBytes + IntoBytes + Immutable + PartialEq + Debug + Copy;
    const PAGES: usize;
    const SLOTS: u32;
    fn request(n: u32) -> Self::Q;
    fn response(n: u32) -> Self::S;
}

fn low(n: u32) -> u16 {
    u16::try_from(n & 0xffff).unwrap_or_default()
}

fn lowest(n: u32) -> u8 {
    n.to_le_bytes()[0]
}

/// By the number of pages, 112 or 108 bytes a slot.
const BLKIF_SLOTS: [u32; 17] = {
    let mut slots = [0; 17];
    (slots[1], slots[2], slots[4], slots[16]) = (32, 64, 128, 512);
    slots
};

#[derive(Debug)]
pub(crate) struct Blk<const PAGES: usize>;

/// The same of a 32-bit guest.
#[derive(Debug)]
pub(crate) struct Blk32<const PAGES: usize>;

impl<const N: usize> Kind for Blk32<N> {
    type Q = BlkifX86_32Request;
    type S = BlkifX86_32Response;
    const PAGES: usize = N;
    const SLOTS: u32 = BLKIF_SLOTS[N];
    fn request(n: u32) -> BlkifX86_32Request {
        Blk::<N>::request(n).into()
    }
    fn response(n: u32) -> BlkifX86_32Response {
        Blk::<N>::response(n).into()
    }
}

impl<const N: usize> Kind for Blk<N> {
    type Q = BlkifRequest;
    type S = BlkifResponse;
    const PAGES: usize = N;
    const SLOTS: u32 = BLKIF_SLOTS[N];
    fn request(n: u32) -> BlkifRequest {
        let segment = |i| BlkifRequestSegment {
            gref: GrantRef(n.wrapping_mul(31).wrapping_add(i)),
            first_sect: lowest(n),
            last_sect: lowest(i),
            pad: 0,
        };
        BlkifRequest {
            operation: BLKIF_OP_READ,
            nr_segments: lowest(n),
            handle: low(n),
            pad: 0,
            id: u64::from(n),
            sector_number: u64::from(!n),
            seg: std::array::from_fn(|i| segment(u32::try_from(i).unwrap_or_default())),
        }
    }
    fn response(n: u32) -> BlkifResponse {
        BlkifResponse {
            id: u64::from(n),
            operation: BLKIF_OP_READ,
            pad: 0,
            status: -1,
            pad2: n,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tx;

impl Kind for Tx {
    type Q = NetifTxRequest;
    type S = NetifTxResponse;
    const PAGES: usize = 1;
    const SLOTS: u32 = 256;
    fn request(n: u32) -> NetifTxRequest {
        NetifTxRequest {
            gref: GrantRef(n),
            offset: low(n),
            flags: low(!n),
            id: low(n >> 3),
            size: low(n >> 5),
        }
    }
    fn response(n: u32) -> NetifTxResponse {
        NetifTxResponse {
            id: low(n),
            status: -2,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rx;

impl Kind for Rx {
    type Q = NetifRxRequest;
    type S = NetifRxResponse;
    const PAGES: usize = 1;
    const SLOTS: u32 = 256;
    fn request(n: u32) -> NetifRxRequest {
        NetifRxRequest {
            id: low(n),
            pad: 0,
            gref: GrantRef(!n),
        }
    }
    fn response(n: u32) -> NetifRxResponse {
        NetifRxResponse {
            id: low(n),
            offset: low(n >> 1),
            flags: low(!n),
            status: 7,
        }
    }
}
