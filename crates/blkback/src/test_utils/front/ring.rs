//! The ring in the front end's own layout.

use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse, BlkifX86_32Request, BlkifX86_32Response};
use cantle_abi::ring::{FrontRing, Paged, RingBroken, RingFull};
use cantle_grant::test_utils::GuestPages;

use crate::Protocol;

/// A front end's side of a block ring of 1 to 16 pages.
#[derive(Debug)]
pub(super) enum Ring {
    Native(FrontRing<BlkifRequest, BlkifResponse, Paged<GuestPages>>),
    X86_32(FrontRing<BlkifX86_32Request, BlkifX86_32Response, Paged<GuestPages>>),
}

/// Does the same with either.
macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Ring::Native($ring) => $what,
            Ring::X86_32($ring) => $what,
        }
    };
}

impl Ring {
    pub(super) fn init(protocol: Protocol, pages: Paged<GuestPages>) -> Result<Self, RingBroken> {
        Ok(match protocol {
            Protocol::Native => Self::Native(FrontRing::init(pages)?),
            Protocol::X86_32 => Self::X86_32(FrontRing::init(pages)?),
        })
    }

    pub(super) fn slots(&self) -> u32 {
        either!(self, ring => ring.slots())
    }

    pub(super) fn push_request(&mut self, request: &BlkifRequest) -> Result<(), RingFull> {
        match self {
            Self::Native(ring) => ring.push_request(request),
            Self::X86_32(ring) => ring.push_request(&(*request).into()),
        }
    }

    pub(super) fn publish_requests(&mut self) -> bool {
        either!(self, ring => ring.publish_requests())
    }

    pub(super) fn next_response(&mut self) -> Result<Option<BlkifResponse>, RingBroken> {
        match self {
            Self::Native(ring) => ring.next_response(),
            Self::X86_32(ring) => Ok(ring.next_response()?.map(BlkifResponse::from)),
        }
    }

    pub(super) fn final_check_for_responses(&mut self) -> bool {
        either!(self, ring => ring.final_check_for_responses())
    }
}
